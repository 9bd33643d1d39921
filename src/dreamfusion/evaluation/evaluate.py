"""``dreamfusion evaluate``: many prompts and seeds, each a run of its own process, judged together.

OUTPUT/
    evaluation.json     summary with intervals, one record per run, and what the judge makes of the true toys
    report.md           the same as a table; report.html and overview.png with pictures
    runs/<prompt>/<seed>/   task.json, score.json, views.safetensors, error.txt, run/ (the run itself)

A run that fails is counted as failed, never dropped: its precision and overlap are zero. Called again, an evaluation
goes on where it was: finished runs are kept, stopped ones resumed, failed ones tried again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dreamfusion.config import build_config
from dreamfusion.config.presets import Preset
from dreamfusion.device import usable_cores
from dreamfusion.errors import DreamFusionError
from dreamfusion.evaluation.judge import Judge, open_judge
from dreamfusion.evaluation.judging import NAMED, judge_views, true_views
from dreamfusion.evaluation.prompts import PromptList
from dreamfusion.evaluation.statistics import Estimate, bootstrap, lowest_tenth, share
from dreamfusion.evaluation.worker import BEHIND, BEHIND_DEG, SUPERVISED, VIEW_SIZE
from dreamfusion.io.claims import claim
from dreamfusion.io.files import slugify, write_text
from dreamfusion.runs.results import SHADINGS
from dreamfusion.standard import AZIMUTHS_DEG
from dreamfusion.stopping import stop_at_once
from dreamfusion.toybox.world import Toy, is_held_out


@dataclass(frozen=True)
class Task:
    """One run of an evaluation."""

    prompt: str
    toy: Toy
    seed: int
    folder: Path


@dataclass(frozen=True)
class Record:
    """One run and its scores; those of a failed run are zero, or None where there is nothing to measure.

    For those from ``albedo_precision`` to ``speckle`` see `judging`, for the geometry `geometry.GeometryScore`.
    """

    prompt: str
    seed: int
    held_out: bool
    error: str | None = None
    albedo_precision: float = 0.0
    color_precision: float = 0.0
    geo_precision: float = 0.0
    janus: bool | None = None
    kind_read: float | None = None
    pattern_right: bool | None = None
    size_right: bool | None = None
    part_color_right: bool | None = None
    saturation: float | None = None
    speckle: float | None = None
    iou: float = 0.0
    iou_unaligned: float = 0.0
    scale: float | None = None
    chamfer: float | None = None
    normal_error_deg: float | None = None
    opacity: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """All records of an evaluation, and the judge's view of the true toys, which bounds what a run can score."""

    settings: dict[str, Any]
    records: list[Record]
    truth: list[Record] = field(default_factory=list)

    def summary(self) -> dict[str, dict[str, Estimate | None]]:
        """Return the figures of the aims for all runs, for those held out and seen in training, and for the truth."""
        return {
            "all": summarize(self.records),
            "seen": summarize([r for r in self.records if not r.held_out]),
            "held out": summarize([r for r in self.records if r.held_out]),
            "true toys": summarize(self.truth),
        }


def run_folder(evaluation: Path, prompt: str, seed: int) -> Path:
    """Return the folder of one run within that of an evaluation."""
    return evaluation / "runs" / slugify(prompt) / str(seed)


def load_views(folder: Path) -> dict[str, Tensor] | None:
    """Return what `worker.evaluation_views` left in the ``folder`` of a run; None if it left nothing."""
    path = folder / "views.safetensors"
    return {name: images.float() for name, images in load_file(path).items()} if path.exists() else None


