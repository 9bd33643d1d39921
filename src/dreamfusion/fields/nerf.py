"""The scene that is optimised: density and albedo from a hash grid and two small networks (paper section 3.1).

The paper uses a mip-NeRF 360 network (`mip_nerf.py`); a hash grid (Instant-NGP) with one hidden layer reaches the same
pictures at a small part of the cost, as all later systems found. Everything lives in the unit sphere; outside it is
empty.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from dreamfusion.config import HashGridConfig, NerfConfig
from dreamfusion.config.schedule import constant
from dreamfusion.fields import tinycudann
from dreamfusion.fields.encodings import frequency_channels, frequency_encode
from dreamfusion.fields.field import Field
from dreamfusion.kernels.hashgrid import HashGridLayout, hash_encode, hash_encode_slope


def grid_layout(grid: HashGridConfig) -> HashGridLayout:
    """Return where the levels of a hash grid lie in its table."""
    return HashGridLayout.geometric(
        grid.levels,
        grid.features,
        grid.log2_size,
        grid.base_resolution,
        grid.max_resolution,
        smoothstep=grid.interpolation == "smoothstep",
        staggered=grid.staggered,
    )


def active_levels(grid: HashGridConfig, progress: Tensor) -> Tensor:
    """Return how many levels are in use when the share ``progress`` of a run is done, a number as a tensor."""
    used = grid.levels_used or constant(grid.levels)
    last = torch.full_like(progress, used.end)
    if not used.changes:
        return last
    interval = (used.until - used.from_) / max(1, used.end - used.start - 1)
    # The small term keeps a share such as 0.3 from falling just below its own step.
    joined = torch.floor((progress - used.from_) / interval + 1e-4) + 1
    return torch.minimum(used.start + joined.clamp(min=0), last)


class FusedNetwork(nn.Sequential):
    """A ReLU network without biases that tiny-cuda-nn computes where it can."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs [N, outputs] for ``x`` [N, inputs]."""
        return tinycudann.network(x, self) if tinycudann.usable(x.device) else super().forward(x)


def mlp(
    inputs: int,
    outputs: int,
    width: int,
    layers: int,
    generator: torch.Generator | None = None,
    *,
    bias: bool = True,
    fused: bool = False,
) -> nn.Sequential:
    """Return a ReLU network with ``layers`` hidden layers: He-uniform weights drawn from ``generator``, zero biases.

    ``fused`` makes it a `FusedNetwork`, which has no biases.
    """
    widths = [inputs, *[width] * layers, outputs]
    modules: list[nn.Module] = []
    for i, (before, after) in enumerate(itertools.pairwise(widths)):
        linear = nn.Linear(before, after, bias=bias)
        nn.init.kaiming_uniform_(linear.weight, nonlinearity="relu", generator=generator)
        if bias:
            nn.init.zeros_(linear.bias)
        modules += [linear, nn.ReLU(inplace=True)] if i < layers else [linear]
    return (FusedNetwork if fused else nn.Sequential)(*modules)


class NerfField(Field):
    """Two small networks, one for density and one for albedo, on a hash grid or on sines and cosines."""

    config: NerfConfig
    table: nn.Parameter | None

    def __init__(self, config: NerfConfig | None = None, generator: torch.Generator | None = None) -> None:
        """Draw the initial parameters from ``generator`` (a CPU one; PyTorch's global one if None)."""
        c = config or NerfConfig()
        hashed = c.encoding == "hashgrid"
        super().__init__(c, annealed=hashed and c.grid.levels_used is not None and c.grid.levels_used.changes)
        self.layout = grid_layout(c.grid)
        self.register_parameter("table", None)
        if hashed:
            table = torch.empty(self.layout.entries, self.layout.features)
            self.table = nn.Parameter(table.uniform_(-1e-4, 1e-4, generator=generator))
        channels = self.layout.channels if hashed else frequency_channels(c.frequencies)
        shape = (c.hidden_width, c.hidden_layers, generator)
        self.fused = hashed and c.grid.staggered and not c.network_bias and c.normal_method != "analytic"
        self.density_network = mlp(channels, 1, *shape, bias=c.network_bias, fused=self.fused)
        shape = (c.albedo_width or c.hidden_width, c.albedo_layers or c.hidden_layers, generator)
        self.albedo_network = mlp(channels, 3, *shape, bias=c.network_bias, fused=self.fused)

    def parameter_groups(self, grid_lr: float, network_lr: float) -> list[dict[str, Any]]:
        """Return optimiser groups: the hash grid with ``grid_lr``, both networks with ``network_lr``."""
        networks = [*self.density_network.parameters(), *self.albedo_network.parameters()]
        groups = [{"params": networks, "lr": network_lr}]
        return groups if self.table is None else [{"params": [self.table], "lr": grid_lr}, *groups]

    def encode(self, x: Tensor) -> Tensor:
        """Return the encoding of the points ``x`` [N, 3], with zeros for levels that are not in use."""
        if self.table is None:
            return frequency_encode(x, self.config.frequencies)
        fused = self.fused and tinycudann.usable(x.device)
        return self._masked((tinycudann.encode if fused else hash_encode)((x + 1) / 2, self.table, self.layout))

    def encoding_slope(self, x: Tensor, upstream: Tensor) -> Tensor | None:
        """Return the gradient [N, 3] of sum(upstream * encode(x)); None if automatic differentiation tells it."""
        if self.table is None:
            return None
        # Half, because [-1, 1] in space is [0, 1] on the grid.
        return hash_encode_slope((x + 1) / 2, self.table, self._masked(upstream), self.layout) / 2

    def _masked(self, encoding: Tensor) -> Tensor:
        grid = self.config.grid
        if grid.levels_used is None:
            return encoding
        level = torch.arange(self.layout.levels, device=encoding.device).repeat_interleave(self.layout.features)
        return encoding * (level < active_levels(grid, self.progress))
