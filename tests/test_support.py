from pathlib import Path

import pytest

from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.support import support_table
from dreamfusion.io.files import write_table

DOCUMENT = Path(__file__).parents[1] / "docs/guidance.md"


def test_the_table_in_the_document_is_what_the_code_says(tmp_path):
    copy = tmp_path / "guidance.md"
    copy.write_bytes(DOCUMENT.read_bytes())
    write_table(copy, support_table())
    assert copy.read_text() == DOCUMENT.read_text(), "run: python -m dreamfusion.guidance.support"
    assert support_table() in copy.read_text()


def test_a_few_cells_by_hand():
    header, _, *rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in support_table().splitlines()]
    table = {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in rows}
    assert table["predicts `flow`"]["`FluxPipeline`"] == "yes"
    assert table["predicts `flow`"]["`StableDiffusionPipeline`"] == "no"
    assert table["predicts `v_prediction`"]["`IFPipeline`"] == "yes"
    assert table["`execution.tiny_vae`"]["`IFPipeline`"] == "no"
    assert table["`execution.offload`"]["compiled engine"] == "no"
    assert table["`.safetensors`, `.ckpt`"]["`IFPipeline`"] == "no"
    assert table["`.safetensors`, `.ckpt`"]["`StableDiffusionXLPipeline`"] == "yes"
    assert table["`.safetensors`, `.ckpt`"]["`FluxPipeline`"] == "untested"
    assert table["`execution.checkpoint_vae`"]["compiled engine"] == "no"
    assert table["`loss.kind: vsd`"]["`FluxPipeline`"] == "yes"
    assert table["`loss.kind: vsd`"]["compiled engine"] == "no"
    assert table["`loss.kind: vsd`"]["`PixArtSigmaPipeline`"] == "no"
    assert table["`loss.kind: ism`"]["`PixArtSigmaPipeline`"] == "yes"
    assert table["`guidance.weighting: fantasia3d`"]["`IFPipeline`"] == "yes"
    assert table["`guidance.prompt_weighting`"]["`StableDiffusion3Pipeline`"] == "no"
    assert table["`shading.latent`"]["`StableDiffusionPipeline`"] == "with 4 latent channels"
    assert table["`shading.latent`"]["`IFPipeline`"] == "no"
    assert table["`.nemo`"]["`StableDiffusionXLPipeline`"] == "no"
    assert table["original names with their YAML"]["`MVDreamPipeline`"] == "yes"
    assert table["`guidance compile`"]["`MVDreamPipeline`"] == "no"
    assert table["`loss.kind: vsd`"]["`MVDreamPipeline`"] == "yes"


def test_a_document_without_a_place_for_it(tmp_path):
    (tmp_path / "other.md").write_text("text")
    with pytest.raises(DreamFusionError, match="no place for the table"):
        write_table(tmp_path / "other.md", support_table())
