"""A ball whose every pixel has a closed form, and a ray and a light to look at it with."""

import torch
from torch import nn

from dreamfusion.fields.background import StaticBackground
from dreamfusion.method.cameras import Rays
from dreamfusion.method.shading import Lights

ALBEDO = (0.8, 0.4, 0.2)
BLACK = StaticBackground((0.0, 0.0, 0.0))


class UniformBall(nn.Module):
    """A ball of constant density and albedo, normals outwards: every pixel has a closed form."""

    def __init__(self, density: float, radius: float = 1.0) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(density))
        self.radius = radius

    def density(self, x: torch.Tensor) -> torch.Tensor:
        return self.value * (x.norm(dim=-1) < self.radius)

    def evaluate(self, x: torch.Tensor, normal_at: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        normal = torch.nn.functional.normalize(x[normal_at], dim=-1)
        return self.density(x), torch.tensor(ALBEDO, device=x.device).expand(len(x), 3), normal


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def one_ray(*, reverse: bool = False) -> Rays:
    """A single pixel looking along -x through the origin (or away from it)."""
    direction = torch.tensor([1.0 if reverse else -1.0, 0.0, 0.0])
    return Rays(torch.tensor([2.0, 0.0, 0.0]).view(1, 1, 1, 3), direction.view(1, 1, 1, 3))


def lights(count: int, position: tuple[float, float, float] = (5.0, 0.0, 0.0)) -> Lights:
    return Lights(torch.tensor([position] * count), torch.full((count,), 0.7), torch.full((count,), 0.2))
