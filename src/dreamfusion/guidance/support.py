"""What runs with what: the table in docs/guidance.md, made from the code that decides it.

``python -m dreamfusion.guidance.support`` writes it there again.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import get_args

import diffusers

from dreamfusion.files import write_table
from dreamfusion.guidance.execution import COMPILED_VAE_SWITCHES, DENOISER_SWITCHES, VAE_SWITCHES, Execution, Precision
from dreamfusion.guidance.loading import ORIGINAL_FAMILY, PARTS
from dreamfusion.guidance.predictions import PREDICTIONS

_ITS_MODELS = "as its model"


def support_table() -> str:
    """Return the Markdown table.

    Columns are the families that load, and compiled engines; rows are formats, predictions, precisions and switches.
    """
    rows = [["", *(f"`{family}`" for family in PARTS), "compiled engine"], ["---"] * (len(PARTS) + 2)]
    rows.append(["z", *("latents" if "vae" in parts else "pixels" for parts in PARTS.values()), _ITS_MODELS])

    def add(name: str, families: Iterable[str], of_engine: str = _ITS_MODELS) -> None:
        rows.append([name, *("yes" if family in set(families) else "no" for family in PARTS), of_engine])

    with_vae = [family for family, parts in PARTS.items() if "vae" in parts]
    flows = [family for family in PARTS if _is_flow(family)]
    add("folder, hub name", PARTS, "folder")
    add(
        "`.safetensors`, `.ckpt`",
        [name for name in PARTS if hasattr(getattr(diffusers, name), "from_single_file")],
        "no",
    )
    add("`.nemo`, or original names with their YAML", [ORIGINAL_FAMILY], "no")
    for prediction in PREDICTIONS:
        add(f"predicts `{prediction}`", flows if prediction == "flow" else set(PARTS) - set(flows))
    for precision in get_args(Precision):
        add(f"`precision: {precision}`", PARTS, "as compiled")
    refused = DENOISER_SWITCHES + COMPILED_VAE_SWITCHES
    for field in dataclasses.fields(Execution):
        families: Iterable[str] = with_vae if field.name in VAE_SWITCHES else PARTS
        add(f"`execution.{field.name}`", families, "no" if field.name in refused else _ITS_MODELS)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _is_flow(family: str) -> bool:
    """Tell whether a pipeline's own signature asks for the scheduler of a rectified flow."""
    scheduler = inspect.signature(getattr(diffusers, family).__init__).parameters["scheduler"].annotation
    return "FlowMatch" in getattr(scheduler, "__name__", str(scheduler))


if __name__ == "__main__":
    write_table(Path("docs/guidance.md"), support_table())
