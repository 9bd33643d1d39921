"""What of NeMo's settings this machine and this prior cannot do, and what is done in its place."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dreamfusion.config import Config
from dreamfusion.config.schedule import constant
from dreamfusion.guidance.base import Guidance


def fit_device(config: Config, device: torch.device, tell: Callable[[str], None]) -> Config:
    """Return the configuration with fp32 in place of fp16 on a CPU, and tell: there, fp16 is slow and not better."""
    if device.type != "cpu" or config.guidance.precision != "fp16":
        return config
    tell("guidance.precision fp16 is for GPUs: the prior runs in fp32 on this CPU")
    return config.model_copy(update={"guidance": config.guidance.model_copy(update={"precision": "fp32"})})


def fit_prior(config: Config, guidance: Guidance, tell: Callable[[str], None]) -> Config:
    """Return the configuration without its latent phase if the prior works on pixels, and tell."""
    if guidance.latent_shape is not None or config.shading.latent.largest == 0:
        return config
    tell("the latent phase (latent_iter_ratio) is left out: this prior works on pixels")
    return config.model_copy(update={"shading": config.shading.model_copy(update={"latent": constant(0)})})
