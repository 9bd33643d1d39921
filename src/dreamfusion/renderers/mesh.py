"""From a mesh to images: project, rasterise, shade, antialias. Gives what `renderers.volume.render` gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dreamfusion.config import Material, Rasterizer, Shading
from dreamfusion.fields.background import Background
from dreamfusion.fields.tetrahedra import Surface
from dreamfusion.kernels.antialias import antialias
from dreamfusion.kernels.rasterize import interpolate, rasterize
from dreamfusion.method.cameras import Cameras
from dreamfusion.method.shading import Lights, shade_images
from dreamfusion.renderers import nvdiffrast
from dreamfusion.renderers.output import RenderOutput


@dataclass(frozen=True)
class SurfaceOutput(RenderOutput):
    """Images of a mesh, and the ``surface`` that they show."""

    surface: Surface


def render_surface(
    surface: Surface,
    albedo: Callable[[Float[Tensor, "N 3"]], Float[Tensor, "N 3"]],
    background: Background,
    cameras: Cameras,
    lights: Lights,
    shading: Sequence[Shading],
    size: tuple[int, int],
    *,
    material: Material | None = None,
    backdrop: Float[Tensor, "B 3"] | None = None,
    rasterizer: Rasterizer = "warp",
    frame: float | None = None,
) -> SurfaceOutput:
    """Render B images of (width, height) pixels of a surface, differentiable in vertices, albedo and background.

    ``albedo`` maps points [N, 3] to colours [N, 3]; normals are those of the vertices, interpolated. One light and one
    ``shading`` per image; ``backdrop`` [B, 3] replaces the background. Depth is the distance from the camera.
    Colours move with the vertices through normals, lights and silhouettes, not through ``albedo``, as far as that has
    no gradient for its points. ``frame`` is as for `Cameras.rays`.
    Raises DreamFusionError if ``rasterizer`` is not there or needs another device.
    """
    draw, spread, smoothen = _steps(rasterizer)
    batch, device = len(cameras), surface.vertices.device
    width, height = size
    clip = cameras.clip(surface.vertices, aspect=width / height if frame is None else 1 / frame)
    fragments = draw(clip, surface.faces, height, width)
    attributes = torch.cat([surface.vertices, surface.vertex_normals()], dim=1)
    places = spread(attributes[None], surface.faces, fragments)

    covered = fragments.face >= 0
    image = covered.nonzero()[:, 0]
    points, normals = places[covered].split(3, dim=1)
    normals = torch.nn.functional.normalize(normals, dim=-1)
    rays = points - cameras.position[image]
    distance = rays.norm(dim=-1, keepdim=True)
    lit = shade_images(albedo(points), normals, points, rays / distance, image, lights, shading, material or Material())
    if backdrop is None:
        behind = background(cameras.rays(height, width, frame).directions)
    else:
        behind = backdrop[:, None, None].expand(batch, height, width, 3)
    front = torch.zeros(batch, height, width, 4, device=device).masked_scatter(
        covered[..., None], torch.cat([normals, distance], dim=1)
    )
    sharp = torch.cat([behind.masked_scatter(covered[..., None], lit), covered[..., None].float(), front], dim=-1)
    smooth = smoothen(sharp, clip, surface.faces, fragments).permute(0, 3, 1, 2)
    return SurfaceOutput(
        rgb=smooth[:, :3],
        opacity=smooth[:, 3:4],
        depth=front[..., 3:].permute(0, 3, 1, 2),
        normal=smooth[:, 4:7],
        samples=len(points),
        surface=surface,
    )


def _steps(rasterizer: Rasterizer) -> tuple[Callable[..., Any], Callable[..., Tensor], Callable[..., Tensor]]:
    """Return the three steps of `kernels.rasterize`: rasterise, interpolate, antialias."""
    match rasterizer:
        case "warp":
            return rasterize, interpolate, antialias
        case "nvdiffrast":
            nvdiffrast.require_nvdiffrast()
            return nvdiffrast.rasterize, nvdiffrast.interpolate, nvdiffrast.antialias
