"""What of the settings this machine and this prior cannot do, and what is done in its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from dreamfusion.config import Config, ViewTexts, merged, parse_config
from dreamfusion.config.schedule import constant
from dreamfusion.device import free_memory
from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.base import Guidance
from dreamfusion.guidance.names import model_named
from dreamfusion.guidance.reading.counting import BYTES, known_parameters


def fit_device(config: Config, device: torch.device, tell: Callable[[str], None]) -> Config:
    """Return the configuration with fp32 in place of fp16 on a CPU, and tell: there, fp16 is slow and not better."""
    if device.type != "cpu" or config.guidance.precision != "fp16":
        return config
    tell("guidance.precision fp16 is for GPUs: the prior runs in fp32 on this CPU")
    return config.model_copy(update={"guidance": config.guidance.model_copy(update={"precision": "fp32"})})


def fit_memory(config: Config, device: torch.device, tell: Callable[[str], None]) -> Config:
    """Return the configuration with the denoiser offloaded if it does not fit on a GPU, and tell sizes before loading.

    Raises DreamFusionError, with the switch that helps, where that does not help. Models whose files do not tell their
    size, and small ones, pass.
    """
    guidance = config.guidance
    counts = {} if guidance.kind == "toybox" else known_parameters(model_named(guidance.kind, guidance.model))
    width = 1 if guidance.execution.quantize == "int8" else BYTES[guidance.precision]
    encoders = width * sum(count for name, count in counts.items() if name.startswith("text_encoder"))
    rest = width * sum(counts.values()) - encoders
    if encoders + rest < _WORTH_A_WORD:
        return config
    free = free_memory(device)
    need = encoders + rest if device.type == "cpu" else max(encoders, rest)
    tell(
        f"the prior takes {encoders / 1e9:.1f} GB for reading the prompt and then {rest / 1e9:.1f} GB in "
        f"{guidance.precision}, and activations; {free / 1e9:.1f} GB are free on {device}"
    )
    if need <= free or device.type == "cpu" or guidance.execution.offload != "none":
        return config
    if encoders > free or config.loss.kind == "vsd":
        raise DreamFusionError(
            f"The prior needs {need / 1e9:.1f} GB and {free / 1e9:.1f} GB are free on {device}: set guidance.precision "
            "to bf16 or fp16 in a --config file, or take a smaller model."
        )
    tell("the denoiser does not fit: its layers wait in the CPU's memory (guidance.execution.offload: layers)")
    execution = guidance.execution.model_copy(update={"offload": "layers", "compile": False})
    return config.model_copy(update={"guidance": guidance.model_copy(update={"execution": execution})})


_WORTH_A_WORD = 2e9
"""Bytes of weights from which on sizes are told."""


def fit_views(config: Config, guidance: Guidance, tell: Callable[[str], None]) -> Config:
    """Return the configuration with cameras in sets for a prior that judges several views together, and tell.

    Words for views are left out unless they were chosen: such a prior is told the camera itself. Raises
    DreamFusionError if the views of a step do not make whole sets, or if a prior that needs cameras is not told them.
    """
    each = guidance.together
    if guidance.needs_cameras and not config.guidance.tell_cameras:
        raise DreamFusionError("This prior must be told the cameras: leave guidance.tell_cameras at true.")
    if config.cameras.set_size == each or each == 1:
        return config
    if config.views % each:
        raise DreamFusionError(
            f"This prior judges {each} views together: set views, which is {config.views}, to a multiple of {each} in "
            "a --config file."
        )
    changes: dict[str, Any] = {"cameras": {"set_size": each}}
    if config.guidance.view_texts == ViewTexts():
        changes["guidance"] = {"view_texts": {"front": "", "side": "", "back": "", "overhead": ""}}
    tell(
        f"this prior judges {each} views together and knows their cameras: cameras are drawn in sets (cameras.set_size)"
    )
    return parse_config(merged(config.model_dump(mode="json"), changes))


def fit_prior(config: Config, guidance: Guidance, tell: Callable[[str], None]) -> Config:
    """Return the configuration without its latent phase if the prior works on pixels, and tell."""
    if guidance.latent_shape is not None or config.shading.latent.largest == 0:
        return config
    tell("the latent phase (latent_iter_ratio) is left out: this prior works on pixels")
    return config.model_copy(update={"shading": config.shading.model_copy(update={"latent": constant(0)})})
