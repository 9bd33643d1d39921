"""What pictures of a run score: which caption, which words, which face, how colourful, how smooth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dreamfusion.evaluation.judge import Judge, ToyboxJudge
from dreamfusion.evaluation.prompts import PromptList, distinct_shapes, shape
from dreamfusion.evaluation.reading import shown
from dreamfusion.evaluation.worker import (
    BEHIND,
    BEHIND_DEG,
    BEHIND_ELEVATION_DEG,
    ELEVATION_DEG,
    VIEW_SIZE,
)
from dreamfusion.method.cameras import fixed_cameras
from dreamfusion.method.shading import headlights
from dreamfusion.runs.results import SHADINGS
from dreamfusion.scenes.scene import PICTURE_BACKDROP
from dreamfusion.standard import AZIMUTHS_DEG
from dreamfusion.toybox.captions import caption
from dreamfusion.toybox.render import render_toy
from dreamfusion.toybox.world import WIDE, Toy

NAMED = ("pattern", "size", "part_color")
"""What only some prompts name; read from the results of those."""

_GREY = 0.02  # textureless surfaces have less chroma than this, the backdrop of finished pictures twice as much


def true_views(toy: Toy) -> dict[str, Tensor]:
    """Return the views of a toy itself that `worker.evaluation_views` takes of a run's scene."""
    backdrop = torch.tensor(PICTURE_BACKDROP)
    around = fixed_cameras(torch.tensor(AZIMUTHS_DEG), ELEVATION_DEG)
    behind = fixed_cameras(torch.tensor(BEHIND_DEG), BEHIND_ELEVATION_DEG)
    views: dict[str, Tensor] = {
        shading: render_toy(toy, around, headlights(around), VIEW_SIZE, backdrop, shading) for shading in SHADINGS
    }
    return views | {BEHIND: render_toy(toy, behind, headlights(behind), VIEW_SIZE, backdrop)}


def judge_views(
    views: Mapping[str, Tensor], prompt: str, toy: Toy, judge: Judge, prompts: PromptList
) -> dict[str, Any]:
    """Return the scores of renderings [8, 3, S, S] per shading and of those from behind.

    ``color_precision``: the share of the Lambertian views for which the own caption comes first among all captions of
    the evaluation; ``albedo_precision``: the same for plain albedo. ``geo_precision``: the same for the textureless
    views, among the distinct shapes of the evaluation, for a colour cannot be seen there. ``janus``: most of the views
    from behind look more like the front than the back. Also `words_read`, `saturation` and `speckle`.
    """
    captions = list(prompts.toys)
    shapes = distinct_shapes(list(prompts.toys.values()))
    own = captions.index(prompt)
    albedo, color = (judge.first(views[shading], captions) == own for shading in ("albedo", "lambertian"))
    geo = judge.first(views["textureless"], shapes) == shapes.index(caption(shape(toy)))
    return {
        "albedo_precision": albedo.float().mean().item(),
        "color_precision": color.float().mean().item(),
        "geo_precision": geo.float().mean().item(),
        "janus": is_janus(views[BEHIND], prompt, judge),
        "saturation": saturation(views["albedo"], views["textureless"]),
        "speckle": speckle(views["textureless"]),
        **(words_read(views["lambertian"], toy, judge) if isinstance(judge, ToyboxJudge) else {}),
    }


def is_janus(behind: Tensor, prompt: str, judge: Judge) -> bool:
    """Tell whether most views from behind look more like ", front view" than ", back view"."""
    sides = [f"{prompt}, front view", f"{prompt}, back view"]
    fronts = (judge.first(behind, sides) == 0).sum().item()
    return fronts > len(behind) / 2


def words_read(views: Tensor, toy: Toy, judge: ToyboxJudge) -> dict[str, Any]:
    """Return what the judge reads right from views [n, 3, S, S] of one object.

    ``kind_read``: the share of views in which it reads the kind. ``pattern_right``, ``size_right`` and
    ``part_color_right``: whether the word has the largest mean probability over all views, for a part may be hidden
    in some; None where the prompt names none.
    """
    read, right = judge.read(views), shown(toy, world=WIDE)
    kind = judge.words["kind"].index(toy.kind)
    scores: dict[str, Any] = {"kind_read": (read["kind"].argmax(dim=1) == kind).float().mean().item()}
    for name in NAMED:
        word = judge.words[name][int(read[name].exp().mean(dim=0).argmax())]
        scores[f"{name}_right"] = word == right[name] if getattr(toy, name) else None
    return scores


def saturation(albedo: Tensor, textureless: Tensor) -> float | None:
    """Return how colourful an object is, 0 to 1: largest less smallest channel, mean over its pixels; None if empty.

    Of views [n, 3, S, S] in plain albedo; the textureless ones of the same cameras show where the object is.
    """
    inside = covered(textureless)
    chroma = albedo.amax(dim=1) - albedo.amin(dim=1)
    return chroma[inside].mean().item() if inside.any() else None


def speckle(textureless: Tensor) -> float | None:
    """Return how far pixels stand out of their surroundings, as a mean over the object; None if there is none.

    That is the distance of each pixel [n, 3, S, S] from the median of the nine around it, where all nine are the
    object's. Edges within the object count as well: compare with that of the true toys.
    """
    grey = textureless.mean(dim=1, keepdim=True)
    inside = covered(textureless)[:, None].float()
    solid = torch.nn.functional.avg_pool2d(inside, 3, stride=1) > 0.99
    around = torch.nn.functional.unfold(grey, 3).median(dim=1).values.view(solid.shape)
    difference = (grey[..., 1:-1, 1:-1] - around).abs()
    return difference[solid].mean().item() if solid.any() else None


def covered(textureless: Tensor) -> Tensor:
    """Return the pixels [n, S, S] that an object covers in textureless views: it is grey there, the backdrop is not."""
    return textureless.amax(dim=1) - textureless.amin(dim=1) < _GREY
