"""A ControlNet (arXiv 2302.05543): a network beside the UNet that is shown the object's shape as it is rendered.

It keeps a prior to the shape that is there, so that refining changes what is on it: its colours and its details.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import ControlNetModel
from torch import Tensor

from dreamfusion.config import ShapeShown
from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.pixel_space import resized
from dreamfusion.guidance.reading.loading import load_module


@dataclass(frozen=True)
class Control:
    """Which ControlNet, a folder or hub name; what it is shown; and what its answer is multiplied by."""

    model: str
    shows: ShapeShown = "normals"
    scale: float = 1.0


class ControlNet:
    """A frozen ControlNet beside the UNet of Stable Diffusion 1, 2 or XL.

    Raises DreamFusionError for anything that does not load, or was made for a UNet of other sizes than ``denoiser``'s.
    """

    def __init__(self, control: Control, denoiser: Any, dtype: torch.dtype, model: str | Path) -> None:
        self.control = control
        self.network: Any = load_module(control.model, ControlNetModel, "ControlNet", dtype)
        self.network.eval().requires_grad_(False)
        for size in ("cross_attention_dim", "block_out_channels", "in_channels"):
            theirs, ours = (network.config[size] for network in (self.network, denoiser))
            if theirs != ours:
                raise DreamFusionError(
                    f"The ControlNet {control.model} was not made for {model}: its {size} is {theirs}, not {ours}."
                )

    def __call__(
        self, z_t: Tensor, t: Tensor, tokens: Tensor, shape: Tensor, size: int, **added: Any
    ) -> dict[str, Any]:
        """Return what the UNet is given beside its own input, for pictures ``shape`` [B, 3, H, W] in [0, 1]."""
        down, middle = self.network(
            z_t,
            t,
            encoder_hidden_states=tokens,
            controlnet_cond=resized(shape, size).to(z_t.dtype),
            conditioning_scale=self.control.scale,
            return_dict=False,
            **added,
        )
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
