"""Training data of the embedded prior: toybox views, painted and lit on the fly, with captions.

Batch ``step`` is a pure function of the seed, the step and what is hard (`dreamfusion.toybox.hardness`), so training
can be stopped and resumed anywhere.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from dreamfusion.config import CameraRange, LightRange, ViewTexts
from dreamfusion.guidance.camera_token import camera_features
from dreamfusion.method.cameras import Cameras, sample_cameras
from dreamfusion.method.prompts import view_prompts, view_weights
from dreamfusion.method.shading import Lights, sample_backdrops, sample_lights
from dreamfusion.toybox.captions import PHRASINGS, caption
from dreamfusion.toybox.draw import accompanied, wider
from dreamfusion.toybox.hardness import Hardness
from dreamfusion.toybox.paint import SUPERSAMPLE, TracedViews, paint_traced
from dreamfusion.toybox.render import paint_toys, trace
from dreamfusion.toybox.world import (
    COLORS,
    NATURAL_WOOD,
    PATTERNS,
    SIZES,
    SMALL,
    Toy,
    World,
    as_shown,
    held_out,
    part_held_out,
)

_UNSAID = 0.06  # share of captions that name no colour though the toy has one
_SIZED, _PATTERNED, _PARTED = 0.2, 0.36, 0.45  # shares of toys with a size, a pattern, a part of another colour
_PLAINEST = 0.5  # share of captions in the plainest of all phrasings
_CAMERA_UNSAID = 0.12  # share of captions without the camera; of empty captions, half
_FLAT = 0.3  # share of images in plain albedo, as the first phase of distillation renders them
_TEXTURELESS = 0.12  # share of images that show the shape alone, white under a light; the camera's token says so


@dataclass(frozen=True)
class Batch:
    """``images`` [B, 3, S, S] in [0, 1]; ``captions``: 4 B strings, one per view; ``weights`` [B, 4] of the views.

    ``cameras`` [B, FEATURES] are `camera_features`, and ``camera_known`` [B] is 0 where they must not be told, else 1.
    ``textureless`` [B] is 1 where a picture shows the shape alone, white under a light. ``toys`` are what is shown.
    """

    images: Tensor
    captions: list[str]
    weights: Tensor
    cameras: Tensor
    camera_known: Tensor
    textureless: Tensor
    toys: list[Toy]


class Batches(Protocol):
    """What a training takes its batches from."""

    def batch(self, step: int) -> Batch:
        """Return the batch of a training step; the same for the same step."""


class MixedData:
    """Batches of several sources, one after the other in each."""

    def __init__(self, parts: Sequence[Batches]) -> None:
        self.parts = list(parts)

    def batch(self, step: int) -> Batch:
        """Return the batch of a training step."""
        batches = [part.batch(step) for part in self.parts]
        joined = {
            name: torch.cat([getattr(batch, name) for batch in batches])
            for name in ("images", "weights", "cameras", "camera_known", "textureless")
        }
        captions = [text for batch in batches for text in batch.captions]
        return Batch(captions=captions, toys=[toy for batch in batches for toy in batch.toys], **joined)


@dataclass
class _Pool:
    """Traced views that many batches recolour and relight."""

    index: int
    toys: list[Toy]  # kind and size; batches choose the rest
    cameras: Cameras
    traced: TracedViews


class ToyboxData:
    """Batches of captioned toybox images.

    ``caption_dropout`` of the captions are empty, which trains the unconditional branch of classifier-free
    guidance. Half of the captions name the nearest view, half mix the embeddings of neighbouring views by azimuth.
    ``hardness`` says what is drawn more often; without it, all kinds and all patterns are drawn alike. ``world`` says
    what there is.
    """

    def __init__(
        self,
        seed: int,
        batch_size: int,
        *,
        image_size: int = 64,
        pool_size: int = 2048,
        pool_steps: int = 1024,
        caption_dropout: float = 0.1,
        device: str = "cpu",
        hardness: Hardness | None = None,
        world: World = SMALL,
    ) -> None:
        self.world = world
        self.seed, self.batch_size, self.image_size = seed, batch_size, image_size
        self.pool_size, self.pool_steps = pool_size, pool_steps
        self.caption_dropout, self.device = caption_dropout, device
        self.hardness = hardness or Hardness()
        self._pool: _Pool | None = None

    def batch(self, step: int) -> Batch:
        """Return the batch of a training step; the same for the same seed, step and hardness."""
        pool = self._pool_of(step // self.pool_steps)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        choose = random.Random(self.seed * 1_000_003 + step)
        count = self.batch_size
        often = torch.tensor([self.hardness.weight("kind", toy.kind) for toy in pool.toys])
        picks = torch.multinomial(often, count, replacement=True, generator=generator)
        toys = [self._dress(pool.toys[i], choose) for i in picks.tolist()]

        cameras = Cameras(**{name: value[picks] for name, value in vars(pool.cameras).items()})
        white = torch.rand(count, generator=generator) < _TEXTURELESS
        images = self._paint(pool, picks, cameras, toys, white, generator)
        mode_nearest = torch.rand(count, generator=generator) < 0.5
        weights = torch.where(
            mode_nearest[:, None],
            view_weights(cameras.azimuth_deg, cameras.elevation_deg, "nearest"),
            view_weights(cameras.azimuth_deg, cameras.elevation_deg, "interpolated"),
        )
        captions = [text for toy in toys for text in self._captions(toy, choose)]
        unsaid = torch.tensor([_CAMERA_UNSAID if text else 0.5 for text in captions[::4]])
        known = (torch.rand(count, generator=generator) >= unsaid).float()
        told = (weights, camera_features(cameras), known, white.float())
        weights, features, known, textureless = (values.to(self.device) for values in told)
        return Batch(images, captions, weights, features, known, textureless, toys)

    def _dress(self, toy: Toy, choose: random.Random) -> Toy:
        """Return the toy with colours and pattern, without the pairs that are held out."""
        color = choose.choice([c for c in COLORS if not held_out(toy.kind, c)])
        part_color = choose.choice([c for c in COLORS if not part_held_out(toy.kind, c)])
        weight = self.hardness.weight
        patterns = {"plain": 1 - _PATTERNED} | {name: _PATTERNED / len(PATTERNS) for name in PATTERNS}
        (pattern,) = choose.choices(list(patterns), [weight("pattern", name) * patterns[name] for name in patterns])
        parts = [weight("part", "named") * _PARTED, weight("part", "usual") * (1 - _PARTED)]
        dressed = replace(
            toy,
            color=color,
            pattern=None if pattern == "plain" else pattern,
            part_color=choose.choices([part_color, None], parts)[0],
        )
        return wider(dressed, self.world, choose)

    def _captions(self, toy: Toy, choose: random.Random) -> list[str]:
        if choose.random() < self.caption_dropout:
            return [""] * 4
        if choose.random() < _UNSAID and toy.finish != "wooden":  # which would mean the colour of wood
            toy = replace(toy, color=None)
        phrase = caption if choose.random() < _PLAINEST else choose.choice(PHRASINGS)
        return view_prompts(phrase(toy), ViewTexts())

    def _paint(
        self,
        pool: _Pool,
        picks: Tensor,
        cameras: Cameras,
        toys: list[Toy],
        white: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        count = len(picks)
        lights = sample_lights(cameras, LightRange(), generator)
        ambient = 0.2 + 0.3 * torch.rand(count, generator=generator)
        flat = (torch.rand(count, generator=generator) < _FLAT) & ~white
        ambient = torch.where(flat, 1.0, ambient)
        lights = Lights(lights.position, 1.0 - ambient, ambient)
        body = torch.tensor([COLORS[toy.color] if toy.color else NATURAL_WOOD for toy in toys])
        body = (body + 0.03 * torch.randn(count, 3, generator=generator)).clamp(0, 1)
        background = sample_backdrops(count, generator)

        paint = paint_toys([as_shown(toy) for toy in toys], self.device, body.tolist()).whitened(white)
        views = (pool.traced, picks.to(self.device), cameras.to(self.device))
        return paint_traced(*views, paint, lights.to(self.device), background.to(self.device))

    def _pool_of(self, index: int) -> _Pool:
        if self._pool is None or self._pool.index != index:
            self._pool = self._trace_pool(index)
        return self._pool

    def _trace_pool(self, index: int) -> _Pool:
        generator = torch.Generator().manual_seed(self.seed * 7_919 + index)
        choose = random.Random(self.seed * 7_919 + index)
        kinds = [choose.choice(self.world.kinds) for _ in range(self.pool_size)]
        toys = [Toy(kind, size=choose.choice(list(SIZES)) if choose.random() < _SIZED else None) for kind in kinds]
        toys = [accompanied(toy, self.world, choose) for toy in toys]
        cameras = sample_cameras(self.pool_size, CameraRange(), generator)
        size, chunk = self.image_size * SUPERSAMPLE, 64
        buffers = []
        for start in range(0, self.pool_size, chunk):
            part = slice(start, start + chunk)
            shown = [as_shown(toy) for toy in toys[part]]
            buffers.append(trace(shown, cameras[part].to(self.device).rays(size, size)))
        return _Pool(index, toys, cameras, TracedViews.of(buffers))
