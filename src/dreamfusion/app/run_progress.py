"""Progress of one run: a bar on a terminal, lines in a pipe, lines of JSON for programs, or nothing."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn
from typing_extensions import Self

from dreamfusion.app.terminal import say
from dreamfusion.standard import LOADING

if TYPE_CHECKING:
    from dreamfusion.config import Config
    from dreamfusion.method.optimize import Step

WRITING_STEPS = 30
"""Steps that take as long as the writing of the results: 17 s against 0.55 s, both of the default preset on a CPU."""
EVERY_SECONDS = 5.0
"""How often a line is written where no bar can be drawn."""


class Remaining:
    """How long a run still takes, the writing of its results included."""

    def __init__(self, first_step: int, steps: int, now: float) -> None:
        self._first, self._steps, self._begun = first_step, steps, now

    def seconds(self, step: int, now: float) -> float | None:
        """Return an estimate after a step, None as long as there is nothing to go by."""
        if step == self._first:
            return None
        return (now - self._begun) / (step - self._first) * (self._steps - step + WRITING_STEPS)


class RunProgress:
    """Progress of one text-to-3D run; the step and the time left come first, technical figures last.

    The loss of score distillation says nothing, so it is not shown. Opacity is the share of the view that the object
    covers; the noise error is how far the prior's guess of the noise is from the truth, which falls as the
    renderings become likely; t is the highest noise level now in use.
    """

    def __init__(
        self,
        console: Console,
        *,
        quiet: bool = False,
        as_json: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console, self._quiet, self._as_json, self._clock = console, quiet, as_json, clock
        self._drawn = console.is_terminal and not (quiet or as_json)
        self.bar = Progress(*columns(console.width), console=console, disable=not self._drawn)
        self._said = -math.inf

    def __enter__(self) -> Self:
        self._task = self.bar.add_task(
            "starting", total=None, count="", left="", figures=""
        )  # imports alone take seconds
        self.bar.start()
        self._loading = _Loading(self._load)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loading.close()
        self.bar.stop()

    def _load(self, line: str) -> None:
        """Tell what of a model is being fetched or read: on the bar before the first step, or else in lines."""
        if self._as_json:
            _print(loading=line)
        elif self._drawn:
            self.bar.update(self._task, description=line)
        elif not self._quiet:
            say(self._console, line)

    def start(self, folder: Path, config: Config, first_step: int) -> None:
        """Begin with the folder of the run, its configuration and the step it starts from."""
        now = self._clock()
        self._steps, self._remaining, self._said = config.steps, Remaining(first_step, config.steps, now), now
        if self._as_json:
            _print(folder=str(folder), prompt=config.prompt, step=first_step, steps=config.steps)
        elif not self._quiet:
            whence = f", from step {first_step} on" if first_step else ""
            say(self._console, f"{config.prompt!r} in {folder}, {config.steps} steps{whence}; watch preview.png")
        self.bar.remove_task(self._task)
        self._task = self.bar.add_task("optimising", total=config.steps, count="", left="", figures="")
        self._show(first_step)

    def _show(self, step: int, name: str = "optimising", left: str = "", figures: str = "") -> None:
        count = f"{step:{len(str(self._steps))}}/{self._steps}"
        self.bar.update(self._task, description=name, completed=step, count=count, left=left, figures=figures)

    def note(self, line: str) -> None:
        """Tell of something that the user may want to know."""
        if self._as_json:
            _print(note=line)
        elif not self._quiet:
            say(self._console, f"note: {line}")

    def step(self, step: Step) -> None:
        """Show a finished step; after the last, that the results are being written."""
        now, last = self._clock(), step.number == self._steps
        left = self._remaining.seconds(step.number, now)
        if self._as_json:
            _print(step=step.number, seconds_left=None if left is None else round(left, 1), **_numbers(step.metrics))
            return
        told = "" if left is None else f"{timedelta(seconds=round(left))} left"
        m = step.metrics
        error = m.get("noise_error", math.nan)  # of a step that was left out
        figures = f"opacity {m['opacity']:.2f}  noise error {error:.2f}  t<{m['t_max']:.2f}"
        name = "writing" if last else "optimising"
        self._show(step.number, name, told, figures)
        if not (self._drawn or self._quiet) and (last or now - self._said >= EVERY_SECONDS):
            self._said = now
            say(self._console, f"step {step.number} of {self._steps}, {told}{', writing' if last else ''}, {figures}")


class _Loading(logging.Handler):
    """Takes what is said of loading for itself, until it is closed."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self.tell, self._logger = tell, logging.getLogger(LOADING)
        self._logger.addHandler(self)
        self._logger.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        """Tell a record's message."""
        self.tell(record.getMessage())

    def close(self) -> None:
        """Leave it to others again."""
        self._logger.removeHandler(self)
        self._logger.propagate = True
        super().close()


def columns(width: int) -> list[ProgressColumn]:
    """Return what a bar shows on a terminal of so many columns, the most useful first."""
    shown: list[ProgressColumn] = [
        TextColumn("{task.description}", markup=False),
        TextColumn("{task.fields[count]}"),
        TextColumn("{task.fields[left]}"),
        BarColumn(10 if width < 80 else 18),
    ]
    if width >= 80:
        shown.append(TimeElapsedColumn())
    if width >= 100:
        shown.append(TextColumn("{task.fields[figures]}", markup=False))
    return shown


def _numbers(metrics: dict[str, float]) -> dict[str, float | None]:
    """Return figures as JSON has them, which knows no infinity."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items() if name != "step"}


def _print(**message: Any) -> None:
    print(json.dumps(message), flush=True)
