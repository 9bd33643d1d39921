"""What is seen behind the object, as a function of the ray's direction (paper section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dreamfusion.fields.nerf import mlp


class LearnedBackground(nn.Module):
    """A small network on sines and cosines of the direction, so smooth that no object fits into it."""

    def __init__(self, frequencies: int = 4, hidden_width: int = 16, generator: torch.Generator | None = None) -> None:
        """Encode with ``frequencies`` octaves; draw initial parameters from ``generator`` (global if None)."""
        super().__init__()
        self.frequencies = frequencies
        self.network = mlp(3 + 6 * frequencies, 3, hidden_width, 1, generator)

    def forward(self, directions: Tensor) -> Tensor:
        """Return colours [..., 3] in (0, 1) for unit ``directions`` [..., 3]."""
        scale = 2.0 ** torch.arange(self.frequencies, device=directions.device)
        angles = (directions[..., None, :] * scale[:, None]).flatten(-2)
        return torch.sigmoid(self.network(torch.cat([directions, angles.sin(), angles.cos()], dim=-1)))


class StaticBackground(nn.Module):
    """The same colour everywhere."""

    color: Tensor

    def __init__(self, color: Sequence[float] = (1.0, 1.0, 1.0)) -> None:
        """Take a colour of three components in [0, 1]."""
        super().__init__()
        self.register_buffer("color", torch.tensor(color, dtype=torch.float32))

    def forward(self, directions: Tensor) -> Tensor:
        """Return the colour for each of ``directions`` [..., 3]."""
        return self.color.expand(directions.shape)
