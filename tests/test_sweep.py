"""Many runs: what is planned, what is chosen, the gallery, and that a worker that dies costs nothing."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dreamfusion.config import parse_config
from dreamfusion.errors import DreamFusionError
from dreamfusion.evaluation.worker import BEHIND
from dreamfusion.io.checkpoints import latest_checkpoint, load_checkpoint
from dreamfusion.scale import trial as trials
from dreamfusion.scale.choice import Entry, Scorer, are_alike, keep_best, overlap, picture_difference
from dreamfusion.scale.engines import chosen_engine
from dreamfusion.scale.gallery import gallery
from dreamfusion.scale.on_ray import RayCluster
from dreamfusion.scale.on_slurm import COMMANDS, Slurm, outcome_of_job
from dreamfusion.scale.plan import Plan, parse_vary, prompts_of, write_trial
from dreamfusion.scale.sweep import Status, Sweep, sweep
from dreamfusion.scale.trial import WrongMachineError, attempt
from support.sweeps import FEW, Blind, Here, Interrupted, Unwilling, make_small, small_plan

MUSHROOM, CAR = "a red mushroom", "a blue car"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("generate", "evaluation_views", "TURNING_SIZE", "TURNING_MESH", "VOLUME_RESOLUTION"):
        monkeypatch.setattr(trials, name, getattr(trials, name))  # put back at the end
    make_small()


# What is planned


def test_values_to_try_are_yaml():
    assert parse_vary(["steps=100,200", "guidance.t_max={start: 0.9, end: 0.3},0.5"]) == {
        "steps": [100, 200],
        "guidance.t_max": [{"start": 0.9, "end": 0.3}, 0.5],
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["steps"], "is no key with values"),
        (["steps="], "is no key with values"),
        (["=3"], "is no key with values"),
        (["steps=[3"], "is no key with values"),
        (["steps=3", "steps=4"], "names steps twice"),
        (["seed=3"], "seeds behind --seeds"),
    ],
)
def test_values_that_are_none(settings: list[str], message: str):
    with pytest.raises(DreamFusionError, match=message):
        parse_vary(settings)


def test_a_plan_has_all_combinations_and_shows_every_prompt_first():
    plan = small_plan(MUSHROOM, CAR, seeds=2, vary={"steps": [4, 6], "optim.grid_lr": [0.1]})
    planned = plan.trials(Path("out"))
    assert [(t.prompt, t.varied["steps"], t.seed, t.steps) for t in planned[:3]] == [
        (MUSHROOM, 4, 0, 4),
        (CAR, 4, 0, 4),
        (MUSHROOM, 6, 0, 6),
    ]
    assert len({trial.folder for trial in planned}) == len(planned) == 8
    assert planned[0].folder == Path("out/runs/a-red-mushroom/steps-4-optim-grid-lr-0-1/0")
    changes = plan.changes_of(planned[2].varied, seed=1)
    config = parse_config(changes | {"prompt": CAR})
    assert (config.steps, config.seed, config.optim.grid_lr) == (6, 1, 0.1)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (small_plan(MUSHROOM, seeds=0), "--seeds must be at least 1"),
        (small_plan(MUSHROOM, vary={"stepz": [1]}), "stepz"),
        (small_plan(MUSHROOM, vary={"steps": [4, 4]}), "give each value once"),
        (small_plan("a red unicorn"), "unicorn"),
        (small_plan(), "no prompt"),
    ],
)
def test_wrong_plans_leave_nothing(plan: Plan, message: str, tmp_path: Path):
    with pytest.raises(DreamFusionError, match=message):
        sweep(tmp_path / "out", plan, Here())
    assert not (tmp_path / "out").exists()


def test_an_engine_that_is_not_there_leaves_nothing(tmp_path: Path):
    with pytest.raises(DreamFusionError, match="no engine"):
        sweep(tmp_path / "out", small_plan(MUSHROOM), Unwilling())
    with pytest.raises(DreamFusionError, match="--keep must be at least 1"):
        sweep(tmp_path / "out", small_plan(MUSHROOM), Here(), keep=0)
    assert not (tmp_path / "out").exists()


def test_what_cannot_begin_leaves_nothing(tmp_path: Path):
    """An engine may find out late that no machine can run anything: one that does not see the folder, say."""
    with pytest.raises(WrongMachineError, match="not seen"):
        sweep(tmp_path / "out", small_plan(MUSHROOM, CAR, seeds=2, vary={"steps": [4, 6]}), Blind())
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_prompts(tmp_path: Path):
    file = tmp_path / "prompts.txt"
    file.write_text(f"{MUSHROOM}\n\n  {MUSHROOM} \nan emerald dragon\n")
    prompts, notes = prompts_of(file)
    assert prompts == [MUSHROOM, "an emerald dragon"], "other priors know other things"
    assert [note.partition(";")[0] for note in notes] == ["line 2 is empty", f"line 3 repeats {MUSHROOM!r}"]
    file.write_text("\n")
    with pytest.raises(DreamFusionError, match="holds no prompt"):
        prompts_of(file)
    with pytest.raises(DreamFusionError, match="Cannot read the prompts"):
        prompts_of(tmp_path / "none.txt")


# What comes out


def test_a_sweep_ranks_shows_and_goes_on(small: None, tmp_path: Path):
    output, told = tmp_path / "my <sweep>", []
    plan = small_plan(MUSHROOM, CAR, "toadstool of crimson")
    first = sweep(output, plan, Here(CAR), on_progress=told.append, on_note=lambda line: None)
    assert [(entry.prompt, entry.error) for entry in first.ranking] == [(MUSHROOM, None), (CAR, "no luck")]
    assert told[0] == Status(0, 2, 0, 8, 0)
    assert told[-1] == Status(2, 2, 8, 8, 1, f"{CAR}: no luck")
    assert (output / "runs/a-blue-car/0/error.txt").read_text() == "no luck"
    page = first.gallery.read_text()
    assert "1 failed" in page
    assert "my &lt;sweep&gt;" in page

    again = Here()
    second = sweep(output, plan, again)
    assert [trial.prompt for trial in again.ran] == [CAR], "what is finished is kept"
    assert not (output / "runs/a-blue-car/0/error.txt").exists()
    scores = [entry.score for entry in second.ranking]
    assert scores == sorted(scores, reverse=True)
    assert [entry["score"] for entry in json.loads((output / "sweep.json").read_text())["ranking"]] == scores
    page = second.gallery.read_text()
    assert re.findall(r"(?:src|href|url)[=(]\W?(?:https?:)?//", page) == [], "nothing from elsewhere"
    assert page.count("data:image/webp;base64,") == 2
    links = re.findall(r'href="([^"]*)"', page)
    assert len(links) == 10
    assert [link for link in links if not (output / link).is_file()] == []

    with pytest.raises(DreamFusionError, match="other settings: give another --output"):
        sweep(output, Plan([MUSHROOM], 1, "quick", FEW | {"steps": 6}), Here())
    kept = sweep(output, plan, Here(), keep=1)
    assert all(entry.files for entry in kept.ranking)


def test_a_run_that_was_cut_off_goes_on_from_its_checkpoint(small: None, tmp_path: Path):
    whole, cut = small_plan(MUSHROOM).trials(tmp_path / "whole"), small_plan(MUSHROOM).trials(tmp_path / "cut")
    for trial in (*whole, *cut):
        write_trial(trial, small_plan(MUSHROOM), 1)
    assert attempt(str(whole[0].folder)) is None
    inner = trials.generate

    def cut_off(*words: str, **options: Any) -> Any:
        def stop(step: Any) -> None:
            if step.number == 3:
                raise RuntimeError("cut off\nhere")

        return inner(*words, **options, on_step=stop)

    trials.generate = cut_off
    assert attempt(str(cut[0].folder)) == "cut off (RuntimeError)"
    trials.generate = inner
    assert attempt(str(cut[0].folder)) is None
    assert_same_run(whole[0].folder / "run", cut[0].folder / "run")


def assert_same_run(one: Path, other: Path) -> None:
    a, b = (load_checkpoint(latest_checkpoint(run / "checkpoints") or run).tensors for run in (one, other))
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
    assert (one / "metrics.jsonl").read_text() == (other / "metrics.jsonl").read_text()


def test_a_machine_without_the_folder_or_with_another_version_says_so(tmp_path: Path):
    with pytest.raises(WrongMachineError, match="give an --output that all machines share"):
        attempt(str(tmp_path / "elsewhere"))
    (trial,) = small_plan(MUSHROOM).trials(tmp_path)
    write_trial(trial, small_plan(MUSHROOM), 1)
    file = trial.folder / "trial.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"version": "0.0.1"}))
    with pytest.raises(WrongMachineError, match=r"the sweep was started with 0\.0\.1: install the same"):
        attempt(str(trial.folder))
    file.write_text("{")
    with pytest.raises(DreamFusionError, match="is damaged"):
        attempt(str(trial.folder))


# What is chosen


class Likes:
    """Stands in for CLIP: a picture is as like a prompt as it is bright; all of them show a front."""

    name = "likes"

    def similarity(self, images: torch.Tensor, texts: list[str]) -> torch.Tensor:
        return images.mean(dim=(1, 2, 3))[:, None].expand(-1, len(texts))

    def first(self, images: torch.Tensor, texts: list[str]) -> torch.Tensor:
        return torch.tensor([0 if image.mean() > 0.5 else 1 for image in images])


def views(shaded: float, behind: float = 0.0) -> dict[str, torch.Tensor]:
    """Views of an object that covers everything."""
    grey = torch.full((8, 3, 4, 4), 0.5)
    return {
        "lambertian": torch.full((8, 3, 4, 4), shaded),
        "textureless": grey,
        BEHIND: torch.full((3, 3, 4, 4), behind),
    }


def test_scores_by_hand():
    scorer = Scorer(Likes(), {MUSHROOM: True, CAR: False})
    assert scorer.score(views(0.25), MUSHROOM) == {"score": 0.25, "two_faced": False}
    assert scorer.score(views(0.25, behind=1.0), MUSHROOM) == {"score": 0.125, "two_faced": True}
    unclear = scorer.score(views(0.25, behind=1.0), CAR)
    assert unclear == {"score": 0.25, "two_faced": False}, "the judge takes even the true one's back for a front"
    assert Scorer(None).score(views(0.25), MUSHROOM) == {}


def test_near_duplicates_by_hand():
    cube, slab = torch.zeros(10, 10, 10, dtype=torch.bool), torch.zeros(10, 10, 10, dtype=torch.bool)
    cube[:] = True
    slab[:9], slab[9, :5] = True, True
    assert overlap(cube, slab) == pytest.approx(0.95)
    assert overlap(~cube, ~cube) == 0
    assert picture_difference(views(0.5), views(0.55)) == pytest.approx(0.05)
    pictures = [views(shade) for shade in (0.5, 0.55, 0.6)]
    assert are_alike(pictures[0] | {"volume": cube}, pictures[1] | {"volume": slab})
    assert not are_alike(pictures[0] | {"volume": cube}, pictures[2] | {"volume": slab}), "another colour"
    slab[8] = False
    assert not are_alike(pictures[0] | {"volume": cube}, pictures[1] | {"volume": slab}), "another shape"


def test_the_best_of_each_prompt_are_kept(tmp_path: Path):
    entries = [
        Entry(MUSHROOM, 0, {}, "m0", 0.9),
        Entry(MUSHROOM, 1, {}, "m1", 0.8, like="m0"),
        Entry(CAR, 0, {}, "c0", 0.7),
        Entry(MUSHROOM, 2, {}, "m2", 0.6),
        Entry(MUSHROOM, 3, {}, "m3", 0.5),
        Entry(CAR, 1, {}, "c1", error="no luck", files=False),
    ]
    for entry in entries[:5]:
        (tmp_path / entry.folder / "run").mkdir(parents=True)
        (tmp_path / entry.folder / "score.json").touch()
    kept = keep_best(entries, tmp_path, 2)
    assert [entry.folder for entry in kept if entry.files] == ["m0", "c0", "m2"]
    assert sorted(path.parent.name for path in tmp_path.glob("*/run")) == ["c0", "m0", "m2"]
    assert len(list(tmp_path.glob("*/score.json"))) == 5
    (tmp_path / "m1/turning.webp").write_bytes(b"-")
    page = gallery([kept[1]], tmp_path)
    assert "near-duplicate of m0" in page
    assert "it comes back from its prompt" in page


# Engines


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (RayCluster(cpus=0), "--cpus must be above 0"),
        (RayCluster(gpus=float("nan")), "--gpus at least 0"),
        (RayCluster(retries=-1), "--retries must be at least 0"),
        (RayCluster("nowhere"), "give host:port"),
        (RayCluster("127.0.0.1:1"), "No Ray cluster answers at 127.0.0.1:1"),
        (Slurm(Path("logs"), minutes=0), "--minutes must be at least 1"),
        (Slurm(Path("logs"), gpus=0.5), "a whole number"),
    ],
)
def test_engines_that_are_asked_wrongly(engine: RayCluster | Slurm, message: str):
    pytest.importorskip("ray")
    with pytest.raises(DreamFusionError, match=message):
        engine.check()


def test_engines_that_are_not_installed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    pytest.importorskip("submitit")
    with pytest.raises(DreamFusionError, match="sbatch is not there"):
        Slurm(Path("logs")).check()
    for name, engine in (("ray", RayCluster()), ("submitit", Slurm(Path("logs")))):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(DreamFusionError, match=r"pip install .dreamfusion\[scale\]"):
            engine.check()


def test_options_choose_the_engine():
    assert chosen_engine(Path("out"), gpus=0.5) == RayCluster(None, 1.0, 0.5, 2)
    assert chosen_engine(Path("out"), slurm=True, minutes=5) == Slurm(Path("out/slurm"), None, 5)
    with pytest.raises(DreamFusionError, match="not both"):
        chosen_engine(Path("out"), slurm=True, address="auto")
    with pytest.raises(DreamFusionError, match="--minutes is for Slurm"):
        chosen_engine(Path("out"), minutes=5)


def failed_job(line: str) -> Any:
    """Return a job of submitit's whose trace ends in a line."""
    trace = f"failed during processing with trace:\n------\nTraceback\n{line}\n------\nYou can check full logs"
    return SimpleNamespace(exception=lambda: RuntimeError(trace))


