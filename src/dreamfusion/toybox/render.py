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
from dreamfusion.toybox.kinds import ACCENT, ALL_KINDS, BODY, MATERIALS, PART, SURFACES, TRIM
from dreamfusion.toybox.world import FINISHES, PATTERNS, Toy, placed

_SHAPES = ("ellipsoid", "box", "cylinder", "cone", "torus", "prism")
NOTHING = 255  # the material of pixels that hit nothing
_MOST = 2  # toys in one picture


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


@wp.struct
class _Toys:
    """What stands in each picture, at most _MOST toys: kind (-1: none), scale and place of each."""

    kind: wp.array(dtype=int)
    scale: wp.array(dtype=wp.vec3)
    place: wp.array(dtype=wp.vec3)


_MOST_CONSTANT, _SURFACES_CONSTANT = wp.constant(_MOST), wp.constant(len(SURFACES))


@wp.func
def _nearest(program: _Program, toys: _Toys, image: int, p: wp.vec3) -> wp.vec3:
    """Return (distance, number of the surface, distance in units of its toy) of what is nearest in a picture.

    The distance of a toy shrunk along the axes is a bound, exact in sign. The second toy's surfaces follow the first's.
    """
    best = wp.vec3(1.0e3, 0.0, 1.0e3)
    for k in range(_MOST_CONSTANT):
        i = image * _MOST_CONSTANT + k
        if toys.kind[i] >= 0:
            scale = toys.scale[i]
            hit = _scene(program, toys.kind[i], wp.cw_div(p - toys.place[i], scale))
            d = hit[0] * wp.min(scale[0], wp.min(scale[1], scale[2]))
            if d < best[0]:
                best = wp.vec3(d, hit[1] + float(k * _SURFACES_CONSTANT), hit[0])
    return best


@wp.func
def _distance(program: _Program, toys: _Toys, image: int, p: wp.vec3) -> float:
    return _nearest(program, toys, image, p)[0]


@wp.kernel(enable_backward=False)
def _trace_kernel(
    program: _Program,
    toys: _Toys,
    origins: wp.array(dtype=wp.vec3),
    directions: wp.array(dtype=wp.vec3),
    pixels_per_image: int,
    first_pixel: int,
    out_material: wp.array(dtype=wp.uint8),
    out_normal: wp.array(dtype=wp.vec3),
    out_depth: wp.array(dtype=float),
):
    pixel = first_pixel + wp.tid()
    image = pixel / pixels_per_image
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
        d = _distance(program, toys, image, o + v * t)
        if d < 5.0e-4:
            break
        t += 0.9 * d  # ellipsoids and carving give bounds rather than distances: step a little short
        if t > end:
            return
    p = o + v * t
    hit = _nearest(program, toys, image, p)
    if hit[2] > 5.0e-3:
        return
    # Four evaluations at the corners of a tetrahedron give the gradient.
    h = float(1.0e-3)
    k0 = wp.vec3(1.0, -1.0, -1.0)
    k1 = wp.vec3(-1.0, -1.0, 1.0)
    k2 = wp.vec3(-1.0, 1.0, -1.0)
    k3 = wp.vec3(1.0, 1.0, 1.0)
    n = (
        k0 * _distance(program, toys, image, p + k0 * h)
        + k1 * _distance(program, toys, image, p + k1 * h)
        + k2 * _distance(program, toys, image, p + k2 * h)
        + k3 * _distance(program, toys, image, p + k3 * h)
    )
    out_material[pixel] = wp.uint8(int(hit[1]))
    out_normal[pixel] = wp.normalize(n)
    out_depth[pixel] = t


@wp.kernel(enable_backward=False)
def _distance_kernel(program: _Program, toys: _Toys, points: wp.array(dtype=wp.vec3), out: wp.array(dtype=float)):
    i = wp.tid()
    out[i] = _distance(program, toys, 0, points[i])


