"""Sphere tracing of the toybox, as one Warp kernel for CPU and CUDA.

``trace`` returns geometry buffers (material, normal, depth); ``compose`` paints, lights and anti-aliases them.
Keeping the two apart lets training recolour and relight a traced view many times. ``signed_distance`` answers
for any point, so that geometry scores know the truth.
"""

# Kernels are written in Warp's dialect: annotations are values, and float(0) declares a variable where 0 is a constant.
# ruff: noqa: UP018
# mypy: disable-error-code="valid-type, misc, no-untyped-def, attr-defined, operator, index, call-overload"

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import warp as wp
from torch import Tensor

from dreamfusion.cameras import Cameras, Rays
from dreamfusion.errors import DreamFusionError
from dreamfusion.kernels.backend import array, in_parallel, launch, uses_warp
from dreamfusion.shading import Lights, shade
from dreamfusion.toybox.world import KINDS, MATERIALS

_SHAPES = ("ellipsoid", "box", "cylinder", "cone", "torus", "prism")
NOTHING = 255  # the material of pixels that hit nothing


@wp.func
def _box(q: wp.vec3, h: wp.vec3) -> float:
    d = wp.vec3(wp.abs(q[0]) - h[0], wp.abs(q[1]) - h[1], wp.abs(q[2]) - h[2])
    outside = wp.length(wp.vec3(wp.max(d[0], 0.0), wp.max(d[1], 0.0), wp.max(d[2], 0.0)))
    return outside + wp.min(wp.max(d[0], wp.max(d[1], d[2])), 0.0)


@wp.func
def _capped_cone(q: wp.vec3, bottom: float, half: float, top: float) -> float:
    # Distance in the half-plane (radius, height) to the slanted side and to the two caps.
    radius = wp.sqrt(q[0] * q[0] + q[1] * q[1])
    cap_radius = wp.where(q[2] < 0.0, bottom, top)
    ax = radius - wp.min(radius, cap_radius)
    ay = wp.abs(q[2]) - half
    slope_x = top - bottom
    slope_y = 2.0 * half
    along = ((top - radius) * slope_x + (half - q[2]) * slope_y) / (slope_x * slope_x + slope_y * slope_y)
    along = wp.clamp(along, 0.0, 1.0)
    bx = radius - top + slope_x * along
    by = q[2] - half + slope_y * along
    sign = wp.where(bx < 0.0 and ay < 0.0, -1.0, 1.0)
    return sign * wp.sqrt(wp.min(ax * ax + ay * ay, bx * bx + by * by))


@wp.func
def _prism(q: wp.vec3, h: wp.vec3) -> float:
    # A gable roof: the ridge runs along y at z = +h.z, the eaves lie at z = -h.z, x = +-h.x.
    length = wp.sqrt(4.0 * h[2] * h[2] + h[0] * h[0])
    slope = (2.0 * h[2] * wp.abs(q[0]) + h[0] * (q[2] - h[2])) / length
    return wp.max(wp.max(slope, -h[2] - q[2]), wp.abs(q[1]) - h[1])


@wp.func
def _primitive_distance(shape: int, q: wp.vec3, s: wp.vec3, rounding: float) -> float:
    d = float(0.0)
    if shape == 0:
        k0 = wp.length(wp.vec3(q[0] / s[0], q[1] / s[1], q[2] / s[2]))
        k1 = wp.length(wp.vec3(q[0] / (s[0] * s[0]), q[1] / (s[1] * s[1]), q[2] / (s[2] * s[2])))
        d = wp.where(k1 < 1.0e-6, -wp.min(s[0], wp.min(s[1], s[2])), k0 * (k0 - 1.0) / wp.max(k1, 1.0e-6))
    elif shape == 1:
        d = _box(q, s - wp.vec3(rounding, rounding, rounding)) - rounding
    elif shape == 2:
        d = _capped_cone(q, s[0] - rounding, s[1] - rounding, s[0] - rounding) - rounding
    elif shape == 3:
        d = _capped_cone(q, s[0], s[1], s[2])
    elif shape == 4:
        ring = wp.sqrt(q[0] * q[0] + q[1] * q[1]) - s[0]
        d = wp.sqrt(ring * ring + q[2] * q[2]) - s[1]
    else:
        d = _prism(q, s)
    return d


@wp.struct
class _Program:
    """The primitives of all kinds, one after the other; kind k owns first[k] .. first[k + 1]."""

    first: wp.array(dtype=int)
    shape: wp.array(dtype=int)
    material: wp.array(dtype=int)
    carve: wp.array(dtype=int)
    center: wp.array(dtype=wp.vec3)
    size: wp.array(dtype=wp.vec3)
    rounding: wp.array(dtype=float)
    to_local: wp.array(dtype=wp.mat33)


