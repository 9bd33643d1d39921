"""Shading: how albedo, normals and a point light become colour (paper section 3.1).

The three renderings that the method alternates between: plain albedo, Lambertian, and textureless
(Lambertian with white albedo), which shows geometry alone and so forbids painting shape onto a flat surface.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dreamfusion.config import Backdrops, LightRange, Material, Shading
from dreamfusion.method.cameras import Cameras

GAMMA = 2.2
"""Pictures multiply display-referred values; with a power law that is the same as multiplying linear light."""


@dataclass(frozen=True)
class Lights:
    """One point light per image: ``position`` [B, 3], ``diffuse`` and ``ambient`` intensity [B] or colour [B, 3].

    ``environment`` [9, 3] is light from all around on all images (see `dreamfusion.pictures.environment`).
    """

    position: Float[Tensor, "B 3"]
    diffuse: Float[Tensor, " B"] | Float[Tensor, "B 3"]
    ambient: Float[Tensor, " B"] | Float[Tensor, "B 3"]
    environment: Float[Tensor, "9 3"] | None = None

    def to(self, device: torch.device | str) -> Lights:
        """Return the same lights on another device."""
        around = None if self.environment is None else self.environment.to(device)
        return Lights(self.position.to(device), self.diffuse.to(device), self.ambient.to(device), around)

    def __getitem__(self, index: slice) -> Lights:
        return Lights(self.position[index], self.diffuse[index], self.ambient[index], self.environment)


def sample_lights(cameras: Cameras, light_range: LightRange, generator: torch.Generator) -> Lights:
    """Draw one point light per camera: direction from a normal around the camera's, distance uniform (A.2)."""
    count = len(cameras)
    around, spread = torch.nn.functional.normalize(cameras.position, dim=-1), light_range.direction_noise
    if light_range.position_noise is not None:
        around, spread = cameras.position, light_range.position_noise
    around = around + spread * torch.randn(count, 3, generator=generator)
    span = light_range.distance_max - light_range.distance_min
    distance = light_range.distance_min + span * torch.rand(count, 1, generator=generator)
    position = torch.nn.functional.normalize(around, dim=-1) * distance
    if light_range.ambient_max is None:
        return Lights(position, torch.full((count,), light_range.diffuse), torch.full((count,), light_range.ambient))
    ambient = light_range.ambient + (light_range.ambient_max - light_range.ambient) * torch.rand(
        count, generator=generator
    )
    return Lights(position, 1 - ambient, ambient)


def sample_backdrops(
    count: int,
    generator: torch.Generator,
    colors: Backdrops = "grey",
    *,
    ratio: float = 1.0,
    base: Sequence[float] = (1.0, 1.0, 1.0),
) -> Float[Tensor, "{count} 3"]:
    """Draw a plain colour behind each view, [count, 3]: dark or light greys with a faint tint, or any colour.

    A backdrop that changes keeps paint out of the background. Any colour would do for that, but then a small prior has
    to learn every toy before every colour: grey ones let it see shapes far sooner. Middle greys are left out, because
    before them nobody sees whether a pale part is solid, and at high noise the prior takes every grey for one of them,
    which fills the scene with haze. Only a share ``ratio`` of the views gets one, the others the colour ``base``.
    (NeMo's group "random" draws for all views at once, with ratio 0.5, and then a colour per ray.)
    """
    if colors == "any":
        drawn = torch.rand(count, 3, generator=generator)
    else:
        u = torch.rand(count, 1, generator=generator)
        level = torch.where(u < 0.5, 0.2 + 0.3 * u, 0.65 + 0.3 * u)  # 0.2 to 0.35, or 0.8 to 0.95
        drawn = (level + 0.1 * (2 * torch.rand(count, 3, generator=generator) - 1)).clamp(0, 1)
    if ratio == 1:
        return drawn
    return torch.where(torch.rand(count, 1, generator=generator) < ratio, drawn, torch.tensor(base))


def headlights(cameras: Cameras, *, ambient: float = 0.3, side_deg: float = 30.0) -> Lights:
    """Return one light per camera for finished pictures: behind the camera, ``side_deg`` above it to its right."""
    pose = cameras.camera_to_world
    right, down = pose[:, :, 0], pose[:, :, 1]
    lean = torch.tan(torch.deg2rad(torch.tensor(side_deg))) * cameras.radius[:, None]
    position = cameras.position + lean * (right - down) / 2**0.5
    return Lights(position, torch.full((len(cameras),), 1 - ambient), torch.full((len(cameras),), ambient))


