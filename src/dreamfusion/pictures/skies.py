"""Light from all around that needs no picture: a studio, a sunset and an overcast sky, as formulas.

Each is made so bright that a white surface turned towards most of its light is just white.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

_HEIGHT, _WIDTH = 128, 256


def made_sky(name: str) -> Tensor:
    """Return the linear light [H, W, 3] of one of `SKIES`, equirectangular (see `dreamfusion.pictures.environment`)."""
    toward = directions(_HEIGHT, _WIDTH)
    light = SKIES[name](toward)
    return light / _brightest(light, toward)


def directions(height: int, width: int) -> Tensor:
    """Return the unit vectors [H, W, 3] towards the pixels of an equirectangular picture."""
    azimuth = math.pi - (torch.arange(width) + 0.5) * (2 * math.pi / width)
    polar = (torch.arange(height) + 0.5) * (math.pi / height)
    across = polar.sin()[:, None]
    return torch.stack([across * azimuth.cos(), across * azimuth.sin(), polar.cos()[:, None].expand(-1, width)], dim=-1)


def _studio(toward: Tensor) -> Tensor:
    """Return a grey room with a large soft lamp, a fainter and bluer one on the other side, and a strip behind."""
    room = 0.25 + 0.15 * toward[..., 2:]
    key = _lamp(toward, 50, 40, 24) * toward.new_tensor([9.0, 8.6, 8.0])
    fill = _lamp(toward, -65, 15, 28) * toward.new_tensor([1.6, 1.8, 2.1])
    rim = _lamp(toward, 180, 35, 14) * 7.0
    return room + key + fill + rim


def _sunset(toward: Tensor) -> Tensor:
    """Return a low sun, orange around it, rose along the horizon, blue above, and dark ground."""
    up = toward[..., 2:]
    above = up.clamp(min=0)
    sky = torch.lerp(toward.new_tensor([0.95, 0.50, 0.32]), toward.new_tensor([0.14, 0.22, 0.48]), above.sqrt())
    near_sun = (toward * _direction(55, 8)).sum(-1, keepdim=True).clamp(min=0)
    glow = near_sun**12 * toward.new_tensor([2.2, 1.0, 0.35])
    sun = _lamp(toward, 55, 8, 4) * toward.new_tensor([160.0, 90.0, 40.0])
    ground = toward.new_tensor([0.10, 0.075, 0.06]) * (1.0 + near_sun**4)
    return torch.where(up > 0, sky + glow, ground) + sun * (up > 0)


def _overcast(toward: Tensor) -> Tensor:
    """Return a grey sky, three times as bright above as at the horizon (Moon and Spencer 1942), over grey ground."""
    up = toward[..., 2:]
    sky = (1.0 + 2.0 * up) / 3.0 * toward.new_tensor([0.96, 1.0, 1.06])
    return torch.where(up > 0, sky, toward.new_tensor([0.20, 0.20, 0.19]))


SKIES: dict[str, Callable[[Tensor], Tensor]] = {"studio": _studio, "sunset": _sunset, "overcast": _overcast}
"""The light [H, W, 3] that comes from unit directions [H, W, 3], by name."""


def _direction(azimuth_deg: float, elevation_deg: float) -> Tensor:
    azimuth, elevation = math.radians(azimuth_deg), math.radians(elevation_deg)
    return torch.tensor(
        [
            math.cos(elevation) * math.cos(azimuth),
            math.cos(elevation) * math.sin(azimuth),
            math.sin(elevation),
        ]
    )


def _lamp(toward: Tensor, azimuth_deg: float, elevation_deg: float, radius_deg: float) -> Tensor:
    """Return [H, W, 1]: 1 inside a round lamp in this direction, 0 outside, with a soft edge."""
    cosine = (toward * _direction(azimuth_deg, elevation_deg)).sum(-1, keepdim=True)
    edge, inner = math.cos(math.radians(radius_deg)), math.cos(math.radians(0.7 * radius_deg))
    return ((cosine - edge) / (inner - edge)).clamp(0, 1)


def _brightest(light: Tensor, toward: Tensor) -> float:
    """Return the most that a white surface sends back, over its directions: the mean of light times cosine, over pi."""
    height, width, _ = light.shape
    edges = torch.cos(torch.linspace(0, math.pi, height + 1))
    solid_angle = ((edges[:-1] - edges[1:]) * (2 * math.pi / width))[:, None, None]
    arriving = (light * solid_angle).mean(-1).reshape(-1)
    normals = directions(8, 16).reshape(-1, 3)
    cosines = (normals @ toward.reshape(-1, 3).T).clamp(min=0)
    return float((cosines @ arriving).max() / math.pi)
