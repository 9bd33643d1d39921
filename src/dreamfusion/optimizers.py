"""Optimisers of the scene, and how their learning rate moves."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch

OptimizerName = Literal["adan", "adam"]


def build_optimizer(
    name: OptimizerName, parameter_groups: Iterable[dict[str, Any]], *, weight_decay: float = 0.0
) -> torch.optim.Optimizer:
    """Return the optimiser for groups of "params" and "lr".

    "adan" (arXiv 2208.06677) adds the momentum of gradient differences to Adam's two; its betas are its authors' and
    NeMo's, (0.98, 0.92, 0.99), and its weight decay divides by 1 + lr * weight_decay. "adam" has threestudio's betas
    (0.9, 0.99) and an eps small enough for the tiny gradients of hash grids, with weight decay as in AdamW.
    """
    groups = list(parameter_groups)
    match name:
        case "adan":
            # Imported here: the package brings a hundred optimisers, and most commands need none.
            from pytorch_optimizer import Adan

            # The same arithmetic one tensor at a time (foreach=False) would leave negated gradients behind.
            return Adan(groups, betas=(0.98, 0.92, 0.99), weight_decay=weight_decay, eps=1e-8, foreach=True)
        case "adam":
            return torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=weight_decay, eps=1e-15)


def learning_rate_factor(step: int, steps: int, *, warmup_steps: int = 0, final: float = 1.0) -> float:
    """Return what to multiply the learning rates by at ``step`` (0 to ``steps``): linear warm-up, then cosine decay.

    The first step of a warm-up is 1 / (warmup_steps + 1), the step after it 1, the end ``final``. The paper warms up
    over 3000 of its 15,000 steps and decays to 0.01.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
