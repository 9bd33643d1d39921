"""Several processes that share the views of a step are one: the same gradients, the same parameters, the same run."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import re
import signal
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.analytic import AnalyticGuidance
from dreamfusion.io.checkpoints import Checkpoint, list_checkpoints
from dreamfusion.io.files import read_rows
from dreamfusion.method.optimize import optimize
from dreamfusion.method.ranks import ALONE, LostError, Ranks
from dreamfusion.method.state import State
from dreamfusion.runs.generate import generate
from dreamfusion.runs.ranks import follow, joined, refuse_others, to_go_on_with
from support.hosts import two_hosts
from support.worlds import SHORT, toy_config, toy_prior

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {"views": 4, "resolution": 12, "scene": {"background": "learned", "occupancy_interval": 3}}


def in_processes(count: int, work: Callable[[Ranks], Any], folder: Path) -> list[Any]:
    """Return what ``work`` returns in each of several processes, forked from this warm one; None of one that died."""
    place = Path(tempfile.mkdtemp(dir=folder.parent))

    def process(index: int) -> None:
        store = f"file://{place / 'store'}"
        dist.init_process_group("gloo", init_method=store, rank=index, world_size=count, timeout=timedelta(seconds=60))
        try:
            said = work(Ranks(index, count, index))
        except DreamFusionError as error:
            said = error
        (place / str(index)).write_bytes(pickle.dumps(said))

    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=process, args=(index,)) for index in range(count)]
    for one in processes:
        one.start()
    for one in processes:
        one.join()
    answers = [place / str(index) for index in range(count)]
    return [pickle.loads(answer.read_bytes()) if answer.exists() else None for answer in answers]


@pytest.fixture(scope="module")
def prior() -> Any:
    return toy_prior("mushroom", views=8, size=16)


def run(prior: Any, ranks: Ranks, steps: int, start: State | None = None, **changes: Any) -> State:
    """Take steps of a small run of 30, from the beginning or where another was."""
    config = toy_config(steps=30, **SMALL | changes)
    state = State.fresh(config, CPU) if start is None else start
    walk = optimize(config, prior, state, ranks=ranks)
    for _ in range(steps):
        next(walk)
    return state


def numbers(state: State) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in state.scene.state_dict().items()}


def gradients(state: State) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in state.scene.named_parameters() if p.grad is not None}


# What a share is


def test_shares_by_hand():
    of_two = [list(Ranks(index, 2).portions(5, 1)) for index in (0, 1)]
    assert of_two == [[slice(0, 2)], [slice(2, 5)]]
    assert list(Ranks(1, 2).portions(4, 4)) == [slice(2, 3), slice(3, 4)], "without empty ones"
    assert (Ranks(1, 2).most_portions(5), ALONE.most_portions(5)) == (3, 5)


def test_a_share_of_the_jitter_is_what_one_process_would_draw():
    def fresh() -> torch.Generator:
        return torch.Generator().manual_seed(5)

    whole = torch.rand(4 * 9 + 1, generator=fresh())
    own = Ranks(1, 2).jitter(fresh(), slice(2, 4), 3)
    assert torch.equal(torch.rand(18, generator=own), whole[18:36])
    shared = fresh()
    Ranks(1, 2).pass_over(shared, 4, 3)
    assert torch.rand(1, generator=shared) == whole[36]
    alone = fresh()
    ALONE.pass_over(alone, 4, 3)
    assert ALONE.jitter(alone, slice(2, 4), 3) is alone
    assert torch.rand(1, generator=alone) == whole[0]


def test_more_processes_than_views_are_refused(prior: Any):
    with pytest.raises(DreamFusionError, match="A step has 4 views, too few for 5 processes: start at most 4"):
        run(prior, Ranks(0, 5), 1)


# What several processes do


@pytest.mark.parametrize("count", [2, 4])
def test_a_step_of_several_processes_is_that_of_one(count: int, prior: Any, tmp_path: Path):
    """Without normals that are smoothed at random points, of which there is another number in each share."""
    smooth = {"loss": {"normal_smooth_3d": 0.0}}
    expected = gradients(run(prior, ALONE, 1, **smooth))
    assert len(expected) > 3
    for said in in_processes(count, lambda ranks: gradients(run(prior, ranks, 1, **smooth)), tmp_path):
        assert said.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(said[name], gradient, rtol=2e-4, atol=1e-5 * gradient.abs().max().item())


@pytest.mark.parametrize("count", [2, 4])
def test_parameters_stay_equal_and_another_number_of_processes_goes_on(count: int, prior: Any, tmp_path: Path):
    def whole(ranks: Ranks) -> tuple[dict[str, torch.Tensor], Any]:
        state = run(prior, ranks, 20)
        return numbers(state), state.to_checkpoint()

    (first, (tensors, values)), *others = in_processes(count, whole, tmp_path)
    for other, _ in others:
        assert [name for name in first if not torch.equal(first[name], other[name])] == []

    def resumed(ranks: Ranks) -> dict[str, torch.Tensor]:
        state = State.fresh(toy_config(steps=30, **SMALL), CPU)
        state.restore(Checkpoint(20, {name: tensor.clone() for name, tensor in tensors.items()}, values))
        return numbers(run(prior, ranks, 1, state, loss={"normal_smooth_3d": 0.0}))

    alone = resumed(ALONE)
    for other in in_processes(6 - count, resumed, tmp_path):
        for name, value in alone.items():
            torch.testing.assert_close(other[name], value, rtol=1e-3, atol=1e-4)


# Whole runs

FEW = SHORT | {"checkpoint_every": 4, "preview_every": 8, "steps": 8, "loss": {"normal_smooth_3d": 0.0}}


def start(folder: Path, *, resume: bool = False, **options: Any) -> Callable[[Ranks], Any]:
    """Return the work of a process of a run: the first makes it, the others follow; it gives the error or exit code."""

    def work(ranks: Ranks) -> Any:
        torch.set_num_threads(1)
        prior = toy_prior("mushroom", views=8, size=16)
        common = {"guidance_model": prior, "assets": False, "ranks": ranks} | options.get("first", {})
        try:
            if ranks.index:
                follow(ranks, guidance_model=options.get("others", lambda prior: prior)(prior))
            elif resume:
                generate(resume=folder, **common)
            else:
                generate("a red mushroom", output=folder, **common, **FEW)
        except SystemExit as exit:
            return exit.code
        return None

    return work


def rows(folder: Path) -> list[dict[str, float]]:
    return read_rows(folder / "metrics.jsonl")


def test_two_processes_make_one_run_that_one_goes_on_with(tmp_path: Path):
    whole = generate(
        "a red mushroom", output=tmp_path / "one", guidance_model=toy_prior("mushroom", views=8, size=16),
        assets=False, **FEW,
    )  # fmt: skip

    def stop(step: Any) -> None:
        if step.number == 6:
            raise KeyboardInterrupt

    said, exit_code = in_processes(2, start(tmp_path / "two", first={"on_step": stop}), tmp_path)
    assert str(said) == f"Stopped by SIGINT: continue with --resume {tmp_path / 'two'}"
    assert exit_code == 128 + signal.SIGINT
    assert [row["step"] for row in rows(tmp_path / "two")] == [1, 2, 3, 4, 5, 6]
    generate(resume=tmp_path / "two", guidance_model=toy_prior("mushroom", views=8, size=16), assets=False)
    for one, two in zip(rows(whole.folder), rows(tmp_path / "two"), strict=True):
        assert two == pytest.approx(one, rel=0.02, abs=1e-3)


class Mortal(AnalyticGuidance):
    """A prior that works for a while."""

    calls = 0

    def predict_noise(self, *arguments: Any) -> torch.Tensor:
        Mortal.calls += 1
        if Mortal.calls > 5:
            os._exit(9)
        return super().predict_noise(*arguments)


def test_a_process_that_dies_ends_the_run_with_a_checkpoint(tmp_path: Path):
    def mortal(prior: AnalyticGuidance) -> AnalyticGuidance:
        prior.__class__ = Mortal
        return prior

    said, nothing = in_processes(2, start(tmp_path / "run", others=mortal), tmp_path)
    assert nothing is None
    assert isinstance(said, LostError)
    assert str(said).startswith("Another process of this run has died or no longer answers (")
    assert str(said).endswith(f"start again with --resume {tmp_path / 'run'}, which goes on from step 4.")
    assert list(list_checkpoints(tmp_path / "run/checkpoints")) == [4]
    assert in_processes(2, start(tmp_path / "run", resume=True), tmp_path / "run") == [None, None]
    assert [row["step"] for row in rows(tmp_path / "run")] == list(range(1, 9))


# How torchrun starts them


@pytest.fixture
def torchrun(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of the first of two processes."""
    found = {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    return found


def test_without_torchrun_a_command_is_alone(tmp_path: Path):
    with joined({}) as ranks:
        assert ranks == ALONE
    assert to_go_on_with(tmp_path) is None


def test_a_restart_goes_on_in_its_folder(torchrun: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert to_go_on_with(tmp_path) is None
    (tmp_path / "config.yaml").touch()
    assert to_go_on_with(tmp_path) == tmp_path
    assert to_go_on_with(None) is None
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    with pytest.raises(DreamFusionError, match="give --output"):
        to_go_on_with(None)


def test_waiting_is_a_number_of_seconds(torchrun: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DREAMFUSION_RANKS_TIMEOUT", "long")
    with pytest.raises(DreamFusionError, match="must be a whole number of seconds"), joined({}):
        pass


def test_others_that_are_not_there_are_named(torchrun: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DREAMFUSION_RANKS_TIMEOUT", "1")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "0")
    with pytest.raises(LostError, match=r"The 2 processes did not find each other at 127.0.0.1:0 in 1 s"), joined({}):
        pass


def test_processes_with_other_options_or_versions_are_refused(tmp_path: Path):
    file = tmp_path / "few.yaml"
    file.write_text("steps: 4")

    def work(ranks: Ranks) -> Any:
        try:
            refuse_others(ranks, {"preset": "quick", "config": file, "device": f"cuda:{ranks.index}"})
            refuse_others(ranks, {"preset": ["quick", "high"][ranks.index]})
        except SystemExit as exit:
            return exit.code
        return None

    said, exit_code = in_processes(2, work, tmp_path)
    assert re.fullmatch(
        r"Process 1 on .+ has another preset \('high', and here it is 'quick'\): install .+ on all hosts.", str(said)
    )
    assert exit_code == 1


# Two hosts


def test_a_host_that_is_cut_off_ends_the_run_in_time_with_a_checkpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Each host is a network namespace; its process joins as torchrun has it, and the cable is cut at step 6."""
    with two_hosts() as cable:
        environment = {
            "TORCHELASTIC_RUN_ID": "x",
            "WORLD_SIZE": "2",
            "LOCAL_RANK": "0",
            "MASTER_ADDR": "10.77.0.1",
            "MASTER_PORT": "29500",
            "DREAMFUSION_RANKS_TIMEOUT": "5",
        }

        def cut(step: Any) -> None:
            if step.number == 6:
                cable.cut()

        def host(number: int) -> None:
            os.environ.update(environment | {"RANK": str(number)})
            cable.enter(number)
            try:
                with joined({"preset": "quick"}) as ranks:
                    start(tmp_path / "run", first={"on_step": cut})(ranks)
            except LostError as error:
                (tmp_path / str(number)).write_text(str(error))

        fork = multiprocessing.get_context("fork")
        processes = [fork.Process(target=host, args=(number,)) for number in (0, 1)]
        for one in processes:
            one.start()
        for one in processes:
            one.join()
    lost = "Another process of this run has died or no longer answers ("
    first, second = ((tmp_path / str(number)).read_text() for number in (0, 1))
    assert first.startswith(lost)
    assert first.endswith(f"start again with --resume {tmp_path / 'run'}, which goes on from step 4.")
    assert second.startswith(lost), "one line on each host"
    assert list(list_checkpoints(tmp_path / "run/checkpoints")) == [4]
    generate(resume=tmp_path / "run", guidance_model=toy_prior("mushroom", views=8, size=16), assets=False)
    assert [row["step"] for row in rows(tmp_path / "run")] == list(range(1, 9))
