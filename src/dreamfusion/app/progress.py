"""Progress on the terminal: a bar with the figures that mean something while a run or a training goes on."""

from __future__ import annotations

import math
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from typing_extensions import Self

from dreamfusion.app.terminal import say

if TYPE_CHECKING:
    from dreamfusion.config import Config
    from dreamfusion.evaluation.training import JudgeStep
    from dreamfusion.method.optimize import Step
    from dreamfusion.scale.sweep import Status
    from dreamfusion.toybox.train import TrainStep


class _Bar:
    """A rich progress bar that is drawn while the ``with`` block lasts."""

    def __init__(self, console: Console) -> None:
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            console=console,
        )

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()


class RunProgress(_Bar):
    """Progress of one text-to-3D run.

    The loss of score distillation says nothing, so it is not shown. Opacity is the share of the view that the object
    covers; the noise error is how far the prior's guess of the noise is from the truth, which falls as the
    renderings become likely; t is the highest noise level now in use.
    """

    def start(self, folder: Path, config: Config, first_step: int) -> None:
        """Begin with the folder of the run, its configuration and the step it starts from."""
        say(self.bar.console, f"{config.prompt!r} in {folder}, {config.steps} steps; watch preview.png")
        self.task = self.bar.add_task("optimising", total=config.steps, completed=first_step, figures="")

    def step(self, step: Step) -> None:
        """Show a finished step; after the last, that the assets are being written."""
        m = step.metrics
        error = m.get("noise_error", math.nan)  # of a step that was left out
        figures = f"opacity {m['opacity']:.2f}  noise error {error:.2f}  t<{m['t_max']:.2f}"
        self.bar.update(self.task, completed=step.number, figures=figures)
        if step.number == self.bar.tasks[0].total:
            self.bar.update(self.task, description="writing assets")


class TrainProgress(_Bar):
    """Progress of a training of the prior."""

    def __init__(self, console: Console, steps: int | None) -> None:
        super().__init__(console)
        self.task = self.bar.add_task("training", total=steps, figures="")

    def update(self, row: TrainStep) -> None:
        """Show a finished step."""
        figures = f"loss {row.loss:.4f}  {row.images_per_second:.1f} images/s"
        self.bar.update(self.task, completed=row.step, figures=figures)


class EvaluationProgress(_Bar):
    """Progress of an evaluation, in runs or whatever else it is made of."""

    def __init__(self, console: Console, what: str = "runs") -> None:
        super().__init__(console)
        self.what = what

    def __enter__(self) -> Self:
        self.task = self.bar.add_task(self.what, total=None, figures="")
        return super().__enter__()

    def update(self, done: int, count: int, what: str) -> None:
        """Show how far it is."""
        self.bar.update(self.task, completed=done, total=count, figures=what)


class JudgeProgress(_Bar):
    """Progress of a training of the judge."""

    def __init__(self, console: Console, steps: int) -> None:
        super().__init__(console)
        self.task = self.bar.add_task("training", total=steps, figures="")

    def update(self, row: JudgeStep) -> None:
        """Show a step, its loss, and what is read right least often."""
        worst = min(row.right, key=row.right.__getitem__)
        figures = f"loss {row.loss:.3f}  {worst.replace('_', ' ')} right {row.right[worst]:.0%}"
        self.bar.update(self.task, completed=row.step, figures=figures)


class SweepProgress(_Bar):
    """Progress of a sweep, in steps of all its runs."""

    def __enter__(self) -> Self:
        self.task = self.bar.add_task("steps", total=None, figures="")
        return super().__enter__()

    def update(self, status: Status) -> None:
        """Show how far it is."""
        failed = f", {status.failed} failed" if status.failed else ""
        figures = f"{status.runs} of {status.all_runs} runs{failed}  {status.last}"
        self.bar.update(self.task, completed=status.steps, total=status.all_steps, figures=figures)