@lru_cache(maxsize=4)
def _program(device: str) -> _Program:
    parts = [p for kind in ALL_KINDS.values() for p in kind.primitives]
    ends = torch.tensor([0] + [len(kind.primitives) for kind in ALL_KINDS.values()]).cumsum(0)
    program = _Program()
    program.first = wp.array(ends.tolist(), dtype=int, device=device)
    program.shape = wp.array([_SHAPES.index(p.shape) for p in parts], dtype=int, device=device)
    program.material = wp.array([SURFACES.index(p.material) for p in parts], dtype=int, device=device)
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

    ``material`` [B, H, W] uint8 (index into ``SURFACES``, of a second toy that plus their number; 255 = nothing),
    ``normal`` [B, H, W, 3] unit or zero, ``depth`` [B, H, W] distance along the ray (0 = nothing).
    """

    material: Tensor
    normal: Tensor
    depth: Tensor


def _toys(toys: Sequence[Toy], device: torch.device) -> tuple[_Toys, list[Tensor]]:
    """Return what stands in each picture, and the tensors that hold it, which must stay alive."""
    kinds = torch.full((len(toys), _MOST), -1, dtype=torch.int32)
    scales, places = torch.ones(len(toys), _MOST, 3), torch.zeros(len(toys), _MOST, 3)
    numbers = {kind: number for number, kind in enumerate(ALL_KINDS)}
    for image, toy in enumerate(toys):
        for k, one in enumerate(placed(toy)):
            kinds[image, k] = numbers[one.toy.kind]
            scales[image, k], places[image, k] = torch.tensor(one.scale), torch.tensor(one.place)
    alive = [tensor.flatten(0, 1).to(device) for tensor in (kinds, scales, places)]
    struct = _Toys()
    struct.kind = wp.from_torch(alive[0])
    struct.scale, struct.place = (wp.from_torch(tensor, dtype=wp.vec3) for tensor in alive[1:])
    return struct, alive


def trace(toys: Sequence[Toy], rays: Rays) -> GeometryBuffers:
    """Trace one toy, or two, per image: ``toys[b]`` along the rays of image b. Runs on the device of the rays."""
    device = _warp_device(rays.origins.device)
    batch, height, width, _ = rays.origins.shape
    count = batch * height * width
    origins, directions = rays.origins.reshape(-1, 3).contiguous(), rays.directions.reshape(-1, 3).contiguous()
    material = torch.empty(count, dtype=torch.uint8, device=device)
    normal = torch.empty(count, 3, device=device)
    depth = torch.empty(count, device=device)
    standing, _alive = _toys(toys, device)
    inputs = [
        _program(str(device)),
        standing,
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
    """Return the signed distance [N] of points [N, 3] to a toy, or to the nearer of two.

    It is negative inside, and exact or a lower bound outside.
    """
    device = _warp_device(points.device)
    points = points.float().contiguous()
    out = torch.empty(len(points), device=device)
    standing, _alive = _toys([toy], device)
    inputs = [_program(str(device)), standing, array(points, wp.vec3), array(out)]
    launch(_distance_kernel, len(points), inputs, device)
    return out


@dataclass(frozen=True)
class Paint:
    """What toys are painted with, for each of B images of K toys at most; there are S ``SURFACES``.

    ``surface`` [B, K S]: the surface that every traced one is painted as, for a second part may be of the body's colour
    and pattern; ``palette`` [B, K S, 3]: the colour of every surface; ``finish`` [B, K S]: 0 = matte,
    i = ``FINISHES[i - 1]``;
    ``pattern`` [B, K]: 0 = plain, i = ``PATTERNS[i - 1]``, whose marks on the body have the colour of ``ACCENT``;
    ``scale`` and ``place`` [B, K, 3]: the toys' sizes along the axes, and where they stand.
    """

    surface: Tensor
    palette: Tensor
    finish: Tensor
    pattern: Tensor
    scale: Tensor
    place: Tensor

    def whitened(self, which: Tensor) -> Paint:
        """Return the paint with toys as bare white shapes in the images ``which`` [B]."""
        which = which.to(self.palette.device)
        palette, finish = self.palette.clone(), self.finish.clone()
        palette[which], finish[which] = 1.0, 0
        return replace(self, palette=palette, finish=finish)

    def pick(self, images: Tensor) -> Paint:
        """Return the paint of some of the images, by number."""
        return Paint(**{name: value[images] for name, value in vars(self).items()})


_PAINTED = [SURFACES.index(name) for name in (BODY, PART, ACCENT, TRIM)]


def paint_toys(
    toys: Sequence[Toy],
    device: torch.device | str = "cpu",
    colors: Sequence[tuple[float, float, float] | None] | None = None,
) -> Paint:
    """Return the paint of one toy, or two, per image.

    ``colors`` are the shades of the first toys' named colours, if not exactly these.
    """
    shades = colors if colors is not None else [None] * len(toys)
    most = max((len(placed(toy)) for toy in toys), default=1)
    palette = torch.tensor([*MATERIALS.values(), (1.0, 1.0, 1.0)]).repeat(len(toys), most, 1)
    finish, pattern = torch.zeros(len(toys), most * len(SURFACES), dtype=torch.int64), torch.zeros(len(toys), most)
    scale, place = torch.ones(len(toys), most, 3), torch.zeros(len(toys), most, 3)
    surface = torch.arange(most * len(SURFACES)).repeat(len(toys), 1)
    for image, (toy, shade_of_first) in enumerate(zip(toys, shades, strict=True)):
        for k, one in enumerate(placed(toy)):
            at = [k * len(SURFACES) + number for number in _PAINTED]
            if one.toy.trim_color is None and ALL_KINDS[one.toy.kind].trim[1] == BODY:
                surface[image, at[-1]] = at[0]
            palette[image, at] = torch.tensor(one.toy.paint(shade_of_first if k == 0 else None))
            finish[image, at] = torch.tensor([FINISHES.index(name) + 1 if name else 0 for name in one.toy.finished()])
            pattern[image, k] = PATTERNS.index(one.toy.pattern) + 1 if one.toy.pattern else 0
            scale[image, k], place[image, k] = torch.tensor(one.scale), torch.tensor(one.place)
    finish[finish == FINISHES.index("matte") + 1] = 0
    return Paint(*(values.to(device) for values in (surface, palette, finish, pattern.long(), scale, place)))


# In units of the toy, before it is shrunk: 3 to 4 pixels of a picture of 32.
_STRIPE, _CHECK, _SPOT_SPACING, _SPOT_RADIUS = (wp.constant(length) for length in (0.19, 0.26, 0.44, 0.15))


SHINY, WOODEN = (wp.constant(FINISHES.index(name) + 1) for name in ("shiny", "wooden"))
_GLOSS, _SHARPNESS = wp.constant(0.6), wp.constant(20.0)
_RING, _DARK_RING = wp.constant(0.12), wp.constant(0.62)


@wp.func
def grain(p: wp.vec3) -> float:
    """Return how light wood is at a point of a toy: darker in every second half of the rings around a leaning trunk."""
    x = p[0] - 0.3 * p[2] - 0.2
    rings = wp.sqrt(x * x + p[1] * p[1]) / _RING + 0.15 * wp.sin(7.0 * p[2])
    return wp.where(rings - wp.floor(rings) < 0.4, _DARK_RING, 1.0)


@wp.func
def highlight(normal: wp.vec3, to_light: wp.vec3, to_eye: wp.vec3) -> float:
    """Return the white that a shiny surface adds under a light of strength 1 (Blinn 1977)."""
    half = wp.normalize(to_light + to_eye)
    return _GLOSS * wp.pow(wp.max(wp.dot(normal, half), 0.0), _SHARPNESS)


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


@wp.kernel(enable_backward=False)
def _finish_kernel(
    points: wp.array(dtype=wp.vec3),
    normals: wp.array(dtype=wp.vec3),
    to_light: wp.array(dtype=wp.vec3),
    to_eye: wp.array(dtype=wp.vec3),
    out_grain: wp.array(dtype=float),
    out_highlight: wp.array(dtype=float),
):
    i = wp.tid()
    out_grain[i] = grain(points[i])
    out_highlight[i] = highlight(normals[i], wp.normalize(to_light[i]), to_eye[i])


def _finished(points: Tensor, normals: Tensor, to_light: Tensor, to_eye: Tensor) -> tuple[Tensor, Tensor]:
    """Return `grain` and `highlight` [N] at points [N, 3] of toys."""
    out = torch.empty(2, len(points), device=points.device)
    held = [tensor.contiguous() for tensor in (points, normals, to_light, to_eye)]
    inputs = [*(array(tensor, wp.vec3) for tensor in held), array(out[0]), array(out[1])]
    launch(_finish_kernel, len(points), inputs, _warp_device(points.device))
    return out[0], out[1]


def paint_views(
    buffers: GeometryBuffers, rays: Rays, paint: Paint, lights: Lights, background: Tensor, *, supersample: int = 1
) -> Tensor:
    """Paint and light traced views; return images [B, 3, H / supersample, W / supersample] in [0, 1].

    ``background`` [B, 3] is the colour of the plain backdrop.
    """
    hit = buffers.material != NOTHING
    image = hit.nonzero()[:, 0]
    surface = paint.surface[image, buffers.material[hit].long()]
    toy = surface // len(SURFACES)
    point = rays.origins[hit] + rays.directions[hit] * buffers.depth[hit][:, None]
    own = (point - paint.place[image, toy]) / paint.scale[image, toy]
    if paint.pattern.any():
        marks = pattern_marks(own, paint.pattern[image, toy])
        body, accent = (SURFACES.index(name) for name in (BODY, ACCENT))
        surface = torch.where(marks & (surface % len(SURFACES) == body), surface + accent - body, surface)
    finish, normal = paint.finish[image, surface], buffers.normal[hit]
    # Only what the toy covers is shaded, a quarter of most pictures.
    albedo, diffuse = paint.palette[image, surface], lights.diffuse[image, None]
    if finish.any():
        grains, white = _finished(own, normal, lights.position[image] - point, -rays.directions[hit])
        albedo = torch.where(finish[:, None] == WOODEN, albedo * grains[:, None], albedo)
    color = shade(albedo, normal, point, lights.position[image], diffuse, lights.ambient[image, None])
    if finish.any():
        color = torch.where(finish[:, None] == SHINY, color + diffuse * white[:, None], color)
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
        paint = paint.whitened(torch.ones(len(toys), dtype=torch.bool))
    return paint_views(trace(toys, rays), rays, paint, lights, background.expand(len(cameras), 3), supersample=2)