def shade(
    albedo: Float[Tensor, "*#n 3"],
    normal: Float[Tensor, "*#n 3"],
    point: Float[Tensor, "*#n 3"],
    light_position: Float[Tensor, "*#n 3"],
    diffuse: Float[Tensor, "*#n #3"],
    ambient: Float[Tensor, "*#n #3"],
    highlight: Float[Tensor, "*#n 1"] | None = None,
) -> Float[Tensor, "... 3"]:
    """Return Lambertian colour: albedo * (diffuse * max(0, n . l) + ambient), l the unit vector to the light.

    Paper equation 4. ``albedo``, ``normal`` (unit), ``point`` and ``light_position`` are [..., 3];
    ``diffuse`` and ``ambient`` are [..., 1] or [..., 3]. Textureless: pass an albedo of ones. ``highlight`` [..., 1]
    (see `phong_highlight`) is white light, diffuse * highlight, that the albedo does not colour.
    """
    to_light = torch.nn.functional.normalize(light_position - point, dim=-1)
    cosine = (normal * to_light).sum(dim=-1, keepdim=True).clamp(min=0)
    color = albedo * (diffuse * cosine + ambient)
    return color if highlight is None else color + diffuse * highlight


def phong_highlight(
    normal: Float[Tensor, "*#n 3"],
    point: Float[Tensor, "*#n 3"],
    light_position: Float[Tensor, "*#n 3"],
    direction: Float[Tensor, "*#n 3"],
    material: Material,
) -> Float[Tensor, "... 1"]:
    """Return the weight of the specular reflection (Phong 1975): k max(0, r . v)^s where the light is in front, else 0.

    r = 2 (n . l) n - l is the light's direction l mirrored at the normal n, v the direction to the camera; k is
    ``material.specular``, s ``material.shininess``. All [..., 3]; ``direction`` is the ray's, from the camera, so
    v = -direction. The result is [..., 1].
    """
    to_light = torch.nn.functional.normalize(light_position - point, dim=-1)
    cosine = (normal * to_light).sum(dim=-1, keepdim=True)
    mirrored = 2 * cosine * normal - to_light
    aligned = -(mirrored * direction).sum(dim=-1, keepdim=True)
    return torch.where(cosine > 0, material.specular * aligned.clamp(min=0) ** material.shininess, 0.0)


def shade_images(
    albedo: Float[Tensor, "N 3"],
    normal: Float[Tensor, "N 3"],
    point: Float[Tensor, "N 3"],
    direction: Float[Tensor, "N 3"],
    image: Int[Tensor, " N"],
    lights: Lights,
    shading: Sequence[Shading],
    material: Material,
) -> Float[Tensor, "N 3"]:
    """Return the colours [N, 3] of points of several images, each shaded as its image is.

    ``albedo``, ``normal``, ``point`` and ``direction`` (of the camera's ray) are [N, 3], ``image`` [N] says which of
    the B ``lights`` and shadings is meant: the albedo itself in "albedo" images, else Lambertian, on white if
    "textureless", with the material's highlight if not.
    """
    white, flat = (
        torch.tensor([s == kind for s in shading], device=albedo.device)[image, None]
        for kind in ("textureless", "albedo")
    )
    color = torch.where(white, torch.ones_like(albedo), albedo)
    images = len(lights.diffuse)
    diffuse = torch.where(flat, 0.0, lights.diffuse.view(images, -1)[image])
    around = lights.ambient.view(images, -1)[image]
    if lights.environment is not None:
        around = around + environment_light(lights.environment, normal)
    ambient = torch.where(flat, 1.0, around)
    position, highlight = lights.position[image], None
    if material.specular > 0:
        highlight = phong_highlight(normal, point, position, direction, material).masked_fill(white, 0)
    return shade(color, normal, point, position, diffuse, ambient, highlight)


def harmonics(direction: Float[Tensor, "*shape 3"]) -> Float[Tensor, "*shape 9"]:
    """Return the nine real spherical harmonics [..., 9] up to degree 2 at unit directions [..., 3]."""
    x, y, z = direction.unbind(-1)
    constant = torch.full_like(x, 0.5 * math.sqrt(1 / math.pi))
    first = math.sqrt(3 / (4 * math.pi))
    second = 0.5 * math.sqrt(15 / math.pi)
    zonal = 0.25 * math.sqrt(5 / math.pi) * (3 * z * z - 1)
    linear = [constant, first * y, first * z, first * x]
    return torch.stack(
        [*linear, second * x * y, second * y * z, zonal, second * x * z, second / 2 * (x * x - y * y)], dim=-1
    )


def environment_light(
    coefficients: Float[Tensor, "9 3"], normal: Float[Tensor, "*shape 3"]
) -> Float[Tensor, "*shape 3"]:
    """Return what an environment multiplies display-referred colours by, [..., 3], for unit normals [..., 3].

    ``coefficients`` [9, 3] are those of `dreamfusion.pictures.environment.irradiance_coefficients`.
    """
    return (harmonics(normal) @ coefficients).clamp(min=0) ** (1 / GAMMA)
