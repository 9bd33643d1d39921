"""The scene: the field that is optimised, what is behind it, and the grid that lets rays skip empty space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dreamfusion.cameras import Cameras
from dreamfusion.config import OptimConfig, SceneConfig
from dreamfusion.fields.background import LearnedBackground, StaticBackground
from dreamfusion.fields.nerf import NerfField
from dreamfusion.renderers.occupancy import OccupancyConfig, OccupancyGrid
from dreamfusion.renderers.volume import RenderOutput, RenderSettings, render, render_pictures
from dreamfusion.shading import Lights, Shading, headlights

PICTURE_BACKDROP = (0.80, 0.81, 0.84)
"""Colour behind the object in finished pictures."""


class Scene(nn.Module):
    """Field, background and occupancy grid of one object."""

    def __init__(self, config: SceneConfig, seed: int = 0) -> None:
        """Initialise from a configuration; the random weights follow from ``seed``."""
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.config = config
        self.field = NerfField(config.nerf, generator)
        self.background: LearnedBackground | StaticBackground
        if config.background == "learned":
            self.background = LearnedBackground(generator=generator)
        else:
            self.background = StaticBackground(config.background_color)
        step = config.step_length
        self.occupancy = OccupancyGrid(OccupancyConfig(resolution=config.occupancy_resolution, step_length=step))
        self.settings = RenderSettings(step_length=step)

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return self.field.table.device

    def parameter_groups(self, optim: OptimConfig) -> list[dict[str, Any]]:
        """Return optimiser groups: hash grid, networks, and the background if it learns."""
        groups = self.field.parameter_groups(optim.grid_lr, optim.network_lr)
        behind = list(self.background.parameters())
        return [*groups, {"params": behind, "lr": optim.network_lr}] if behind else groups

    def render(
        self,
        cameras: Cameras,
        lights: Lights,
        shading: Sequence[Shading],
        size: int,
        *,
        generator: torch.Generator,
        random_backdrop: Tensor,
    ) -> RenderOutput:
        """Render square training views, differentiably; ``random_backdrop`` [B, 3] is used if so configured."""
        backdrop = random_backdrop.to(self.device) if self.config.background == "random" else None
        rays = cameras.to(self.device).rays(size, size)
        return render(
            self.field,
            self.background,
            self.occupancy,
            rays,
            lights.to(self.device),
            shading,
            self.settings,
            generator=generator,
            background_color=backdrop,
        )

    def refresh_occupancy(self) -> None:
        """Find anew which cells are occupied, for finished pictures: the grid of a run lags behind its field."""
        self.occupancy.refresh(self.field, torch.Generator().manual_seed(0))

    def pictures(
        self,
        cameras: Cameras,
        shadings: Sequence[Shading],
        size: int,
        *,
        lights: Lights | None = None,
        backdrop: Sequence[float] = PICTURE_BACKDROP,
    ) -> dict[Shading, Tensor]:
        """Render finished square pictures [B, 3, size, size] in every shading, without gradients.

        The backdrop is plain; without ``lights``, a light goes with the camera.
        """
        outputs = render_pictures(
            self.field,
            self.background,
            self.occupancy,
            cameras.to(self.device).rays(size, size),
            (lights or headlights(cameras)).to(self.device),
            shadings,
            self.settings,
            background_color=torch.tensor(backdrop, device=self.device).expand(len(cameras), 3),
        )
        return {shading: output.rgb for shading, output in zip(shadings, outputs, strict=True)}
