"""What is made of rendered normals: the latents of a run's first part."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from dreamfusion.config import Config
from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.base import Guidance
from dreamfusion.renderers.output import RenderOutput


def latent_picture(out: RenderOutput, guidance: Guidance) -> Tensor:
    """Return normals and opacity as latents [B, 4, S, S] in [-1, 1], for the first part of a run.

    A coarse shape is found faster if it need not pass through the VAE (Latent-NeRF, arXiv 2211.07600; NVIDIA's NeMo).
    S is the side of the latents of ``guidance``, which `check_latent_phase` has let pass.
    """
    assert guidance.latent_shape is not None
    picture = torch.cat([out.normal_picture(), out.opacity], dim=1)
    return 2 * interpolate(picture, size=guidance.latent_shape[1:], mode="bilinear", align_corners=False) - 1


def check_latent_phase(config: Config, guidance: Guidance) -> None:
    """Raise DreamFusionError if the configuration has a latent phase and the prior no latents of four channels."""
    shape = guidance.latent_shape
    if config.shading.latent.largest > 0 and (shape is None or shape[0] != 4):
        found = "works on pixels" if shape is None else f"has latents of {shape[0]} channels"
        raise DreamFusionError(
            f"shading.latent renders normals and opacity as four latents, but this prior {found}: set it to 0."
        )
