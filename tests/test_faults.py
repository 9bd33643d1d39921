"""A small part of the campaign of tests/faults, with fixed seeds."""

import random
from collections.abc import Callable

import pytest
import torch

from faults.__main__ import prepare
from faults.inputs import KINDS


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Callable]:
    """All kinds of cases that need no training."""
    torch.set_num_threads(1)
    return prepare(tmp_path_factory.mktemp("faults"), ["generate"])


@pytest.mark.parametrize("how", ["interrupted", "stopped", "full_disk", "damaged"])
def test_whatever_ends_a_run_going_on_gives_the_same_bits(how: str, cases: dict[str, Callable]):
    problem, _ = cases[f"{how} generate"](random.Random(1))
    assert problem is None


@pytest.mark.parametrize("kind", KINDS)
def test_malformed_input_is_one_line(kind: str, cases: dict[str, Callable]):
    for seed in range(3):
        problem, command = cases[f"input {kind}"](random.Random(seed))
        assert problem is None, command
