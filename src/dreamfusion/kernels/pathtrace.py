"""A small path tracer for meshes on a ground plane: diffuse surfaces, a sun with soft edges, and a sky.

Symbols: V vertices, F faces, B images of H x W pixels. Light is linear here. A path begins at a camera and goes on from
each surface in a random direction with density cosine / pi, for which the paper's equation 4 (Lambertian shading) needs
no further factor than the albedo; the sun is asked directly at every surface. Each pixel has random numbers of its own,
so pictures are the same bits whatever the number of threads.
"""

# Kernels are written in Warp's dialect: annotations are values, and int(0) declares a variable where 0 is a constant.
# mypy: disable-error-code="valid-type, misc, arg-type, no-untyped-def, attr-defined, operator, index, assignment"
# mypy: disable-error-code="call-overload"
# ruff: noqa: UP018, RUF046

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import warp as wp
from torch import Tensor

from dreamfusion.errors import DreamFusionError
from dreamfusion.kernels.backend import array, launch_over, uses_warp
from dreamfusion.method.cameras import Cameras

_FAR = wp.constant(wp.float32(1e6))


@dataclass(frozen=True)
class Sun:
    """Light from far away: unit ``direction`` towards it, ``color`` of a white surface that faces it, edge softness.

    ``radius_deg`` is half the angle under which the sun is seen; the larger, the softer shadows are.
    """

    direction: tuple[float, float, float]
    color: tuple[float, float, float]
    radius_deg: float = 2.5


@dataclass(frozen=True)
class Ground:
    """The plane z = 0: its ``albedo``, and the distance from the origin beyond which it fades into the backdrop."""

    albedo: tuple[float, float, float]
    extent: float


@dataclass(frozen=True)
class Textures:
    """Pictures that colours are multiplied by: of a vertex, the one whose ``number`` [V] it has (-1: none), at ``uv``.

    ``pictures`` [H, W, 3] hold linear light; ``uv`` [V, 2] is (0, 0) in the upper left corner and goes on beyond (1, 1)
    where it began.
    """

    pictures: Sequence[Tensor]
    number: Tensor
    uv: Tensor


@wp.func
def _around(axis: wp.vec3, cosine: float, turn: float):
    """Return the unit vector at an angle of the given cosine to ``axis``, turned about it."""
    side = wp.vec3(1.0, 0.0, 0.0)
    if wp.abs(axis[0]) > 0.7:
        side = wp.vec3(0.0, 1.0, 0.0)
    u = wp.normalize(wp.cross(axis, side))
    v = wp.cross(axis, u)
    sine = wp.sqrt(wp.max(0.0, 1.0 - cosine * cosine))
    return wp.normalize(cosine * axis + sine * (wp.cos(turn) * u + wp.sin(turn) * v))


@wp.func
def _texel(texels: wp.array(dtype=wp.vec3), picture: wp.vec3i, column: int, row: int):
    width = picture[1]
    height = picture[2]
    return texels[picture[0] + ((row % height + height) % height) * width + (column % width + width) % width]


@wp.func
def _look_up(texels: wp.array(dtype=wp.vec3), picture: wp.vec3i, u: float, v: float):
    """Return the colour of one of several pictures, (first texel, width, height), interpolated; it repeats itself."""
    x = u * float(picture[1]) - 0.5
    y = v * float(picture[2]) - 0.5
    left = int(wp.floor(x))
    top = int(wp.floor(y))
    right_share = x - wp.floor(x)
    upper = wp.lerp(_texel(texels, picture, left, top), _texel(texels, picture, left + 1, top), right_share)
    lower = wp.lerp(_texel(texels, picture, left, top + 1), _texel(texels, picture, left + 1, top + 1), right_share)
    return wp.lerp(upper, lower, y - wp.floor(y))


@wp.func
def _sky(direction: wp.vec3, texels: wp.array(dtype=wp.vec3), sky: wp.vec3i):
    """Return the light of an equirectangular picture: its middle is azimuth 0, its top is above, to the left is +y."""
    u = 0.5 - wp.atan2(direction[1], direction[0]) / (2.0 * wp.pi)
    v = wp.acos(wp.clamp(direction[2], -1.0, 1.0)) / wp.pi
    edge = 0.5 / float(sky[2])  # above the middle of the first row there is no other
    return _look_up(texels, sky, u, wp.clamp(v, edge, 1.0 - edge))


