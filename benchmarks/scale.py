"""What many processes cost: two that share a step, a sweep's overhead for each run, and the time of checkpoints."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from statistics import median

import torch
import torch.distributed as dist

from benchmarks import Row
from dreamfusion.config import Config, build_config
from dreamfusion.io.checkpoints import save_checkpoint
from dreamfusion.method.optimize import optimize
from dreamfusion.method.ranks import ALONE, Ranks
from dreamfusion.method.state import State
from dreamfusion.runs.generate import load_guidance
from dreamfusion.scale import on_ray
from dreamfusion.scale.plan import Trial

_CPU = torch.device("cpu")


def rows(quick: bool = False) -> Iterator[Row]:
    """Yield all three; in each baseline stands what the value is to be compared with."""
    steps = 3 if quick else 10
    four, two = _config(4), _config(2)
    prior = load_guidance(four, _CPU)

    def seconds(config: Config, ranks: Ranks) -> float:
        return seconds_per_step(config, prior, ranks, steps)

    alone = seconds(four, ALONE)
    apart = max(_in_two(lambda ranks: seconds(two, ALONE)))
    shared = max(_in_two(lambda ranks: seconds(four, ranks)))
    yield Row("step of 4 views, one process", alone, "s")
    yield Row("step of 2 views, two processes that know nothing of each other", apart, "s", alone, alone / apart)
    yield Row("step of 4 views, two processes that share it", shared, "s", apart, apart / shared)

    whole_run = four.steps * alone
    written = four.steps / four.checkpoint_every * checkpoint_seconds(four)
    yield Row("checkpoints of a run", written, "s", 0.01 * whole_run, 0.01 * whole_run / written)

    started, per_run = sweep_seconds(4 if quick else 16)
    yield Row("start of a local Ray", started, "s")
    yield Row("a sweep's own time per run", per_run, "s", 1.0, 1.0 / per_run)


def _config(views: int) -> Config:
    return build_config("default", {"prompt": "a red mushroom", "views": views, "device": "cpu"})


def seconds_per_step(config: Config, prior: object, ranks: Ranks, steps: int) -> float:
    """Return the median seconds of a step; the first two, which compile and fill caches, do not count."""
    torch.set_num_threads(1)
    walk = optimize(config, prior, State.fresh(config, _CPU), ranks=ranks)
    times = []
    for _ in range(steps + 2):
        begun = time.perf_counter()
        next(walk)
        times.append(time.perf_counter() - begun)
    return median(times[2:])


def _in_two(work: Callable[[Ranks], float]) -> list[float]:
    """Return what two processes, forked from this one, measure at the same time."""
    fork = multiprocessing.get_context("fork")
    answers = fork.SimpleQueue()
    store = f"file://{tempfile.mkdtemp()}/store"

    def process(index: int) -> None:
        dist.init_process_group("gloo", init_method=store, rank=index, world_size=2, timeout=timedelta(minutes=5))
        dist.barrier()
        answers.put(work(Ranks(index, 2, index)))
        dist.destroy_process_group()

    both = [fork.Process(target=process, args=(index,)) for index in (0, 1)]
    for one in both:
        one.start()
    said = [answers.get() for _ in both]
    for one in both:
        one.join()
    return said


def checkpoint_seconds(config: Config, count: int = 5) -> float:
    """Return the median seconds in which a run's state is written, flushed to the disk."""
    state, times = State.fresh(config, _CPU), []
    with tempfile.TemporaryDirectory() as folder:
        for step in range(count):
            begun = time.perf_counter()
            save_checkpoint(Path(folder) / "checkpoints", step, *state.to_checkpoint())
            times.append(time.perf_counter() - begun)
    return median(times)


def nothing(folder: str) -> None:
    """Stand in for a run that is done at once."""


def sweep_seconds(count: int) -> tuple[float, float]:
    """Return the seconds until the first of some empty runs is done, and those that each of the others adds."""
    on_ray.attempt = nothing
    begun = time.perf_counter()
    ends = []
    trials = [Trial("", seed, Path(), 1) for seed in range(count)]
    for ended in on_ray.RayCluster(gpus=0).run(trials):
        if ended is not None:
            ends.append(time.perf_counter())
    return ends[0] - begun, (ends[-1] - ends[0]) / (count - 1)
