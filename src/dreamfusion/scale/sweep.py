"""``dreamfusion sweep``: many prompts, seeds and settings on an engine, and a ranked gallery of what comes out.

OUTPUT/
    sweep.json      settings and ranking, best first
    gallery.html    the same to look at, in one page
    runs/<prompt>/[<settings>/]<seed>/      see `dreamfusion.scale.trial`

A run that fails is named and costs no other. Called again, a sweep goes on where it was: finished runs are kept, and
those that were cut off go on from their checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from dreamfusion.config import merged
from dreamfusion.errors import DreamFusionError
from dreamfusion.evaluation.judge import ClipJudge, ToyboxJudge, open_judge
from dreamfusion.io.claims import claim
from dreamfusion.io.files import write_text
from dreamfusion.scale.choice import Entry, Scorer, keep_best, ranked, to_json
from dreamfusion.scale.gallery import gallery
from dreamfusion.scale.plan import Plan, Trial, as_toys, take_back, write_trial
from dreamfusion.scale.trial import ERROR, is_finished, steps_done
from dreamfusion.stopping import stop_at_once


class Engine(Protocol):
    """What runs trials: `on_ray.RayCluster`, `on_slurm.Slurm`."""

    @property
    def cpus(self) -> float:
        """CPU cores of each trial."""

    def check(self) -> None:
        """Raise DreamFusionError if the engine is not there; nothing has begun yet."""

    def run(self, trials: Sequence[Trial]) -> Iterator[tuple[Trial, str | None] | None]:
        """Yield every trial as it ends, with what went wrong or None; in between None, about once a second.

        Closing the iterator stops what is running.
        """


@dataclass(frozen=True)
class Status:
    """How far a sweep is: runs and steps done of all, and how many runs have failed."""

    runs: int
    all_runs: int
    steps: int
    all_steps: int
    failed: int
    last: str = ""


@dataclass(frozen=True)
class Sweep:
    """A finished sweep: its folder, and its runs best first."""

    folder: Path
    ranking: list[Entry]

    @property
    def gallery(self) -> Path:
        """The page with all objects, best first."""
        return self.folder / "gallery.html"

    def __fspath__(self) -> str:
        return str(self.folder)


@stop_at_once("call again with the same --output to go on")
def sweep(
    output: Path,
    plan: Plan,
    engine: Engine,
    *,
    judge: str | None = None,
    keep: int | None = None,
    on_progress: Callable[[Status], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Sweep:
    """Run every prompt, variant and seed of a plan on an engine, and rank and show what comes out.

    ``judge`` is a folder of a trained judge, or folder or hub name of a CLIP model, in place of the toybox judge.
    ``keep`` deletes the runs of all but so many of each prompt in the end. ``on_progress`` is called about once a
    second.
    Raises DreamFusionError for wrong settings, before anything is written; a run that fails is recorded instead. A
    signal raises `Stopped`, after all runs have written a checkpoint.
    """
    if keep is not None and keep < 1:
        raise DreamFusionError(f"--keep must be at least 1 (given: {keep}).")
    plan = _read(plan, on_note or (lambda line: None))
    trials = plan.trials(output)
    scorer = Scorer(_open_judge(judge, plan))
    engine.check()
    with claim(output, evidence=("sweep.json",)):
        for trial in trials:
            write_trial(trial, plan, max(1, int(engine.cpus)))
        entries: dict[Path, Entry] = {}
        try:
            _run(trials, engine, scorer, output, entries, on_progress)
        except BaseException:
            if entries:
                _write(output, plan, scorer, entries, None)
            for trial in trials:
                take_back(trial, output)
            raise
        return _write(output, plan, scorer, entries, keep)


def _read(plan: Plan, tell: Callable[[str], None]) -> Plan:
    """Return the plan with prompts as its prior reads them and a model by its whole path; DreamFusionError if wrong."""
    if not plan.prompts:
        raise DreamFusionError("There is no prompt: give at least one.")
    configs = [plan.config_of(plan.prompts[0], varied) for varied in plan.variants()]
    if all(config.guidance.kind == "toybox" for config in configs):
        prompts, notes = as_toys(plan.prompts)
        for note in notes:
            tell(note)
        plan = replace(plan, prompts=prompts)
    model = configs[0].guidance.model
    if model is not None and Path(model).exists() and "guidance.model" not in plan.vary:
        plan = replace(plan, changes=merged(dict(plan.changes), {"guidance": {"model": str(Path(model).absolute())}}))
    return plan


def _open_judge(judge: str | None, plan: Plan) -> ToyboxJudge | ClipJudge | None:
    """Return what scores the runs: a missing judge should not show after hours."""
    kinds = {plan.config_of(plan.prompts[0], varied).guidance.kind for varied in plan.variants()}
    return open_judge(judge) if judge is not None or kinds == {"toybox"} else None


def _run(
    trials: Sequence[Trial],
    engine: Engine,
    scorer: Scorer,
    output: Path,
    entries: dict[Path, Entry],
    on_progress: Callable[[Status], None] | None,
) -> None:
    """Run what is not finished yet, and put every trial that has ended into ``entries``, scored."""
    last = ""

    def tell() -> None:
        if on_progress is None:
            return
        steps = sum(t.steps if t.folder in entries else min(t.steps, steps_done(t.folder)) for t in trials)
        failed = sum(entry.error is not None for entry in entries.values())
        on_progress(Status(len(entries), len(trials), steps, sum(t.steps for t in trials), failed, last))

    for trial in trials:
        if is_finished(trial.folder):
            entries[trial.folder] = scorer.entry(trial, output, None)
    tell()
    left = [trial for trial in trials if trial.folder not in entries]
    running = engine.run(left) if left else iter(())
    try:
        for ended in running:
            if ended is not None:
                trial, error = ended
                if error is not None and trial.folder.is_dir():
                    write_text(trial.folder / ERROR, error)
                entries[trial.folder] = scorer.entry(trial, output, error)
                last = trial.prompt if error is None else f"{trial.prompt}: {error}"
            tell()
    finally:
        close = getattr(running, "close", None)
        if close is not None:
            close()


def _write(output: Path, plan: Plan, scorer: Scorer, entries: dict[Path, Entry], keep: int | None) -> Sweep:
    """Rank what there is and write sweep.json and the gallery."""
    ranking = ranked(entries.values(), output)
    if keep is not None:
        ranking = keep_best(ranking, output, keep)
    settings: dict[str, Any] = {
        "preset": plan.preset,
        "seeds": plan.seeds,
        "changes": dict(plan.changes),
        "vary": {key: list(values) for key, values in plan.vary.items()},
        "judge": scorer.judge and scorer.judge.name,
        "prompts": list(plan.prompts),
    }
    write_text(output / "sweep.json", to_json(ranking, settings))
    write_text(output / "gallery.html", gallery(ranking, output, output.name))
    return Sweep(output, ranking)
