"""Terms that keep any scene's pictures in order (paper A.2).

What only one kind of scene can be held to stands in its own module, in `regularize`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from dreamfusion.config import LossConfig
from dreamfusion.fields.field import Field
from dreamfusion.method.cameras import Rays
from dreamfusion.renderers.output import RenderOutput


def picture_terms(out: RenderOutput, loss: LossConfig, progress: float) -> dict[str, Tensor]:
    """Return the weighted terms that keep the pictures of a scene compact, solid and smooth."""
    terms = {
        "opacity_loss": loss.opacity * opacity_loss(out.opacity),
        "entropy_loss": loss.entropy.at(progress) * entropy_loss(out.opacity),
    }
    if loss.opacity_squared > 0:
        terms["opacity_squared_loss"] = loss.opacity_squared * squared_opacity_loss(out.opacity)
    if loss.normal_smooth_2d > 0:
        terms["normal_smooth_2d_loss"] = loss.normal_smooth_2d * normal_difference_loss(out.normal_picture())
    return terms


def opacity_loss(opacity: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Return the mean of sqrt(opacity^2 + 0.01), which keeps empty space empty (appendix A.2).

    ``opacity`` in [0, 1] has any shape. It pulls on empty rays only gently: the slope at 0 is 0.
    """
    return (opacity.square() + 0.01).sqrt().mean()


def squared_opacity_loss(opacity: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Return the mean of opacity^2, what NVIDIA's NeMo has in place of `opacity_loss`; any shape."""
    return opacity.square().mean()


def normal_difference_loss(normals: Float[Tensor, "B 3 H W"]) -> Float[Tensor, ""]:
    """Return how rough pictures of normals [B, 3, H, W] are: squared differences of neighbours, as in NVIDIA's NeMo.

    The means over vertical and over horizontal neighbours are added. ``normals`` are coded to [0, 1].
    """
    down = normals[:, :, 1:] - normals[:, :, :-1]
    right = normals[..., 1:] - normals[..., :-1]
    return down.square().mean() + right.square().mean()


def entropy_loss(opacity: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Return the mean binary entropy of the opacity in bits, -o log2 o - (1 - o) log2 (1 - o), in [0, 1].

    It pushes each ray to hit or to miss, as NVIDIA's NeMo and stable-dreamfusion do. ``opacity`` in [0, 1] has any
    shape; its ends are kept 1e-5 away, beyond which the gradient is 0.
    """
    o = opacity.clamp(1e-5, 1 - 1e-5)
    return -(o * o.log2() + (1 - o) * (1 - o).log2()).mean()


def depth_spread(opacity: Float[Tensor, "*shape"], variance: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Return the mean variance of the depth over the rays that hit (opacity above 1/2), 0 if none does.

    HiFA (arXiv 2305.18766): a surface in one place, and no fog before or behind it. In squared world units.
    """
    hit = opacity.detach() > 0.5
    return variance[hit].mean() if hit.any() else opacity.sum() * 0


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
