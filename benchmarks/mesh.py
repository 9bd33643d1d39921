"""The rasteriser, forward and backward: how its time grows with faces and pixels, and against its PyTorch twins."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks import Row
from dreamfusion.cameras import fixed_cameras
from dreamfusion.fields.tetrahedra import Surface, marching_tetrahedra, tetrahedral_grid
from dreamfusion.kernels import antialias as antialias_module
from dreamfusion.kernels import rasterize as rasterize_module
from dreamfusion.kernels.antialias import antialias
from dreamfusion.kernels.rasterize import interpolate, rasterize


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
    """Measure 20,000 faces at 512 x 512, then four times the faces and four times the pixels, then the twins.

    The ratios of growth are times per face and per pixel: 1 is linear, more is better than that, for a quarter of the
    faces or pixels does not cost a quarter of what does not depend on them.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = 128 if quick else 512
    ball, fine = _ball(20 if quick else 31, device), _ball(40 if quick else 62, device)
    base = _seconds(lambda: _pass(ball, size))
    faces, more = len(ball.faces), len(fine.faces) / len(ball.faces)
    many, large = _seconds(lambda: _pass(fine, size)), _seconds(lambda: _pass(ball, 2 * size))
    name = "rasterise forward + backward"
    table = [
        Row(f"{name}, {faces:,} faces, {size}^2 pixels, {device.type}", 1e3 * base, "ms"),
        Row(f"{name}, {more:.1f} x the faces", 1e3 * many, "ms", 1e3 * base * more, base * more / many),
        Row(f"{name}, 4 x the pixels", 1e3 * large, "ms", 1e3 * base * 4, base * 4 / large),
    ]
    small = _ball(8, device)
    ours, twin = _seconds(lambda: _pass(small, 64)), _twin_seconds(small, 64)
    return [*table, Row(f"{name}, {len(small.faces):,} faces, 64^2, twin", 1e3 * ours, "ms", 1e3 * twin, twin / ours)]
