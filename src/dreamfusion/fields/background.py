"""What is seen behind the object, as a function of the ray's direction (paper section 3.1).

A *background* is such a function; a *backdrop* is one plain colour per view, and takes its place where one is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dreamfusion.config import BackgroundConfig
from dreamfusion.fields.encodings import frequency_channels, frequency_encode
from dreamfusion.fields.field import activated
from dreamfusion.fields.nerf import mlp
from dreamfusion.method.shading import harmonics

Background = Callable[[Tensor], Tensor]
"""Anything that maps unit directions [..., 3] to colours [..., 3]."""


class LearnedBackground(nn.Module):
    """A small network on sines and cosines or harmonics of the direction, so smooth that no object fits into it."""

    def __init__(self, config: BackgroundConfig | None = None, generator: torch.Generator | None = None) -> None:
        """Draw initial parameters from ``generator`` (global if None)."""
        super().__init__()
        c = config or BackgroundConfig()
        self.config = c
        channels = 9 if c.encoding == "harmonics" else frequency_channels(c.frequencies)
        self.network = mlp(channels, 3, c.hidden_width, c.hidden_layers, generator)

    def forward(self, directions: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
        """Return colours [..., 3] for unit ``directions`` [..., 3]."""
        c = self.config
        told = harmonics(directions) if c.encoding == "harmonics" else frequency_encode(directions, c.frequencies)
        return activated(self.network(told), c.activation)


class StaticBackground(nn.Module):
    """The same colour everywhere."""

    color: Tensor

    def __init__(self, color: Sequence[float] = (1.0, 1.0, 1.0)) -> None:
        """Take a colour of three components in [0, 1]."""
        super().__init__()
        self.register_buffer("color", torch.tensor(color, dtype=torch.float32))

    def forward(self, directions: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3"]:
        """Return the colour for each of ``directions`` [..., 3]."""
        return self.color.expand(directions.shape)
