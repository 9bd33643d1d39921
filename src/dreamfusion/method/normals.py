"""What is made of rendered normals: the latents of a run's first part, and measures of smoothness."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from dreamfusion.config import Config
from dreamfusion.errors import DreamFusionError
from dreamfusion.fields.field import Field
from dreamfusion.guidance.base import Guidance
from dreamfusion.method.cameras import Rays
from dreamfusion.renderers.volume import RenderOutput


def normal_picture(out: RenderOutput) -> Tensor:
    """Return the rendered world-space normals coded to [0, 1], over black, [B, 3, H, W]."""
    assert out.normal is not None, "rendered with_normals"
    return (out.normal + out.opacity) / 2


def surface_change(field: Field, rays: Rays, out: RenderOutput, generator: torch.Generator) -> Tensor:
    """Return how much normals differ from those of points moved by N(0, 0.01), the mean absolute difference.

    NVIDIA's NeMo compares them at all samples; here it is at the expected depth of the rays that hit, which is the
    same for every renderer. 0 where no ray hits.
    """
    hit = out.opacity[:, 0].detach() > 0.5
    points = rays.origins[hit] + out.depth[:, 0].detach()[hit][:, None] * rays.directions[hit]
    if len(points) == 0:
        return out.opacity.sum() * 0
    moved = points + 0.01 * torch.randn(points.shape, generator=generator).to(points)
    return (field.normal(points) - field.normal(moved)).abs().mean()


def latent_picture(out: RenderOutput, guidance: Guidance) -> Tensor:
    """Return normals and opacity as latents [B, 4, S, S] in [-1, 1], for the first part of a run.

    A coarse shape is found faster if it need not pass through the VAE (Latent-NeRF, arXiv 2211.07600; NVIDIA's NeMo).
    S is the side of the latents of ``guidance``, which `check_latent_phase` has let pass.
    """
    assert guidance.latent_shape is not None
    picture = torch.cat([normal_picture(out), out.opacity], dim=1)
    return 2 * interpolate(picture, size=guidance.latent_shape[1:], mode="bilinear", align_corners=False) - 1


def check_latent_phase(config: Config, guidance: Guidance) -> None:
    """Raise DreamFusionError if the configuration has a latent phase and the prior no latents of four channels."""
    shape = guidance.latent_shape
    if config.shading.latent_until > 0 and (shape is None or shape[0] != 4):
        found = "works on pixels" if shape is None else f"has latents of {shape[0]} channels"
        raise DreamFusionError(
            f"shading.latent_until renders normals and opacity as four latents, but this prior {found}: set it to 0."
        )
