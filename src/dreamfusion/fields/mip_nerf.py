"""The paper's field: a residual network on the integrated positional encoding of mip-NeRF (appendix A.2).

mip-NeRF 360 (arXiv 2111.12077) gives each sample the covariance of its piece of a cone. DreamFusion gives all the same,
lambda * identity, and lowers lambda over the first third of a run, which uncovers one octave after the other. So a
point's density does not depend on the ray that it lies on, and every renderer can render this field.
Not stated in the paper, and chosen here: octaves along the three axes (not mip-NeRF 360's 21 directions), a linear
layer into the trunk, and two linear heads on it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dreamfusion.config import MipConfig
from dreamfusion.fields.encodings import integrated_encode
from dreamfusion.fields.field import Field


class ResidualBlock(nn.Module):
    """x + W2 SiLU(W1 x)."""

    def __init__(self, width: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.layers = nn.Sequential(linear(width, width, generator), nn.SiLU(), linear(width, width, generator))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, of the shape of ``x`` [N, C]."""
        return x + self.layers(x)


def linear(inputs: int, outputs: int, generator: torch.Generator | None = None) -> nn.Linear:
    """Return a linear layer that keeps the variance: weights uniform with variance 1 / ``inputs``, bias 0."""
    layer = nn.Linear(inputs, outputs)
    nn.init.kaiming_uniform_(layer.weight, nonlinearity="linear", generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


class MipField(Field):
    """Density and albedo from one residual trunk with layer norm between its blocks."""

    config: MipConfig

    def __init__(self, config: MipConfig | None = None, generator: torch.Generator | None = None) -> None:
        """Draw the initial parameters from ``generator`` (a CPU one; PyTorch's global one if None)."""
        c = config or MipConfig()
        super().__init__(c, annealed=True)
        layers: list[nn.Module] = [linear(6 * c.frequencies, c.hidden_width, generator)]
        for block in range(c.blocks):
            norm = [nn.LayerNorm(c.hidden_width)] if block > 0 else []
            layers += [*norm, ResidualBlock(c.hidden_width, generator)]
        self.trunk = nn.Sequential(*layers)
        self.density_network = linear(c.hidden_width, 1, generator)
        self.albedo_network = linear(c.hidden_width, 3, generator)

    @property
    def variance(self) -> Tensor:
        """The paper's lambda at this point of the run, a number as a tensor."""
        v = self.config.variance
        return v.start + (v.end - v.start) * ((self.progress - v.from_) / (v.until - v.from_)).clamp(0, 1)

    def encode(self, x: Tensor) -> Tensor:
        """Return the integrated positional encoding [N, 6 L] of the points ``x`` [N, 3]."""
        return integrated_encode(x * self.config.scale, self.variance, self.config.frequencies)