def test_a_failed_job_says_why():
    assert outcome_of_job(SimpleNamespace(exception=lambda: None, result=lambda: "no luck")) == "no luck"
    assert outcome_of_job(failed_job("ImportError: no torch")) == "ImportError: no torch"
    with pytest.raises(WrongMachineError, match=r"^another version\.$"):
        outcome_of_job(failed_job("dreamfusion.scale.trial.WrongMachineError: another version."))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Ray with one worker at a time, which dies once at step 3 of its first run."""
    ray = pytest.importorskip("ray")
    mark = tmp_path_factory.mktemp("ray") / "killed"
    paths = ":".join(str(Path(__file__).parents[1] / name) for name in ("tests", "src", "."))
    ray.init(
        num_cpus=1,
        include_dashboard=False,
        object_store_memory=80 * 2**20,
        log_to_driver=False,
        logging_level="CRITICAL",
        runtime_env={
            "env_vars": {"PYTHONPATH": paths, "KILL_ONCE": str(mark)},
            "worker_process_setup_hook": "support.sweeps.of_a_worker",
        },
    )
    yield mark
    ray.shutdown()


@pytest.mark.long
def test_a_worker_that_is_killed_is_started_again_and_ends_with_the_same_bits(
    small: None, cluster: Path, tmp_path: Path
):
    here: Sweep = sweep(tmp_path / "here", small_plan(MUSHROOM), Here())
    there: Sweep = sweep(tmp_path / "there", small_plan(MUSHROOM), RayCluster())
    assert cluster.exists(), "it was killed"
    assert [entry.error for entry in there.ranking] == [None]
    assert [entry.score for entry in there.ranking] == [entry.score for entry in here.ranking]
    assert_same_run(here.folder / here.ranking[0].folder / "run", there.folder / there.ranking[0].folder / "run")
    with pytest.raises(DreamFusionError, match="The cluster has 1 CPUs, and each run is to have 2"):
        sweep(tmp_path / "wide", small_plan(MUSHROOM), RayCluster(cpus=2))


@pytest.fixture
def slurm(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A real Slurm of two nodes on this machine; skipped where it is not installed or may not be started."""
    pytest.importorskip("submitit")
    root = Path(__file__).parents[1]
    if os.geteuid() != 0 or not all(map(shutil.which, ("slurmctld", "slurmd", "munged", *COMMANDS))):
        pytest.skip("no Slurm here: as root, apt-get install slurm-wlm munge")
    folder = tmp_path_factory.mktemp("slurm")
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    monkeypatch.setenv("PYTHONPATH", ":".join(str(root / name) for name in ("tests", "src", ".")))
    script = str(root / ".ci" / "slurm")
    try:
        subprocess.run([script, "start", str(folder)], check=True, timeout=120)
        yield
    finally:
        subprocess.run([script, "stop", str(folder)], check=True)


@pytest.mark.long
def test_jobs_that_are_signalled_or_killed_end_with_the_same_bits(small: None, slurm: None, tmp_path: Path):
    """On two nodes: the first is warned before its limit and requeued, the second dies and is submitted anew."""
    plan = small_plan(MUSHROOM, CAR)
    here: Sweep = sweep(tmp_path / "here", plan, Here())
    engine = Slurm(tmp_path / "there" / "slurm", minutes=10, work=Interrupted())
    there: Sweep = sweep(tmp_path / "there", plan, engine)
    assert [entry.error for entry in there.ranking] == [None, None]
    assert len(list((tmp_path / "there").glob("runs/*/0/interrupted"))) == 2
    for entry in here.ranking:
        assert_same_run(here.folder / entry.folder / "run", there.folder / entry.folder / "run")
    assert (engine.logs / "slurm-jobs").read_text() == "", "none is left behind"
