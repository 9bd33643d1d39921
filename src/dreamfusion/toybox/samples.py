"""Pictures of what the toybox holds and of what a prior has learned of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from dreamfusion.assets.images import contact_sheet, save_png
from dreamfusion.config import Shading
from dreamfusion.guidance.pipeline import PipelineGuidance
from dreamfusion.guidance.pixel import PixelGuidance
from dreamfusion.method.cameras import Cameras, fixed_cameras, orbit_cameras
from dreamfusion.method.prompts import VIEWS, validate_prompt, view_prompts
from dreamfusion.method.shading import headlights
from dreamfusion.toybox.captions import caption, parse_toy
from dreamfusion.toybox.render import render_toy
from dreamfusion.toybox.world import COLORS, NEXT_TO, ON, PATTERNS, SIZES, SMALL, Toy, World

_SHOWN_SIZE = 64
"""Least side of a sample as shown, in pixels."""

_VIEW_AZIMUTHS_DEG = (0.0, 90.0, 180.0, 0.0)
_VIEW_ELEVATIONS_DEG = (10.0, 10.0, 10.0, 75.0)
_AZIMUTHS_DEG = (0.0, 45.0, 90.0, 135.0, 180.0, 20.0)
_ELEVATIONS_DEG = (10.0, 10.0, 10.0, 10.0, 10.0, 75.0)


def sample_grid(
    guidance: PipelineGuidance,
    prompts: Sequence[str],
    *,
    steps: int = 50,
    guidance_scale: float = 3.0,
    negative_prompt: str = "",
    views: bool = True,
    seed: int = 0,
) -> Tensor:
    """Return a labelled picture [3, H, W] of samples, one row per prompt: its four views, or four of the bare prompt.

    A prior that knows cameras is told those of the views as well: from the front, from its left, from behind at 10
    degrees above the horizon, and at 75; a prior that judges four views together, of the four sides.
    Raises DreamFusionError for an empty prompt or one with words that the prior does not know.
    """
    around = guidance.together > 1  # its four views are of one height, whatever is asked for
    cameras = _four_cameras(around) if views or around else None
    rows = {}
    for prompt in prompts:
        guidance.check_vocabulary(validate_prompt(prompt))
        words = guidance.understood(prompt).prompt
        texts = view_prompts(words) if views and not around else [words] * 4
        images = guidance.sample(
            texts,
            steps=steps,
            guidance_scale=guidance_scale,
            negative_prompt=guidance.understood(negative_prompt).prompt,
            cameras=cameras,
            seed=seed,
        )
        # Small pictures are enlarged, pixel by pixel, until they can be seen and a label fits above them.
        rows[prompt] = interpolate(images, scale_factor=math.ceil(_SHOWN_SIZE / images.shape[-1]), mode="nearest")
    return contact_sheet(rows, _AROUND if around else VIEWS if views else ())


_AROUND = ("front", "left", "back", "right")


def _four_cameras(around: bool) -> Cameras:
    if around:
        return orbit_cameras(4, elevation_deg=_VIEW_ELEVATIONS_DEG[0])
    return fixed_cameras(torch.tensor(_VIEW_AZIMUTHS_DEG), torch.tensor(_VIEW_ELEVATIONS_DEG))


def catalogue(world: World = SMALL) -> list[Toy]:
    """Return toys that show what a world holds: all kinds, then patterns, parts, sizes, finishes, company."""
    colors = list(COLORS)
    plain = [Toy(kind, colors[i % len(colors)]) for i, kind in enumerate(world.kinds)]
    patterned = [Toy(kind, "blue", pattern=name) for kind in ("mug", "duck") for name in PATTERNS]
    parts = [Toy("house", "yellow", part_color="blue"), Toy("snowman", "white", part_color="red")]
    sized = [Toy("castle", "pink", size=name) for name in SIZES]
    finished = [Toy("teapot", "red", finish=name) for name in world.finishes]
    scenes = [
        Toy("mushroom", "red", relation=NEXT_TO, other=Toy("car", "blue")),
        Toy("rabbit", "white", relation=ON, other=Toy("chair", "green")),
    ]
    return [*plain, *patterned, *parts, *sized, *finished, *(scenes if world.relations else [])]


def toybox_sheet(
    names: Sequence[str], *, size: int = 96, shading: Shading = "lambertian", world: World = SMALL
) -> Tensor:
    """Return a labelled picture [3, H, W] of toys from six sides; the whole `catalogue` if none is named."""
    toys = [parse_toy(name, world) for name in names] or catalogue(world)
    cameras = fixed_cameras(torch.tensor(_AZIMUTHS_DEG), torch.tensor(_ELEVATIONS_DEG))
    lights = headlights(cameras)
    backdrop = torch.tensor([0.80, 0.81, 0.84])
    rows = {caption(toy): render_toy(toy, cameras, lights, size, backdrop, shading) for toy in toys}
    return contact_sheet(rows, [f"{a:.0f}°/{e:.0f}°" for a, e in zip(_AZIMUTHS_DEG, _ELEVATIONS_DEG, strict=True)])


def save_samples(guidance: PixelGuidance, path: Path, prompts: Sequence[str] = (), *, steps: int = 25) -> None:
    """Write the sample grid that shows how far a training has come: of the prompts, or of its world's `catalogue`."""
    shown = prompts or [caption(toy) for toy in catalogue(guidance.world)]
    save_png(sample_grid(guidance, shown, steps=steps), path)
