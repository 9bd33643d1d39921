"""How often a judge is right: ``dreamfusion judge evaluate``, on true pictures whose answers are known.

Not everything can be read off every picture: from behind, nobody sees a penguin's belly, and from above no trunk. An
attribute counts where another word would change enough pixels.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dreamfusion.assets.images import contact_sheet
from dreamfusion.evaluation.judge import ToyboxJudge
from dreamfusion.evaluation.lessons import Lesson, TracedViews, painted_lesson, trace_views
from dreamfusion.evaluation.network import IMAGE_SIZE
from dreamfusion.evaluation.training import targets
from dreamfusion.method.cameras import Cameras
from dreamfusion.toybox.kinds import BODY, PART, SURFACES, TRIM
from dreamfusion.toybox.render import NOTHING, paint_toys, pattern_marks, trace
from dreamfusion.toybox.world import PATTERNS, Toy, placed

ENOUGH = 16
"""Pixels of 64 x 64 that another word must change for it to count."""

_NEAR_DEG = 5.0  # cameras so near to where one view ends and the next begins have no name
_TURNED = 0.5  # length of the difference of two unit normals that shows under a light
_SHEET = 8  # wrong pictures shown per attribute


@dataclass(frozen=True)
class Marks:
    """Shares read right by attribute, for both sorts of pictures; how many counted; the commonest mistakes; a sheet."""

    finished: dict[str, float]
    asked: dict[str, float]
    counted: dict[str, int]
    mistakes: dict[str, list[tuple[str, str, int]]]
    sheet: Tensor


def examine(judge: ToyboxJudge, count: int = 1000, seed: int = 555_000) -> Marks:
    """Return how a judge does on ``count`` pictures with 2 x 2 anti-aliasing, half of each sort of `lessons`."""
    traced = trace_views(count, seed, 2 * IMAGE_SIZE, judge.world)
    chance = random.Random(seed), torch.Generator().manual_seed(seed)
    lesson = painted_lesson(traced, *chance, supersample=2, world=judge.world)
    right, read = targets(lesson.toys, lesson.views, judge.world), judge.read(lesson.images)
    can_be_told = tellable(traced, lesson)
    marks: tuple[dict[str, float], dict[str, float]] = ({}, {})
    counted, mistakes, wrong = {}, {}, {}
    for name, target in right.items():
        said = read[name].argmax(dim=1).cpu()
        counts = can_be_told[name] & (target >= 0)
        for share, sort in zip(marks, (traced.finished, ~traced.finished), strict=True):
            share[name] = (said == target)[counts & sort].float().mean().item()
        counted[name] = int(counts.sum())
        missed = (counts & (said != target)).nonzero()[:, 0].tolist()
        words = Counter((judge.words[name][target[i]], judge.words[name][said[i]]) for i in missed)
        mistakes[name] = [(true, false, times) for (true, false), times in words.most_common(5)]
        wrong[name] = lesson.images[missed[:_SHEET]]
    return Marks(*marks, counted, mistakes, _sheet(wrong))


def _sheet(wrong: Mapping[str, Tensor]) -> Tensor:
    """Return one picture of what was read wrong, a row per attribute."""
    rows = {}
    for name, images in wrong.items():
        rows[name] = torch.cat([images, torch.ones(_SHEET - len(images), *images.shape[1:])])
    return contact_sheet(rows)


def tellable(traced: TracedViews, lesson: Lesson) -> dict[str, Tensor]:
    """Return which attributes can be told from which pictures of traced views, bool [n] by attribute.

    Kind: always. Colour and part colour: if enough pixels show body and part. Pattern: if it and every other one differ
    in enough pixels. Size: not from overhead, where tall is small and wide the usual. View: if enough pixels differ
    from those of the opposite camera (in a white shape, by their normals), away from the borders of named views.
    """
    buffers = traced.buffers
    scale = (buffers.material.shape[-1] // IMAGE_SIZE) ** 2
    material = _as_painted(buffers.material, lesson.toys)
    body, part, trim = (SURFACES.index(name) for name in (BODY, PART, TRIM))

    def enough(pixels: Tensor) -> Tensor:
        return pixels.flatten(1).sum(dim=1) >= ENOUGH * scale

    every = torch.ones(len(traced.toys), dtype=torch.bool)
    return {
        "kind": every,
        "color": enough(material == body),
        "pattern": _pattern_shows(traced, lesson.toys, enough),
        "size": traced.cameras.elevation_deg <= 60,
        "part_color": enough(material == part),
        "view": _view_shows(traced, lesson.toys, enough) & ~_near_border(traced.cameras),
        "trim_color": enough(material == trim),
        "finish": enough(material == body),
        "relation": every,
        "other_kind": enough((buffers.material >= len(SURFACES)) & (buffers.material != NOTHING)),
        "other_color": enough(buffers.material == len(SURFACES) + body),
    }


def _as_painted(material: Tensor, toys: list[Toy]) -> Tensor:
    """Return traced surfaces [n, H, W] as they are painted."""
    table = paint_toys(toys).surface
    table = torch.cat([table, torch.full((len(toys), NOTHING + 1 - table.shape[1]), NOTHING)], dim=1)
    return table[torch.arange(len(toys))[:, None, None], material.long()]


def _pattern_shows(traced: TracedViews, toys: list[Toy], enough: Callable[[Tensor], Tensor]) -> Tensor:
    buffers, cameras = traced.buffers, traced.cameras
    size = buffers.material.shape[-1]
    rays = cameras.rays(size, size)
    firsts = [placed(toy)[0] for toy in traced.toys]
    scales, places = (torch.tensor([getattr(one, name) for one in firsts]) for name in ("scale", "place"))
    points = rays.origins + rays.directions * buffers.depth.float()[..., None]
    points = (points - places[:, None, None]) / scales[:, None, None]
    body = _as_painted(buffers.material, toys) == SURFACES.index(BODY)
    marks = [torch.zeros_like(body)]
    marks += [pattern_marks(points, torch.full((len(toys),), index + 1)) & body for index in range(len(PATTERNS))]
    own = torch.tensor([PATTERNS.index(toy.pattern) + 1 if toy.pattern else 0 for toy in toys])
    shown = torch.stack(marks)[own, torch.arange(len(toys))]
    differ = torch.stack([enough(shown != other) for other in marks])
    differ[own, torch.arange(len(toys))] = True
    return differ.all(dim=0)


def _view_shows(traced: TracedViews, toys: list[Toy], enough: Callable[[Tensor], Tensor]) -> Tensor:
    around = traced.cameras
    turn = torch.tensor([[-1.0, 0, 0], [0, -1, 0], [0, 0, 1]])
    opposite = replace(around, camera_to_world=turn @ around.camera_to_world)
    size = traced.buffers.material.shape[-1]
    other = trace(traced.toys, opposite.rays(size, size))
    material = traced.buffers.material != other.material
    turned = (traced.buffers.normal.float() - other.normal * torch.tensor([-1.0, -1, 1])).norm(dim=-1) > _TURNED
    white = torch.tensor([toy.color is None for toy in toys])
    return torch.where(white, enough(turned), enough(material))


def _near_border(cameras: Cameras) -> Tensor:
    turn, lift = cameras.azimuth_deg.abs(), cameras.elevation_deg
    beside = ((turn - 45).abs() < _NEAR_DEG) | ((turn - 135).abs() < _NEAR_DEG)
    return ((lift - 60).abs() < _NEAR_DEG) | ((lift <= 60) & beside)


def table(marks: Marks) -> str:
    """Return the marks as a Markdown table."""
    lines = ["| | finished pictures | pictures of a prior | counted | commonest mistakes |", "|---" * 5 + "|"]
    for name in marks.counted:
        wrong = ", ".join(f"{true} as {false} ({times})" for true, false, times in marks.mistakes[name][:3])
        shares = f"{100 * marks.finished[name]:.1f} % | {100 * marks.asked[name]:.1f} %"
        lines.append(f"| {name.replace('_', ' ')} | {shares} | {marks.counted[name]} | {wrong} |")
    return "\n".join(lines) + "\n"
