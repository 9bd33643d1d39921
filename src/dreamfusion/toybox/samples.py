"""Pictures of what the toybox holds and of what a prior has learned of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from dreamfusion.assets.images import contact_sheet, save_png
from dreamfusion.cameras import fixed_cameras
from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.pixel import PixelGuidance
from dreamfusion.prompts import VIEWS, validate_prompt, view_prompts
from dreamfusion.shading import Lights, Shading, headlights
from dreamfusion.toybox.render import render_toy
from dreamfusion.toybox.world import COLORS, KINDS, article

_AZIMUTHS_DEG = (0.0, 45.0, 90.0, 135.0, 180.0, 20.0)
_ELEVATIONS_DEG = (10.0, 10.0, 10.0, 10.0, 10.0, 75.0)


def sample_grid(
    guidance: PixelGuidance,
    prompts: Sequence[str],
    *,
    steps: int = 50,
    guidance_scale: float = 3.0,
    negative_prompt: str = "",
    views: bool = True,
    seed: int = 0,
) -> Tensor:
    """Return a labelled picture [3, H, W] of samples, one row per prompt: its four views, or four of the bare prompt.

    Raises DreamFusionError for an empty prompt or one with words that the prior does not know.
    """
    rows = {}
    for prompt in prompts:
        guidance.check_vocabulary(validate_prompt(prompt))
        texts = view_prompts(prompt) if views else [prompt] * 4
        rows[prompt] = guidance.sample(
            texts, steps=steps, guidance_scale=guidance_scale, negative_prompt=negative_prompt, seed=seed
        )
    return contact_sheet(rows, VIEWS if views else ())


def parse_toy(name: str) -> tuple[str, str]:
    """Return (kind, colour) of a name like "red mushroom" or "car" (which gets the first colour).

    Raises DreamFusionError for anything else, naming the kinds and colours there are.
    """
    words = name.lower().split()
    kind, color = words[-1] if words else "", words[0] if len(words) == 2 else next(iter(COLORS))
    if kind not in KINDS or color not in COLORS or len(words) > 2:
        raise DreamFusionError(
            f"No toy {name!r}: give a kind ({', '.join(KINDS)}), with a colour before it if you like "
            f"({', '.join(COLORS)})."
        )
    return kind, color


def toybox_sheet(names: Sequence[str], *, size: int = 96, shading: Shading = "lambertian") -> Tensor:
    """Return a labelled picture [3, H, W] of toys from six sides; all kinds, in turning colours, if none is named."""
    colors = list(COLORS)
    names = list(names) or [f"{colors[i % len(colors)]} {kind}" for i, kind in enumerate(KINDS)]
    cameras = fixed_cameras(torch.tensor(_AZIMUTHS_DEG), torch.tensor(_ELEVATIONS_DEG))
    lights = headlights(cameras)
    if shading == "albedo":
        lights = Lights(lights.position, torch.zeros(len(cameras)), torch.ones(len(cameras)))
    backdrop = torch.tensor([0.80, 0.81, 0.84])
    rows = {}
    for name in names:
        kind, color = parse_toy(name)
        white = shading == "textureless"
        rows[name] = render_toy(kind, COLORS[color], cameras, lights, size, backdrop, textureless=white)
    return contact_sheet(rows, [f"{a:.0f}°/{e:.0f}°" for a, e in zip(_AZIMUTHS_DEG, _ELEVATIONS_DEG, strict=True)])


def save_samples(guidance: PixelGuidance, path: Path, *, steps: int = 25) -> None:
    """Write the sample grid that shows how far a training has come: every kind once, in turning colours."""
    colors = list(COLORS)
    toys = [(colors[(3 * i) % len(colors)], kind) for i, kind in enumerate(KINDS)]
    save_png(sample_grid(guidance, [f"{article(color)} {color} {kind}" for color, kind in toys], steps=steps), path)