@wp.kernel(enable_backward=False)
def _trace(
    mesh: wp.uint64,
    normals: wp.array(dtype=wp.vec3),
    colors: wp.array(dtype=wp.vec3),
    uv: wp.array(dtype=wp.vec2),
    texture: wp.array(dtype=int),
    pictures: wp.array(dtype=wp.vec3i),
    texels: wp.array(dtype=wp.vec3),
    poses: wp.array3d(dtype=float),
    focal: wp.array(dtype=float),
    width: int,
    height: int,
    sun: wp.vec3,
    sun_color: wp.vec3,
    sun_cosine: float,
    ground: wp.vec3,
    extent: float,
    backdrop: wp.vec3,
    backdrop_is_sky: int,
    samples: int,
    bounces: int,
    seed: int,
    image: wp.array(dtype=wp.vec3),
    first: int,
    last: int,
    grain: int,
):
    _lane, block = wp.tid()
    begin = first + block * grain
    sky = pictures[0]
    for pixel in range(begin, wp.min(begin + grain, last)):
        state = wp.rand_init(seed, pixel)
        b = pixel / (width * height)
        row = (pixel / width) % height
        column = pixel % width
        position = wp.vec3(poses[b, 0, 3], poses[b, 1, 3], poses[b, 2, 3])
        total = wp.vec3(0.0, 0.0, 0.0)
        for _sample in range(samples):
            x = (float(column) + wp.randf(state) - 0.5 * float(width)) / float(width)
            y = (float(row) + wp.randf(state) - 0.5 * float(height)) / float(width)
            origin = position
            direction = wp.normalize(
                wp.vec3(
                    poses[b, 0, 0] * x + poses[b, 0, 1] * y + poses[b, 0, 2] * focal[b],
                    poses[b, 1, 0] * x + poses[b, 1, 1] * y + poses[b, 1, 2] * focal[b],
                    poses[b, 2, 0] * x + poses[b, 2, 1] * y + poses[b, 2, 2] * focal[b],
                )
            )
            share = wp.vec3(1.0, 1.0, 1.0)
            for bounce in range(bounces + 1):
                behind = _sky(direction, texels, sky)
                if bounce == 0 and backdrop_is_sky == 0:
                    behind = backdrop
                far = _FAR
                on_ground = int(0)
                if direction[2] < -1.0e-6 and origin[2] > 0.0:
                    far = wp.min(-origin[2] / direction[2], _FAR)
                    on_ground = 1
                hit = wp.mesh_query_ray(mesh, origin, direction, far)
                if not hit.result and on_ground == 0:
                    total += wp.cw_mul(share, behind)
                    break
                face_normal = wp.vec3(0.0, 0.0, 1.0)
                normal = face_normal
                albedo = ground
                t = far
                if hit.result:
                    t = hit.t
                    face_normal = hit.normal
                    i = wp.mesh_get_index(mesh, hit.face * 3)
                    j = wp.mesh_get_index(mesh, hit.face * 3 + 1)
                    k = wp.mesh_get_index(mesh, hit.face * 3 + 2)
                    w = 1.0 - hit.u - hit.v
                    normal = wp.normalize(hit.u * normals[i] + hit.v * normals[j] + w * normals[k])
                    albedo = hit.u * colors[i] + hit.v * colors[j] + w * colors[k]
                    if texture[i] >= 0:
                        place = hit.u * uv[i] + hit.v * uv[j] + w * uv[k]
                        albedo = wp.cw_mul(albedo, _look_up(texels, pictures[texture[i] + 1], place[0], place[1]))
                    if wp.dot(face_normal, direction) > 0.0:  # the inside of an open mesh
                        face_normal = -face_normal
                        normal = -normal
                point = origin + t * direction
                if not hit.result and bounce == 0:
                    distance = wp.length(wp.vec2(point[0], point[1])) / extent
                    near = wp.exp(-distance * distance)
                    total += wp.cw_mul(share, behind) * (1.0 - near)
                    share = share * near
                share = wp.cw_mul(share, albedo)
                start = point + face_normal * 1.0e-3
                to_sun = _around(sun, 1.0 - wp.randf(state) * (1.0 - sun_cosine), 2.0 * wp.pi * wp.randf(state))
                facing = wp.dot(normal, to_sun)
                lit = facing > 0.0 and wp.dot(face_normal, to_sun) > 0.0
                if lit and not wp.mesh_query_ray_anyhit(mesh, start, to_sun, _FAR):
                    total += wp.cw_mul(share, sun_color) * facing
                origin = start
                direction = _around(normal, wp.sqrt(wp.randf(state)), 2.0 * wp.pi * wp.randf(state))
                if wp.dot(face_normal, direction) <= 0.0:
                    break
        image[pixel] = total / float(samples)


