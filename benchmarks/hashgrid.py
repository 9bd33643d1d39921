"""Hash-grid encoding, forward and backward: the Warp kernels against their PyTorch twin."""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks import Row
from dreamfusion.kernels.hashgrid import HashGridLayout, hash_encode, hash_encode_reference

Encode = Callable[[Tensor, Tensor, HashGridLayout], Tensor]


def _seconds(encode: Encode, points: Tensor, table: Tensor, layout: HashGridLayout) -> float:
    """Seconds of one forward and backward pass."""
    device = points.device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    encoding = encode(points, table, layout)
    torch.autograd.grad(encoding, table, torch.ones_like(encoding))
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def rows(quick: bool = False) -> list[Row]:
    """Measure 100,000 random points (10,000 if ``quick``) x 16 levels of 2^19 entries x 2 features, 16 to 2048 cells.

    The two take turns in the same run, so that whatever else the machine does slows both; medians are compared.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator().manual_seed(0)
    layout = HashGridLayout.geometric(16, 2, 19, 16, 2048)
    points = torch.rand(10_000 if quick else 100_000, 3, generator=generator).to(device)
    table = torch.randn(layout.entries, 2, generator=generator).to(device).requires_grad_()
    for encode in (hash_encode, hash_encode_reference):  # compile, and touch all memory once
        _seconds(encode, points, table, layout)
    pairs = [
        (_seconds(hash_encode, points, table, layout), _seconds(hash_encode_reference, points, table, layout))
        for _ in range(3 if quick else 5)
    ]
    ours, twin = (statistics.median(times) for times in zip(*pairs, strict=True))
    name = f"hash grid forward + backward, {len(points):,} points x 16 levels, {device.type}"
    return [Row(name, 1e3 * ours, "ms", 1e3 * twin, twin / ours)]
