"""Cameras: where a view is taken from, and the rays through its pixels.

World: right-handed, z up, the object inside the unit sphere, its front facing +x.
Azimuth 0 looks at the front and grows counter-clockwise seen from above; elevation 0 is the horizon.
Camera space follows OpenCV (x right, y down, z forward); pixel centres lie at +0.5.
See docs/conventions.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dreamfusion.config import CameraRange
from dreamfusion.standard import ORBIT_ELEVATION_DEG, ORBIT_FOCAL, ORBIT_RADIUS


@dataclass(frozen=True)
class Rays:
    """Rays of a batch of images: ``origins`` and unit ``directions``, both [B, H, W, 3]."""

    origins: Float[Tensor, "B H W 3"]
    directions: Float[Tensor, "B H W 3"]


@dataclass(frozen=True)
class Cameras:
    """A batch of B pinhole cameras.

    ``camera_to_world`` [B, 3, 4]; ``focal`` [B] in image widths (the paper's lambda, so that
    fov = 2 atan(1 / (2 focal))); ``azimuth_deg``, ``elevation_deg`` [B] in degrees and ``radius`` [B] in
    world units say where the camera stands, for view-dependent prompts.
    """

    camera_to_world: Float[Tensor, "B 3 4"]
    focal: Float[Tensor, " B"]
    azimuth_deg: Float[Tensor, " B"]
    elevation_deg: Float[Tensor, " B"]
    radius: Float[Tensor, " B"]

    def __len__(self) -> int:
        return self.camera_to_world.shape[0]

    @property
    def position(self) -> Float[Tensor, "B 3"]:
        """World positions of the cameras, [B, 3]."""
        return self.camera_to_world[:, :, 3]

    def to(self, device: torch.device | str) -> Cameras:
        """Return the same cameras on another device."""
        return Cameras(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def __getitem__(self, index: slice | Int[Tensor, " N"]) -> Cameras:
        return Cameras(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def rays(self, height: int, width: int, frame: float | None = None) -> Rays:
        """Return the rays through all pixel centres, origins and directions [B, height, width, 3].

        ``frame`` is the height of the picture's frame over its width; by default that of the numbers of pixels, which
        are then square.
        """
        device = self.camera_to_world.device
        columns = (torch.arange(width, device=device) + 0.5 - width / 2) / width
        rows = (torch.arange(height, device=device) + 0.5 - height / 2) / (width if frame is None else height / frame)
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        in_camera = torch.stack([x, y, torch.zeros_like(x)], dim=-1).expand(len(self), -1, -1, -1).clone()
        in_camera[..., 2] = self.focal[:, None, None]
        in_camera = in_camera / in_camera.norm(dim=-1, keepdim=True)
        directions = torch.einsum("bij,bhwj->bhwi", self.camera_to_world[:, :, :3], in_camera)
        origins = self.position[:, None, None, :].expand_as(directions)
        return Rays(origins.contiguous(), directions.contiguous())

    def clip(
        self, points: Float[Tensor, "V 3"], *, aspect: float = 1.0, near: float = 0.05, far: float = 20.0
    ) -> Float[Tensor, "B V 4"]:
        """Return world ``points`` [V, 3] in the clip space of pictures (see `kernels.rasterize`), [B, V, 4].

        ``aspect`` is the pictures' width over their height; ``near`` and ``far`` are distances along the viewing
        direction, in world units.
        """
        rotation = self.camera_to_world[:, :, :3]
        x, y, z = ((points - self.position[:, None]) @ rotation).unbind(-1)
        zoom = 2 * self.focal[:, None]
        return torch.stack([zoom * x, zoom * aspect * y, (z - near) * (far / (far - near)), z], dim=-1)


def look_at(
    position: Float[Tensor, "B 3"], target: Float[Tensor, "B 3"], up: Float[Tensor, "B 3"]
) -> Float[Tensor, "B 3 4"]:
    """Return camera-to-world matrices [B, 3, 4] of cameras at ``position`` that look at ``target`` (all [B, 3])."""
    forward = torch.nn.functional.normalize(target - position, dim=-1)
    right = torch.linalg.cross(forward, up, dim=-1)
    # Straight from above, forward and up are parallel: keep +x (the object's front) at the bottom of the image.
    right = torch.where(
        right.norm(dim=-1, keepdim=True) < 1e-4, right.new_tensor([0.0, 1.0, 0.0]).expand_as(right), right
    )
    right = torch.nn.functional.normalize(right, dim=-1)
    down = torch.linalg.cross(forward, right, dim=-1)
    return torch.stack([right, down, forward, position], dim=-1)


def spherical_position(
    radius: Float[Tensor, " B"], azimuth_deg: Float[Tensor, " B"], elevation_deg: Float[Tensor, " B"]
) -> Float[Tensor, "B 3"]:
    """Return world positions [B, 3] for radius (world units), azimuth and elevation (degrees), each [B]."""
    azimuth, elevation = torch.deg2rad(azimuth_deg), torch.deg2rad(elevation_deg)
    direction = [elevation.cos() * azimuth.cos(), elevation.cos() * azimuth.sin(), elevation.sin()]
    return radius[:, None] * torch.stack(direction, dim=-1)


def _uniform(low: float, high: float, count: int, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)


def sample_cameras(count: int, camera_range: CameraRange, generator: torch.Generator) -> Cameras:
    """Draw ``count`` random cameras as the paper does (section 3.2 step 1 and appendix A.2).

    The elevation is uniform in angle with ``uniform_angle_probability``, else uniform in area on the sphere;
    position, look-at point and up vector are jittered. Azimuth and elevation are those before the jitter. With a
    ``set_size`` above 1 the cameras come in sets of so many, one after the other, whose azimuths are spread evenly and
    which share everything else; ``count`` is a multiple of it.
    """
    r, each = camera_range, camera_range.set_size
    count //= each
    radius = _uniform(r.radius_min, r.radius_max, count, generator)
    azimuth_deg = _uniform(r.azimuth_min_deg, r.azimuth_max_deg, count, generator)
    by_angle = _uniform(r.elevation_min_deg, r.elevation_max_deg, count, generator)
    lowest = r.elevation_min_deg if r.area_elevation_min_deg is None else r.area_elevation_min_deg
    low, high = (math.sin(math.radians(e)) for e in (lowest, r.elevation_max_deg))
    by_area = torch.rad2deg(torch.asin(_uniform(low, high, count, generator).clamp(-1.0, 1.0)))
    pick = torch.rand(count, generator=generator) < r.uniform_angle_probability
    elevation_deg = torch.where(pick, by_angle, by_area)

    moved = r.position_noise * (2 * torch.rand(count, 3, generator=generator) - 1)
    target = r.look_at_noise * torch.randn(count, 3, generator=generator)
    up = torch.tensor([0.0, 0.0, 1.0]) + r.up_noise * torch.randn(count, 3, generator=generator)
    if r.fov_min_deg is None or r.fov_max_deg is None:
        focal = _uniform(r.focal_min, r.focal_max, count, generator)
    else:
        focal = focal_of_fov(_uniform(r.fov_min_deg, r.fov_max_deg, count, generator))
    if r.radius_by_focal:
        radius = radius * 2 * focal
    if each > 1:
        shared = (radius, elevation_deg, moved, target, up, focal)
        radius, elevation_deg, moved, target, up, focal = (x.repeat_interleave(each, dim=0) for x in shared)
        azimuth_deg = _spread(azimuth_deg, each, r)
    position = spherical_position(radius, azimuth_deg, elevation_deg) + moved
    return Cameras(look_at(position, target, up), focal, azimuth_deg, elevation_deg, radius)


def _spread(azimuth_deg: Float[Tensor, " B"], each: int, r: CameraRange) -> Float[Tensor, " N"]:
    """Return B sets of ``each`` azimuths, a share of the range apart; what was drawn says where one begins."""
    share = (r.azimuth_max_deg - r.azimuth_min_deg) / each
    first = r.azimuth_min_deg + (azimuth_deg - r.azimuth_min_deg) / each
    return (first[:, None] + share * torch.arange(each)).flatten()


def focal_of_fov(fov_deg: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return focal lengths in image widths for fields of view in degrees, 1 / (2 tan(fov / 2)); of any shape."""
    return 0.5 / torch.tan(torch.deg2rad(fov_deg) / 2)


