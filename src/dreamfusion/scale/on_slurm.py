"""Trials on Slurm: an array of jobs, written and submitted by submitit, one job for each trial.

Some time before a job's limit, and when it is preempted, Slurm signals it. The run then ends its step, writes a
checkpoint, and asks for another turn in the queue, where it goes on with the same bits. A job that dies without a
word is submitted again, to go on from its last checkpoint.
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from dreamfusion.errors import DreamFusionError, Stopped
from dreamfusion.io.files import write_text
from dreamfusion.scale.plan import Trial
from dreamfusion.scale.trial import WrongMachineError, attempt
from dreamfusion.stopping import stop_at_once

COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol")

LONGEST_ARRAY = 1000
"""Jobs of one array: Slurm's own default allows 1001."""

_WARNING_SECONDS = 90
_TURNS = 10_000  # as often as a job may be requeued at its time limit
_LOOK_SECONDS = 4.0
_QUEUE = "slurm-jobs"
"""File in the folder of logs that names the jobs of a sweep, so that a second start ends what a killed one has left."""


@dataclass(frozen=True)
class Requeued:
    """A trial as submitit runs it: told to end, it asks for another turn in the queue."""

    def __call__(self, folder: str) -> str | None:
        """Run a trial; see `trial.attempt`."""
        ask_again = signal.getsignal(signal.SIGUSR2)  # submitit's own: it requeues the job and exits

        def as_ours(number: int, frame: FrameType | None) -> None:
            signal.raise_signal(signal.SIGUSR1)

        signal.signal(signal.SIGUSR2, as_ours)
        try:
            with stop_at_once():
                return attempt(folder)
        except Stopped as stop:
            if stop.number == signal.SIGUSR1 and callable(ask_again):
                ask_again(signal.SIGUSR2, None)
            raise

    def checkpoint(self, folder: str) -> Any:
        """Return what the next turn calls: the same, which finds its own checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, folder)


@dataclass(frozen=True)
class Slurm:
    """Where jobs go and what each of them gets: a partition, whole ``cpus`` and ``gpus``, and a limit in ``minutes``.

    A run that needs longer takes several turns. ``retries`` are fresh starts after a job has died. Its logs are kept
    in ``logs``, a folder that all machines share. ``work`` is what each job does.
    """

    logs: Path
    partition: str | None = None
    minutes: int = 60
    cpus: float = 1.0
    gpus: float | None = None
    retries: int = 2
    work: Requeued = field(default_factory=Requeued)

    def check(self) -> None:
        """Raise DreamFusionError for numbers out of range, a missing library, or a Slurm that is not there."""
        if self.minutes < 1:
            raise DreamFusionError(f"--minutes must be at least 1 (given: {self.minutes}).")
        if self.cpus <= 0 or (self.gpus is not None and (self.gpus < 0 or self.gpus != int(self.gpus))):
            raise DreamFusionError("On Slurm --cpus must be above 0 and --gpus a whole number: it gives no fractions.")
        if self.retries < 0:
            raise DreamFusionError(f"--retries must be at least 0 (given: {self.retries}).")
        _import_submitit()
        missing = [name for name in COMMANDS if shutil.which(name) is None]
        if missing:
            raise DreamFusionError(
                f"--slurm needs Slurm's commands, and {missing[0]} is not there: start the sweep on a login node, or "
                "leave out --slurm."
            )
        answer = _ask("squeue", "--noheader", "--me")
        if answer.returncode != 0:
            raise DreamFusionError(f"Slurm does not answer ({_line(answer.stderr)}): see sinfo, or leave out --slurm.")

    def run(self, trials: Sequence[Trial]) -> Iterator[tuple[Trial, str | None] | None]:
        """Yield every trial as it ends, with what went wrong or None; in between None, about once a second.

        Closing the iterator cancels what is running, with a checkpoint. Raises DreamFusionError where no trial can run.
        """
        _cancel(self._earlier())
        jobs = dict(zip(self._submit(trials), trials, strict=True))
        starts = dict.fromkeys((trial.folder for trial in trials), 1)
        gone: set[str] = set()
        try:
            while jobs:
                queue = _queued([job.job_id for job in jobs])
                for job, trial in list(jobs.items()):
                    if job.paths.result_pickle.exists():
                        del jobs[job]
                        yield trial, outcome_of_job(job)
                    elif queue is None or job.job_id in queue:
                        gone.discard(job.job_id)
                    elif job.job_id not in gone:  # its result may be on the way over a shared disk
                        gone.add(job.job_id)
                    else:
                        del jobs[job]
                        if starts[trial.folder] > self.retries:
                            yield trial, f"its job {job.job_id} died again and again: see {self.logs}"
                        else:
                            starts[trial.folder] += 1
                            jobs[self._submit([trial])[0]] = trial
                self._remember([job.job_id for job in jobs])
                for _ in range(math.ceil(_LOOK_SECONDS) if jobs else 0):
                    yield None
                    time.sleep(1.0)
        finally:
            _cancel([job.job_id for job in jobs])
            self._remember([])

    def _submit(self, trials: Sequence[Trial]) -> list[Any]:
        """Submit one job for each trial and return them."""
        submitit = _import_submitit()
        executor = submitit.SlurmExecutor(folder=self.logs.absolute(), max_num_timeout=_TURNS)
        wanted = {
            "job_name": "dreamfusion",
            "partition": self.partition,
            "time": self.minutes,
            "cpus_per_task": max(1, math.ceil(self.cpus)),
            "gpus_per_node": int(self.gpus) if self.gpus else None,
            "signal_delay_s": min(_WARNING_SECONDS, self.minutes * 60 // 2),
            "additional_parameters": {"requeue": True},
        }
        executor.update_parameters(**{key: value for key, value in wanted.items() if value is not None})
        folders = [str(trial.folder.absolute()) for trial in trials]
        jobs: list[Any] = []
        try:
            for first in range(0, len(folders), LONGEST_ARRAY):
                jobs += executor.map_array(self.work, folders[first : first + LONGEST_ARRAY])
        except (submitit.core.utils.FailedJobError, subprocess.SubprocessError, RuntimeError, OSError) as error:
            _cancel([job.job_id for job in jobs])
            raise DreamFusionError(f"Slurm does not take the jobs: {_line(str(error))}.") from None
        self._remember([job.job_id for job in jobs])
        return jobs

    def _earlier(self) -> list[str]:
        with suppress(OSError):
            return (self.logs / _QUEUE).read_text(encoding="utf-8").split()
        return []

    def _remember(self, jobs: Sequence[str]) -> None:
        self.logs.mkdir(parents=True, exist_ok=True)
        write_text(self.logs / _QUEUE, "\n".join(jobs))


def _import_submitit() -> Any:
    try:
        import submitit
    except ImportError:
        raise DreamFusionError('--slurm needs submitit: pip install "dreamfusion[scale]".') from None
    return submitit


def _ask(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=os.environ)


def _line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else "no reason given"


def _queued(jobs: Sequence[str]) -> set[str] | None:
    """Return which jobs Slurm still has, waiting or running; None if it does not say."""
    answer = _ask("squeue", "--noheader", "--array", "--format", "%i", "--jobs", ",".join(jobs))
    if answer.returncode != 0:
        return set() if "Invalid job id" in answer.stderr else None
    return set(answer.stdout.split())


def _cancel(jobs: Sequence[str]) -> None:
    """End jobs, which have Slurm's KillWait to write a checkpoint, and wait until they are gone."""
    if not jobs:
        return
    _ask("scancel", *jobs)
    for _ in range(60):
        if not _queued(jobs):
            break
        time.sleep(1.0)


def outcome_of_job(job: Any) -> str | None:
    """Return what the trial of a finished job says."""
    error = job.exception()
    if error is None:
        said: str | None = job.result()
        return said
    # submitit gives the whole trace, between two lines.
    text = _line(str(error).rpartition("\n-----")[0] or str(error))
    name = f"{WrongMachineError.__name__}: "
    if name in text:
        raise WrongMachineError(f"{text.partition(name)[2]}.")
    return text
