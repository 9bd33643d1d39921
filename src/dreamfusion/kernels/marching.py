"""Marching rays through an occupancy grid: which points of space are worth asking the field about.

Symbols: R rays, S samples of all rays together (packed ray by ray), G cells per axis over [-1, 1]^3.
A ray's samples lie on its own lattice t(u), u = k + jitter, k = 0, 1, ..., where t(0) is where it enters the unit
sphere; those outside the sphere or in empty cells are left out. Sample k stands for the interval from t(k) to t(k + 1),
so ``jitter`` uniform in [0, 1) is stratified sampling. The lattice obeys dt/du = max(step, growth * t): even spacing
for growth 0, and otherwise spacing in proportion to the distance from where t = step / growth.
"""

# Kernels are written in Warp's dialect: annotations are values, and int(0) declares a variable where 0 is a constant.
# mypy: disable-error-code="valid-type, misc, no-untyped-def, attr-defined, operator, index, call-overload"
# ruff: noqa: UP018, RUF046

import math
from dataclasses import dataclass

import torch
import warp as wp
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dreamfusion.kernels.backend import array, launch_over, uses_warp


@dataclass(frozen=True)
class PackedSamples:
    """Samples along rays: ``ray_index`` [S] int32, distance ``t`` [S], and ``offsets`` [R + 1] int32.

    The samples of ray r are those from ``offsets[r]`` to ``offsets[r + 1]``, near to far. Each stands for a piece of
    its ray of ``length`` world units: one number, or [S].
    """

    ray_index: Int[Tensor, " S"]
    t: Float[Tensor, " S"]
    offsets: Int[Tensor, " _"]
    length: float | Float[Tensor, " S"]

    def __len__(self) -> int:
        return len(self.t)

    def select(self, keep: Bool[Tensor, " S"]) -> "PackedSamples":
        """Return only the samples where the mask ``keep`` [S] is true."""
        kept_before = torch.nn.functional.pad(keep.cumsum(0, dtype=torch.int32), (1, 0))
        length = self.length[keep] if isinstance(self.length, Tensor) else self.length
        return PackedSamples(self.ray_index[keep], self.t[keep], kept_before[self.offsets], length)

    def points(self, origins: Float[Tensor, "R 3"], directions: Float[Tensor, "R 3"]) -> Float[Tensor, "S 3"]:
        """Return the samples' positions [S, 3] on rays with ``origins`` and ``directions`` [R, 3]."""
        return torch.addcmul(origins[self.ray_index], directions[self.ray_index], self.t[:, None])


@wp.func
def _sphere_interval(origin: wp.vec3, direction: wp.vec3):
    """Distances at which a ray with unit direction enters and leaves the unit sphere; far <= near if it misses."""
    middle = -wp.dot(origin, direction)
    closest = origin + middle * direction
    half_squared = 1.0 - wp.dot(closest, closest)
    if half_squared <= 0.0:
        return wp.vec2(0.0, 0.0)
    half = wp.sqrt(half_squared)
    return wp.vec2(wp.max(middle - half, 0.0), middle + half)


@wp.func
def _distance(u: float, near: float, step: float, growth: float):
    """t(u) of the lattice that begins at ``near``."""
    if growth > 0.0:
        even = wp.max((step / growth - near) / step, 0.0)
        if u > even:
            return (near + even * step) * wp.exp(growth * (u - even))
    return near + u * step


@wp.func
def _cell(x: float, cells: int):
    return wp.clamp(int((x + 1.0) * 0.5 * float(cells)), 0, cells - 1)


@wp.func
def _exit_distance(x: float, direction: float, cell: int, cells: int):
    """Distance along one axis from x to the far wall of its cell."""
    if wp.abs(direction) < 1.0e-9:
        return 1.0e9
    wall = float(cell) + wp.where(direction > 0.0, 1.0, 0.0)
    return (wall * 2.0 / float(cells) - 1.0 - x) / direction


@wp.func
def _next_occupied(
    k: int,
    near: float,
    far: float,
    jitter: float,
    step: float,
    growth: float,
    o: wp.vec3,
    d: wp.vec3,
    grid: wp.array3d(dtype=wp.uint8),
):
    """Return the first lattice index from ``k`` on whose sample lies in an occupied cell, or -1."""
    cells = grid.shape[0]
    at = k
    t = _distance(float(at) + jitter, near, step, growth)
    while t < far:
        p = o + t * d
        x = _cell(p[0], cells)
        y = _cell(p[1], cells)
        z = _cell(p[2], cells)
        if grid[x, y, z] != wp.uint8(0):
            return at
        to_wall = wp.min(
            _exit_distance(p[0], d[0], x, cells),
            wp.min(_exit_distance(p[1], d[1], y, cells), _exit_distance(p[2], d[2], z, cells)),
        )
        # Rounded down: a sample too near the wall to call is looked at again rather than skipped.
        widest = wp.max(step, growth * (t + to_wall))
        at = wp.max(at + 1, at + int(to_wall / widest))
        t = _distance(float(at) + jitter, near, step, growth)
    return -1


@wp.kernel(enable_backward=False)
def _count(
    origins: wp.array(dtype=wp.vec3),
    directions: wp.array(dtype=wp.vec3),
    jitter: wp.array(dtype=float),
    grid: wp.array3d(dtype=wp.uint8),
    step: float,
    growth: float,
    max_steps: int,
    counts: wp.array(dtype=int),
    first: int,
    last: int,
    grain: int,
):
    _lane, block = wp.tid()
    begin = first + block * grain
    for ray in range(begin, wp.min(begin + grain, last)):
        o = origins[ray]
        d = directions[ray]
        interval = _sphere_interval(o, d)
        count = int(0)
        k = _next_occupied(0, interval[0], interval[1], jitter[ray], step, growth, o, d, grid)
        while k >= 0 and count < max_steps:
            count += 1
            k = _next_occupied(k + 1, interval[0], interval[1], jitter[ray], step, growth, o, d, grid)
        counts[ray] = count


