"""Shading: how albedo, normals and a point light become colour (paper section 3.1).

The three renderings that the method alternates between: plain albedo, Lambertian, and textureless
(Lambertian with white albedo), which shows geometry alone and so forbids painting shape onto a flat surface.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from dreamfusion.cameras import Cameras

Shading = Literal["albedo", "lambertian", "textureless"]


@dataclass(frozen=True)
class Lights:
    """One point light per image: ``position`` [B, 3], ``diffuse`` and ``ambient`` intensity [B]."""

    position: Tensor
    diffuse: Tensor
    ambient: Tensor

    def to(self, device: torch.device | str) -> Lights:
        """Return the same lights on another device."""
        return Lights(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def __getitem__(self, index: slice) -> Lights:
        return Lights(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


@dataclass(frozen=True)
class LightRange:
    """What random lights are drawn from (paper section 3.2 and A.2; lengths twice the paper's, as the scene is).

    The paper's lights scatter twice as far around the camera (direction_noise 1) and leave 0.1 of ambient light. Many
    views are then nearly black, and tell a small prior nothing.
    """

    distance_min: float = 1.6
    distance_max: float = 3.0
    direction_noise: float = 0.5
    ambient: float = 0.3
    diffuse: float = 0.7


def sample_lights(cameras: Cameras, light_range: LightRange, generator: torch.Generator) -> Lights:
    """Draw one point light per camera: direction from a normal around the camera's, distance uniform (A.2)."""
    count = len(cameras)
    around = torch.nn.functional.normalize(cameras.position, dim=-1)
    around = around + light_range.direction_noise * torch.randn(count, 3, generator=generator)
    span = light_range.distance_max - light_range.distance_min
    distance = light_range.distance_min + span * torch.rand(count, 1, generator=generator)
    position = torch.nn.functional.normalize(around, dim=-1) * distance
    return Lights(position, torch.full((count,), light_range.diffuse), torch.full((count,), light_range.ambient))


def sample_backdrops(count: int, generator: torch.Generator) -> Tensor:
    """Draw a plain colour behind each view, [count, 3]: greys from dark to white with a faint tint.

    A backdrop that changes keeps paint out of the background. Any colour would do for that, but then a small prior has
    to learn every toy before every colour: grey ones let it see shapes far sooner.
    """
    level = 0.25 + 0.7 * torch.rand(count, 1, generator=generator)
    return (level + 0.1 * (2 * torch.rand(count, 3, generator=generator) - 1)).clamp(0, 1)


def headlights(cameras: Cameras, *, ambient: float = 0.3, side_deg: float = 30.0) -> Lights:
    """Return one light per camera for finished pictures: behind the camera, ``side_deg`` above it to its right."""
    pose = cameras.camera_to_world
    right, down = pose[:, :, 0], pose[:, :, 1]
    lean = torch.tan(torch.deg2rad(torch.tensor(side_deg))) * cameras.radius[:, None]
    position = cameras.position + lean * (right - down) / 2**0.5
    return Lights(position, torch.full((len(cameras),), 1 - ambient), torch.full((len(cameras),), ambient))


def shade(
    albedo: Tensor, normal: Tensor, point: Tensor, light_position: Tensor, diffuse: Tensor, ambient: Tensor
) -> Tensor:
    """Return Lambertian colour: albedo * (diffuse * max(0, n . l) + ambient), l the unit vector to the light.

    Paper equation 4. ``albedo``, ``normal`` (unit), ``point`` and ``light_position`` are [..., 3];
    ``diffuse`` and ``ambient`` broadcast against [..., 1]. Textureless: pass an albedo of ones.
    """
    to_light = torch.nn.functional.normalize(light_position - point, dim=-1)
    cosine = (normal * to_light).sum(dim=-1, keepdim=True).clamp(min=0)
    return albedo * (diffuse * cosine + ambient)
