"""Which files of a model are read, what is done with a tokenizer without a limit, and marks of other programs."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file

from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.pixel import PixelGuidance
from dreamfusion.guidance.reading import hub
from dreamfusion.guidance.reading.counting import count_parameters
from dreamfusion.guidance.reading.weights import limit_tokenizers, variant_for, variant_named
from dreamfusion.guidance.word_weights import check_marks, in_compels_words
from support.pixel import save_pipeline

PARTS = ("unet/diffusion_pytorch_model", "text_encoder/model")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("prior"))


@pytest.fixture
def folder(plain: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain, tmp_path / "copy"))


def add_variant(folder: Path, part: str, value: float, variant: str = "fp16", *, alone: bool = False) -> None:
    """Give a part other weights, all the same number, as a variant."""
    file = folder / f"{part}.safetensors"
    tensors = {name: torch.full_like(tensor, value) for name, tensor in load_file(file).items()}
    save_file(tensors, folder / f"{part}.{variant}.safetensors", {"format": "pt"})
    if alone:
        file.unlink()


def values(folder: Path, dtype: torch.dtype = torch.float32) -> list[float]:
    """Return one weight of the denoiser and one of the text encoder, as they are loaded."""
    pipeline = PixelGuidance(folder, dtype=dtype).pipeline
    return [next(module.parameters()).flatten()[0].item() for module in (pipeline.unet, pipeline.text_encoder)]


def test_names_of_variants():
    names = ["model.safetensors", "model-00001-of-00002.safetensors", "model.fp16.safetensors"]
    names += ["model.fp16-00001-of-00002.safetensors", "model-00001-of-00002.bf16.safetensors"]
    assert [variant_named(name) for name in names] == [None, None, "fp16", "fp16", "bf16"]
    for files, full, fp16, bf16 in (
        (["m.safetensors", "m.fp16.safetensors"], None, "fp16", "fp16"),
        (["m.safetensors", "m.fp16.safetensors", "m.bf16.safetensors"], None, "fp16", "bf16"),
        (["m.fp16.safetensors", "m.bf16.safetensors", "m.ema.safetensors"], "fp16", "fp16", "bf16"),
        (["m.ema.safetensors", "m.fp16.bin"], "ema", "ema", "ema"),
        (["m.safetensors", "m.ema.safetensors"], None, None, None),
        ([], None, None, None),
    ):
        chosen = [variant_for(files, dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16)]
        assert chosen == [full, fp16, bf16], files


def test_half_weights_are_taken_where_they_are_asked_for_or_nothing_else_is_there(folder: Path):
    for part in PARTS:
        add_variant(folder, part, 0.25)
    assert 0.25 not in values(folder)
    assert values(folder, torch.bfloat16) == [0.25, 0.25]
    numbers = count_parameters(folder)
    for part in PARTS:
        (folder / f"{part}.safetensors").unlink()
    assert values(folder) == [0.25, 0.25]
    assert count_parameters(folder) == numbers


@pytest.mark.parametrize("part", PARTS)
def test_a_mixture_loads(folder: Path, part: str):
    add_variant(folder, part, 0.25, alone=True)
    assert [value == 0.25 for value in values(folder)] == [part == one for one in PARTS]


def test_weights_in_pickles_alone_are_refused_for_that(folder: Path):
    file = folder / f"{PARTS[0]}.safetensors"
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()
    with pytest.raises(DreamFusionError, match=r"The unet of .* is in \S*\.bin alone.*save_pretrained"):
        PixelGuidance(folder)


def test_a_tokenizer_without_a_limit_has_that_of_its_encoder(folder: Path):
    file = folder / "tokenizer/tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_max_length": 10**30}))
    prior = PixelGuidance(folder)
    with pytest.warns(UserWarning, match="tokens"):
        assert prior.embed(["red " * 500]).tokens.shape[1] <= 512
    clip = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=77))
    parts = {"tokenizer_2": SimpleNamespace(model_max_length=10**30), "tokenizer": SimpleNamespace(model_max_length=50)}
    limit_tokenizers(SimpleNamespace(components=parts, text_encoder=clip, text_encoder_2=clip))
    assert [part.model_max_length for part in parts.values()] == [77, 50]


@pytest.mark.parametrize(("dtype", "expected"), [(torch.float32, None), (torch.float16, "fp16")])
def test_half_weights_of_the_hub_halve_the_download(
    dtype: torch.dtype, expected: str | None, monkeypatch, tmp_path: Path
):
    files = ["model_index.json", "m.fp16.safetensors", "unet/m.safetensors", "unet/m.fp16.safetensors", "vae/m.bin"]
    listed = SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in files])
    asked: dict[str, object] = {}
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(hub, "model_info", lambda *_, **__: listed)
    monkeypatch.setattr(DiffusionPipeline, "download", lambda name, **options: asked.update(options) or str(tmp_path))
    assert hub.download_pipeline("somebody/some-model", None, dtype, {}) == tmp_path
    assert asked["variant"] == expected


def test_marks_of_other_programs_are_understood_or_pointed_out():
    for prompt in ("a (red) car", "a clock at 12:30", "a map (1:200)", "a (blue)1.4 car", "a car: (old, red)"):
        check_marks(prompt, weighed=False)
        assert in_compels_words(prompt) == prompt
    with pytest.raises(DreamFusionError, match=r"^\(red:1.4\) would be read as words: write red, or set"):
        check_marks("a (red:1.4) car", weighed=False)
    check_marks("a (red:1.4) car", weighed=True)
    assert in_compels_words("a (red:1.4) car, (very old : .5)") == "a (red)1.4 car, (very old).5"
    for weighed in (False, True):
        with pytest.raises(DreamFusionError, match=r"Leave <lora:style:0.8> out of the prompt"):
            check_marks("a car <lora:style:0.8>", weighed=weighed)