@wp.kernel(enable_backward=False)
def _fill(
    origins: wp.array(dtype=wp.vec3),
    directions: wp.array(dtype=wp.vec3),
    jitter: wp.array(dtype=float),
    grid: wp.array3d(dtype=wp.uint8),
    step: float,
    growth: float,
    offsets: wp.array(dtype=int),
    ray_index: wp.array(dtype=int),
    distance: wp.array(dtype=float),
    length: wp.array(dtype=float),
    first: int,
    last: int,
    grain: int,
):
    _lane, block = wp.tid()
    begin = first + block * grain
    for ray in range(begin, wp.min(begin + grain, last)):
        o = origins[ray]
        d = directions[ray]
        interval = _sphere_interval(o, d)
        k = int(-1)
        for i in range(offsets[ray], offsets[ray + 1]):
            k = _next_occupied(k + 1, interval[0], interval[1], jitter[ray], step, growth, o, d, grid)
            ray_index[i] = ray
            distance[i] = _distance(float(k) + jitter[ray], interval[0], step, growth)
            if growth > 0.0:
                begun = _distance(float(k), interval[0], step, growth)
                length[i] = _distance(float(k + 1), interval[0], step, growth) - begun


@torch.no_grad()
def march_rays(
    origins: Float[Tensor, "R 3"],
    directions: Float[Tensor, "R 3"],
    grid: Bool[Tensor, "G G G"],
    step: float,
    jitter: Float[Tensor, " R"],
    *,
    growth: float = 0.0,
    max_steps: int = 1024,
) -> PackedSamples:
    """Return the samples in occupied cells inside the unit sphere, for rays ``origins``, ``directions`` [R, 3].

    ``directions`` have unit length, ``grid`` [G, G, G] is boolean and indexed [x, y, z], ``step`` is in world units,
    ``jitter`` [R] in [0, 1), ``growth`` (torch-ngp's dt_gamma) as in the description of this module. A ray has at most
    2 / step + 1 samples, and at most ``max_steps``, of which the farthest are left out. Not differentiable.
    """
    if not uses_warp(origins.device):
        return march_rays_reference(origins, directions, grid, step, jitter, growth=growth, max_steps=max_steps)
    device, rays = origins.device, len(origins)
    origins, directions, jitter = origins.contiguous(), directions.contiguous(), jitter.contiguous()
    cells = grid.contiguous().view(torch.uint8)
    inputs = [array(origins, wp.vec3), array(directions, wp.vec3), array(jitter), array(cells), step, growth]
    counts = torch.empty(rays, dtype=torch.int32, device=device)
    launch_over(_count, rays, [*inputs, max_steps, array(counts)], device)
    offsets = torch.nn.functional.pad(counts.cumsum(0, dtype=torch.int32), (1, 0))
    total = int(offsets[-1])
    ray_index = torch.empty(total, dtype=torch.int32, device=device)
    t = torch.empty(total, dtype=torch.float32, device=device)
    length = torch.empty(total if growth > 0 else 1, dtype=torch.float32, device=device)
    if total > 0:
        launch_over(_fill, rays, [*inputs, array(offsets), array(ray_index), array(t), array(length)], device)
    return PackedSamples(ray_index, t, offsets, length if growth > 0 else step)


def sphere_interval(
    origins: Float[Tensor, "R 3"], directions: Float[Tensor, "R 3"]
) -> tuple[Float[Tensor, " R"], Float[Tensor, " R"], Bool[Tensor, " R"]]:
    """Return where rays [R, 3] enter and leave the unit sphere, [R] each, and a mask [R] of those that meet it."""
    middle = -(origins * directions).sum(-1)
    closest = origins + middle[:, None] * directions
    half_squared = 1 - closest.square().sum(-1)
    half = half_squared.clamp(min=0).sqrt()
    near = (middle - half).clamp(min=0)
    return near, middle + half, (half_squared > 0) & (middle + half > near)


@torch.no_grad()
def march_rays_reference(
    origins: Float[Tensor, "R 3"],
    directions: Float[Tensor, "R 3"],
    grid: Bool[Tensor, "G G G"],
    step: float,
    jitter: Float[Tensor, " R"],
    *,
    growth: float = 0.0,
    max_steps: int = 1024,
) -> PackedSamples:
    """Do what ``march_rays`` does in plain PyTorch, by looking at every lattice point of every ray."""
    near, far, meets = sphere_interval(origins, directions)
    lattice = torch.arange(math.ceil(2 / step) + 1, device=origins.device)

    def distance(u: Tensor) -> Tensor:
        if growth == 0:
            return near[:, None] + u * step
        even = ((step / growth - near) / step).clamp(min=0)[:, None]
        grown = (near[:, None] + even * step) * torch.exp(growth * (u - even))
        return torch.where(u > even, grown, near[:, None] + u * step)

    t = distance(lattice + jitter[:, None])
    inside = (t < far[:, None]) & meets[:, None]
    points = origins[:, None] + t[..., None] * directions[:, None]
    cells = grid.shape[0]
    x, y, z = ((points + 1) * 0.5 * cells).long().clamp(0, cells - 1).unbind(-1)
    kept = inside & grid[x, y, z]
    kept &= kept.cumsum(1) <= max_steps
    offsets = torch.nn.functional.pad(kept.sum(1).cumsum(0), (1, 0)).int()
    length = (distance(lattice + 1) - distance(lattice)).expand_as(t)[kept] if growth > 0 else step
    return PackedSamples(kept.nonzero()[:, 0].int(), t[kept], offsets, length)
