"""Training of the toybox judge: ``dreamfusion judge train``.

A classifier of everything that a picture of the toybox shows, apart from the prior: other seeds, other pictures, no
shared weights, and no part in the prior's training.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import nll_loss

from dreamfusion.errors import DreamFusionError
from dreamfusion.evaluation.lessons import Lesson, Lessons
from dreamfusion.evaluation.network import Reader, load_reader, save_reader
from dreamfusion.evaluation.reading import WORDS, shown
from dreamfusion.toybox.muon import Muon
from dreamfusion.toybox.world import Toy

_PLACES_WEIGHT = 3.0
_RECENT = 50  # steps that reported figures are means of


@dataclass(frozen=True)
class JudgeSettings:
    """Everything that decides the weights."""

    steps: int = 2600
    batch_size: int = 96
    lr: float = 2e-3
    muon_lr: float = 2e-2
    warmup_steps: int = 60
    seed: int = 77_000

    def lr_factor(self, step: int) -> float:
        """Return the factor on both learning rates at a step: a warm-up, then linearly down to zero."""
        return min((step + 1) / self.warmup_steps, (self.steps - step) / self.steps)


@dataclass(frozen=True)
class JudgeStep:
    """A step of a training: running means of the loss and of the share of words read right, by attribute."""

    step: int
    loss: float
    right: dict[str, float]


def targets(toys: Sequence[Toy], views: Sequence[str]) -> dict[str, Tensor]:
    """Return the index in `WORDS` of what each picture shows, [n] by attribute; -1 where it is not known."""
    said = [shown(toy, view) for toy, view in zip(toys, views, strict=True)]
    found = {name: [caption[name] for caption in said] for name in WORDS}
    return {
        name: torch.tensor([-1 if word is None else choices.index(word) for word in found[name]])
        for name, choices in WORDS.items()
    }


def reading_loss(read: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> Tensor:
    """Return the cross-entropy of log-probabilities [n, words] by attribute, summed over attributes."""
    losses = [nll_loss(read[name], target, ignore_index=-1, reduction="sum") for name, target in right.items()]
    return torch.stack(losses).sum() / len(next(iter(right.values())))


def places_loss(where: Tensor, lesson: Lesson) -> Tensor:
    """Return how wrong a reader is about what is where: cross-entropy of materials and square error of normals.

    Words alone teach little per picture; which part lies where and how surfaces are turned tell parts and views apart.
    """
    count = lesson.materials.shape[1]
    materials = -(lesson.materials * where[:, :count].log_softmax(dim=1)).sum(dim=1).mean()
    return materials + (where[:, count:] - lesson.normals).square().sum(dim=1).mean()


def train_judge(
    folder: Path,
    settings: JudgeSettings,
    *,
    start_from: Path | None = None,
    save_every: int = 500,
    on_progress: Callable[[JudgeStep], None] | None = None,
) -> Path:
    """Train a judge, from random weights or from those of a finished judge, and write it, whole, to ``folder``.

    It is written every ``save_every`` steps as well. Raises DreamFusionError if the loss is not finite or
    ``start_from`` is a judge of another world.
    """
    torch.manual_seed(settings.seed)
    reader = Reader(WORDS) if start_from is None else load_reader(start_from)
    if reader.words != WORDS:
        raise DreamFusionError(f"{start_from} judges another world: train without --start-from.")
    reader.train()
    outer = ("stem", "where", "heads")
    named = list(reader.named_parameters())
    hidden = [p for name, p in named if p.ndim > 1 and not name.startswith(outer)]
    others = [p for name, p in named if p.ndim == 1 or name.startswith(outer)]
    muon = Muon(hidden, lr=settings.muon_lr)
    adam = torch.optim.AdamW(others, lr=settings.lr, betas=(0.9, 0.99), weight_decay=0.0)
    lessons = Lessons(settings.seed, settings.batch_size)
    begun, rows = time.monotonic(), []
    for step in range(settings.steps):
        lesson = lessons.batch(step)
        read, where = reader.words_and_places(lesson.images)
        right = targets(lesson.toys, lesson.views)
        loss = reading_loss(read, right) + _PLACES_WEIGHT * places_loss(where, lesson)
        if not torch.isfinite(loss):
            raise DreamFusionError(f"The judge's loss is not finite at step {step}: lower --lr and --muon-lr.")
        loss.backward()
        for optimizer, peak in ((muon, settings.muon_lr), (adam, settings.lr)):
            optimizer.param_groups[0]["lr"] = peak * settings.lr_factor(step)
            optimizer.step()
            optimizer.zero_grad()
        rows = [*rows[1 - _RECENT :], {"loss": loss.item(), **_shares(read, right)}]
        done = step + 1
        if on_progress is not None and done % 10 == 0:
            means = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
            on_progress(JudgeStep(done, means.pop("loss"), means))
        if done % save_every == 0 or done == settings.steps:
            record = asdict(settings) | {"images": done * settings.batch_size}
            record |= {"seconds": round(time.monotonic() - begun), "started_from": start_from and start_from.name}
            save_reader(reader, folder, record)
    return folder


def _shares(read: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the share of words read right, by attribute, among those that are known."""
    shares = {}
    for name, target in right.items():
        known = target >= 0
        shares[name] = (read[name].argmax(dim=1) == target)[known].float().mean().item()
    return shares
