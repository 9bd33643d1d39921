"""A run's figures and pictures for TensorBoard and Weights & Biases, beside metrics.jsonl (the key ``log``).

    RUN/tensorboard/    tensorboard --logdir RUN, or a folder of many runs
    RUN/wandb/          wandb sync RUN/wandb/offline-run-...; nothing leaves the machine unless WANDB_MODE says so

The figures are those of metrics.jsonl, the rates of the optimiser's groups, and the steps per second. A picture, what
the prior was shown, goes along every ``preview_every`` steps.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from dreamfusion.assets.images import to_uint8
from dreamfusion.config import Config
from dreamfusion.errors import DreamFusionError
from dreamfusion.method.optimize import Step
from dreamfusion.method.state import State

Watch = Callable[[Step, State], None]
"""Is told of every step, and the state after it."""


def require_log(kind: str) -> None:
    """Raise DreamFusionError if the library that a run is to be logged by is missing."""
    if kind != "none" and find_spec(kind) is None:
        raise DreamFusionError(f'log: {kind} needs a library: pip install "dreamfusion[{kind}]".')


@contextmanager
def watching(config: Config, folder: Path, first_step: int) -> Iterator[Watch]:
    """Log a run while the block lasts; what an earlier process wrote after ``first_step`` is not shown any more."""
    match config.log:
        case "none":
            yield lambda step, state: None
        case "tensorboard":
            yield from _tensorboard(config, folder, first_step)
        case "wandb":
            yield from _wandb(config, folder)


def _tensorboard(config: Config, folder: Path, first_step: int) -> Iterator[Watch]:
    from torch.utils.tensorboard import SummaryWriter

    clock = _Clock()
    with SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1) as writer:

        def watch(step: Step, state: State) -> None:
            for name, value in figures(step, state, clock).items():
                writer.add_scalar(name, value, step.number)
            if step.number % config.preview_every == 0:
                writer.add_image("views", side_by_side(step), step.number, dataformats="HWC")

        yield watch


def _wandb(config: Config, folder: Path) -> Iterator[Watch]:
    import wandb

    clock = _Clock()
    with wandb.init(
        project="dreamfusion",
        name=folder.name,
        dir=str(folder),
        mode=None if "WANDB_MODE" in os.environ else "offline",
        config=config.model_dump(mode="json"),
        settings=wandb.Settings(silent=True),
    ) as run:

        def watch(step: Step, state: State) -> None:
            row: dict[str, Any] = dict(figures(step, state, clock))
            if step.number % config.preview_every == 0:
                row["views"] = wandb.Image(side_by_side(step))
            run.log(row, step=step.number)

        yield watch


class _Clock:
    """Measures the time from one call to the next."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def lap(self) -> float:
        """Return the seconds since the last call."""
        before, self._last = self._last, time.monotonic()
        return max(self._last - before, 1e-6)


def figures(step: Step, state: State, clock: _Clock) -> dict[str, float]:
    """Return what is logged of a step: its metrics, the rate of each group of parameters, and steps per second."""
    rates = {f"rate/{index}": float(group["lr"]) for index, group in enumerate(state.optimizer.param_groups)}
    metrics = {name: value for name, value in step.metrics.items() if name != "step"}
    return metrics | rates | {"steps_per_second": 1 / clock.lap()}


def side_by_side(step: Step) -> Any:
    """Return the views that the prior was shown as one picture, bytes [S, views * S, 3]."""
    return to_uint8(torch.cat(list(step.image), dim=2))
