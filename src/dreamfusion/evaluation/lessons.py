"""The pictures that the toybox judge learns from, and those that it is examined on.

Half are finished pictures as evaluations look at them: albedo, shaded and textureless, with toys at their true size.
Half are as a prior draws them: its cameras, lights and backdrops, without small toys, for it is shown those at full
size. Size is read from how large a toy is in the picture: a small one is smaller than any other from any of these
cameras. Seeds, pictures and their roughness are not those of the prior's training.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample, interpolate, one_hot

from dreamfusion.config import CameraRange, LightRange
from dreamfusion.evaluation.network import CELL, IMAGE_SIZE
from dreamfusion.evaluation.prompts import shape
from dreamfusion.method.cameras import Cameras, sample_cameras
from dreamfusion.method.prompts import VIEWS, view_weights
from dreamfusion.method.shading import Lights, headlights, sample_backdrops, sample_lights
from dreamfusion.scenes.scene import PICTURE_BACKDROP
from dreamfusion.toybox.draw import accompanied, wider
from dreamfusion.toybox.kinds import ALL_KINDS, BODY, MATERIALS, SURFACES, TRIM
from dreamfusion.toybox.render import GeometryBuffers, paint_toys, paint_views, trace
from dreamfusion.toybox.world import COLORS, NATURAL_WOOD, PATTERNS, SIZES, SMALL, Toy, World, placed

FINISHED = CameraRange(
    radius_min=2.55, radius_max=2.85, focal_min=1.3, focal_max=1.4, elevation_min_deg=-5.0, elevation_max_deg=65.0
)
"""Around the cameras of finished pictures (`dreamfusion.standard`)."""

ASKED = CameraRange(radius_min=2.35, radius_max=2.65)
"""Around the cameras that priors are asked for."""

_CHUNK = 64  # pictures traced at once
_COARSEST = 24  # pixels that a roughened picture keeps at least: parts can still be seen


@dataclass(frozen=True)
class Lesson:
    """``images`` [B, 3, S, S] in [0, 1] of ``toys`` from ``views``; toys without a colour are shown as white shapes.

    ``materials`` [B, M + 1, S / CELL, S / CELL] say how much of a cell every material covers, and nothing; ``normals``
    [B, 3, S / CELL, S / CELL] are means over cells, in world space.
    """

    images: Tensor
    toys: list[Toy]
    views: list[str]
    materials: Tensor
    normals: Tensor


@dataclass(frozen=True)
class TracedViews:
    """Views of toys without paint, and whether each is that of a finished picture or one that a prior is asked for."""

    toys: list[Toy]
    cameras: Cameras
    buffers: GeometryBuffers
    finished: Tensor

    @property
    def views(self) -> list[str]:
        """The name of each view."""
        return [VIEWS[i] for i in view_weights(self.cameras.azimuth_deg, self.cameras.elevation_deg).argmax(1).tolist()]

    def pick(self, index: list[int]) -> TracedViews:
        """Return some of the views by number."""
        cameras = Cameras(**{name: value[index] for name, value in vars(self.cameras).items()})
        buffers = GeometryBuffers(**{name: value[index] for name, value in vars(self.buffers).items()})
        return TracedViews([self.toys[i] for i in index], cameras, buffers, self.finished[index])


def joined(parts: Sequence[TracedViews]) -> TracedViews:
    """Return all views of several sets."""

    def together(sets: Sequence[Any]) -> dict[str, Tensor]:
        return {name: torch.cat([vars(one)[name] for one in sets]) for name in vars(sets[0])}

    return TracedViews(
        [toy for part in parts for toy in part.toys],
        Cameras(**together([part.cameras for part in parts])),
        GeometryBuffers(**together([part.buffers for part in parts])),
        torch.cat([part.finished for part in parts]),
    )


def trace_views(count: int, seed: int, size: int = IMAGE_SIZE, world: World = SMALL) -> TracedViews:
    """Return ``count`` views (an even number) of random kinds and sizes, a function of the seed.

    Finished ones and those that a prior is asked for come in turn.
    """
    choose, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    finished, asked = (sample_cameras(count // 2, range_, generator) for range_ in (FINISHED, ASKED))
    pairs = {name: (value, getattr(asked, name)) for name, value in vars(finished).items()}
    cameras = Cameras(**{name: torch.stack(pair, dim=1).flatten(0, 1) for name, pair in pairs.items()})
    toys = [_random_shape(choose, world, with_small=index % 2 == 0) for index in range(count)]
    parts = []
    for start in range(0, count, _CHUNK):
        part = slice(start, start + _CHUNK)
        parts.append(trace(toys[part], cameras[part].rays(size, size)))
    material, normal, depth = (torch.cat([getattr(p, name) for p in parts]) for name in ("material", "normal", "depth"))
    buffers = GeometryBuffers(material, normal.half(), depth.half())  # half the memory
    return TracedViews(toys, cameras, buffers, torch.arange(count) % 2 == 0)


def _random_shape(choose: random.Random, world: World, *, with_small: bool) -> Toy:
    sizes = [None, None, *(size for size in SIZES if with_small or size != "small")]
    return accompanied(Toy(choose.choice(world.kinds), size=choose.choice(sizes)), world, choose, seen=False)


def random_paint(toy: Toy, choose: random.Random, world: World = SMALL) -> Toy:
    """Return the toy in any colours and pattern; a part that would have the toy's colour anyhow is not named."""
    color, part_color = choose.choice(list(COLORS)), choose.choice([None, *COLORS, *COLORS])
    if part_color == color and ALL_KINDS[toy.kind].part[1] == BODY:
        part_color = None
    painted = replace(toy, color=color, pattern=choose.choice([None, None, *PATTERNS]), part_color=part_color)
    return wider(painted, world, choose, seen=False)