@stop_at_once("call again with the same --output to go on")
def evaluate(
    output: Path,
    prompts: PromptList,
    *,
    seeds: int = 1,
    preset: Preset = "default",
    changes: Mapping[str, Any] | None = None,
    judge: Judge | None = None,
    jobs: int | None = None,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> Evaluation:
    """Run every prompt with seeds 0 .. seeds - 1, score all runs and write evaluation.json.

    ``changes`` are configuration keys as in `dreamfusion.generate`. ``jobs`` runs go side by side (default: one per CPU
    core, or one on a GPU). ``on_progress(done, all, what)`` is called as runs end.
    Raises DreamFusionError for wrong settings; a run that fails is recorded instead. A signal raises `Stopped`, after
    all runs have written a checkpoint.
    """
    if seeds < 1 or (jobs is not None and jobs < 1):
        raise DreamFusionError("--seeds and --jobs must be at least 1.")
    changes = dict(changes or {})
    judge = judge or open_judge()  # before the runs: a missing judge should not show after hours
    for prompt in prompts.toys:
        build_config(preset, changes | {"prompt": prompt})
    tasks = [
        Task(prompt, toy, seed, run_folder(output, prompt, seed))
        for prompt, toy in prompts.toys.items()
        for seed in range(seeds)
    ]
    with claim(output, evidence=("evaluation.json",)):
        run_tasks(tasks, preset, changes, jobs or default_jobs(), on_progress)
        truth = [judge_truth(prompt, toy, judge, prompts) for prompt, toy in prompts.toys.items()]
        records = without_unclear_backs([judge_task(task, judge, prompts) for task in tasks], truth)
        settings: dict[str, Any] = {"preset": preset, "seeds": seeds, "changes": changes, "judge": judge.name}
        evaluation = Evaluation(settings | {"prompts": len(prompts.toys)}, records, truth)
        write_text(output / "evaluation.json", to_json(evaluation))
        return evaluation


def default_jobs() -> int:
    """Return how many runs go side by side: a GPU takes one, a CPU one per core, each of one thread."""
    return 1 if torch.cuda.is_available() else usable_cores()


def threads_each(jobs: int, environment: Mapping[str, str]) -> int:
    """Return how many threads each of ``jobs`` processes gets: OMP_NUM_THREADS if it is set, else its share."""
    asked = environment.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() and int(asked) else max(1, usable_cores() // jobs)


def run_tasks(
    tasks: Sequence[Task],
    preset: Preset,
    changes: Mapping[str, Any],
    jobs: int,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> None:
    """Run the tasks that are not finished yet, ``jobs`` at a time; what went wrong stands in each error.txt."""
    threads = threads_each(jobs, os.environ)
    done = 0
    workers = Workers()
    with ThreadPoolExecutor(jobs) as pool:
        running = {pool.submit(_run_task, task, preset, changes, threads, workers): task for task in tasks}
        try:
            for future in as_completed(running):
                future.result()
                done += 1
                if on_progress is not None:
                    on_progress(done, len(tasks), running[future].prompt)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            workers.stop()
            raise


class Workers:
    """The processes of an evaluation; each ends, with a checkpoint, when its standard input does.

    So it ends with this process however that ends, for the system closes what a dead process had open.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self.stopping = False

    def run(self, command: Sequence[str], environment: Mapping[str, str]) -> tuple[int, str]:
        """Run one process to its end and return its code and what it said on its standard error."""
        pipe = subprocess.PIPE
        with self._lock:
            if self.stopping:
                return -1, ""
            process = subprocess.Popen(
                command,
                stdin=pipe,
                stdout=subprocess.DEVNULL,
                stderr=pipe,
                text=True,
                errors="replace",
                env=environment,
            )
            self._running.add(process)
        with process:
            assert process.stderr is not None
            said = process.stderr.read()
            process.wait()
        self._running.discard(process)
        return process.returncode, said

    def stop(self) -> None:
        """Ask all processes to end; `run` returns when they have."""
        with self._lock:
            self.stopping = True
        for process in list(self._running):
            assert process.stdin is not None
            process.stdin.close()


def _run_task(task: Task, preset: Preset, changes: Mapping[str, Any], threads: int, workers: Workers) -> None:
    """Run one task in a process of its own, unless its score is there already."""
    asked = {"prompt": task.prompt, "seed": task.seed, "preset": preset, "changes": dict(changes)}
    file = task.folder / "task.json"
    if file.exists():
        try:
            earlier = dict(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, RecursionError):
            raise DreamFusionError(f"{file} is damaged: delete its folder, and the run is done again.") from None
        if {key: earlier.get(key) for key in asked} != asked:
            raise DreamFusionError(
                f"{task.folder} was run with other settings ({earlier.get('preset')}, {earlier.get('changes')}): "
                "give another --output."
            )
    if _score_of(task.folder) is not None:
        return
    task.folder.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(asked | {"threads": threads}))
    (task.folder / "error.txt").unlink(missing_ok=True)
    command = [sys.executable, "-m", "dreamfusion.evaluation.worker", str(task.folder), SUPERVISED]
    code, said = workers.run(command, os.environ | {"OMP_NUM_THREADS": str(threads)})
    if code != 0 and not workers.stopping:
        lines = said.strip().splitlines()
        write_text(task.folder / "error.txt", lines[-1] if lines else f"ended with code {code}")


def judge_task(task: Task, judge: Judge, prompts: PromptList) -> Record:
    """Return the record of a run, its views judged against all captions of the evaluation."""
    base: dict[str, Any] = {"prompt": task.prompt, "seed": task.seed, "held_out": is_held_out(task.toy)}
    found = _score_of(task.folder)
    if found is None:
        error = task.folder / "error.txt"
        said = error.read_text(encoding="utf-8", errors="replace") if error.exists() else "not run"
        lost: dict[str, Any] = {"kind_read": 0.0} | {
            f"{name}_right": False for name in NAMED if getattr(task.toy, name)
        }
        return Record(**base, **lost, error=said)
    score, views = found
    return Record(**base, **score, **judge_views(views, task.prompt, task.toy, judge, prompts))


def _score_of(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Return the scores of a finished run and its renderings; None if it is not finished or they cannot be read."""
    try:
        score = json.loads((folder / "score.json").read_text(encoding="utf-8"))
        views = load_views(folder)
    except (OSError, ValueError, RecursionError, SafetensorError):
        return None
    measured = {entry.name for entry in fields(Record)}
    numbers = isinstance(score, dict) and all(
        value is None or isinstance(value, int | float) for value in score.values()
    )
    if not numbers or not {"iou", "seconds", "opacity"} <= set(score) <= measured:
        return None
    counts: dict[str, int] = {str(shading): len(AZIMUTHS_DEG) for shading in SHADINGS} | {BEHIND: len(BEHIND_DEG)}
    if views is None or {name: len(images) for name, images in views.items()} != counts:
        return None
    return (score, views) if all(images.shape[1:] == (3, VIEW_SIZE, VIEW_SIZE) for images in views.values()) else None


def judge_truth(prompt: str, toy: Toy, judge: Judge, prompts: PromptList) -> Record:
    """Return the record that the toy itself would get: the judge's own mistakes."""
    scores = judge_views(true_views(toy), prompt, toy, judge, prompts)
    return Record(prompt, 0, is_held_out(toy), iou=1.0, iou_unaligned=1.0, **scores)


def without_unclear_backs(records: Sequence[Record], truth: Sequence[Record]) -> list[Record]:
    """Return the records without a Janus verdict where the judge takes even the true toy's back for a front."""
    unclear = {record.prompt for record in truth if record.janus}
    return [replace(record, janus=None) if record.prompt in unclear else record for record in records]


def summarize(records: Sequence[Record]) -> dict[str, Estimate | None]:
    """Return every figure with its 95 % interval over the runs."""
    finished = [r for r in records if r.error is None]
    faced = [r.janus for r in finished if r.janus is not None]
    kinds = [r.kind_read for r in records if r.kind_read is not None]

    def mean(name: str) -> Estimate | None:
        return bootstrap([getattr(r, name) for r in finished if getattr(r, name) is not None])

    def right(name: str) -> Estimate | None:
        known = [getattr(r, name) for r in records if getattr(r, name) is not None]
        return share(sum(known), len(known))

    return {
        "albedo_precision": bootstrap([r.albedo_precision for r in records]),
        "color_precision": bootstrap([r.color_precision for r in records]),
        "geo_precision": bootstrap([r.geo_precision for r in records]),
        "iou_median": bootstrap([r.iou for r in records], np.median),
        "iou_unaligned_median": bootstrap([r.iou_unaligned for r in records], np.median),
        "iou_lowest_tenth": bootstrap([r.iou for r in records], lowest_tenth),
        **{f"{name}_right": right(f"{name}_right") for name in NAMED},
        "janus_rate": share(sum(faced), len(faced)),
        "unrecognisable": share(sum(share_read <= 0.5 for share_read in kinds), len(kinds)),
        "failed": share(len(records) - len(finished), len(records)),
        "chamfer": mean("chamfer"),
        "normal_error_deg": mean("normal_error_deg"),
        "saturation": mean("saturation"),
        "speckle": mean("speckle"),
        "opacity": mean("opacity"),
        "seconds": mean("seconds"),
    }


def to_json(evaluation: Evaluation) -> str:
    """Return an evaluation as JSON: settings, summary, one record per run, and the judge's records of the truth."""
    summary = {
        group: {name: estimate and asdict(estimate) for name, estimate in figures.items()}
        for group, figures in evaluation.summary().items()
    }
    runs, truth = ([asdict(record) for record in records] for records in (evaluation.records, evaluation.truth))
    return json.dumps({"settings": evaluation.settings, "summary": summary, "runs": runs, "truth": truth}, indent=2)


def from_json(text: str) -> Evaluation:
    """Return the evaluation of an evaluation.json."""
    values = json.loads(text)
    runs, truth = ([Record(**record) for record in values[key]] for key in ("runs", "truth"))
    return Evaluation(values["settings"], runs, truth)
