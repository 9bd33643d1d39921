"""``dreamfusion guidance compile``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rich.text import Text
from tyro.conf import Positional

from dreamfusion.app.cli.output import console


def guidance_compile(
    model: Positional[str],
    *,
    output: Path,
    precision: Literal["fp32", "fp16"] = "fp32",
    image_size: int | None = None,
    device: str = "auto",
) -> None:
    """Compile a prior for ONNX Runtime, with TensorRT where it is; generate --model OUTPUT then runs it.

    For example:
        dreamfusion guidance compile MODEL --output compiled

    Args:
        model: diffusers pipeline as a folder, a .safetensors or .ckpt file, or a hub name
        output: folder for the compiled model; it needs the original no more
        precision: number format of the compiled weights; fp16 is for GPUs
        image_size: side of the pictures that the graph is tried with (the model's own if not given); others run as well
        device: where the model is traced and tried: auto, cpu, cuda or cuda:N

    """
    from dreamfusion.device import pick_device
    from dreamfusion.guidance.compiled.compiling import compile_prior
    from dreamfusion.guidance.names import model_named
    from dreamfusion.guidance.reading.prepare import set_precision

    chosen = pick_device(device)
    with console.status(Text(f"Compiling {model}, which takes minutes")):
        folder = compile_prior(
            model_named(model), output, image_size=image_size, dtype=set_precision(precision, chosen), device=chosen
        )
    print(folder)
