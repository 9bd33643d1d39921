"""Timesteps of score distillation (paper section 3.2), and their weight."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Weighting = Literal["sds", "uniform", "fantasia3d", "ism"]
Anneal = Literal["none", "linear", "sqrt", "hifa"]


def timestep_weight(alphas_cumprod: Tensor, weighting: Weighting) -> Tensor:
    """Return w(t) for abar of any shape.

    "sds" is sigma_t^2 = 1 - abar, the paper's choice; "uniform" is 1, which the paper found to work similarly;
    "fantasia3d" is sqrt(abar) (1 - abar), which also fades towards pure noise (arXiv 2303.13873); "ism" is
    sqrt((1 - abar) / abar), which grows without bound towards it (code of arXiv 2311.11284).
    """
    match weighting:
        case "sds":
            return 1 - alphas_cumprod
        case "uniform":
            return torch.ones_like(alphas_cumprod)
        case "fantasia3d":
            return alphas_cumprod.sqrt() * (1 - alphas_cumprod)
        case "ism":
            # Some schedules end in abar = 0 exactly, where the weight would be infinite.
            return ((1 - alphas_cumprod) / alphas_cumprod.clamp(min=1e-4)).sqrt()


def sample_timesteps(
    count: int, t_min: float, t_max: float, num_train_timesteps: int, generator: torch.Generator
) -> Tensor:
    """Draw timesteps [count], uniform between two fractions of all timesteps, both ends included.

    The paper takes 0.02 and 0.98, to avoid very high and very low noise levels (section 3.2, step 3).
    """
    low, high = (min(round(end * num_train_timesteps), num_train_timesteps - 1) for end in (t_min, t_max))
    return torch.randint(low, high + 1, (count,), generator=generator)


def annealed(progress: float, start: float, end: float, anneal: Anneal) -> float:
    """Return an end of the range of timesteps at ``progress`` in [0, 1], on its way from ``start`` to ``end``.

    High noise levels settle the shape, low ones the detail, so the range may shrink or sink over a run. "linear" moves
    evenly, "none" not at all, "sqrt" and "hifa" fast at first, start - (start - end) sqrt(progress), the formula of
    HiFA (arXiv 2305.18766).
    """
    match anneal:
        case "none":
            return start
        case "linear":
            return start + (end - start) * progress
        case "sqrt" | "hifa":
            return start + (end - start) * math.sqrt(progress)


def timestep_range(
    progress: float, start: tuple[float, float], end: tuple[float, float], anneal: Anneal, anneal_from: float = 0.0
) -> tuple[float, float]:
    """Return both ends of the timesteps at ``progress`` in [0, 1], as fractions: `annealed` from ``start`` to ``end``.

    Until ``anneal_from`` they stay where they start. For "hifa" both are the upper end, as HiFA takes it as the
    timestep itself: there is one timestep per step of the run.
    """
    moved = max(0.0, progress - anneal_from) / (1 - anneal_from)
    low, high = (annealed(moved, a, b, anneal) for a, b in zip(start, end, strict=True))
    return (high if anneal == "hifa" else low), high


def annealed_clip(progress: float, clip: float | None, clip_end: float | None) -> float | None:
    """Return the limit of the gradient's elements at ``progress`` in [0, 1], linear from ``clip`` to ``clip_end``.

    Debiased score distillation (arXiv 2303.15413) begins tight, so that one view cannot write its own
    face on the object early on. It stays at ``clip`` if ``clip_end`` is None, and is None without ``clip``.
    """
    if clip is None or clip_end is None:
        return clip
    return clip + (clip_end - clip) * progress
