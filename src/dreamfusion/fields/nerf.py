"""The scene that is optimised: density and albedo from a hash grid and two small networks (paper section 3.1).

The paper uses a mip-NeRF 360 network; a hash grid (Instant-NGP) with one hidden layer reaches the same pictures at
a small part of the cost, as all later systems found. Everything lives in the unit sphere; outside it is empty.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dreamfusion.errors import DreamFusionError
from dreamfusion.kernels.hashgrid import HashGridLayout, hash_encode

NormalMethod = Literal["forward", "central"]


@dataclass(frozen=True)
class HashGridConfig:
    """Shape of the hash grid; resolutions are cells along an edge of the cube [-1, 1]^3.

    The default ends at 48, as fine as pictures of 32 to 48 pixels can tell: finer levels fill with the noise of score
    distillation and make surfaces rough.
    """

    levels: int = 6
    features: int = 4
    log2_size: int = 16
    base_resolution: int = 8
    max_resolution: int = 48
    interpolation: Literal["linear", "smoothstep"] = "smoothstep"

    def __post_init__(self) -> None:
        if self.levels < 1 or self.features < 1 or not 1 <= self.log2_size <= 24:
            raise DreamFusionError("Hash grid: give levels and features of at least 1 and a log2_size of 1 to 24.")
        if not 1 <= self.base_resolution <= self.max_resolution:
            raise DreamFusionError("Hash grid: give 1 <= base_resolution <= max_resolution.")

    def layout(self) -> HashGridLayout:
        """Return where the levels lie in the table."""
        return HashGridLayout.geometric(
            self.levels,
            self.features,
            self.log2_size,
            self.base_resolution,
            self.max_resolution,
            smoothstep=self.interpolation == "smoothstep",
        )


@dataclass(frozen=True)
class NerfConfig:
    """Hash grid, networks, density and normals of a ``NerfField``.

    The density is activation(network + bias + blob). The blob makes a fresh scene a soft ball, so that there is
    something to carve: "gaussian" is the paper's, density * exp(-|x|^2 / (2 std^2)) (appendix A.2), "linear"
    Magic3D's, density * (1 - |x| / std). The paper adds 5 with std 0.2 in a scene of half our size and no bias,
    which after exp is opaque in the middle (e^5) and fog everywhere else (e^0). Here a bias removes the fog, so that
    empty space is skipped from the first step on, and a wider blob leaves a ball of opacity 0.9 in the middle and
    0.2 at radius 0.5, through which gradients reach all of its inside.
    """

    grid: HashGridConfig = field(default_factory=HashGridConfig)
    hidden_width: int = 32
    hidden_layers: int = 1
    density_activation: Literal["exp", "softplus"] = "exp"
    density_bias: float = -6.5
    blob: Literal["gaussian", "linear"] = "gaussian"
    blob_density: float = 8.0
    blob_std: float = 0.55
    normal_method: NormalMethod = "forward"
    normal_epsilon: float = 0.03

    def __post_init__(self) -> None:
        if self.hidden_width < 1 or self.hidden_layers < 1:
            raise DreamFusionError("Scene networks: give at least one hidden layer of width 1 or more.")
        if self.blob_std <= 0 or self.normal_epsilon <= 0:
            raise DreamFusionError("Scene: give a blob_std and a normal_epsilon above 0.")


class _TruncatedExp(torch.autograd.Function):
    """exp(x) that neither overflows nor loses its gradient: both use x clamped to 15 from above."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = torch.exp(x.clamp(max=15.0))
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return grad * y


def mlp(inputs: int, outputs: int, width: int, layers: int, generator: torch.Generator | None = None) -> nn.Sequential:
    """Return a ReLU network with ``layers`` hidden layers: He-uniform weights drawn from ``generator``, zero biases."""
    widths = [inputs, *[width] * layers, outputs]
    modules: list[nn.Module] = []
    for i, (before, after) in enumerate(itertools.pairwise(widths)):
        linear = nn.Linear(before, after)
        nn.init.kaiming_uniform_(linear.weight, nonlinearity="relu", generator=generator)
        nn.init.zeros_(linear.bias)
        modules += [linear, nn.ReLU(inplace=True)] if i < layers else [linear]
    return nn.Sequential(*modules)


