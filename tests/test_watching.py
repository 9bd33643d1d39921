"""What a run leaves for TensorBoard and Weights & Biases."""

from pathlib import Path

import pytest

from dreamfusion.errors import DreamFusionError
from dreamfusion.io.files import read_rows
from dreamfusion.runs.generate import generate
from dreamfusion.runs.watching import require_log
from support.worlds import SHORT, toy_prior

FEW = SHORT | {"steps": 4, "checkpoint_every": 2, "preview_every": 2}


def run(folder: Path, log: str) -> list[dict[str, float]]:
    """Make a short run and return its metrics."""
    prior = toy_prior("mushroom", views=8, size=16)
    generate("a red mushroom", output=folder, guidance_model=prior, assets=False, log=log, **FEW)
    return read_rows(folder / "metrics.jsonl")


def test_tensorboard_shows_what_the_log_says(tmp_path: Path):
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    rows = run(tmp_path / "run", "tensorboard")
    shown = reading.EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    names = set(shown.Tags()["scalars"])
    assert names >= set(rows[0]) - {"step"} | {"rate/0", "steps_per_second"}
    for name in ("opacity", "entropy_loss"):
        values = [(event.step, event.value) for event in shown.Scalars(name)]
        assert values == [(row["step"], pytest.approx(row[name])) for row in rows]
    assert [(picture.step, picture.width, picture.height) for picture in shown.Images("views")] == [
        (2, 32, 16),
        (4, 32, 16),
    ]


@pytest.mark.slow
def test_weights_and_biases_stays_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    run(tmp_path / "run", "wandb")
    (log,) = (tmp_path / "run/wandb").glob("offline-run-*/run-*.wandb")
    content = log.read_bytes()
    assert b"opacity" in content
    assert b"views" in content


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("dreamfusion.runs.watching.find_spec", lambda name: None)
    with pytest.raises(DreamFusionError, match=r"pip install .dreamfusion\[wandb\]"):
        require_log("wandb")
    require_log("none")
