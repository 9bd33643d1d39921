"""Multiresolution hash encoding (Mueller et al. 2022, Instant-NGP, section 3), in Warp and in PyTorch.

Symbols: N points, L levels, F features per entry, E entries of all levels together.
A level with resolution r has (r + 1)^3 vertices. Levels whose vertices fit into the table size are stored densely,
x fastest; the others share 2^k entries through the spatial hash x ^ (y * p1) ^ (z * p2).
Grids are aligned, cells filling the unit cube, or staggered as those of tiny-cuda-nn, so that tables are exchangeable.
"""

# Kernels are written in Warp's dialect: annotations are values.
# mypy: disable-error-code="valid-type, misc, no-untyped-def, attr-defined, operator, index, call-overload"

import functools
import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch
import warp as wp
from jaxtyping import Float
from torch import Tensor

from dreamfusion.kernels.backend import array, grain, in_parallel, large_empty, launch, launch_over, uses_warp

_PRIME_Y, _PRIME_Z = 2654435761, 805459861
_PRIME_Y_WARP = wp.constant(wp.uint32(_PRIME_Y))
_PRIME_Z_WARP = wp.constant(wp.uint32(_PRIME_Z))


@dataclass(frozen=True)
class HashGridLayout:
    """Shape of a hash grid: where each level's entries lie in the table [E, F].

    ``resolutions`` [L] are cells per axis; level l owns the entries ``offsets[l]`` to ``offsets[l + 1]``; the first
    ``dense_levels`` are stored densely. ``smoothstep`` interpolates with 3w^2 - 2w^3 instead of linearly, so that
    the encoding has a continuous gradient in space. A point x of the unit cube lies at ``scales[l]`` * x + ``shift``
    cells of level l. ``shift`` is 0, or one half for a staggered grid, whose last cell reaches beyond the cube: what it
    would find there is, as in tiny-cuda-nn, an entry at the other end of a dense level.
    """

    resolutions: tuple[int, ...]
    scales: tuple[float, ...]
    shift: float
    offsets: tuple[int, ...]
    dense_levels: int
    features: int
    smoothstep: bool

    @classmethod
    def geometric(
        cls,
        levels: int,
        features: int,
        log2_size: int,
        base_resolution: int,
        max_resolution: int,
        *,
        smoothstep: bool = True,
        staggered: bool = False,
    ) -> "HashGridLayout":
        """Space ``levels`` resolutions geometrically from base to max, at most 2^``log2_size`` entries each.

        A ``staggered`` grid has base and max *vertices*, so that scales are one less, and its dense levels are filled
        up to multiples of 8 entries (tiny-cuda-nn, common_device.h and encodings/grid.h).
        """
        growth = math.log(max_resolution / base_resolution) / max(levels - 1, 1)
        sides = [base_resolution * math.exp(growth * level) for level in range(levels)]
        # The small terms keep exp(log(max)) from falling just beside max.
        if staggered:
            scales = tuple(side - 1 for side in sides)
            resolutions = tuple(math.ceil(scale - 1e-6) for scale in scales)
        else:
            resolutions = tuple(int(side + 1e-6) for side in sides)
            scales = tuple(float(r) for r in resolutions)
        vertices = [(r + 1) ** 3 for r in resolutions]
        filled = [-(-v // 8) * 8 if staggered else v for v in vertices]
        sizes = [min(v, 2**log2_size) for v in filled]
        dense = sum(v <= 2**log2_size for v in vertices)
        offsets = tuple(itertools.accumulate(sizes, initial=0))
        return cls(resolutions, scales, 0.5 if staggered else 0.0, offsets, dense, features, smoothstep)

    @property
    def levels(self) -> int:
        """Number of levels L."""
        return len(self.resolutions)

    @property
    def entries(self) -> int:
        """Number of table entries E."""
        return self.offsets[-1]

    @property
    def channels(self) -> int:
        """Length L * F of an encoding."""
        return self.levels * self.features


_Corners = wp.types.vector(length=8, dtype=wp.int32)
_Weights = wp.types.vector(length=8, dtype=wp.float32)
_Faces = wp.types.vector(length=4, dtype=wp.float32)


@wp.func
def _wrapped(entries: _Corners, offset: int, size: int):
    """Return entries that lie beyond the end of a level at its beginning."""
    for k in range(8):
        if entries[k] >= offset + size:
            entries[k] -= size
    return entries


@wp.func
def _entries(c: wp.vec3i, offset: int, resolution: int, size: int, dense: bool, shift: float):
    """Return the table entries of the eight corners of a cell, x fastest. Written out: loops recompute products."""
    if dense:
        row = resolution + 1
        e00 = offset + c[0] + row * (c[1] + row * c[2])
        e10 = e00 + row
        e01 = e00 + row * row
        e11 = e01 + row
        corners = _Corners(e00, e00 + 1, e10, e10 + 1, e01, e01 + 1, e11, e11 + 1)
        if shift > 0.0:
            corners = _wrapped(corners, offset, size)
        return corners
    mask = wp.uint32(size - 1)
    x0, x1 = wp.uint32(c[0]), wp.uint32(c[0] + 1)
    y0, z0 = wp.uint32(c[1]) * _PRIME_Y_WARP, wp.uint32(c[2]) * _PRIME_Z_WARP
    y1, z1 = y0 + _PRIME_Y_WARP, z0 + _PRIME_Z_WARP
    h00, h10, h01, h11 = y0 ^ z0, y1 ^ z0, y0 ^ z1, y1 ^ z1
    return _Corners(
        offset + int((x0 ^ h00) & mask),
        offset + int((x1 ^ h00) & mask),
        offset + int((x0 ^ h10) & mask),
        offset + int((x1 ^ h10) & mask),
        offset + int((x0 ^ h01) & mask),
        offset + int((x1 ^ h01) & mask),
        offset + int((x0 ^ h11) & mask),
        offset + int((x1 ^ h11) & mask),
    )


@wp.func
def _weights(w: wp.vec3):
    """Return the trilinear weights of the same corners, from the fractions along the axes."""
    w11 = w[1] * w[2]
    w10, w01 = w[1] - w11, w[2] - w11
    w00 = 1.0 - w[1] - w01
    x00, x10, x01, x11 = w[0] * w00, w[0] * w10, w[0] * w01, w[0] * w11
    return _Weights(w00 - x00, x00, w10 - x10, x10, w01 - x01, x01, w11 - x11, x11)


@wp.func
def _slope_weights(w: wp.vec3, slope: wp.vec3):
    """Return how the weights change when the fractions ``w`` change by ``slope``: the product rule, term by term."""
    x0, y0, z0 = 1.0 - w[0], 1.0 - w[1], 1.0 - w[2]
    # Each line: the change of one fraction times the weights along the other two axes.
    x = slope[0] * _Faces(y0 * z0, w[1] * z0, y0 * w[2], w[1] * w[2])
    y = slope[1] * _Faces(x0 * z0, w[0] * z0, x0 * w[2], w[0] * w[2])
    z = slope[2] * _Faces(x0 * y0, w[0] * y0, x0 * w[1], w[0] * w[1])
    return _Weights(
        -x[0] - y[0] - z[0],
        x[0] - y[1] - z[1],
        -x[1] + y[0] - z[2],
        x[1] + y[1] - z[3],
        -x[2] - y[2] + z[0],
        x[2] - y[3] + z[1],
        -x[3] + y[2] + z[2],
        x[3] + y[3] + z[3],
    )


@wp.func
def _grid_position(x: wp.vec3, scale: float, shift: float):
    clamped = wp.vec3(wp.clamp(x[0], 0.0, 1.0), wp.clamp(x[1], 0.0, 1.0), wp.clamp(x[2], 0.0, 1.0))
    return clamped * scale + wp.vec3(shift, shift, shift)


@wp.func
def _cell(position: wp.vec3, resolution: int, shift: float):
    last = resolution
    if shift == 0.0:  # a point at the end of an aligned grid belongs to the last cell
        last -= 1
    return wp.vec3i(wp.min(int(position[0]), last), wp.min(int(position[1]), last), wp.min(int(position[2]), last))


@wp.func
def _fraction(position: wp.vec3, cell: wp.vec3i, smoothstep: bool):
    w = position - wp.vec3(float(cell[0]), float(cell[1]), float(cell[2]))
    if smoothstep:
        w = wp.vec3(
            w[0] * w[0] * (3.0 - 2.0 * w[0]), w[1] * w[1] * (3.0 - 2.0 * w[1]), w[2] * w[2] * (3.0 - 2.0 * w[2])
        )
    return w


@wp.func
def _fraction_slope(position: wp.vec3, cell: wp.vec3i, scale: float, smoothstep: bool):
    """Return the derivative of each fraction along its own axis of the unit cube."""
    w = position - wp.vec3(float(cell[0]), float(cell[1]), float(cell[2]))
    if smoothstep:
        rate = 6.0 * scale
        return rate * wp.vec3(w[0] * (1.0 - w[0]), w[1] * (1.0 - w[1]), w[2] * (1.0 - w[2]))
    return wp.vec3(scale, scale, scale)


@wp.func
def _value_at(direction: wp.vec3, position: wp.vec3, cell: wp.vec3i, scale: float, smoothstep: bool):
    """Return the weights of the corners of a cell."""
    return _weights(_fraction(position, cell, smoothstep))


@wp.func
def _slope_at(direction: wp.vec3, position: wp.vec3, cell: wp.vec3i, scale: float, smoothstep: bool):
    """Return the derivative of those weights when the point moves along ``direction``."""
    w = _fraction(position, cell, smoothstep)
    return _slope_weights(w, wp.cw_mul(direction, _fraction_slope(position, cell, scale, smoothstep)))


@functools.cache
def _kernels(features: int, along: bool = False) -> tuple[wp.Kernel, wp.Kernel, wp.Kernel]:
    """Build (encode, clear, scatter) for ``features`` per entry, so that an entry is one vector load.

    They hold encodings as [L, N, F]: a thread works on one level at a time and so walks through memory in order. From
    [N, L, F], two threads were no faster than one at scattering, and the transposing copy costs an eighth of the gain.
    With ``along`` they encode, and scatter, the derivative of the encoding along a direction at each point.
    """
    vec: Any = wp.types.vector(length=features, dtype=wp.float32)
    module = wp.get_module(f"dreamfusion_hashgrid_{features}{'_along' if along else ''}")
    corner_weights = _slope_at if along else _value_at

    @wp.kernel(enable_backward=False, module=module)
    def encode(
        points: wp.array(dtype=wp.vec3),
        directions: wp.array(dtype=wp.vec3),
        table: wp.array(dtype=vec),
        resolutions: wp.array(dtype=int),
        scales: wp.array(dtype=float),
        shift: float,
        offsets: wp.array(dtype=int),
        dense_levels: int,
        smoothstep: bool,
        encoding: wp.array2d(dtype=vec),
        first: int,
        last: int,
        grain: int,
    ):
        level, block = wp.tid()
        resolution, scale = resolutions[level], scales[level]
        offset = offsets[level]
        size = offsets[level + 1] - offset
        dense = level < dense_levels
        begin = first + block * grain
        for i in range(begin, wp.min(begin + grain, last)):
            position = _grid_position(points[i], scale, shift)
            c = _cell(position, resolution, shift)
            weights = corner_weights(directions[i], position, c, scale, smoothstep)
            entries = _entries(c, offset, resolution, size, dense, shift)
            total = vec()
            for k in range(8):
                total += weights[k] * table[entries[k]]
            encoding[level, i] = total

    @wp.kernel(enable_backward=False, module=module)
    def clear(
        offsets: wp.array(dtype=int), first_level: int, level_stride: int, grain: int, table_grad: wp.array(dtype=vec)
    ):
        lane, block = wp.tid()
        level = first_level + lane * level_stride
        begin = offsets[level] + block * grain
        for i in range(begin, wp.min(begin + grain, offsets[level + 1])):
            table_grad[i] = vec()

    @wp.kernel(enable_backward=False, module=module)
    def scatter(
        points: wp.array(dtype=wp.vec3),
        directions: wp.array(dtype=wp.vec3),
        encoding_grad: wp.array2d(dtype=vec),
        resolutions: wp.array(dtype=int),
        scales: wp.array(dtype=float),
        shift: float,
        offsets: wp.array(dtype=int),
        dense_levels: int,
        smoothstep: bool,
        first_level: int,
        level_stride: int,
        count: int,
        grain: int,
        table_grad: wp.array(dtype=vec),
    ):
        lane, block = wp.tid()
        level = first_level + lane * level_stride
        resolution, scale = resolutions[level], scales[level]
        offset = offsets[level]
        size = offsets[level + 1] - offset
        dense = level < dense_levels
        begin = block * grain
        for i in range(begin, wp.min(begin + grain, count)):
            position = _grid_position(points[i], scale, shift)
            c = _cell(position, resolution, shift)
            weights = corner_weights(directions[i], position, c, scale, smoothstep)
            entries = _entries(c, offset, resolution, size, dense, shift)
            g = encoding_grad[level, i]
            for k in range(8):
                wp.atomic_add(table_grad, entries[k], weights[k] * g)

    return encode, clear, scatter


@functools.cache
def _slope_kernel(features: int) -> wp.Kernel:
    """Build the kernel that carries an upstream gradient from the encoding [L, N, F] to the points, level by level."""
    vec: Any = wp.types.vector(length=features, dtype=wp.float32)

    @wp.kernel(enable_backward=False, module=wp.get_module(f"dreamfusion_hashgrid_{features}_slope"))
    def slope(
        points: wp.array(dtype=wp.vec3),
        table: wp.array(dtype=vec),
        upstream: wp.array2d(dtype=vec),
        resolutions: wp.array(dtype=int),
        scales: wp.array(dtype=float),
        shift: float,
        offsets: wp.array(dtype=int),
        dense_levels: int,
        smoothstep: bool,
        slopes: wp.array2d(dtype=wp.vec3),
        first: int,
        last: int,
        grain: int,
    ):
        level, block = wp.tid()
        resolution, scale = resolutions[level], scales[level]
        offset = offsets[level]
        size = offsets[level + 1] - offset
        dense = level < dense_levels
        begin = first + block * grain
        for i in range(begin, wp.min(begin + grain, last)):
            position = _grid_position(points[i], scale, shift)
            c = _cell(position, resolution, shift)
            w = _fraction(position, c, smoothstep)
            rate = _fraction_slope(position, c, scale, smoothstep)
            x = _slope_weights(w, wp.vec3(rate[0], 0.0, 0.0))
            y = _slope_weights(w, wp.vec3(0.0, rate[1], 0.0))
            z = _slope_weights(w, wp.vec3(0.0, 0.0, rate[2]))
            entries = _entries(c, offset, resolution, size, dense, shift)
            total = wp.vec3()
            for k in range(8):
                total += wp.dot(table[entries[k]], upstream[level, i]) * wp.vec3(x[k], y[k], z[k])
            slopes[level, i] = total

    return slope


@functools.cache
def _layout_tensors(layout: HashGridLayout, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    resolutions = torch.tensor(layout.resolutions, dtype=torch.int32, device=device)
    scales = torch.tensor(layout.scales, dtype=torch.float32, device=device)
    return resolutions, scales, torch.tensor(layout.offsets, dtype=torch.int32, device=device)


def _layout_arguments(layout: HashGridLayout, device: torch.device) -> list[Any]:
    """Return what the kernels want to know of a layout, in their order."""
    resolutions, scales, offsets = (array(tensor) for tensor in _layout_tensors(layout, device))
    return [resolutions, scales, layout.shift, offsets, layout.dense_levels, layout.smoothstep]


def _vector_type(features: int) -> Any:
    return wp.types.vector(length=features, dtype=wp.float32)


def _warp_encode(points: Tensor, table: Tensor, layout: HashGridLayout, directions: Tensor | None = None) -> Tensor:
    """Encode ``points``, or with ``directions`` the derivative along them."""
    vec, device = _vector_type(layout.features), points.device
    encode, _, _ = _kernels(layout.features, along=directions is not None)
    encoding = points.new_empty(layout.levels, len(points), layout.features)
    # A kernel without directions never reads the argument that stands in for them.
    arguments = [array(points, wp.vec3), array(points if directions is None else directions, wp.vec3)]
    arguments += [array(table, vec), *_layout_arguments(layout, device), array(encoding, vec)]
    launch_over(encode, len(points), arguments, device, lanes=layout.levels)
    return encoding.transpose(0, 1).flatten(1)


def _warp_slope(points: Tensor, table: Tensor, upstream: Tensor, layout: HashGridLayout) -> Tensor:
    vec, device = _vector_type(layout.features), points.device
    slopes = points.new_empty(layout.levels, len(points), 3)
    arguments = [array(points, wp.vec3), array(table, vec), array(_by_level(upstream, layout), vec)]
    arguments += [*_layout_arguments(layout, device), array(slopes, wp.vec3)]
    launch_over(_slope_kernel(layout.features), len(points), arguments, device, lanes=layout.levels)
    return slopes.sum(0)


def _by_level(encoding: Tensor, layout: HashGridLayout) -> Tensor:
    """Return an encoding [N, L * F] as the kernels hold it, [L, N, F]."""
    return encoding.view(len(encoding), layout.levels, layout.features).transpose(0, 1).contiguous()


def _warp_scatter(
    points: Tensor, encoding_grad: Tensor, layout: HashGridLayout, directions: Tensor | None = None
) -> Tensor:
    """Return the gradient to the table for one to the encoding, or to its derivative along ``directions``."""
    vec, device, count = _vector_type(layout.features), points.device, len(points)
    _, clear, scatter = _kernels(layout.features, along=directions is not None)
    offsets = array(_layout_tensors(layout, device)[2])
    # Not zeros: each thread clears its own levels just before it adds to them, while they are in its cache.
    table_grad = large_empty(layout.entries, layout.features, device)
    grad = array(table_grad, vec)
    by_level = _by_level(encoding_grad, layout)
    inputs = [array(points, wp.vec3), array(points if directions is None else directions, wp.vec3)]
    inputs += [array(by_level, vec), *_layout_arguments(layout, device)]
    largest = max(b - a for a, b in itertools.pairwise(layout.offsets))
    step = grain(device)

    def work(part: int, parts: int) -> None:
        # A level belongs to one thread, which adds to it point by point: no races, always the same bits.
        # Levels are dealt out in turn because coarse ones are cheaper.
        owned = len(range(part, layout.levels, parts))
        if owned == 0:
            return
        launch(clear, (owned, -(-largest // step)), [offsets, part, parts, step, grad], device)
        if count > 0:
            launch(scatter, (owned, -(-count // step)), [*inputs, part, parts, count, step, grad], device)

    in_parallel(work, device)
    return table_grad


class _HashEncode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, points: Tensor, table: Tensor, layout: HashGridLayout) -> Tensor:
        points, table = points.contiguous(), table.contiguous()
        ctx.save_for_backward(points)
        ctx.layout = layout
        return _warp_encode(points, table, layout)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, encoding_grad: Tensor) -> tuple[None, Tensor | None, None]:
        (points,) = ctx.saved_tensors
        table_grad = None
        if ctx.needs_input_grad[1]:
            table_grad = _warp_scatter(points, encoding_grad.contiguous(), ctx.layout)
        return None, table_grad, None


class _HashSlope(torch.autograd.Function):
    """For an upstream gradient u: J^T u, J the Jacobian of the encoding in space. Linear in u and in the table."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, table: Tensor, upstream: Tensor, layout: HashGridLayout) -> Tensor:
        points, table, upstream = points.contiguous(), table.contiguous(), upstream.contiguous()
        ctx.save_for_backward(points, table, upstream)
        ctx.layout = layout
        return _warp_slope(points, table, upstream, layout)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor | None, Tensor | None, None]:
        # grad . J^T u = u . J grad, and J grad is the derivative of the encoding along grad: so its gradient to u is
        # that derivative, and to the table what scattering u with the derivatives of the weights gives.
        points, table, upstream = ctx.saved_tensors
        grad = grad.contiguous()
        table_grad = _warp_scatter(points, upstream, ctx.layout, grad) if ctx.needs_input_grad[1] else None
        upstream_grad = _warp_encode(points, table, ctx.layout, grad) if ctx.needs_input_grad[2] else None
        return None, table_grad, upstream_grad, None


def hash_encode(
    points: Float[Tensor, "N 3"], table: Float[Tensor, "E F"], layout: HashGridLayout
) -> Float[Tensor, "N C"]:
    """Interpolate the features of all levels at ``points``: the encoding [N, L * F], level by level.

    ``points`` [N, 3] lie in [0, 1]^3 (clamped to it), ``table`` is [E, F], both float32. Differentiable once with
    respect to the table; *not* differentiable with respect to the points: `hash_encode_slope` is its derivative there.
    On the CPU the gradient is the same bits on every run; on CUDA sums are taken in any order.
    """
    if uses_warp(points.device):
        return _HashEncode.apply(points.detach(), table, layout)
    return hash_encode_reference(points.detach(), table, layout)


def hash_encode_slope(
    points: Float[Tensor, "N 3"], table: Float[Tensor, "E F"], upstream: Float[Tensor, "N C"], layout: HashGridLayout
) -> Float[Tensor, "N 3"]:
    """Return the gradient [N, 3], with respect to the points, of sum(upstream * hash_encode(points, table)).

    Shapes as in `hash_encode`, ``upstream`` [N, L * F]. Differentiable once with respect to table and upstream: what
    analytic normals need, the second derivative of the encoding that mixes space and table. *Not* differentiable
    with respect to the points. Points on the boundary of a cell get the derivative of one side of it.
    """
    if uses_warp(points.device):
        return _HashSlope.apply(points.detach(), table, upstream, layout)
    return hash_encode_slope_reference(points, table, upstream, layout)


def hash_encode_reference(
    points: Float[Tensor, "N 3"], table: Float[Tensor, "E F"], layout: HashGridLayout
) -> Float[Tensor, "N C"]:
    """Do what ``hash_encode`` does in plain PyTorch: its reference in tests, and the way on Apple MPS."""
    corner = torch.tensor(list(itertools.product((0, 1), repeat=3)), device=points.device)
    encodings = []
    staggered = layout.shift > 0
    for level, (resolution, scale) in enumerate(zip(layout.resolutions, layout.scales, strict=True)):
        position = points.clamp(0, 1) * scale + layout.shift
        cell = position.long().clamp(max=resolution if staggered else resolution - 1)
        w = position - cell
        if layout.smoothstep:
            w = w * w * (3 - 2 * w)
        weight = torch.where(corner == 1, w[:, None], 1 - w[:, None]).prod(dim=-1)
        x, y, z = (cell[:, None] + corner).unbind(-1)
        size = layout.offsets[level + 1] - layout.offsets[level]
        if level < layout.dense_levels:
            index = (x + (resolution + 1) * (y + (resolution + 1) * z)) % size
        else:
            # 64-bit products agree with 32-bit ones in the low bits that the mask keeps.
            index = (x ^ (y * _PRIME_Y) ^ (z * _PRIME_Z)) & (size - 1)
        features = table[layout.offsets[level] + index]
        encodings.append((weight[..., None] * features).sum(dim=1))
    return torch.cat(encodings, dim=-1)


def hash_encode_slope_reference(
    points: Float[Tensor, "N 3"], table: Float[Tensor, "E F"], upstream: Float[Tensor, "N C"], layout: HashGridLayout
) -> Float[Tensor, "N 3"]:
    """Do what ``hash_encode_slope`` does by differentiating the PyTorch twin."""
    with torch.enable_grad():
        points = points.detach().requires_grad_()
        encoding = hash_encode_reference(points, table, layout)
        (slope,) = torch.autograd.grad(encoding, points, upstream, create_graph=True)
    return slope if torch.is_grad_enabled() else slope.detach()
