"""Pictures that can be optimised: three differentiable parameterisations, as in the paper's Figure 2.

Each is B pictures at once with parameters of their own, and returns z [B, 3, S, S]: what the prior is shown, in [-1, 1]
for a picture that a screen can show. Nothing but the coordinate network keeps z there.
"""

from __future__ import annotations

import itertools
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from dreamfusion.fields.encodings import frequency_channels, frequency_encode

Parameterisation = Literal["pixels", "mirror", "network"]
PARAMETERISATIONS: tuple[Parameterisation, ...] = get_args(Parameterisation)

_START = 0.1  # deviation of z at first, around grey
_OCTAVES, _WIDTH = 5, 64


class FreePixels(nn.Module):
    """Every pixel is a parameter of its own."""

    lr = 0.04

    def __init__(self, count: int, size: int, generator: torch.Generator) -> None:
        super().__init__()
        self.theta = nn.Parameter(_START * torch.randn(count, 3, size, size, generator=generator))

    def forward(self) -> Tensor:
        """Return z [B, 3, S, S]."""
        return self.theta


class Mirror(nn.Module):
    """The right half is a parameter, the left half its mirror image: z = (flip(theta), theta)."""

    lr = 0.04

    def __init__(self, count: int, size: int, generator: torch.Generator) -> None:
        super().__init__()
        self.theta = nn.Parameter(_START * torch.randn(count, 3, size, size // 2, generator=generator))

    def forward(self) -> Tensor:
        """Return z [B, 3, S, S]."""
        return torch.cat([self.theta.flip(-1), self.theta], dim=-1)


class CoordinateNetwork(nn.Module):
    """A small network from a pixel's place to its colour, with two hidden layers; one for each picture."""

    lr = 4e-3

    def __init__(self, count: int, size: int, generator: torch.Generator) -> None:
        super().__init__()
        axis = torch.linspace(-1, 1, size)
        places = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1).view(-1, 2)
        self.register_buffer("encoding", frequency_encode(3 * places, _OCTAVES))
        self.size = size
        widths = [frequency_channels(_OCTAVES, 2), _WIDTH, _WIDTH, 3]
        self.weights = nn.ParameterList(
            torch.randn(count, before, after, generator=generator) * (2 / before) ** 0.5
            for before, after in itertools.pairwise(widths)
        )
        with torch.no_grad():
            self.weights[-1].mul_(_START)
        self.biases = nn.ParameterList(torch.zeros(count, 1, after) for after in widths[1:])

    def forward(self) -> Tensor:
        """Return z [B, 3, S, S] in (-1, 1)."""
        x: Tensor = self.get_buffer("encoding").expand(len(self.weights[0]), -1, -1)
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, torch.relu(x) if index else x, weight)
        return torch.tanh(x).transpose(1, 2).unflatten(2, (self.size, self.size))


def build_picture(
    kind: Parameterisation, count: int, size: int, generator: torch.Generator
) -> FreePixels | Mirror | CoordinateNetwork:
    """Return ``count`` fresh pictures of ``size`` pixels a side, drawn from ``generator``."""
    match kind:
        case "pixels":
            return FreePixels(count, size, generator)
        case "mirror":
            return Mirror(count, size, generator)
        case "network":
            return CoordinateNetwork(count, size, generator)