class NerfField(nn.Module):
    """Density, albedo and normals at points of the scene; all parameters of the object."""

    def __init__(self, config: NerfConfig | None = None, generator: torch.Generator | None = None) -> None:
        """Draw the initial parameters from ``generator`` (a CPU one; PyTorch's global one if None)."""
        super().__init__()
        self.config = config or NerfConfig()
        c = self.config
        self.layout = c.grid.layout()
        table = torch.empty(self.layout.entries, self.layout.features)
        self.table = nn.Parameter(table.uniform_(-1e-4, 1e-4, generator=generator))
        self.density_network = mlp(self.layout.channels, 1, c.hidden_width, c.hidden_layers, generator)
        self.albedo_network = mlp(self.layout.channels, 3, c.hidden_width, c.hidden_layers, generator)

    def parameter_groups(self, grid_lr: float, network_lr: float) -> list[dict[str, Any]]:
        """Return optimiser groups: the hash grid with ``grid_lr``, both networks with ``network_lr``."""
        networks = [*self.density_network.parameters(), *self.albedo_network.parameters()]
        return [{"params": [self.table], "lr": grid_lr}, {"params": networks, "lr": network_lr}]

    def _encode(self, x: Tensor) -> Tensor:
        return hash_encode((x + 1) / 2, self.table, self.layout)

    def _blob(self, x: Tensor) -> Tensor:
        c = self.config
        squared = x.square().sum(dim=-1)
        if c.blob == "gaussian":
            return c.blob_density * torch.exp(squared / (-2 * c.blob_std**2))
        return c.blob_density * (1 - squared.sqrt() / c.blob_std)

    def _logit(self, x: Tensor, encoding: Tensor) -> Tensor:
        """Density before the activation, [N]."""
        return self.density_network(encoding)[:, 0] + (self._blob(x) + self.config.density_bias)

    def _density(self, x: Tensor, logit: Tensor) -> Tensor:
        softplus = self.config.density_activation == "softplus"
        density = nn.functional.softplus(logit) if softplus else _TruncatedExp.apply(logit)
        return density * (x.square().sum(dim=-1) < 1)

    def density(self, x: Tensor) -> Tensor:
        """Return the density per world unit [N] at points ``x`` [N, 3]; zero outside the unit sphere."""
        return self._density(x, self._logit(x, self._encode(x)))

    def albedo(self, x: Tensor) -> Tensor:
        """Return the albedo [N, 3] in (0, 1) at points ``x`` [N, 3]."""
        return torch.sigmoid(self.albedo_network(self._encode(x)))

    def normal(self, x: Tensor, method: NormalMethod | None = None) -> Tensor:
        """Return unit normals [N, 3] at points ``x`` [N, 3] (zero where the density is constant).

        Paper section 3.1: -grad(density) / |grad(density)|. The differences are taken before the activation, which
        is monotonic and so leaves the direction alone, but could overflow. ``method`` "central" takes six
        evaluations, "forward" four; None is what the configuration says. The gradient flows to the parameters.
        """
        method = method or self.config.normal_method
        points = torch.cat([x, self._neighbours(x, method)])
        logit = self._logit(points, self._encode(points))
        return self._normal(logit[: len(x)], logit[len(x) :], method)

    def evaluate(self, x: Tensor, normal_at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return density [N], albedo [N, 3] and the normals [K, 3] of the points ``x[normal_at]``.

        ``x`` is [N, 3], ``normal_at`` [K] holds indices. Points and their neighbours share one kernel call.
        """
        method = self.config.normal_method
        neighbours = self._neighbours(x[normal_at], method)
        # Split, not sliced: the gradient of a slice is a zero-filled copy of everything.
        here, around = self._encode(torch.cat([x, neighbours])).split([len(x), len(neighbours)])
        logit = self._logit(x, here)
        normal = self._normal(logit[normal_at], self._logit(neighbours, around), method)
        return self._density(x, logit), torch.sigmoid(self.albedo_network(here)), normal

    def _neighbours(self, x: Tensor, method: NormalMethod) -> Tensor:
        """Points one difference step away along each axis, axis by axis: [3 N, 3], or [6 N, 3] for "central"."""
        steps = torch.eye(3, device=x.device) * self.config.normal_epsilon
        if method == "central":
            steps = torch.cat([steps, -steps])
        return (x + steps[:, None]).view(-1, 3)

    def _normal(self, logit: Tensor, neighbours: Tensor, method: NormalMethod) -> Tensor:
        around = neighbours.view(2 if method == "central" else 1, 3, len(logit))
        descent = (around[1] - around[0]) if method == "central" else (logit - around[0])
        slope = descent.T / self.config.normal_epsilon
        # The small term replaces 0 / 0 in flat regions, with a finite gradient there.
        return slope * torch.rsqrt(slope.square().sum(dim=-1, keepdim=True) + 1e-6)
