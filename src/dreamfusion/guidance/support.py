"""What runs with what: the table in docs/guidance.md, made from the code that decides it.

``python -m dreamfusion.guidance.support`` writes it there again.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import get_args

import diffusers

from dreamfusion.config import LossKind, Weighting
from dreamfusion.guidance.execution import COMPILED_VAE_SWITCHES, DENOISER_SWITCHES, VAE_SWITCHES, Execution, Precision
from dreamfusion.guidance.flow import Flux, StableDiffusion3
from dreamfusion.guidance.latent import StableDiffusion, StableDiffusionXL
from dreamfusion.guidance.loading import ORIGINAL_FAMILY, PARTS
from dreamfusion.guidance.predictions import PREDICTIONS
from dreamfusion.io.files import write_table

_ITS_MODELS = "as its model"
_LATENT = (StableDiffusion, StableDiffusionXL, StableDiffusion3, Flux)
_TESTED_SINGLE_FILES = (StableDiffusion.family, StableDiffusionXL.family)


def support_table() -> str:
    """Return the Markdown table.

    Columns are the families that load, and compiled engines; rows are formats, predictions, precisions, switches and
    losses.
    """
    rows = [["", *(f"`{family}`" for family in PARTS), "compiled engine"], ["---"] * (len(PARTS) + 2)]
    rows.append(["z", *("latents" if "vae" in parts else "pixels" for parts in PARTS.values()), _ITS_MODELS])

    def add(name: str, families: Iterable[str], of_engine: str = _ITS_MODELS, yes: str = "yes") -> None:
        rows.append([name, *(yes if family in set(families) else "no" for family in PARTS), of_engine])

    with_vae = [family for family, parts in PARTS.items() if "vae" in parts]
    flows = [family for family in PARTS if _is_flow(family)]
    add("folder, hub name", PARTS, "folder")
    rows.append(["`.safetensors`, `.ckpt`", *map(_single_file, PARTS), "no"])
    add("`.nemo`, or original names with their YAML", [ORIGINAL_FAMILY], "no")
    for prediction in PREDICTIONS:
        add(f"predicts `{prediction}`", flows if prediction == "flow" else set(PARTS) - set(flows))
    for precision in get_args(Precision):
        add(f"`precision: {precision}`", PARTS, "as compiled")
    refused = DENOISER_SWITCHES + COMPILED_VAE_SWITCHES
    for switch in Execution.model_fields:
        families: Iterable[str] = with_vae if switch in VAE_SWITCHES else PARTS
        add(f"`execution.{switch}`", families, "no" if switch in refused else _ITS_MODELS)
    for kind in get_args(LossKind):
        add(f"`loss.kind: {kind}`", PARTS, "no" if kind == "vsd" else _ITS_MODELS)
    for weighting in get_args(Weighting):
        add(f"`guidance.weighting: {weighting}`", PARTS)
    add("`guidance.prompt_weighting`", [kind.family for kind in _LATENT if kind.weighs_words], "no")
    add("`shading.latent`", with_vae, yes="with 4 latent channels")
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _single_file(family: str) -> str:
    """Tell whether diffusers reads a pipeline from a single file, and our tests do."""
    if not hasattr(getattr(diffusers, family), "from_single_file"):
        return "no"
    return "yes" if family in _TESTED_SINGLE_FILES else "untested"


def _is_flow(family: str) -> bool:
    """Tell whether a pipeline's own signature asks for the scheduler of a rectified flow."""
    scheduler = inspect.signature(getattr(diffusers, family).__init__).parameters["scheduler"].annotation
    return "FlowMatch" in getattr(scheduler, "__name__", str(scheduler))


if __name__ == "__main__":
    write_table(Path("docs/guidance.md"), support_table())
