"""Training of the toybox judge: ``dreamfusion judge train``.

A classifier of everything that a picture of the toybox shows, apart from the prior: other seeds, other pictures, no
shared weights, and no part in the prior's training.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import nll_loss

from dreamfusion.errors import DreamFusionError, refuse_small
from dreamfusion.evaluation.lessons import Lesson, Lessons
from dreamfusion.evaluation.network import IMAGE_SIZE, Reader, load_reader, save_reader
from dreamfusion.evaluation.reading import shown, words_of
from dreamfusion.io.checkpoints import (
    latest_checkpoint,
    load_checkpoint,
    pack,
    refuse_other_settings,
    same_threads,
    save_checkpoint,
    unpack,
)
from dreamfusion.io.claims import claim
from dreamfusion.io.files import MARKER, refuse_foreign_folder, remove_folder
from dreamfusion.stopping import stop_at_once, stop_between_steps, stopped
from dreamfusion.toybox.muon import Muon
from dreamfusion.toybox.world import SMALL, Toy, World, WorldName, world_named

_PLACES_WEIGHT = 3.0
_RECENT = 50  # steps that reported figures are means of


@dataclass(frozen=True)
class JudgeSettings:
    """Everything that decides the weights.

    The first ``small_steps`` are on pictures of half the side, which cost a quarter.
    """

    steps: int = 9000
    small_steps: int = 6000
    batch_size: int = 96
    lr: float = 3e-3
    muon_lr: float = 3e-2
    warmup_steps: int = 60
    decay_steps: int = 3000
    ema: float = 0.998
    seed: int = 77_000
    world: WorldName = "small"

    def lr_factor(self, step: int) -> float:
        """Return the factor on both learning rates at a step: warm-up, plateau, linear decay to zero."""
        return max(0.0, min(1.0, (step + 1) / self.warmup_steps, (self.steps - step) / self.decay_steps))


@dataclass(frozen=True)
class JudgeStep:
    """A step of a training: running means of the loss and of the share of words read right, by attribute."""

    step: int
    loss: float
    right: dict[str, float]


def targets(toys: Sequence[Toy], views: Sequence[str], world: World = SMALL) -> dict[str, Tensor]:
    """Return the index in `words_of` of what each picture shows, [n] by attribute; -1 where it is not known."""
    said = [shown(toy, view, world) for toy, view in zip(toys, views, strict=True)]
    found = {name: [caption[name] for caption in said] for name in words_of(world)}
    return {
        name: torch.tensor([-1 if word is None else choices.index(word) for word in found[name]])
        for name, choices in words_of(world).items()
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


@torch.no_grad()
def keep_size(weights: Sequence[Tensor]) -> None:
    """Scale weights so that their rows have a root mean square length of 1.

    The batch norm behind each makes its size meaningless, but it would grow, fivefold in 2,000 steps, and every step
    then turn it less.
    """
    for weight in weights:
        weight *= len(weight) ** 0.5 / weight.norm()


class JudgeTraining:
    """Weights, their moving average, optimisers, and how they are saved to and restored from a folder."""

    def __init__(self, settings: JudgeSettings, start_from: Path | None = None) -> None:
        torch.manual_seed(settings.seed)
        self.settings, self.step, self.seconds = settings, 0, 0.0
        self.world = world_named(settings.world)
        self.reader = Reader(words_of(self.world)) if start_from is None else load_reader(start_from)
        if self.reader.words != words_of(self.world):
            raise DreamFusionError(f"{start_from} judges another world: train without --start-from.")
        self.average = copy.deepcopy(self.reader).eval().requires_grad_(False)
        self.reader.train()
        outer = ("stem", "where", "heads")
        named = list(self.reader.named_parameters())
        self.hidden = [p for name, p in named if p.ndim > 1 and not name.startswith(outer)]
        others = [p for name, p in named if p.ndim == 1 or name.startswith(outer)]
        self.optimizers = (
            Muon(self.hidden, lr=settings.muon_lr),
            torch.optim.AdamW(others, lr=settings.lr, betas=(0.9, 0.99), weight_decay=0.0),
        )
        self.first = Lessons(settings.seed, settings.batch_size, size=IMAGE_SIZE // 2, world=self.world)
        self.later = Lessons(settings.seed + 1, settings.batch_size, world=self.world)

    def train_step(self) -> dict[str, float]:
        """Take one step; return its loss and the share of words read right, by attribute."""
        begun = time.monotonic()
        lesson = (self.first if self.step < self.settings.small_steps else self.later).batch(self.step)
        read, where = self.reader.words_and_places(lesson.images)
        right = targets(lesson.toys, lesson.views, self.world)
        loss = reading_loss(read, right) + _PLACES_WEIGHT * places_loss(where, lesson)
        if not torch.isfinite(loss):
            raise DreamFusionError(
                f"The judge's loss is not finite at step {self.step}: train again with lower --lr and --muon-lr in "
                "another --output."
            )
        loss.backward()
        for optimizer, peak in zip(self.optimizers, (self.settings.muon_lr, self.settings.lr), strict=True):
            optimizer.param_groups[0]["lr"] = peak * self.settings.lr_factor(self.step)
            optimizer.step()
            optimizer.zero_grad()
        keep_size(self.hidden)
        self.step += 1
        # A short average while the weights still move fast, the full one later.
        decay = min(self.settings.ema, self.step / (self.step + 10))
        now = self.reader.state_dict()
        for name, value in self.average.state_dict().items():
            value.copy_(value.lerp(now[name], 1 - decay) if value.is_floating_point() else now[name])
        self.seconds += time.monotonic() - begun
        return {"loss": loss.item(), **_shares(read, right)}

    def save(self, folder: Path) -> None:
        """Write a checkpoint that resumes exactly."""
        tree = {
            "weights": self.reader.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "settings": asdict(self.settings),
            "seconds": self.seconds,
        }
        tensors, state = pack(tree, "judge")
        save_checkpoint(folder / "checkpoints", self.step, tensors, {"judge": state}, keep=2)

    def restore(self, checkpoint: Path) -> None:
        """Continue from a checkpoint; DreamFusionError if it was made with other settings."""
        loaded = load_checkpoint(checkpoint)
        tree = unpack(loaded.state["judge"], loaded.tensors)
        refuse_other_settings(tree["settings"], asdict(self.settings))
        self.step, self.seconds = loaded.step, tree["seconds"]
        self.reader.load_state_dict(tree["weights"])
        self.average.load_state_dict(tree["average"])
        for optimizer, saved in zip(self.optimizers, tree["optimizers"], strict=True):
            optimizer.load_state_dict(saved)


@stop_at_once("run it again to continue")
def train_judge(
    folder: Path,
    settings: JudgeSettings,
    *,
    start_from: Path | None = None,
    save_every: int = 500,
    on_progress: Callable[[JudgeStep], None] | None = None,
) -> Path:
    """Train a judge, from random weights or from those of a finished judge, and write it, whole, to ``folder``.

    It is written every ``save_every`` steps as well. Until it is finished the training has a folder of its own,
    ``folder`` with -training behind it, from which it goes on exactly when it is called again. Raises DreamFusionError
    if the loss is not finite, ``start_from`` is a judge of another world, or a folder holds other things or a training
    with other settings, and `Stopped` if a signal ends it, after a checkpoint.
    """
    refuse_small({"steps": settings.steps, "batch_size": settings.batch_size, "save_every": save_every})
    refuse_small({"lr": settings.lr, "muon_lr": settings.muon_lr}, above_zero=True)
    folder = Path(folder).absolute()  # "." has no name to which anything could be added
    refuse_foreign_folder(folder)
    working = folder.with_name(f"{folder.name}-training")
    with claim(working, evidence=("checkpoints",)):
        newest = latest_checkpoint(working / "checkpoints")
        with same_threads(newest):
            training = JudgeTraining(settings, start_from)
            if newest is not None:
                training.restore(newest)
            _train(training, folder, working, start_from, save_every, on_progress)
        for path in (working / "checkpoints", working / MARKER):
            remove_folder(path) if path.is_dir() else path.unlink(missing_ok=True)
    with suppress(OSError):  # what else is in it stays
        working.rmdir()
    return folder


def _train(
    training: JudgeTraining,
    folder: Path,
    working: Path,
    start_from: Path | None,
    save_every: int,
    on_progress: Callable[[JudgeStep], None] | None,
) -> None:
    """Take all steps that are left, saving the training and the judge on the way."""
    rows: list[dict[str, float]] = []
    settings = training.settings

    def finish() -> None:
        record = asdict(settings) | {"images": training.step * settings.batch_size}
        record |= {"seconds": round(training.seconds), "started_from": start_from and start_from.name}
        save_reader(training.average, folder, record)

    if training.step == settings.steps:  # killed between its last checkpoint and the judge
        finish()
    with stop_between_steps() as stop:
        while training.step < settings.steps:
            rows = [*rows[1 - _RECENT :], training.train_step()]
            if on_progress is not None and training.step % 10 == 0:
                means = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
                on_progress(JudgeStep(training.step, means.pop("loss"), means))
            due = training.step % save_every == 0 or training.step == settings.steps
            if due or stop.number:
                training.save(working)
            if stop.number:
                raise stopped(stop.number, "run it again to continue exactly")
            if due:
                finish()


def _shares(read: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the share of words read right, by attribute, among those that are known."""
    shares = {}
    for name, target in right.items():
        known = target >= 0
        shares[name] = (read[name].argmax(dim=1) == target)[known].float().mean().item()
    return shares
