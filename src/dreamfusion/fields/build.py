"""Which field and which background the configuration asks for: the one place that knows all kinds."""

from __future__ import annotations

import torch

from dreamfusion.config import SceneConfig
from dreamfusion.fields.background import LearnedBackground, StaticBackground
from dreamfusion.fields.field import Field
from dreamfusion.fields.mip_nerf import MipField
from dreamfusion.fields.nerf import NerfField


def build_field(config: SceneConfig, generator: torch.Generator) -> Field:
    """Return a fresh field of the configured architecture, its random weights drawn from ``generator``."""
    match config.architecture:
        case "hashgrid":
            return NerfField(config.nerf, generator)
        case "mip360":
            return MipField(config.mip, generator)


def build_background(config: SceneConfig, generator: torch.Generator) -> LearnedBackground | StaticBackground:
    """Return the configured background; a learned one draws its weights from ``generator``."""
    if config.background == "learned":
        return LearnedBackground(config.background_network, generator)
    return StaticBackground(config.background_color)
