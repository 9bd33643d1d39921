"""What every field shares: the blob, the density's activation, the unit sphere, and the ways to a normal."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dreamfusion.config import FieldConfig, NormalMethod
from dreamfusion.config.fields import ColorActivation


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


def activated(x: Tensor, activation: ColorActivation) -> Tensor:
    """Return colours of a network's outputs of any shape, see `dreamfusion.config.FieldConfig.albedo_activation`."""
    return torch.sigmoid(x) if activation == "sigmoid" else 0.5 * x + 0.5


class Field(nn.Module):
    """Density, albedo and normals at points of the scene; all parameters of the object.

    A kind of field says how a point is encoded (`encode`), and brings a ``density_network`` and an
    ``albedo_network`` that read what its ``trunk`` makes of the encoding. ``progress`` in [0, 1] is the share of the
    run that is done, for fields that change with it: those are ``annealed``, and save it.
    """

    config: FieldConfig
    density_network: nn.Module
    albedo_network: nn.Module
    progress: Tensor

    def __init__(self, config: FieldConfig, *, annealed: bool = False) -> None:
        super().__init__()
        self.config = config
        self.trunk: nn.Module = nn.Identity()
        self.register_buffer("progress", torch.zeros(()), persistent=annealed)

    def encode(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N C"]:
        """Return what the networks know of the points ``x`` [N, 3], [N, C]."""
        raise NotImplementedError

    def encoding_slope(self, x: Tensor, upstream: Tensor) -> Tensor | None:
        """Return the gradient [N, 3] of sum(upstream * encode(x)), if automatic differentiation cannot tell it."""
        return None

    def parameter_groups(self, grid_lr: float, network_lr: float) -> list[dict[str, Any]]:
        """Return optimiser groups: a hash grid, if there is one, with ``grid_lr``, networks with ``network_lr``."""
        return [{"params": list(self.parameters()), "lr": network_lr}]

    def density(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, " N"]:
        """Return the density per world unit [N] at points ``x`` [N, 3]; zero outside the unit sphere."""
        return self._density(x, self._logit(x, self._features(x)))

    def albedo(self, x: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """Return the albedo [N, 3] in (0, 1) at points ``x`` [N, 3]."""
        return self._color(self._features(x))

    def normal(self, x: Float[Tensor, "N 3"], method: NormalMethod | None = None) -> Float[Tensor, "N 3"]:
        """Return unit normals [N, 3] at points ``x`` [N, 3] (zero where the density is constant).

        Paper section 3.1: -grad(density) / |grad(density)|. The slope is taken before the activation, which
        is monotonic and so leaves the direction alone, but could overflow. ``method`` None is what the configuration
        says. The gradient flows to the parameters.
        """
        method = method or self.config.normal_method
        if method == "analytic":
            return _unit(-self._with_slope(x, slice(None))[2])
        points = torch.cat([x, self._neighbours(x, method)])
        logit = self._logit(points, self._features(points))
        return self._normal(logit[: len(x)], logit[len(x) :], method)

    def evaluate(
        self, x: Float[Tensor, "N 3"], normal_at: Int[Tensor, " K"]
    ) -> tuple[Float[Tensor, " N"], Float[Tensor, "N 3"], Float[Tensor, "K 3"]]:
        """Return density [N], albedo [N, 3] and the normals [K, 3] of the points ``x[normal_at]``.

        ``x`` is [N, 3], ``normal_at`` [K] holds indices. Points and their neighbours share one encoding; without
        normals, K = 0, each point is evaluated once.
        """
        method = self.config.normal_method
        if method == "analytic" and len(normal_at) > 0:
            here, logit, slope = self._with_slope(x, normal_at)
            normal = _unit(-slope)
        else:
            neighbours = self._neighbours(x[normal_at], method)
            # Split, not sliced: the gradient of a slice is a zero-filled copy of everything.
            here, around = self._features(torch.cat([x, neighbours])).split([len(x), len(neighbours)])
            logit = self._logit(x, here)
            normal = self._normal(logit[normal_at], self._logit(neighbours, around), method)
        return self._density(x, logit), self._color(here), normal

    def _features(self, x: Tensor) -> Tensor:
        return self.trunk(self.encode(x))

    def _color(self, features: Tensor) -> Tensor:
        return activated(self.albedo_network(features), self.config.albedo_activation)

    def _blob(self, x: Tensor) -> Tensor:
        c = self.config
        squared = x.square().sum(dim=-1)
        if c.blob == "gaussian":
            return c.blob_density * torch.exp(squared / (-2 * c.blob_std**2))
        return c.blob_density * (1 - squared.sqrt() / c.blob_std)

    def _logit(self, x: Tensor, features: Tensor) -> Tensor:
        """Density before the activation, [N]."""
        return self.density_network(features)[:, 0] + (self._blob(x) + self.config.density_bias)

    def _density(self, x: Tensor, logit: Tensor) -> Tensor:
        softplus = self.config.density_activation == "softplus"
        density = nn.functional.softplus(logit) if softplus else _TruncatedExp.apply(logit)
        return density * (x.square().sum(dim=-1) < 1)

    def _with_slope(self, x: Tensor, at: Tensor | slice) -> tuple[Tensor, Tensor, Tensor]:
        """Features [N, C] and logit [N] at ``x``, and the logit's gradient in space at ``x[at]``."""
        with_graph = torch.is_grad_enabled()
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            encoding = self.encode(x)
            if not encoding.requires_grad:  # frozen parameters
                encoding.requires_grad_()
            features = self.trunk(encoding)
            logit = self._logit(x, features)
            wanted = [x, encoding]
            slope, upstream = torch.autograd.grad(logit[at].sum(), wanted, create_graph=with_graph)
            rest = self.encoding_slope(x[at], upstream[at])
            slope = slope[at] if rest is None else slope[at] + rest
        return (features, logit, slope) if with_graph else (features.detach(), logit.detach(), slope.detach())

    def _neighbours(self, x: Tensor, method: NormalMethod) -> Tensor:
        """Points one difference step away along each axis, axis by axis: [3 N, 3], or [6 N, 3] for "central"."""
        steps = torch.eye(3, device=x.device) * self.config.normal_epsilon
        if method == "central":
            steps = torch.cat([steps, -steps])
        if method == "backward":
            steps = -steps
        return (x + steps[:, None]).view(-1, 3)

    def _normal(self, logit: Tensor, neighbours: Tensor, method: NormalMethod) -> Tensor:
        around = neighbours.view(2 if method == "central" else 1, 3, len(logit))
        match method:
            case "central":
                descent = around[1] - around[0]
            case "backward":
                descent = around[0] - logit
            case _:
                descent = logit - around[0]
        return _unit(descent.T / self.config.normal_epsilon)


def _unit(slope: Tensor) -> Tensor:
    # The small term replaces 0 / 0 in flat regions, with a finite gradient there.
    return slope * torch.rsqrt(slope.square().sum(dim=-1, keepdim=True) + 1e-6)
