"""Fixtures of all tests: one CPU thread per process, so that tests are quick and repeatable on a busy machine."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from worlds import shrink_pictures


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def _small_pictures() -> None:
    """Finished pictures of a few pixels: what they show is tested elsewhere, and rendering them takes most of a run."""
    shrink_pictures()


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
