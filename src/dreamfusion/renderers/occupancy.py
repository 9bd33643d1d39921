"""Which cells of space hold matter, kept up to date while the field changes (Instant-NGP, appendix C)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dreamfusion.errors import DreamFusionError
from dreamfusion.fields.field import Field

_POINTS_PER_CALL = 2**18
"""Cells evaluated together: bounds the memory of an update."""


@dataclass(frozen=True)
class OccupancyConfig:
    """Size of the grid over [-1, 1]^3 and when a cell counts as empty.

    A cell is empty when its density is below both the mean of the sphere and a threshold: ``density``, or if that is
    None the density at which one step of ``step_length`` has opacity ``alpha_threshold``. After ``full_updates``
    updates of all cells, an update looks at a random ``fraction`` of them, while what is remembered fades by ``decay``
    everywhere: at 0.8 a tenfold fall is forgotten in ten updates. ``dilate`` keeps the neighbours of occupied cells
    too, so that surfaces can move outwards.
    """

    resolution: int = 64
    decay: float = 0.8
    alpha_threshold: float = 1e-3
    step_length: float = 0.03
    full_updates: int = 4
    fraction: float = 0.5
    dilate: bool = True
    density: float | None = None

    def __post_init__(self) -> None:
        if self.resolution < 2 or not 0 < self.fraction <= 1 or not 0 < self.decay <= 1:
            raise DreamFusionError("Occupancy grid: give a resolution of at least 2, fraction and decay in (0, 1].")
        if not 0 < self.alpha_threshold < 1 or self.step_length <= 0:
            raise DreamFusionError("Occupancy grid: give an alpha_threshold in (0, 1) and a step_length above 0.")

    @property
    def density_threshold(self) -> float:
        """Density per world unit below which a cell may be empty."""
        if self.density is not None:
            return self.density
        return -math.log1p(-self.alpha_threshold) / self.step_length


class OccupancyGrid(nn.Module):
    """A boolean grid [G, G, G], indexed [x, y, z], and the running maximum of the density that it comes from.

    It starts with the whole sphere occupied and with no density seen, and the first update looks at every cell:
    so nothing is pruned before it was evaluated, and pruning begins with that first update. (Starting the running
    maximum at a high value, to be safe, takes tens of updates to decay and renders empty space meanwhile.)
    """

    density: Tensor
    occupied: Tensor
    updates: Tensor
    inside: Tensor

    def __init__(self, config: OccupancyConfig | None = None) -> None:
        super().__init__()
        self.config = config or OccupancyConfig()
        cells = self.config.resolution
        self.register_buffer("density", torch.zeros(cells, cells, cells))
        self.register_buffer("inside", self._cells_in_sphere(), persistent=False)
        self.register_buffer("occupied", self.inside.clone())
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    def _cells_in_sphere(self) -> Tensor:
        """Cells that reach into the unit sphere: those whose point nearest to the origin does."""
        edges = torch.linspace(-1, 1, self.config.resolution + 1)
        low, high = edges[:-1], edges[1:]
        nearest = torch.where(low * high > 0, torch.minimum(low.abs(), high.abs()), torch.zeros_like(low))
        x, y, z = torch.meshgrid(nearest, nearest, nearest, indexing="ij")
        return x.square() + y.square() + z.square() < 1

    @torch.no_grad()
    def update(self, field: Field, generator: torch.Generator) -> None:
        """Ask ``field`` for the density at a random point of each cell (or of a random part of the cells).

        Call it every 16 steps or so, the first time before the first step. ``generator`` is a CPU one.
        """
        everywhere = int(self.updates) < self.config.full_updates
        self._visit(field, generator, 1.0 if everywhere else self.config.fraction)

    @torch.no_grad()
    def refresh(self, field: Field, generator: torch.Generator, visits: int = 3) -> None:
        """Forget all and look at every cell ``visits`` times: the tightest grid, for a finished field."""
        self.density.zero_()
        for _ in range(visits):
            self._visit(field, generator, 1.0)

    def _visit(self, field: Field, generator: torch.Generator, fraction: float) -> None:
        """Fade the running maximum, raise it where ``field`` is denser in a random part of the cells, and mark."""
        cells = self.inside.view(-1).nonzero()[:, 0]
        if fraction < 1:
            cells = cells[(torch.rand(len(cells), generator=generator) < fraction).to(cells.device)]
        self.density *= self.config.decay
        flat = self.density.view(-1)
        for part in cells.split(_POINTS_PER_CALL):
            corner = torch.stack(torch.unravel_index(part, self.density.shape), dim=-1)
            jitter = torch.rand(corner.shape, generator=generator).to(corner.device)
            seen = field.density((corner + jitter) * (2 / self.config.resolution) - 1)
            flat[part] = torch.maximum(flat[part], seen)
        self.updates += 1
        self._mark()

    def _mark(self) -> None:
        """Set ``occupied`` from the running maximum."""
        mean = float(self.density[self.inside].mean())
        occupied = self.density > min(self.config.density_threshold, mean)
        if self.config.dilate:
            grown = nn.functional.max_pool3d(occupied[None, None].float(), kernel_size=3, stride=1, padding=1)
            occupied = grown[0, 0] > 0
        self.occupied.copy_(occupied & self.inside)

    @property
    def occupied_fraction(self) -> float:
        """Share of the sphere's cells that are occupied."""
        return float(self.occupied.sum() / self.inside.sum())
