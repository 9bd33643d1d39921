"""Sweeps of a few small steps, with the analytic prior: in this process, and in the workers of a cluster."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamfusion.errors import DreamFusionError
from dreamfusion.runs.generate import generate
from dreamfusion.scale import trial as trials
from dreamfusion.scale.on_slurm import Requeued
from dreamfusion.scale.plan import Plan, Trial
from dreamfusion.scenes.scene import Finished
from support.worlds import SHORT, shrink_pictures, toy_prior

FEW = SHORT | {"steps": 4, "checkpoint_every": 2, "preview_every": 4}


def small_plan(*prompts: str, seeds: int = 1, **options: Any) -> Plan:
    """Return a plan of runs of a second each."""
    return Plan(prompts, seeds, "quick", FEW, **options)


def small_views(scene: Finished) -> dict[str, Tensor]:
    """Stand in for the renderings that are judged: grey ones, which cost nothing."""
    counts = {"albedo": 8, "lambertian": 8, "textureless": 8, "behind": 3}
    return {name: torch.full((count, 3, 8, 8), 0.5).half() for name, count in counts.items()}


def make_small() -> None:
    """Make all trials of this process small, and let them ask the analytic prior."""
    torch.set_num_threads(1)
    shrink_pictures()
    trials.generate = partial(generate, guidance_model=toy_prior("mushroom", views=8, size=16))
    trials.evaluation_views = small_views
    trials.TURNING_SIZE, trials.TURNING_MESH, trials.VOLUME_RESOLUTION = 8, 24, 16


def of_a_worker() -> None:
    """Prepare a worker of a cluster; where the variable KILL_ONCE names a file, the first run kills it at step 3."""
    make_small()
    inner, mark = trials.generate, Path(os.environ["KILL_ONCE"])

    def watch(step: Any) -> None:
        if step.number == 3 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    trials.generate = partial(inner, on_step=watch)


@dataclass(frozen=True)
class Interrupted(Requeued):
    """A small trial as a job, which at step 3 of its first turn gets a signal: Slurm's warning, or a car SIGKILL."""

    def __call__(self, folder: str) -> str | None:
        """Run a trial."""
        make_small()
        inner, mark = trials.generate, Path(folder) / "interrupted"
        number = signal.SIGKILL if "car" in folder else signal.SIGUSR2

        def watch(step: Any) -> None:
            if step.number == 3 and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), number)

        trials.generate = partial(inner, on_step=watch)
        return super().__call__(folder)


class Here:
    """An engine that runs one trial after the other in this process; those of ``broken`` prompts fail."""

    cpus = 1.0

    def __init__(self, *broken: str) -> None:
        self.broken = broken
        self.ran: list[Trial] = []

    def check(self) -> None:
        """Be there."""

    def run(self, left: Sequence[Trial]) -> Iterator[tuple[Trial, str | None] | None]:
        """Yield every trial."""
        for trial in left:
            yield None
            self.ran.append(trial)
            yield trial, "no luck" if trial.prompt in self.broken else trials.attempt(str(trial.folder))


class Blind(Here):
    """An engine whose machines do not see the folder."""

    def run(self, left: Sequence[Trial]) -> Iterator[tuple[Trial, str | None] | None]:
        """Say so of the first."""
        yield None
        raise trials.WrongMachineError(f"{left[0].folder} is not seen")


class Unwilling(Here):
    """An engine that is not there."""

    def check(self) -> None:
        """Say so."""
        raise DreamFusionError("no engine: start one.")
