"""From rays to images: march, evaluate the field, shade, composite (paper section 3.1).

Symbols: B images of H x W pixels, R = B * H * W rays, S samples.
The work is done twice with very different amounts of it: first every marched sample's density without gradient,
which is cheap; then, with gradient, normals and shading, only the few samples that the image can show.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamfusion.cameras import Rays
from dreamfusion.errors import DreamFusionError
from dreamfusion.fields.nerf import NerfField
from dreamfusion.kernels.compositing import ray_sum, ray_weights
from dreamfusion.kernels.marching import PackedSamples, march_rays
from dreamfusion.renderers.occupancy import OccupancyGrid
from dreamfusion.shading import Lights, Shading, shade


@dataclass(frozen=True)
class RenderSettings:
    """How finely to render.

    ``step_length`` is the distance between samples in world units. Samples with a compositing weight below
    ``min_weight`` or behind a transmittance below ``min_transmittance`` are dropped before the pass with gradient.
    With the exp activation a dropped sample's gradient is proportional to its weight, so nothing that could
    grow is lost: a weight of 1e-3 is a density of 0.04 per unit, and matter grows outwards from what is denser.
    """

    step_length: float = 0.03
    min_weight: float = 1e-3
    min_transmittance: float = 1e-3

    def __post_init__(self) -> None:
        if not 1e-4 <= self.step_length <= 0.5:
            raise DreamFusionError("Rendering: give a step_length between 0.0001 and 0.5 world units.")


@dataclass(frozen=True)
class RenderOutput:
    """Images of a batch, all [B, C, H, W], and what training needs besides.

    ``rgb``; ``opacity`` in [0, 1]; ``depth``: expected distance along the ray in world units given that it hits, 0
    where it meets nothing; ``normal``: weighted sum of the world-space normals, not normalised, or None;
    ``orientation`` [B]: the paper's orientation loss per image, mean over rays of sum sg(w_i) max(0, n_i . v)^2,
    0 for images without normals; ``samples``: how many samples were evaluated with gradient.
    """

    rgb: Tensor
    opacity: Tensor
    depth: Tensor
    normal: Tensor | None
    orientation: Tensor
    samples: int


Background = Callable[[Tensor], Tensor]
"""Anything that maps unit directions [..., 3] to colours [..., 3]."""


def render(
    field: NerfField,
    background: Background,
    occupancy: OccupancyGrid,
    rays: Rays,
    lights: Lights,
    shading: Sequence[Shading],
    settings: RenderSettings,
    *,
    generator: torch.Generator | None = None,
    background_color: Tensor | None = None,
    with_normals: bool = False,
) -> RenderOutput:
    """Render a batch of images of ``field``, differentiable in the parameters of field and background.

    ``rays`` [B, H, W, 3]; one light and one ``shading`` per image. ``generator`` (a CPU one) jitters the samples
    along each ray; without it they are centred. ``background_color`` [B, 3] replaces the background. Normals cost
    several evaluations per sample, so images with "albedo" shading do without unless ``with_normals`` is set.
    """
    batch, height, width, _ = rays.origins.shape
    if len(shading) != batch or len(lights.diffuse) != batch:
        raise DreamFusionError(f"Rendering {batch} images takes {batch} lights and {batch} shadings, one per image.")
    origins, directions = rays.origins.reshape(-1, 3), rays.directions.reshape(-1, 3)
    samples = _visible_samples(field, occupancy, origins, directions, settings, generator)
    points = samples.points(origins, directions)
    image = samples.ray_index // (height * width)

    normal_at = _samples_with_normals(image, shading, with_normals)
    density, albedo, normal = field.evaluate(points, normal_at)
    weights, _ = ray_weights(density, settings.step_length, samples.offsets)
    color = _shaded(albedo, normal, normal_at, points, image, lights, shading)
    channels = [color, samples.t[:, None], torch.ones_like(samples.t)[:, None]]
    if with_normals:
        channels.append(normal)
    sums = ray_sum(weights, torch.cat(channels, dim=1), samples.ray_index, samples.offsets)
    sums = sums.view(batch, height, width, -1).permute(0, 3, 1, 2)

    opacity = sums[:, 4:5]
    if background_color is None:
        behind = background(rays.directions).permute(0, 3, 1, 2)
    else:
        behind = background_color[:, :, None, None]
    facing = (normal * directions[samples.ray_index[normal_at]]).sum(dim=-1).clamp(min=0).square()
    turned_away = torch.zeros(batch, device=points.device).index_add(
        0, image[normal_at], weights.detach()[normal_at] * facing
    )
    return RenderOutput(
        rgb=sums[:, :3] + (1 - opacity) * behind,
        opacity=opacity,
        depth=sums[:, 3:4] / opacity.clamp(min=1e-6),
        normal=sums[:, 5:8] if with_normals else None,
        orientation=turned_away / (height * width),
        samples=len(samples),
    )


@torch.no_grad()
def _visible_samples(
    field: NerfField,
    occupancy: OccupancyGrid,
    origins: Tensor,
    directions: Tensor,
    settings: RenderSettings,
    generator: torch.Generator | None,
) -> PackedSamples:
    """March the rays and keep the samples that carry weight."""
    count = len(origins)
    jitter = torch.full((count,), 0.5) if generator is None else torch.rand(count, generator=generator)
    samples = march_rays(origins, directions, occupancy.occupied, settings.step_length, jitter.to(origins.device))
    density = field.density(samples.points(origins, directions))
    weights, transmittance = ray_weights(density, settings.step_length, samples.offsets)
    return samples.select((weights >= settings.min_weight) & (transmittance >= settings.min_transmittance))


def _samples_with_normals(image: Tensor, shading: Sequence[Shading], with_normals: bool) -> Tensor:
    """Return the indices of the samples [K] whose image [S] needs normals."""
    needed = torch.tensor([with_normals or s != "albedo" for s in shading], device=image.device)
    return needed[image].nonzero()[:, 0]


def _shaded(
    albedo: Tensor,
    normal: Tensor,
    normal_at: Tensor,
    points: Tensor,
    image: Tensor,
    lights: Lights,
    shading: Sequence[Shading],
) -> Tensor:
    """Return colours [S, 3]: the albedo in "albedo" images, else Lambertian, on white if "textureless"."""
    if len(normal_at) == 0:
        return albedo
    of = image[normal_at]
    device = albedo.device
    white = torch.tensor([s == "textureless" for s in shading], device=device)[of, None]
    flat = torch.tensor([s == "albedo" for s in shading], device=device)[of, None]
    surface = torch.where(white, torch.ones_like(normal), albedo[normal_at])
    diffuse = torch.where(flat, torch.zeros_like(lights.diffuse[of, None]), lights.diffuse[of, None])
    ambient = torch.where(flat, torch.ones_like(diffuse), lights.ambient[of, None])
    lit = shade(surface, normal, points[normal_at], lights.position[of], diffuse, ambient)
    return lit if len(normal_at) == len(albedo) else albedo.index_copy(0, normal_at, lit)


@torch.no_grad()
def render_in_rows(
    field: NerfField,
    background: Background,
    occupancy: OccupancyGrid,
    rays: Rays,
    lights: Lights,
    shading: Sequence[Shading],
    settings: RenderSettings,
    *,
    background_color: Tensor | None = None,
    with_normals: bool = False,
    rays_per_call: int = 2**14,
) -> RenderOutput:
    """Render finished pictures of any size: what ``render`` gives without jitter, some rows at a time, no gradient.

    Memory is bounded by ``rays_per_call``, of which one row of all images is the least.
    """
    batch, height, width, _ = rays.origins.shape
    rows = max(1, rays_per_call // (batch * width))
    parts = []
    for top in range(0, height, rows):
        strip = Rays(rays.origins[:, top : top + rows], rays.directions[:, top : top + rows])
        part = render(
            field,
            background,
            occupancy,
            strip,
            lights,
            shading,
            settings,
            background_color=background_color,
            with_normals=with_normals,
        )
        parts.append(part)
    normals = [part.normal for part in parts if part.normal is not None]
    return RenderOutput(
        rgb=torch.cat([part.rgb for part in parts], dim=2),
        opacity=torch.cat([part.opacity for part in parts], dim=2),
        depth=torch.cat([part.depth for part in parts], dim=2),
        normal=torch.cat(normals, dim=2) if normals else None,
        orientation=torch.stack([part.orientation * part.rgb.shape[2] for part in parts]).sum(0) / height,
        samples=sum(part.samples for part in parts),
    )
