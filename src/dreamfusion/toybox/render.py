"""Sphere tracing of the toybox, as one Warp kernel for CPU and CUDA.

``trace`` returns geometry buffers (material, normal, depth); ``paint_views`` paints, lights and anti-aliases them.
Keeping the two apart lets training recolour and relight a traced view many times. ``signed_distance`` answers
for any point, so that geometry scores know the truth.
"""

# Kernels are written in Warp's dialect: annotations are values, and float(0) declares a variable where 0 is a constant.
# ruff: noqa: UP018
# mypy: disable-error-code="valid-type, misc, arg-type, no-untyped-def, attr-defined, operator, index, call-overload"

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import warp as wp
from torch import Tensor

from dreamfusion.errors import DreamFusionError
from dreamfusion.kernels.backend import array, in_parallel, launch, uses_warp
from dreamfusion.method.cameras import Cameras, Rays
from dreamfusion.method.shading import Lights, Shading, shade
from dreamfusion.toybox.kinds import ACCENT, BODY, KINDS, MATERIALS, PART
from dreamfusion.toybox.world import COLORS, PATTERNS, Toy

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
def _distance(program: _Program, kind: int, scale: wp.vec3, p: wp.vec3) -> float:
    # Of a toy shrunk along the axes: a bound on the distance, exact in sign.
    hit = _scene(program, kind, wp.cw_div(p, scale))
    return hit[0] * wp.min(scale[0], wp.min(scale[1], scale[2]))


