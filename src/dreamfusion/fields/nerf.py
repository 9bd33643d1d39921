"""The scene that is optimised: density and albedo from a hash grid and two small networks (paper section 3.1).

The paper uses a mip-NeRF 360 network (`mip_nerf.py`); a hash grid (Instant-NGP) with one hidden layer reaches the same
pictures at a small part of the cost, as all later systems found. Everything lives in the unit sphere; outside it is
empty.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dreamfusion.errors import DreamFusionError
from dreamfusion.fields import tinycudann
from dreamfusion.fields.encodings import frequency_channels, frequency_encode
from dreamfusion.fields.field import Field, FieldConfig
from dreamfusion.kernels.hashgrid import HashGridLayout, hash_encode, hash_encode_slope


@dataclass(frozen=True)
class HashGridConfig:
    """Shape of the hash grid; resolutions are cells along an edge of the cube [-1, 1]^3.

    The default ends at 48, as fine as pictures of 32 to 48 pixels can tell: finer levels fill with the noise of score
    distillation and make surfaces rough.

    ``max_level`` is the share of the levels in use, rounded up (NeMo's encoder_max_level); the networks read 0 for the
    others. With ``start_level`` a run begins with that many, and one more joins at the share ``progressive_from`` of
    the run and after each ``progressive_interval`` (threestudio: 8, 0.2 and 0.05, which is every 500 of its 10,000
    steps). A ``staggered`` grid is that of tiny-cuda-nn, its levels shifted by half a cell and its table in that
    library's order (`HashGridLayout`).
    """

    levels: int = 6
    features: int = 4
    log2_size: int = 16
    base_resolution: int = 8
    max_resolution: int = 48
    interpolation: Literal["linear", "smoothstep"] = "smoothstep"
    staggered: bool = False
    max_level: float = 1.0
    start_level: int | None = None
    progressive_from: float = 0.2
    progressive_interval: float = 0.05

    def __post_init__(self) -> None:
        if self.levels < 1 or self.features < 1 or not 1 <= self.log2_size <= 24:
            raise DreamFusionError("Hash grid: give levels and features of at least 1 and a log2_size of 1 to 24.")
        if not 1 <= self.base_resolution <= self.max_resolution:
            raise DreamFusionError("Hash grid: give 1 <= base_resolution <= max_resolution.")
        if not 0 < self.max_level <= 1:
            raise DreamFusionError("Hash grid: give a max_level in (0, 1], the share of the levels in use.")
        if self.start_level is not None and not 1 <= self.start_level <= self.levels:
            raise DreamFusionError("Hash grid: give a start_level of 1 to levels, or none.")
        if not 0 <= self.progressive_from <= 1 or self.progressive_interval <= 0:
            raise DreamFusionError("Hash grid: give progressive_from in [0, 1] and a progressive_interval above 0.")

    def layout(self) -> HashGridLayout:
        """Return where the levels lie in the table."""
        return HashGridLayout.geometric(
            self.levels,
            self.features,
            self.log2_size,
            self.base_resolution,
            self.max_resolution,
            smoothstep=self.interpolation == "smoothstep",
            staggered=self.staggered,
        )

    def active_levels(self, progress: Tensor) -> Tensor:
        """Return how many levels are in use when the share ``progress`` of a run is done, a number as a tensor."""
        last = torch.full_like(progress, math.ceil(self.max_level * self.levels))
        if self.start_level is None:
            return last
        # The small term keeps a share such as 0.3 from falling just below its own step.
        joined = torch.floor((progress - self.progressive_from) / self.progressive_interval + 1e-4) + 1
        return torch.minimum(self.start_level + joined.clamp(min=0), last)


@dataclass(frozen=True)
class NerfConfig(FieldConfig):
    """Encoding, networks, density and normals of a ``NerfField``.

    ``encoding`` "frequency" replaces the hash grid by sines and cosines of the position at ``frequencies`` octaves,
    the first with a period of two pi world units, and so wants wider and deeper networks. ``network_bias`` False is
    how tiny-cuda-nn's fused networks are; NeMo's variant on them has a softplus, and a linear blob of 10 and 0.5.
    Without biases, on a ``staggered`` grid, that library computes both on a GPU if it is installed, in half precision;
    but for analytic normals, since it cannot be differentiated twice.
    """

    encoding: Literal["hashgrid", "frequency"] = "hashgrid"
    grid: HashGridConfig = field(default_factory=HashGridConfig)
    frequencies: int = 8
    hidden_width: int = 32
    hidden_layers: int = 1
    network_bias: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden_width < 1 or self.hidden_layers < 1:
            raise DreamFusionError("Scene networks: give at least one hidden layer of width 1 or more.")
        if self.frequencies < 1:
            raise DreamFusionError("Frequency encoding: give at least 1 octave.")


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
        super().__init__(c, annealed=hashed and c.grid.start_level is not None)
        self.layout = c.grid.layout()
        self.register_parameter("table", None)
        if hashed:
            table = torch.empty(self.layout.entries, self.layout.features)
            self.table = nn.Parameter(table.uniform_(-1e-4, 1e-4, generator=generator))
        channels = self.layout.channels if hashed else frequency_channels(c.frequencies)
        shape = (c.hidden_width, c.hidden_layers, generator)
        self.fused = hashed and c.grid.staggered and not c.network_bias and c.normal_method != "analytic"
        self.density_network = mlp(channels, 1, *shape, bias=c.network_bias, fused=self.fused)
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
        if grid.max_level == 1 and grid.start_level is None:
            return encoding
        level = torch.arange(self.layout.levels, device=encoding.device).repeat_interleave(self.layout.features)
        return encoding * (level < grid.active_levels(self.progress))
