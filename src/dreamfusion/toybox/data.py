"""Training data of the embedded prior: toybox views, painted and lit on the fly, with captions.

Batch ``step`` is a pure function of the seed and the step, so training can be stopped and resumed anywhere.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dreamfusion.guidance.camera_token import camera_features
from dreamfusion.method.cameras import CameraRange, Cameras, sample_cameras
from dreamfusion.method.prompts import ViewTexts, view_prompts, view_weights
from dreamfusion.method.shading import LightRange, Lights, sample_backdrops, sample_lights
from dreamfusion.toybox.captions import PHRASINGS, caption
from dreamfusion.toybox.kinds import KINDS
from dreamfusion.toybox.render import GeometryBuffers, paint_toys, paint_views, trace
from dreamfusion.toybox.world import COLORS, PATTERNS, SIZES, Toy, held_out, part_held_out

_SUPERSAMPLE = 2
_UNSAID = 0.06  # share of captions that name no colour though the toy has one
_SIZED, _PATTERNED, _PARTED = 0.2, 0.3, 0.45  # shares of toys with a size, a pattern, a part of another colour
_PLAINEST = 0.5  # share of captions in the plainest of all phrasings
_CAMERA_UNSAID = 0.12  # share of captions without the camera; of empty captions, half
_FLAT = 0.3  # share of images in plain albedo, as the first phase of distillation renders them


@dataclass(frozen=True)
class Batch:
    """``images`` [B, 3, S, S] in [0, 1]; ``captions``: 4 B strings, one per view; ``weights`` [B, 4] of the views.

    ``cameras`` [B, FEATURES] are `camera_features`, and ``camera_known`` [B] is 0 where they must not be told, else 1.
    """

    images: Tensor
    captions: list[str]
    weights: Tensor
    cameras: Tensor
    camera_known: Tensor


@dataclass
class _Pool:
    """Traced views that many batches recolour and relight."""

    index: int
    toys: list[Toy]  # kind and size; batches choose the rest
    cameras: Cameras
    material: Tensor
    normal: Tensor  # int8, 127 = 1
    depth: Tensor  # float16


class ToyboxData:
    """Batches of captioned toybox images.

    ``caption_dropout`` of the captions are empty, which trains the unconditional branch of classifier-free
    guidance. Half of the captions name the nearest view, half mix the embeddings of neighbouring views by azimuth.
    """

    def __init__(
        self,
        seed: int,
        batch_size: int,
        *,
        image_size: int = 64,
        pool_size: int = 2048,
        pool_steps: int = 512,
        caption_dropout: float = 0.1,
        device: str = "cpu",
    ) -> None:
        self.seed, self.batch_size, self.image_size = seed, batch_size, image_size
        self.pool_size, self.pool_steps = pool_size, pool_steps
        self.caption_dropout, self.device = caption_dropout, device
        self._pool: _Pool | None = None

    def batch(self, step: int) -> Batch:
        """Return the batch of a training step; the same for the same seed and step."""
        pool = self._pool_of(step // self.pool_steps)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        choose = random.Random(self.seed * 1_000_003 + step)
        count = self.batch_size
        picks = torch.randint(self.pool_size, (count,), generator=generator)
        toys = [self._dress(pool.toys[i], choose) for i in picks.tolist()]

        cameras = Cameras(**{name: value[picks] for name, value in vars(pool.cameras).items()})
        images = self._paint(pool, picks, cameras, toys, generator)
        mode_nearest = torch.rand(count, generator=generator) < 0.5
        weights = torch.where(
            mode_nearest[:, None],
            view_weights(cameras.azimuth_deg, cameras.elevation_deg, "nearest"),
            view_weights(cameras.azimuth_deg, cameras.elevation_deg, "interpolated"),
        )
        captions = [text for toy in toys for text in self._captions(toy, choose)]
        unsaid = torch.tensor([_CAMERA_UNSAID if text else 0.5 for text in captions[::4]])
        known = (torch.rand(count, generator=generator) >= unsaid).float()
        return Batch(
            images, captions, weights.to(self.device), camera_features(cameras).to(self.device), known.to(self.device)
        )

    def _dress(self, toy: Toy, choose: random.Random) -> Toy:
        """Return the toy with colours and pattern, without the pairs that are held out."""
        color = choose.choice([c for c in COLORS if not held_out(toy.kind, c)])
        part_color = choose.choice([c for c in COLORS if not part_held_out(toy.kind, c)])
        pattern = choose.choice(PATTERNS)
        return replace(
            toy,
            color=color,
            pattern=pattern if choose.random() < _PATTERNED else None,
            part_color=part_color if choose.random() < _PARTED else None,
        )

    def _captions(self, toy: Toy, choose: random.Random) -> list[str]:
        if choose.random() < self.caption_dropout:
            return [""] * 4
        if choose.random() < _UNSAID:
            toy = replace(toy, color=None)
        phrase = caption if choose.random() < _PLAINEST else choose.choice(PHRASINGS)
        return view_prompts(phrase(toy), ViewTexts())

    def _paint(
        self, pool: _Pool, picks: Tensor, cameras: Cameras, toys: list[Toy], generator: torch.Generator
    ) -> Tensor:
        count = len(picks)
        lights = sample_lights(cameras, LightRange(), generator)
        ambient = 0.2 + 0.3 * torch.rand(count, generator=generator)
        ambient = torch.where(torch.rand(count, generator=generator) < _FLAT, 1.0, ambient)
        lights = Lights(lights.position, 1.0 - ambient, ambient)
        body = torch.tensor([COLORS[str(toy.color)] for toy in toys])
        body = (body + 0.03 * torch.randn(count, 3, generator=generator)).clamp(0, 1)
        background = sample_backdrops(count, generator)

        size = self.image_size * _SUPERSAMPLE
        cameras, lights = cameras.to(self.device), lights.to(self.device)
        picks = picks.to(self.device)
        buffers = GeometryBuffers(pool.material[picks], pool.normal[picks].float() / 127, pool.depth[picks].float())
        paint = paint_toys(toys, self.device, body.tolist())
        rays = cameras.rays(size, size)
        return paint_views(buffers, rays, paint, lights, background.to(self.device), supersample=_SUPERSAMPLE)

    def _pool_of(self, index: int) -> _Pool:
        if self._pool is None or self._pool.index != index:
            self._pool = self._trace_pool(index)
        return self._pool

    def _trace_pool(self, index: int) -> _Pool:
        generator = torch.Generator().manual_seed(self.seed * 7_919 + index)
        choose = random.Random(self.seed * 7_919 + index)
        kinds = [choose.choice(list(KINDS)) for _ in range(self.pool_size)]
        toys = [Toy(kind, size=choose.choice(list(SIZES)) if choose.random() < _SIZED else None) for kind in kinds]
        cameras = sample_cameras(self.pool_size, CameraRange(), generator)
        size, chunk = self.image_size * _SUPERSAMPLE, 64
        material, normal, depth = [], [], []
        for start in range(0, self.pool_size, chunk):
            part = slice(start, start + chunk)
            buffers = trace(toys[part], cameras[part].to(self.device).rays(size, size))
            material.append(buffers.material)
            normal.append((buffers.normal * 127).round().to(torch.int8))
            depth.append(buffers.depth.half())
        return _Pool(index, toys, cameras, torch.cat(material), torch.cat(normal), torch.cat(depth))