def orbit_cameras(
    count: int,
    *,
    elevation_deg: float = ORBIT_ELEVATION_DEG,
    radius: float = ORBIT_RADIUS,
    focal: float = ORBIT_FOCAL,
    first_azimuth_deg: float = 0.0,
) -> Cameras:
    """Return ``count`` cameras evenly spaced on a circle, the first at ``first_azimuth_deg``."""
    azimuth_deg = (first_azimuth_deg + torch.arange(count) * (360.0 / count) + 180.0) % 360.0 - 180.0
    return fixed_cameras(azimuth_deg, elevation_deg, radius=radius, focal=focal)


def fixed_cameras(
    azimuth_deg: Float[Tensor, ...] | float,
    elevation_deg: Float[Tensor, ...] | float,
    *,
    radius: float = ORBIT_RADIUS,
    focal: float = ORBIT_FOCAL,
) -> Cameras:
    """Return cameras at exactly these angles (degrees; broadcast against each other), looking at the origin."""
    azimuth, elevation = torch.broadcast_tensors(
        torch.atleast_1d(torch.as_tensor(azimuth_deg, dtype=torch.float32)),
        torch.atleast_1d(torch.as_tensor(elevation_deg, dtype=torch.float32)),
    )
    radii = torch.full_like(azimuth, radius)
    position = spherical_position(radii, azimuth, elevation)
    up = torch.tensor([0.0, 0.0, 1.0]).expand_as(position)
    pose = look_at(position, torch.zeros_like(position), up)
    return Cameras(pose, torch.full_like(azimuth, focal), azimuth.clone(), elevation.clone(), radii)
