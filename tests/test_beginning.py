"""What a run begins from when its configuration does not tell: all of it is on the disk, or nothing is."""

import errno
from pathlib import Path

import pytest
import torch

from dreamfusion.config import load_config, parse_config
from dreamfusion.errors import DreamFusionError
from dreamfusion.io import checkpoints
from dreamfusion.method.state import State
from dreamfusion.runs import beginning
from dreamfusion.runs.beginning import save_beginning
from dreamfusion.runs.generate import new_folder
from dreamfusion.runs.results import open_state
from support.worlds import SHORT


@pytest.fixture
def state() -> State:
    """One that no configuration gives."""
    state = State.fresh(CONFIG, torch.device("cpu"))
    with torch.no_grad():
        state.scene.field.table.add_(1.0)
    return state


CONFIG = parse_config(SHORT | {"prompt": "a red mushroom"})


def begin(state: State, folder: Path) -> None:
    with new_folder(folder, folder) as place:
        save_beginning(CONFIG, state, place)


def test_a_beginning_can_be_resumed(state: State, tmp_path: Path):
    begin(state, tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [".dreamfusion", "checkpoints", "config.yaml"]
    resumed = open_state(tmp_path / "run", load_config(tmp_path / "run/config.yaml"), torch.device("cpu"))
    assert torch.equal(resumed.scene.field.table, state.scene.field.table)


def full(*arguments: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def no_room(*arguments: object) -> None:
    raise DreamFusionError("Cannot write config.yaml: the disk is full.")


@pytest.mark.parametrize(
    ("module", "name", "fails"), [(checkpoints, "_save_tensors", full), (beginning, "save_config", no_room)]
)
def test_without_room_for_it_nothing_has_begun(state: State, tmp_path: Path, monkeypatch, module, name, fails):
    with monkeypatch.context() as cramped:
        cramped.setattr(module, name, fails)
        with pytest.raises(DreamFusionError, match="Cannot write"):
            begin(state, tmp_path / "run")
    assert not (tmp_path / "run/config.yaml").exists(), "what has a config.yaml is resumed, from a scene of its own"
    begin(state, tmp_path / "run")
    assert torch.equal(
        open_state(tmp_path / "run", CONFIG, torch.device("cpu")).scene.field.table, state.scene.field.table
    )


def test_a_kill_while_it_is_written_leaves_a_folder_to_begin_in(state: State, tmp_path: Path, monkeypatch):
    def killed(source: object, target: object) -> None:
        raise KeyboardInterrupt  # nothing of ours runs after it

    with monkeypatch.context() as stopped:
        stopped.setattr(beginning.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            begin(state, tmp_path / "run")
    begin(state, tmp_path / "run")
    assert (tmp_path / "run/checkpoints/step_000000").is_dir()
