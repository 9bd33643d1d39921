"""What is made of rendered normals and depths: the latents of a run's first part, pictures of the shape for a prior."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from dreamfusion.config import Config
from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.base import Guidance
from dreamfusion.method.cameras import Cameras
from dreamfusion.renderers.output import RenderOutput


def latent_picture(out: RenderOutput, guidance: Guidance) -> Tensor:
    """Return normals and opacity as latents [B, 4, S, S] in [-1, 1], for the first part of a run.

    A coarse shape is found faster if it need not pass through the VAE (Latent-NeRF, arXiv 2211.07600; NVIDIA's NeMo).
    S is the side of the latents of ``guidance``, which `check_latent_phase` has let pass.
    """
    assert guidance.latent_shape is not None
    picture = torch.cat([out.normal_picture(), out.opacity], dim=1)
    return 2 * interpolate(picture, size=guidance.latent_shape[1:], mode="bilinear", align_corners=False) - 1


def shape_picture(out: RenderOutput, cameras: Cameras, guidance: Guidance) -> Tensor | None:
    """Return pictures [B, 3, H, W] of the rendered shape as the prior wants to be shown it, or None; no gradient.

    Normals are the camera's: red to the left, green up, blue towards it, n / 2 + 1 / 2; behind the object is a wall
    that faces the camera. Depth is 1 / distance, from 0 at the farthest point to 1 at the nearest, and 0 behind all.
    ControlNet's authors trained theirs on such pictures (lllyasviel/ControlNet-v1-1-nightly).
    """
    match guidance.shape_shown:
        case None:
            return None
        case "normals":
            assert out.normal is not None, "rendered with_normals"
            axes = cameras.camera_to_world[:, :, :3].to(out.normal) * out.normal.new_tensor([-1.0, -1.0, -1.0])
            turned = torch.einsum("bchw,bck->bkhw", out.normal, axes)  # to the left, up, towards the camera
            wall = out.normal.new_tensor([0.5, 0.5, 1.0])[:, None, None]
            return ((turned + out.opacity) / 2 + (1 - out.opacity) * wall).clamp(0, 1).detach()
        case "depth":
            hit = out.opacity > 0.5
            near = torch.where(hit, 1 / out.depth.clamp(min=1e-3), torch.nan)
            low, high = (_of_hits(near, hit, largest) for largest in (False, True))
            share = torch.where(hit, (near - low) / (high - low).clamp(min=1e-6), 0.0)
            return share.expand(-1, 3, -1, -1).detach()


def _of_hits(values: Tensor, hit: Tensor, largest: bool) -> Tensor:
    """Return the largest or smallest of the values [B, 1, H, W] that are hits, per picture; 0 if there is none."""
    end = -torch.inf if largest else torch.inf
    among = torch.where(hit, values, end).flatten(1)
    found = among.amax(dim=1) if largest else among.amin(dim=1)
    return torch.where(found.isfinite(), found, 0.0)[:, None, None, None]


def check_latent_phase(config: Config, guidance: Guidance) -> None:
    """Raise DreamFusionError if the configuration has a latent phase and the prior no latents of four channels."""
    shape = guidance.latent_shape
    if config.shading.latent.largest > 0 and (shape is None or shape[0] != 4):
        found = "works on pixels" if shape is None else f"has latents of {shape[0]} channels"
        raise DreamFusionError(
            f"shading.latent renders normals and opacity as four latents, but this prior {found}: set it to 0."
        )
