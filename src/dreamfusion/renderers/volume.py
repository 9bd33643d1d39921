"""From rays to images: march, evaluate the field, shade, composite (paper section 3.1).

Symbols: B images of H x W pixels, R = B * H * W rays, S samples.
The work is done twice with very different amounts of it: first every marched sample's density without gradient,
which is cheap; then, with gradient, normals and shading, only the few samples that the image can show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from dreamfusion.config import Material, Shading
from dreamfusion.errors import DreamFusionError
from dreamfusion.fields.background import Background
from dreamfusion.fields.field import Field
from dreamfusion.kernels.compositing import ray_sum, ray_weights
from dreamfusion.kernels.marching import PackedSamples, march_rays
from dreamfusion.method.cameras import Rays
from dreamfusion.method.shading import Lights, shade_images
from dreamfusion.renderers.nerfacc import nerfacc_march_rays
from dreamfusion.renderers.occupancy import OccupancyGrid
from dreamfusion.renderers.output import RenderOutput
from dreamfusion.renderers.proposal import ProposalNetwork, Proposed


@dataclass(frozen=True)
class RenderSettings:
    """How finely to render.

    ``step_length`` is the distance between samples in world units. Samples with a compositing weight below
    `least_weight` or behind a transmittance below ``min_transmittance`` are dropped before the pass with gradient.
    With the exp activation a dropped sample's gradient is proportional to its weight, so nothing that could
    grow is lost: the weight is that of a density of 0.03 per unit, and matter grows outwards from what is denser.
    Samples are at least ``dt_gamma`` times their distance apart, and at most ``max_steps`` on a ray; the ``marcher``
    "nerfacc" is that library's, without these two.
    """

    step_length: float = 0.03
    min_weight: float = 1e-3
    min_transmittance: float = 1e-3
    dt_gamma: float = 0.0
    max_steps: int = 1024
    marcher: Literal["warp", "nerfacc"] = "warp"
    material: Material = dataclass_field(default_factory=Material)

    @property
    def least_weight(self) -> float:
        """``min_weight``, meant for steps of 0.03, as it is for the steps taken: matter weighs less in shorter ones."""
        return self.min_weight * min(1.0, self.step_length / 0.03)

    def __post_init__(self) -> None:
        if not 1e-4 <= self.step_length <= 0.5:
            raise DreamFusionError("Rendering: give a step_length between 0.0001 and 0.5 world units.")


@dataclass(frozen=True)
class VolumeOutput(RenderOutput):
    """Images of a volume, and what its regularisers weigh.

    ``orientation`` [B]: the paper's orientation loss per image, mean over rays of sum sg(w_i) max(0, n_i . v)^2,
    0 for images without normals. With proposal sampling also its two losses, ``interlevel`` and ``distortion``, means
    over the rays. ``depth_variance`` [B, 1, H, W] is how far what a ray meets is spread along it.
    """

    orientation: Float[Tensor, " B"]
    depth_variance: Float[Tensor, "B 1 H W"]
    interlevel: Float[Tensor, ""] | None = None
    distortion: Float[Tensor, ""] | None = None


def render(
    field: Field,
    background: Background,
    occupancy: OccupancyGrid,
    rays: Rays,
    lights: Lights,
    shading: Sequence[Shading],
    settings: RenderSettings,
    *,
    generator: torch.Generator | None = None,
    backdrop: Float[Tensor, "B 3"] | None = None,
    with_normals: bool = False,
    proposal: ProposalNetwork | None = None,
) -> VolumeOutput:
    """Render a batch of images of ``field``, differentiable in the parameters of field and background.

    ``rays`` [B, H, W, 3]; one light and one ``shading`` per image. ``generator`` (a CPU one) jitters the samples
    along each ray; without it they are centred. ``backdrop`` [B, 3] replaces the background. Normals cost
    several evaluations per sample, so images with "albedo" shading do without unless ``with_normals`` is set. With
    ``proposal``, samples lie where that network expects matter, and ``occupancy`` is not used.
    """
    batch = len(rays.origins)
    if len(shading) != batch or len(lights.diffuse) != batch:
        raise DreamFusionError(f"Rendering {batch} images takes {batch} lights and {batch} shadings, one per image.")
    needs_normals = torch.tensor([with_normals or s != "albedo" for s in shading], device=rays.origins.device)
    surface = _find_surface(field, occupancy, rays, settings, generator, needs_normals, proposal)
    return _show(surface, rays, background, lights, shading, settings.material, backdrop, with_normals)


@dataclass(frozen=True)
class _Surface:
    """What the rays of a batch meet, before it is lit.

    ``samples`` [S], their ``points`` [S, 3], ``image`` [S] of the batch, compositing ``weights`` [S], ``albedo``
    [S, 3], the ``normal`` [K, 3] of the samples ``normal_at`` [K], and what a proposal network proposed, if one did.
    """

    samples: PackedSamples
    points: Tensor
    image: Tensor
    weights: Tensor
    albedo: Tensor
    normal: Tensor
    normal_at: Tensor
    proposed: Proposed | None


def _find_surface(
    field: Field,
    occupancy: OccupancyGrid,
    rays: Rays,
    settings: RenderSettings,
    generator: torch.Generator | None,
    needs_normals: Tensor,
    proposal: ProposalNetwork | None,
) -> _Surface:
    """March the rays and evaluate the field, with normals for the images [B] that need them."""
    _, height, width, _ = rays.origins.shape
    origins, directions = rays.origins.reshape(-1, 3), rays.directions.reshape(-1, 3)
    if proposal is None:
        proposed, samples = None, _visible_samples(field, occupancy, origins, directions, settings, generator)
    else:
        proposed = proposal.propose(origins, directions, generator)
        samples = proposed.samples
    points = samples.points(origins, directions)
    image = samples.ray_index // (height * width)
    normal_at = needs_normals[image].nonzero()[:, 0]
    density, albedo, normal = field.evaluate(points, normal_at)
    weights, _ = ray_weights(density, samples.length, samples.offsets)
    return _Surface(samples, points, image, weights, albedo, normal, normal_at, proposed)


def _show(
    surface: _Surface,
    rays: Rays,
    background: Background,
    lights: Lights,
    shading: Sequence[Shading],
    material: Material,
    backdrop: Tensor | None,
    with_normals: bool,
) -> VolumeOutput:
    """Light what the rays meet and composite it over the background."""
    batch, height, width, _ = rays.origins.shape
    samples, weights, normal, normal_at = surface.samples, surface.weights, surface.normal, surface.normal_at
    directions = rays.directions.reshape(-1, 3)[samples.ray_index[normal_at]]
    channels = [
        _shaded(surface, directions, lights, shading, material),
        samples.t[:, None],
        torch.ones_like(samples.t)[:, None],
    ]
    if with_normals:
        channels.append(normal)
    channels.append(samples.t[:, None].square())
    sums = ray_sum(weights, torch.cat(channels, dim=1), samples.ray_index, samples.offsets)
    sums = sums.view(batch, height, width, -1).permute(0, 3, 1, 2)

    opacity = sums[:, 4:5]
    depth = sums[:, 3:4] / opacity.clamp(min=1e-6)
    behind = background(rays.directions).permute(0, 3, 1, 2) if backdrop is None else backdrop[:, :, None, None]
    facing = (normal * directions).sum(dim=-1).clamp(min=0).square()
    turned_away = torch.zeros(batch, device=weights.device).index_add(
        0, surface.image[normal_at], weights.detach()[normal_at] * facing
    )
    return VolumeOutput(
        rgb=sums[:, :3] + (1 - opacity) * behind,
        opacity=opacity,
        depth=depth,
        normal=sums[:, 5:8] if with_normals else None,
        orientation=turned_away / (height * width),
        depth_variance=sums[:, -1:] / opacity.clamp(min=1e-6) - depth.square(),
        samples=len(samples),
        interlevel=None if surface.proposed is None else surface.proposed.interlevel_loss(weights),
        distortion=None if surface.proposed is None else surface.proposed.distortion_loss(weights),
    )


@torch.no_grad()
def _visible_samples(
    field: Field,
    occupancy: OccupancyGrid,
    origins: Tensor,
    directions: Tensor,
    settings: RenderSettings,
    generator: torch.Generator | None,
) -> PackedSamples:
    """March the rays and keep the samples that carry weight."""
    count = len(origins)
    jitter = torch.full((count,), 0.5) if generator is None else torch.rand(count, generator=generator)
    rays = (origins, directions, occupancy.occupied, settings.step_length, jitter.to(origins.device))
    if settings.marcher == "nerfacc":
        samples = nerfacc_march_rays(*rays, growth=settings.dt_gamma)
    else:
        samples = march_rays(*rays, growth=settings.dt_gamma, max_steps=settings.max_steps)
    density = field.density(samples.points(origins, directions))
    weights, transmittance = ray_weights(density, samples.length, samples.offsets)
    return samples.select((weights >= settings.least_weight) & (transmittance >= settings.min_transmittance))


def _shaded(
    surface: _Surface, directions: Tensor, lights: Lights, shading: Sequence[Shading], material: Material
) -> Tensor:
    """Return colours [S, 3]: the albedo in "albedo" images, else Lambertian, on white if "textureless".

    ``directions`` [K, 3] are those of the rays through the samples with a normal, for the highlights of Lambertian
    images.
    """
    albedo, normal, normal_at = surface.albedo, surface.normal, surface.normal_at
    if len(normal_at) == 0:
        return albedo
    points, image = surface.points[normal_at], surface.image[normal_at]
    lit = shade_images(albedo[normal_at], normal, points, directions, image, lights, shading, material)
    return lit if len(normal_at) == len(albedo) else albedo.index_copy(0, normal_at, lit)


@torch.no_grad()
def render_pictures(
    field: Field,
    background: Background,
    occupancy: OccupancyGrid,
    rays: Rays,
    lights: Lights,
    shadings: Sequence[Shading],
    settings: RenderSettings,
    *,
    backdrop: Float[Tensor, "B 3"] | None = None,
    with_normals: bool = False,
    proposal: ProposalNetwork | None = None,
    rays_per_call: int = 2**14,
) -> list[VolumeOutput]:
    """Render finished pictures of any size in each of ``shadings``: as ``render`` does, but without jitter or gradient.

    All shadings show the same samples of the field, which cost far more than the light. Some rows are rendered at a
    time: memory is bounded by ``rays_per_call``, of which one row of all images is the least.
    """
    batch, height, width, _ = rays.origins.shape
    rows = max(1, rays_per_call // (batch * width))
    lit = with_normals or any(shading != "albedo" for shading in shadings)
    needs_normals = torch.full((batch,), lit, device=rays.origins.device)
    strips: list[list[VolumeOutput]] = [[] for _ in shadings]
    for top in range(0, height, rows):
        strip = Rays(rays.origins[:, top : top + rows], rays.directions[:, top : top + rows])
        surface = _find_surface(field, occupancy, strip, settings, None, needs_normals, proposal)
        for parts, shading in zip(strips, shadings, strict=True):
            modes, material = [shading] * batch, settings.material
            parts.append(_show(surface, strip, background, lights, modes, material, backdrop, with_normals))
    return [_stacked(parts) for parts in strips]


def _stacked(strips: Sequence[VolumeOutput]) -> VolumeOutput:
    """Return the images of which these are the strips, from top to bottom."""
    normals = [strip.normal for strip in strips if strip.normal is not None]
    by_rows = torch.stack([strip.orientation * strip.rgb.shape[2] for strip in strips])
    return VolumeOutput(
        rgb=torch.cat([strip.rgb for strip in strips], dim=2),
        opacity=torch.cat([strip.opacity for strip in strips], dim=2),
        depth=torch.cat([strip.depth for strip in strips], dim=2),
        depth_variance=torch.cat([strip.depth_variance for strip in strips], dim=2),
        normal=torch.cat(normals, dim=2) if normals else None,
        orientation=by_rows.sum(0) / sum(strip.rgb.shape[2] for strip in strips),
        samples=sum(strip.samples for strip in strips),
    )
