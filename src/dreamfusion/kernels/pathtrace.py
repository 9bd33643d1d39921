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
from dataclasses import dataclass

import torch
import warp as wp
from torch import Tensor

from dreamfusion.cameras import Cameras
from dreamfusion.errors import DreamFusionError
from dreamfusion.kernels.backend import array, launch_over, uses_warp

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
def _sky(direction: wp.vec3, sky: wp.array2d(dtype=wp.vec3)):
    """Return the light of an equirectangular picture: its middle is azimuth 0, its top is above, to the left is +y."""
    rows = sky.shape[0]
    columns = sky.shape[1]
    x = 0.5 - wp.atan2(direction[1], direction[0]) / (2.0 * wp.pi)
    y = wp.acos(wp.clamp(direction[2], -1.0, 1.0)) / wp.pi
    column = wp.min(int(x * float(columns)), columns - 1)
    row = wp.min(int(y * float(rows)), rows - 1)
    return sky[row, column]


@wp.kernel(enable_backward=False)
def _trace(
    mesh: wp.uint64,
    normals: wp.array(dtype=wp.vec3),
    colors: wp.array(dtype=wp.vec3),
    poses: wp.array3d(dtype=float),
    focal: wp.array(dtype=float),
    width: int,
    height: int,
    sun: wp.vec3,
    sun_color: wp.vec3,
    sun_cosine: float,
    ground: wp.vec3,
    extent: float,
    sky: wp.array2d(dtype=wp.vec3),
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
                behind = _sky(direction, sky)
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
    backdrop: tuple[float, float, float] | None = None,
    samples: int = 64,
    bounces: int = 3,
    seed: int = 0,
) -> Tensor:
    """Return pictures [B, 3, H, W] in linear light of a mesh that stands on the plane z = 0.

    ``vertices``, unit ``normals`` and linear ``colors`` are [V, 3], ``faces`` [F, 3], all on the device to work on (CPU
    or CUDA); ``size`` is (width, height) in pixels. ``sky`` [h, w, 3] is an equirectangular picture of the light from
    around. Cameras see ``backdrop`` behind everything, or the sky itself if that is None. A path of ``bounces`` 0 shows
    only the light that comes straight from the sun.
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
    sky = sky.to(device).float().contiguous()
    direction = torch.nn.functional.normalize(torch.tensor(sun.direction), dim=0).tolist()
    arguments = [
        mesh.id,
        *(array(tensor, wp.vec3) for tensor in attributes),
        array(poses),
        array(focal),
        width,
        height,
        wp.vec3(*direction),
        wp.vec3(*sun.color),
        math.cos(math.radians(sun.radius_deg)),
        wp.vec3(*ground.albedo),
        ground.extent,
        array(sky, wp.vec3),
        wp.vec3(*(backdrop or (0.0, 0.0, 0.0))),
        int(backdrop is None),
        samples,
        bounces,
        seed,
        array(image, wp.vec3),
    ]
    launch_over(_trace, len(image), arguments, device)
    return image.view(len(cameras), height, width, 3).permute(0, 3, 1, 2)