def painted_lesson(
    traced: TracedViews,
    choose: random.Random,
    generator: torch.Generator,
    *,
    supersample: int = 1,
    world: World = SMALL,
) -> Lesson:
    """Return pictures of traced views, painted and lit at random, every seventh a white shape."""
    cameras, finished = traced.cameras, traced.finished[:, None]
    count = len(cameras)
    flat, white = (torch.rand(count, generator=generator) < share for share in (0.3, 0.15))
    toys = [random_paint(toy, choose, world) for toy in traced.toys]
    paint = paint_toys(toys, colors=shades(toys, generator)).whitened(white)

    front = headlights(cameras, ambient=0.2 + 0.2 * choose.random(), side_deg=45 * choose.random())
    around, backdrop = asked_lights(cameras, generator)
    ambient = torch.where(finished[:, 0], front.ambient, around.ambient).masked_fill(flat & ~white, 1.0)
    lights = Lights(torch.where(finished, front.position, around.position), 1 - ambient, ambient)
    plain = torch.tensor(PICTURE_BACKDROP) + 0.03 * torch.randn(count, 3, generator=generator)
    backdrop = torch.where(finished, plain, backdrop)

    buffers = GeometryBuffers(traced.buffers.material, traced.buffers.normal.float(), traced.buffers.depth.float())
    size = buffers.material.shape[-1]
    images = paint_views(buffers, cameras.rays(size, size), paint, lights, backdrop, supersample=supersample)
    seen = [shape(toy) if bare else toy for toy, bare in zip(toys, white.tolist(), strict=True)]
    return Lesson(images, seen, traced.views, *_places(buffers, toys, CELL * supersample // 4))


def _places(buffers: GeometryBuffers, toys: Sequence[Toy], every: int) -> tuple[Tensor, Tensor]:
    """Return the materials and normals of a `Lesson`, of every such pixel along both axes: four by four of a cell."""
    surface = buffers.material[:, ::every, ::every].long()
    material = _usual_materials(toys)[torch.arange(len(toys))[:, None, None], surface]
    shares = one_hot(material, len(MATERIALS) + 1).permute(0, 3, 1, 2).float()
    normals = buffers.normal[:, ::every, ::every].permute(0, 3, 1, 2)
    return avg_pool2d(shares, 4), avg_pool2d(normals, 4)


def _usual_materials(toys: Sequence[Toy]) -> Tensor:
    """Return the number of the material that every traced number stands for, [n, 256]: that of a second part is usual.

    What hits nothing, and what no toy has, is one more material.
    """
    names = list(MATERIALS)
    table = torch.full((len(toys), 256), len(names))
    for image, toy in enumerate(toys):
        for k, one in enumerate(placed(toy)):
            usual = [ALL_KINDS[one.toy.kind].trim[1] if name == TRIM else name for name in SURFACES]
            begin = k * len(SURFACES)
            table[image, begin : begin + len(SURFACES)] = torch.tensor([names.index(name) for name in usual])
    return table


def asked_lights(cameras: Cameras, generator: torch.Generator) -> tuple[Lights, Tensor]:
    """Return lights and backdrops [B, 3] as a prior is trained with."""
    around, count = sample_lights(cameras, LightRange(), generator), len(cameras)
    ambient = 0.2 + 0.3 * torch.rand(count, generator=generator)
    return Lights(around.position, 1 - ambient, ambient), sample_backdrops(count, generator)


def shades(toys: Sequence[Toy], generator: torch.Generator) -> list[tuple[float, float, float]]:
    """Return shades of the toys' colours."""
    named = torch.tensor([COLORS[toy.color] if toy.color else NATURAL_WOOD for toy in toys])
    return (named + 0.03 * torch.randn(named.shape, generator=generator)).clamp(0, 1).tolist()


def mirrored(lesson: Lesson) -> Lesson:
    """Return the mirror images: toys are their own in y, so those are pictures of the same toys from the other side."""
    turned = torch.tensor([1.0, -1.0, 1.0])[:, None, None]
    return replace(
        lesson,
        images=lesson.images.flip(-1),
        materials=lesson.materials.flip(-1),
        normals=lesson.normals.flip(-1) * turned,
    )


def roughen(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return pictures [n, 3, S, S] blurred, moved, stretched, recoloured and noisy, all at random.

    Renderings of a volume and samples of a prior are not as crisp and straight as the toybox's own pictures.
    """
    count, size = len(images), images.shape[-1]
    seen = int(torch.randint(min(_COARSEST, size), size + 1, (1,), generator=generator))
    if seen < size:
        small = interpolate(images, size=(seen, seen), mode="area")
        images = interpolate(small, size=(size, size), mode="bilinear", align_corners=False)
    move = torch.eye(2, 3) + torch.randn(count, 2, 3, generator=generator) * torch.tensor([0.03, 0.03, 0.05])
    images = grid_sample(images, affine_grid(move, list(images.shape), False), "bilinear", "border", False)
    gain = 1 + 0.06 * torch.randn(count, 3, 1, 1, generator=generator)
    noise = 0.04 * torch.rand(count, 1, 1, 1, generator=generator) * torch.randn(images.shape, generator=generator)
    return (images * gain + noise).clamp(0, 1)


class Lessons:
    """Batches of roughened pictures of ``size`` pixels. Batch ``step`` is a function of seed and step alone.

    Tracing takes longer than painting, so a view is painted several times before it makes room for new ones: ``chunk``
    views come every ``every`` steps, and the latest ``chunks`` of these are drawn from.
    """

    def __init__(
        self,
        seed: int,
        batch_size: int,
        *,
        size: int = IMAGE_SIZE,
        chunk: int = 192,
        every: int = 16,
        chunks: int = 100,
        world: World = SMALL,
    ) -> None:
        self.world = world
        self.seed, self.batch_size, self.size = seed, batch_size, size
        self.chunk, self.every, self.chunks = chunk, every, chunks
        self._pool: dict[int, TracedViews] = {}

    def batch(self, step: int) -> Lesson:
        """Return the pictures of a training step."""
        newest = _BEGIN + step // self.every
        window = range(max(0, newest - self.chunks), newest)
        self._pool = {
            i: self._pool.get(i) or trace_views(self.chunk, self.seed * 7_919 + i, self.size, self.world)
            for i in window
        }
        seed = self.seed * 1_000_003 + step
        choose, generator = random.Random(seed), torch.Generator().manual_seed(seed)
        picks = torch.randint(len(window) * self.chunk, (self.batch_size,), generator=generator)
        chosen = joined([self._pool[window[i // self.chunk]].pick([i % self.chunk]) for i in picks.tolist()])
        lesson = painted_lesson(chosen, choose, generator, world=self.world)
        if choose.random() < 0.5:
            lesson = mirrored(lesson)
        return replace(lesson, images=roughen(lesson.images, generator))


_BEGIN = 8  # chunks that are there at the first step