@wp.kernel(enable_backward=False)
def _trace_kernel(
    program: _Program,
    kinds: wp.array(dtype=int),
    scales: wp.array(dtype=wp.vec3),
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
    scale = scales[pixel / pixels_per_image]
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
        d = _distance(program, kind, scale, o + v * t)
        if d < 5.0e-4:
            break
        t += 0.9 * d  # ellipsoids and carving give bounds rather than distances: step a little short
        if t > end:
            return
    p = o + v * t
    hit = _scene(program, kind, wp.cw_div(p, scale))
    if hit[0] > 5.0e-3:
        return
    # Four evaluations at the corners of a tetrahedron give the gradient.
    h = float(1.0e-3)
    k0 = wp.vec3(1.0, -1.0, -1.0)
    k1 = wp.vec3(-1.0, -1.0, 1.0)
    k2 = wp.vec3(-1.0, 1.0, -1.0)
    k3 = wp.vec3(1.0, 1.0, 1.0)
    n = (
        k0 * _distance(program, kind, scale, p + k0 * h)
        + k1 * _distance(program, kind, scale, p + k1 * h)
        + k2 * _distance(program, kind, scale, p + k2 * h)
        + k3 * _distance(program, kind, scale, p + k3 * h)
    )
    out_material[pixel] = wp.uint8(int(hit[1]))
    out_normal[pixel] = wp.normalize(n)
    out_depth[pixel] = t


@wp.kernel(enable_backward=False)
def _distance_kernel(
    program: _Program, kind: int, scale: wp.vec3, points: wp.array(dtype=wp.vec3), out: wp.array(dtype=float)
):
    i = wp.tid()
    out[i] = _distance(program, kind, scale, points[i])


@lru_cache(maxsize=4)
def _program(device: str) -> _Program:
    parts = [p for kind in KINDS.values() for p in kind.primitives]
    ends = torch.tensor([0] + [len(kind.primitives) for kind in KINDS.values()]).cumsum(0)
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


def trace(toys: Sequence[Toy], rays: Rays) -> GeometryBuffers:
    """Trace one toy per image: ``toys[b]`` along the rays of image b. Runs on the device of the rays."""
    device = _warp_device(rays.origins.device)
    batch, height, width, _ = rays.origins.shape
    count = batch * height * width
    origins, directions = rays.origins.reshape(-1, 3).contiguous(), rays.directions.reshape(-1, 3).contiguous()
    material = torch.empty(count, dtype=torch.uint8, device=device)
    normal = torch.empty(count, 3, device=device)
    depth = torch.empty(count, device=device)
    kinds = torch.tensor([list(KINDS).index(toy.kind) for toy in toys], dtype=torch.int32, device=device)
    scales = torch.tensor([toy.scale for toy in toys], device=device)
    inputs = [
        _program(str(device)),
        array(kinds),
        array(scales, wp.vec3),
        array(origins, wp.vec3),
        array(directions, wp.vec3),
        height * width,
    ]
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


def signed_distance(toy: Toy, points: Tensor) -> Tensor:
    """Return the signed distance [N] of points [N, 3] to a toy: negative inside, exact or a lower bound outside."""
    device = _warp_device(points.device)
    points = points.float().contiguous()
    out = torch.empty(len(points), device=device)
    kind, scale = list(KINDS).index(toy.kind), wp.vec3(*toy.scale)
    launch(
        _distance_kernel, len(points), [_program(str(device)), kind, scale, array(points, wp.vec3), array(out)], device
    )
    return out


@dataclass(frozen=True)
class Paint:
    """What toys are painted with, one per image.

    ``palette`` [B, M, 3]: the colour of every material; ``pattern`` [B]: 0 = plain, i = ``PATTERNS[i - 1]``, whose
    marks on the body have the colour of the material ``ACCENT``; ``scale`` [B, 3]: the toys' sizes along the axes.
    """

    palette: Tensor
    pattern: Tensor
    scale: Tensor


def paint_toys(
    toys: Sequence[Toy],
    device: torch.device | str = "cpu",
    colors: Sequence[tuple[float, float, float]] | None = None,
) -> Paint:
    """Return the paint of one toy per image; ``colors`` are the shades of their named colours, if not exactly these."""
    shades = colors if colors is not None else [COLORS[toy.color] if toy.color else None for toy in toys]
    palette = torch.tensor(list(MATERIALS.values())).repeat(len(toys), 1, 1)
    painted = [list(MATERIALS).index(name) for name in (BODY, PART, ACCENT)]
    palette[:, painted] = torch.tensor([toy.paint(shade) for toy, shade in zip(toys, shades, strict=True)])
    pattern = torch.tensor([PATTERNS.index(toy.pattern) + 1 if toy.pattern else 0 for toy in toys])
    scale = torch.tensor([toy.scale for toy in toys])
    return Paint(palette.to(device), pattern.to(device), scale.to(device))


# In units of the toy, before it is shrunk: 3 to 4 pixels of a picture of 32.
_STRIPE, _CHECK, _SPOT_SPACING, _SPOT_RADIUS = (wp.constant(length) for length in (0.19, 0.26, 0.44, 0.15))


@wp.func
def _even(x: float, y: float, z: float) -> bool:
    return (int(wp.floor(x)) + int(wp.floor(y)) + int(wp.floor(z))) % 2 == 0


@wp.func
def _in_spot(p: wp.vec3, shift: float) -> bool:
    q = p / _SPOT_SPACING - wp.vec3(shift, shift, shift)
    away = q - wp.vec3(wp.rint(q[0]), wp.rint(q[1]), wp.rint(q[2]))
    return wp.length(away) * _SPOT_SPACING < _SPOT_RADIUS


@wp.func
def is_marked(pattern: int, p: wp.vec3) -> bool:
    """Tell whether a pattern (0 = none) shows its second colour at a point of the toy: see `pattern_marks`."""
    if pattern == 1:
        return _even(0.0, 0.0, p[2] / _STRIPE)
    if pattern == 2:
        return _in_spot(p, 0.0) or _in_spot(p, 0.5)
    if pattern == 3:
        return _even(p[0] / _CHECK, wp.abs(p[1]) / _CHECK + 0.5, p[2] / _CHECK)
    return False


@wp.kernel(enable_backward=False)
def _marks_kernel(
    points: wp.array(dtype=wp.vec3), pattern: wp.array(dtype=wp.int64), per_image: int, out: wp.array(dtype=wp.bool)
):
    i = wp.tid()
    out[i] = is_marked(int(pattern[i / per_image]), points[i])


def pattern_marks(points: Tensor, pattern: Tensor) -> Tensor:
    """Return where the pattern [B] of a toy shows its second colour, bool [B, ...], at points [B, ..., 3] of the toy.

    Stripes are rings about z, checks are cubes, and spots are balls around the points of a body-centred lattice: solid
    textures, mirror images in y like the toys themselves.
    """
    points, pattern = points.contiguous(), pattern.contiguous()
    out = torch.empty(points.shape[:-1], dtype=torch.bool, device=points.device)
    inputs = [array(points.view(-1, 3), wp.vec3), array(pattern), out[0].numel(), array(out.view(-1))]
    launch(_marks_kernel, out.numel(), inputs, _warp_device(points.device))
    return out


def paint_views(
    buffers: GeometryBuffers, rays: Rays, paint: Paint, lights: Lights, background: Tensor, *, supersample: int = 1
) -> Tensor:
    """Paint and light traced views; return images [B, 3, H / supersample, W / supersample] in [0, 1].

    ``background`` [B, 3] is the colour of the plain backdrop.
    """
    hit = buffers.material != NOTHING
    image = hit.nonzero()[:, 0]
    material = buffers.material[hit].long()
    point = rays.origins[hit] + rays.directions[hit] * buffers.depth[hit][:, None]
    if paint.pattern.any():
        marks = pattern_marks(point / paint.scale[image], paint.pattern[image])
        body, accent = (list(MATERIALS).index(name) for name in (BODY, ACCENT))
        material = torch.where(marks & (material == body), accent, material)
    # Only what the toy covers is shaded, a quarter of most pictures.
    color = shade(
        paint.palette[image, material],
        buffers.normal[hit],
        point,
        lights.position[image],
        lights.diffuse[image, None],
        lights.ambient[image, None],
    )
    canvas = background[:, None, None, :].repeat(1, *hit.shape[1:], 1)
    canvas[hit] = color
    pictures = canvas.permute(0, 3, 1, 2).clamp(0, 1)
    return torch.nn.functional.avg_pool2d(pictures, supersample) if supersample > 1 else pictures


def render_toy(
    toy: Toy, cameras: Cameras, lights: Lights, size: int, background: Tensor, shading: Shading = "lambertian"
) -> Tensor:
    """Render one toy from several cameras with 2 x 2 anti-aliasing; return images [B, 3, size, size] in [0, 1].

    "albedo" shading ignores ``lights``, "textureless" the toy's colours.
    """
    rays = cameras.rays(2 * size, 2 * size)
    toys = [toy] * len(cameras)
    paint = paint_toys(toys, rays.origins.device)
    if shading == "albedo":
        lights = Lights(lights.position, torch.zeros_like(lights.diffuse), torch.ones_like(lights.ambient))
    if shading == "textureless":
        paint = replace(paint, palette=torch.ones_like(paint.palette))
    return paint_views(trace(toys, rays), rays, paint, lights, background.expand(len(cameras), 3), supersample=2)
