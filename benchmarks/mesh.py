"""The rasteriser, forward and backward: how its time grows with faces and pixels, and against its PyTorch twins."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks import Row
from dreamfusion.fields.tetrahedra import Surface, marching_tetrahedra, tetrahedral_grid
from dreamfusion.kernels import antialias as antialias_module
from dreamfusion.kernels import rasterize as rasterize_module
from dreamfusion.kernels.antialias import antialias
from dreamfusion.kernels.rasterize import interpolate, rasterize
from dreamfusion.method.cameras import fixed_cameras


def _ball(resolution: int, device: torch.device) -> Surface:
    """Return a ball with small bumps, so that parts of it hide others, in a grid of tetrahedra."""
    grid, tetrahedra = tetrahedral_grid(resolution)
    distance = grid.norm(dim=1) - 0.7 - 0.05 * (12 * grid).sin().prod(dim=1)
    surface = marching_tetrahedra(grid, distance, tetrahedra)
    return Surface(surface.vertices.to(device), surface.faces.to(device))


def _pass(surface: Surface, size: int) -> Tensor:
    """Rasterise, interpolate and antialias one view, and return the gradient of the vertices."""
    vertices = surface.vertices.clone().requires_grad_()
    clip = fixed_cameras(30.0, 20.0).to(vertices.device).clip(vertices)
    fragments = rasterize(clip, surface.faces, size, size)
    image = antialias(interpolate(vertices[None], surface.faces, fragments), clip, surface.faces, fragments)
    (gradient,) = torch.autograd.grad(image, vertices, torch.ones_like(image))
    return gradient


def _seconds(work: Callable[[], Tensor]) -> float:
    device = work().device  # compile, and touch all memory once
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def _twin_seconds(surface: Surface, size: int) -> float:
    modules = (rasterize_module, antialias_module)
    originals = [module.uses_warp for module in modules]
    try:
        for module in modules:
            module.uses_warp = lambda device: False  # type: ignore[assignment]
        return _seconds(lambda: _pass(surface, size))
    finally:
        for module, original in zip(modules, originals, strict=True):
            module.uses_warp = original  # type: ignore[assignment]


def rows(quick: bool = False) -> list[Row]:
    """Measure 20,000 faces at 512 x 512, its growth with faces and with pixels, then the twins.

    The ratios of growth are times per face and per pixel: with more of them 1 is linear and more is better than that;
    with fewer they fall below 1 by what does not depend on them.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size, resolution = (128, 20) if quick else (512, 31)
    ball = _ball(resolution, device)
    base, count = _seconds(lambda: _pass(ball, size)), len(ball.faces)
    name = "rasterise forward + backward"
    table = [Row(f"{name}, {count:,} faces, {size}^2 pixels, {device.type}", 1e3 * base, "ms")]

    def grown(what: str, factor: float, work: Callable[[], Tensor]) -> None:
        seconds = _seconds(work)
        table.append(Row(f"{name}, {what}", 1e3 * seconds, "ms", 1e3 * base * factor, base * factor / seconds))

    for times in (0.5, 2, 3):  # as many tetrahedra along a side, and its square as many faces
        other = _ball(round(times * resolution), device)
        factor = len(other.faces) / count
        grown(f"{factor:.2g} x the faces", factor, partial(_pass, other, size))
    for times in (0.5, 2, 3):
        grown(f"{times**2:.2g} x the pixels", times**2, partial(_pass, ball, round(times * size)))
    small = _ball(8, device)
    ours, twin = _seconds(lambda: _pass(small, 64)), _twin_seconds(small, 64)
    return [*table, Row(f"{name}, {len(small.faces):,} faces, 64^2, twin", 1e3 * ours, "ms", 1e3 * twin, twin / ours)]