@torch.no_grad()
def trace(
    vertices: Tensor,
    faces: Tensor,
    normals: Tensor,
    colors: Tensor,
    cameras: Cameras,
    size: tuple[int, int],
    *,
    sun: Sun,
    ground: Ground,
    sky: Tensor,
    textures: Textures | None = None,
    backdrop: tuple[float, float, float] | None = None,
    samples: int = 64,
    bounces: int = 3,
    seed: int = 0,
) -> Tensor:
    """Return pictures [B, 3, H, W] in linear light of a mesh that stands on the plane z = 0.

    ``vertices``, unit ``normals`` and linear ``colors`` are [V, 3], ``faces`` [F, 3], all on the device to work on (CPU
    or CUDA); ``size`` is (width, height) in pixels. ``sky`` [h, w, 3] is an equirectangular picture of the light from
    around; ``textures`` multiply the colours. Cameras see ``backdrop`` behind everything, or the sky itself if that is
    None. A path of ``bounces`` 0 shows only the light that comes straight from the sun.
    """
    device = vertices.device
    if not uses_warp(device):
        raise DreamFusionError(f"Scenes are composed on cpu or cuda, not on {device.type}: choose another --device.")
    width, height = size
    points, indices = vertices.float().contiguous(), faces.int().contiguous().view(-1)
    mesh = wp.Mesh(points=wp.from_torch(points, dtype=wp.vec3), indices=wp.from_torch(indices))
    image = torch.empty(len(cameras) * height * width, 3, device=device)
    attributes = [tensor.float().contiguous() for tensor in (normals, colors)]
    poses = cameras.camera_to_world.to(device).float().contiguous()
    focal = cameras.focal.to(device).float().contiguous()
    count = len(points)
    textures = textures or Textures((), torch.full((count,), -1), torch.zeros(count, 2))
    shapes, texels = _packed([sky, *textures.pictures], device)
    number, uv = textures.number.to(device).int().contiguous(), textures.uv.to(device).float().contiguous()
    direction = torch.nn.functional.normalize(torch.tensor(sun.direction), dim=0).tolist()
    arguments = [
        mesh.id,
        *(array(tensor, wp.vec3) for tensor in attributes),
        array(uv, wp.vec2),
        array(number),
        array(shapes, wp.vec3i),
        array(texels, wp.vec3),
        array(poses),
        array(focal),
        width,
        height,
        wp.vec3(*direction),
        wp.vec3(*sun.color),
        math.cos(math.radians(sun.radius_deg)),
        wp.vec3(*ground.albedo),
        ground.extent,
        wp.vec3(*(backdrop or (0.0, 0.0, 0.0))),
        int(backdrop is None),
        samples,
        bounces,
        seed,
        array(image, wp.vec3),
    ]
    launch_over(_trace, len(image), arguments, device)
    return image.view(len(cameras), height, width, 3).permute(0, 3, 1, 2)


def _packed(pictures: Sequence[Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return (first texel, width, height) [N, 3] of pictures [H, W, 3], and all their texels [T, 3]."""
    heights, widths = (torch.tensor([picture.shape[axis] for picture in pictures]) for axis in (0, 1))
    first = torch.nn.functional.pad((heights * widths).cumsum(0), (1, 0))[:-1]
    texels = torch.cat([picture.to(device).float().reshape(-1, 3) for picture in pictures])
    return torch.stack([first, widths, heights], dim=1).int().to(device), texels
