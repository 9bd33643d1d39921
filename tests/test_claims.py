"""Folders that are claimed: whose they are, and who may work in them."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dreamfusion.errors import DreamFusionError
from dreamfusion.io.claims import InUseError, NotEmptyError, claim, identity, refuse_busy
from dreamfusion.runs.generate import new_folder

HOLD = """
import sys
from dreamfusion.io.claims import claim
with claim(sys.argv[1]):
    print("claimed", flush=True)
    sys.stdin.read()
"""


def test_a_claimed_folder_has_an_id_that_stays(tmp_path: Path):
    with claim(tmp_path / "run", new=True) as name:
        (tmp_path / "run/result").write_text("x")
    assert name == identity(tmp_path / "run")
    assert len(name) == 16
    with claim(tmp_path / "run") as again:
        assert again == name
    with claim(tmp_path / "other") as other:
        assert other != name


@pytest.mark.parametrize("new", [True, False])
def test_a_folder_with_anything_else_in_it_is_refused_and_left_alone(new: bool, tmp_path: Path):
    (tmp_path / "requests").mkdir()
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(NotEmptyError, match="holds other things") as caught, claim(tmp_path, new=new):
        pytest.fail("claimed")
    assert "\n" not in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == ["requests", "thesis.tex"]


def test_a_folder_in_which_nothing_was_left_is_gone_again(tmp_path: Path):
    def fail() -> None:
        with claim(tmp_path / "run", new=True):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert os.listdir(tmp_path) == []


def test_folders_of_earlier_versions_are_known_by_what_they_hold(tmp_path: Path):
    (tmp_path / "config.yaml").write_text("prompt: x")
    with claim(tmp_path, evidence=("config.yaml",)) as name:
        assert json.loads((tmp_path / ".dreamfusion").read_text()) == {"id": name}
    with pytest.raises(NotEmptyError, match="--resume"), claim(tmp_path, new=True):
        pytest.fail("claimed")


def test_one_thread_or_process_at_a_time_and_a_dead_one_loses_it(tmp_path: Path):
    run = tmp_path / "run"
    with claim(run, new=True):
        with pytest.raises(InUseError, match="Another process"), claim(run):
            pytest.fail("claimed twice")
        with pytest.raises(InUseError):
            refuse_busy(run)
    refuse_busy(run)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"claimed\n"
        with pytest.raises(InUseError), claim(run):
            pytest.fail("claimed twice")
        other.kill()
    with claim(run):
        pass


def test_starts_at_the_same_instant_get_folders_of_their_own(in_tmp: Path):
    ready, found, lock = threading.Barrier(8), [], threading.Lock()

    def start() -> None:
        ready.wait()
        with new_folder(Path("runs/toy"), None) as folder:
            with lock:
                found.append(folder.name)
            (folder / "config.yaml").write_text("x")
            ready.wait()

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == ["toy", *(f"toy-{n}" for n in range(2, 9))]


def test_a_damaged_mark_is_written_again(tmp_path: Path):
    with claim(tmp_path / "run"):
        (tmp_path / "run/x").touch()
    (tmp_path / "run/.dreamfusion").write_bytes(b"\xff{")
    with claim(tmp_path / "run") as name:
        assert identity(tmp_path / "run") == name


def test_a_name_that_is_a_file_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DreamFusionError), claim(tmp_path / "file"):
        pytest.fail("claimed")
    assert (tmp_path / "file").read_text() == "mine"