@wp.func
def _scene(program: _Program, kind: int, p: wp.vec3) -> wp.vec2:
    """Return (signed distance, material) of a kind at a point."""
    best = float(1.0e3)
    material = float(0.0)
    for i in range(program.first[kind], program.first[kind + 1]):
        q = program.to_local[i] * (p - program.center[i])
        d = _primitive_distance(program.shape[i], q, program.size[i], program.rounding[i])
        if program.carve[i] == 1:
            best = wp.max(best, -d)
        elif d < best:
            best = d
            material = float(program.material[i])
    return wp.vec2(best, material)


@wp.func
def _distance(program: _Program, kind: int, p: wp.vec3) -> float:
    hit = _scene(program, kind, p)
    return hit[0]


@wp.kernel(enable_backward=False)
def _trace_kernel(
    program: _Program,
    kinds: wp.array(dtype=int),
    origins: wp.array(dtype=wp.vec3),
    directions: wp.array(dtype=wp.vec3),
    pixels_per_image: int,
    first_pixel: int,
    out_material: wp.array(dtype=wp.uint8),
    out_normal: wp.array(dtype=wp.vec3),
    out_depth: wp.array(dtype=float),
):
    pixel = first_pixel + wp.tid()
    kind = kinds[pixel / pixels_per_image]
    o = origins[pixel]
    v = directions[pixel]
    out_material[pixel] = wp.uint8(255)
    out_normal[pixel] = wp.vec3(0.0, 0.0, 0.0)
    out_depth[pixel] = 0.0

    # Only the part of the ray inside the unit sphere can hit anything.
    b = wp.dot(o, v)
    c = wp.dot(o, o) - 0.85
    inside = b * b - c
    if inside <= 0.0:
        return
    t = wp.max(-b - wp.sqrt(inside), 0.0)
    end = -b + wp.sqrt(inside)
    for _step in range(128):
        d = _distance(program, kind, o + v * t)
        if d < 5.0e-4:
            break
        t += 0.9 * d  # ellipsoids and carving give bounds rather than distances: step a little short
        if t > end:
            return
    p = o + v * t
    hit = _scene(program, kind, p)
    if hit[0] > 5.0e-3:
        return
    # Four evaluations at the corners of a tetrahedron give the gradient.
    h = float(1.0e-3)
    k0 = wp.vec3(1.0, -1.0, -1.0)
    k1 = wp.vec3(-1.0, -1.0, 1.0)
    k2 = wp.vec3(-1.0, 1.0, -1.0)
    k3 = wp.vec3(1.0, 1.0, 1.0)
    n = (
        k0 * _distance(program, kind, p + k0 * h)
        + k1 * _distance(program, kind, p + k1 * h)
        + k2 * _distance(program, kind, p + k2 * h)
        + k3 * _distance(program, kind, p + k3 * h)
    )
    out_material[pixel] = wp.uint8(int(hit[1]))
    out_normal[pixel] = wp.normalize(n)
    out_depth[pixel] = t


@wp.kernel(enable_backward=False)
def _distance_kernel(program: _Program, kind: int, points: wp.array(dtype=wp.vec3), out: wp.array(dtype=float)):
    i = wp.tid()
    out[i] = _distance(program, kind, points[i])


@lru_cache(maxsize=4)
def _program(device: str) -> _Program:
    parts = [p for kind in KINDS.values() for p in kind]
    ends = torch.tensor([0] + [len(kind) for kind in KINDS.values()]).cumsum(0)
    program = _Program()
    program.first = wp.array(ends.tolist(), dtype=int, device=device)
    program.shape = wp.array([_SHAPES.index(p.shape) for p in parts], dtype=int, device=device)
    program.material = wp.array([list(MATERIALS).index(p.material) for p in parts], dtype=int, device=device)
    program.carve = wp.array([int(p.carve) for p in parts], dtype=int, device=device)
    program.center = wp.array([p.center for p in parts], dtype=wp.vec3, device=device)
    program.size = wp.array([p.size for p in parts], dtype=wp.vec3, device=device)
    program.rounding = wp.array([p.rounding for p in parts], dtype=float, device=device)
    turned = [[list(row) for row in zip(*p.rotation(), strict=True)] for p in parts]  # transpose = inverse
    program.to_local = wp.array(turned, dtype=wp.mat33, device=device)
    return program


