"""``dreamfusion doctor``."""

from __future__ import annotations

from pathlib import Path

from dreamfusion.config import Precision


def doctor(
    *,
    guidance: str | None = None,
    model: str | None = None,
    output: Path = Path("runs"),
    precision: Precision = "fp32",
) -> None:
    """Say what this machine has, which device and kernels are used, and what to do about what is missing.

    For example:
        dreamfusion doctor
        dreamfusion doctor --guidance sd --precision fp16

    Args:
        guidance: also check what generate means by this: toybox, sd, or a model as below
        model: also check this diffusers pipeline, a folder, a .safetensors or .ckpt file, or a hub name
        output: folder that runs will be written to
        precision: number format of the model's weights (guidance.precision) for which the need of memory is told

    """
    from dreamfusion.app.doctor import print_report
    from dreamfusion.guidance.names import model_named

    chosen = model or (model_named(guidance) if guidance else None)
    if not print_report(chosen, output, precision=precision):
        raise SystemExit(1)
