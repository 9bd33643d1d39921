"""What runs with what: the table in docs/guidance.md, made from the code that decides it.

``python -m dreamfusion.guidance.support`` writes it there again.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import diffusers

from dreamfusion.config import LossKind, Weighting
from dreamfusion.guidance.execution import COMPILED_VAE_SWITCHES, DENOISER_SWITCHES, VAE_SWITCHES, Execution, Precision
from dreamfusion.guidance.families import FAMILIES
from dreamfusion.guidance.pipeline import PipelineGuidance
from dreamfusion.guidance.predictions import PREDICTIONS
from dreamfusion.guidance.reading.places import ORIGINAL_FAMILY
from dreamfusion.io.files import write_table

_ITS_MODELS = "as its model"


def support_table() -> str:
    """Return the Markdown table.

    Columns are the families that load, and compiled engines; rows are formats, predictions, precisions, switches and
    losses.
    """
    everyone = [family.family for family in FAMILIES]
    rows = [["", *(f"`{name}`" for name in everyone), "compiled engine"], ["---"] * (len(everyone) + 2)]
    rows.append(["z", *("latents" if "vae" in family.parts else "pixels" for family in FAMILIES), _ITS_MODELS])

    def add(name: str, families: Iterable[str], of_engine: str = _ITS_MODELS, yes: str = "yes") -> None:
        rows.append([name, *(yes if one in set(families) else "no" for one in everyone), of_engine])

    with_vae = [family.family for family in FAMILIES if "vae" in family.parts]
    flows = [family.family for family in FAMILIES if _is_flow(family)]
    add("folder, hub name", everyone, "folder")
    rows.append(["`.safetensors`, `.ckpt`", *map(_single_file, FAMILIES), "no"])
    add("`.nemo`", [ORIGINAL_FAMILY], "no")
    add("original names with their YAML", [family.family for family in FAMILIES if family.original], "no")
    for prediction in PREDICTIONS:
        add(f"predicts `{prediction}`", flows if prediction == "flow" else set(everyone) - set(flows))
    for precision in get_args(Precision):
        add(f"`precision: {precision}`", everyone, "as compiled")
    refused = DENOISER_SWITCHES + COMPILED_VAE_SWITCHES
    for switch in Execution.model_fields:
        families = with_vae if switch in VAE_SWITCHES else everyone
        if switch == "checkpoint_vae":
            families = [family.family for family in FAMILIES if family.family in with_vae and family.checkpoints_vae]
        add(f"`execution.{switch}`", families, "no" if switch in refused else _ITS_MODELS)
    for kind in get_args(LossKind):
        families = [family.family for family in FAMILIES if kind != "vsd" or _takes_adapters(family)]
        add(f"`loss.kind: {kind}`", families, "no" if kind == "vsd" else _ITS_MODELS)
    for weighting in get_args(Weighting):
        add(f"`guidance.weighting: {weighting}`", everyone)
    add("`guidance.prompt_weighting`", [family.family for family in FAMILIES if family.weighs_words], "no")
    add("ControlNet, IP-Adapter", [family.family for family in FAMILIES if family.takes_additions], "no")
    add("shown a picture (`--image`)", [family.family for family in FAMILIES if family.takes_picture], "no")
    add("`guidance compile`", [family.family for family in FAMILIES if family.compiles], "is one")
    add("`shading.latent`", with_vae, yes="with 4 latent channels")
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _single_file(family: type[PipelineGuidance]) -> str:
    """Tell whether diffusers reads a pipeline from a single file, and our tests do."""
    if family.pipeline_class or not hasattr(getattr(diffusers, family.family), "from_single_file"):
        return "no"
    return "yes" if family.single_file else "untested"


def _is_flow(family: type[PipelineGuidance]) -> bool:
    """Tell whether a pipeline's own signature asks for the scheduler of a rectified flow."""
    scheduler = _asks_for(family)["scheduler"]
    return family.flow or "FlowMatch" in getattr(scheduler, "__name__", str(scheduler))


def _takes_adapters(family: type[PipelineGuidance]) -> bool:
    """Tell whether diffusers' class of a pipeline's denoiser takes the adapters that `--loss vsd` trains."""
    parts = _asks_for(family)
    return hasattr(parts.get("unet", parts.get("transformer")), "add_adapter")


def _asks_for(family: type[PipelineGuidance]) -> dict[str, Any]:
    pipeline = getattr(diffusers, family.pipeline_class or family.family)
    return {name: part.annotation for name, part in inspect.signature(pipeline).parameters.items()}


if __name__ == "__main__":
    write_table(Path("docs/guidance.md"), support_table())