@dataclass(frozen=True)
class GeometryBuffers:
    """What a traced view shows before it is painted and lit.

    ``material`` [B, H, W] uint8 (index into ``MATERIALS``; 255 = nothing), ``normal`` [B, H, W, 3] unit or zero,
    ``depth`` [B, H, W] distance along the ray (0 = nothing).
    """

    material: Tensor
    normal: Tensor
    depth: Tensor


def trace(kinds: Sequence[str], rays: Rays) -> GeometryBuffers:
    """Trace one toy per image: ``kinds[b]`` along the rays of image b. Runs on the device of the rays."""
    device = _warp_device(rays.origins.device)
    batch, height, width, _ = rays.origins.shape
    count = batch * height * width
    origins, directions = rays.origins.reshape(-1, 3).contiguous(), rays.directions.reshape(-1, 3).contiguous()
    material = torch.empty(count, dtype=torch.uint8, device=device)
    normal = torch.empty(count, 3, device=device)
    depth = torch.empty(count, device=device)
    index = torch.tensor([list(KINDS).index(k) for k in kinds], dtype=torch.int32, device=device)
    inputs = [_program(str(device)), array(index), array(origins, wp.vec3), array(directions, wp.vec3), height * width]
    outputs = [array(material), array(normal, wp.vec3), array(depth)]

    def work(part: int, parts: int) -> None:
        first, last = count * part // parts, count * (part + 1) // parts
        launch(_trace_kernel, last - first, [*inputs, first, *outputs], device)

    in_parallel(work, device)
    shape = (batch, height, width)
    return GeometryBuffers(material.reshape(shape), normal.reshape(*shape, 3), depth.reshape(shape))


def _warp_device(device: torch.device) -> torch.device:
    if not uses_warp(device):
        raise DreamFusionError(f"The toybox renders on cpu and cuda, not on {device}: use --device cpu.")
    return device


def signed_distance(kind: str, points: Tensor) -> Tensor:
    """Return the signed distance [N] of points [N, 3] to a toy: negative inside, exact or a lower bound outside."""
    device = _warp_device(points.device)
    points = points.float().contiguous()
    out = torch.empty(len(points), device=device)
    inputs = [_program(str(device)), list(KINDS).index(kind), array(points, wp.vec3), array(out)]
    launch(_distance_kernel, len(points), inputs, device)
    return out


def compose(
    buffers: GeometryBuffers, rays: Rays, palette: Tensor, lights: Lights, background: Tensor, *, supersample: int = 1
) -> Tensor:
    """Paint and light traced views; return images [B, 3, H / supersample, W / supersample] in [0, 1].

    ``palette`` [B, M, 3] holds the colour of every material, ``background`` [B, 3] the plain backdrop.
    """
    hit = (buffers.material != NOTHING)[..., None]
    index = torch.where(hit[..., 0], buffers.material, 0).long()
    images = torch.arange(len(palette), device=palette.device)[:, None, None]
    point = rays.origins + rays.directions * buffers.depth[..., None]
    color = shade(
        palette[images, index],
        buffers.normal,
        point,
        lights.position[:, None, None, :],
        lights.diffuse[:, None, None, None],
        lights.ambient[:, None, None, None],
    )
    image = torch.where(hit, color, background[:, None, None, :]).permute(0, 3, 1, 2).clamp(0, 1)
    return torch.nn.functional.avg_pool2d(image, supersample) if supersample > 1 else image


def palettes(colors: Tensor) -> Tensor:
    """Return palettes [B, M, 3]: all materials, with ``BODY`` painted in ``colors`` [B, 3]."""
    palette = torch.tensor(list(MATERIALS.values()), device=colors.device).repeat(len(colors), 1, 1)
    palette[:, list(MATERIALS).index("body")] = colors
    return palette


def render_toy(
    kind: str,
    color: tuple[float, float, float],
    cameras: Cameras,
    lights: Lights,
    size: int,
    background: Tensor,
    *,
    textureless: bool = False,
) -> Tensor:
    """Render one toy from several cameras with 2 x 2 anti-aliasing; return images [B, 3, size, size] in [0, 1]."""
    rays = cameras.rays(2 * size, 2 * size)
    buffers = trace([kind] * len(cameras), rays)
    palette = palettes(torch.tensor(color, device=rays.origins.device).expand(len(cameras), 3))
    if textureless:
        palette = torch.ones_like(palette)
    return compose(buffers, rays, palette, lights, background.expand(len(cameras), 3), supersample=2)
