"""What a run says on its way: on terminals of any width, in a pipe, to programs, and when it is to be quiet."""

import io
import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from dreamfusion.app.run_progress import WRITING_STEPS, Remaining, RunProgress
from dreamfusion.standard import LOADING

METRICS = {"step": 1.0, "opacity": 0.25, "noise_error": 0.5, "t_max": 0.98}


def spoken(width: int, *, terminal: bool = False, seconds: float = 2.0, first: int = 0, **options: Any) -> str:
    """Return what a run of ten steps says, each of which takes so many seconds."""
    said = io.StringIO()
    time = iter(i * seconds for i in range(20))
    console = Console(file=said, width=width, force_terminal=terminal, color_system=None, _environ={})
    with RunProgress(console, clock=lambda: next(time), **options) as progress:
        progress.start(Path("runs/a"), SimpleNamespace(prompt="a", steps=10), first)
        for number in range(first + 1, 11):
            progress.step(SimpleNamespace(number=number, metrics=METRICS))
        progress.note("[red] is a colour")
    return said.getvalue()


def test_the_time_left_has_the_writing_in_it():
    left = Remaining(20, 100, now=7.0)
    assert left.seconds(20, now=9.0) is None
    assert left.seconds(30, now=27.0) == pytest.approx(2.0 * (70 + WRITING_STEPS))


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_a_terminal_of_any_width_shows_step_and_time_left_in_one_line(width: int):
    last = spoken(width, terminal=True).rsplit("\r", 1)[-1].splitlines()[0].replace("\x1b[2K", "")
    assert last.startswith("writing 10/10 0:01:00 left "), last  # 2 s for each of 30 steps
    assert len(last.rstrip()) <= width
    assert ("opacity 0.25  noise error 0.50  t<0.98" in last) == (width >= 100)


def test_a_pipe_gets_a_line_every_few_seconds():
    assert spoken(60).splitlines() == [
        "'a' in runs/a, 10 steps; watch preview.png",
        "step 3 of 10, 0:01:14 left, opacity 0.25  noise error 0.50  t<0.98",
        "step 6 of 10, 0:01:08 left, opacity 0.25  noise error 0.50  t<0.98",
        "step 9 of 10, 0:01:02 left, opacity 0.25  noise error 0.50  t<0.98",
        "step 10 of 10, 0:01:00 left, writing, opacity 0.25  noise error 0.50  t<0.98",
        "note: [red] is a colour",
    ]


def test_a_resumed_run_says_where_it_begins():
    assert spoken(60, first=8).startswith("'a' in runs/a, 10 steps, from step 8 on; watch preview.png\n")


def loading(**options: Any) -> str:
    """Return what is said before the first step, while a model is read."""
    said = io.StringIO()
    with RunProgress(
        Console(file=said, width=60, color_system=None, _environ={}, **options.pop("console", {})), **options
    ):
        logging.getLogger(LOADING).info("reading unet, 3.4 GB")
    logging.getLogger(LOADING).info("nobody listens")
    return said.getvalue()


def test_what_is_loaded_is_told_in_the_way_of_the_rest(capsys: pytest.CaptureFixture[str]):
    assert loading() == "reading unet, 3.4 GB\n"
    assert "reading unet, 3.4 GB" in loading(console={"force_terminal": True})
    assert loading(quiet=True) == loading(as_json=True) == ""
    assert capsys.readouterr() == ('{"loading": "reading unet, 3.4 GB"}\n', "")


def test_programs_get_lines_of_json_and_the_quiet_nothing(capsys: pytest.CaptureFixture[str]):
    assert spoken(60, as_json=True, first=8) == ""
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == {"folder": "runs/a", "prompt": "a", "step": 8, "steps": 10}
    figures = {"opacity": 0.25, "noise_error": 0.5, "t_max": 0.98}
    assert lines[1] == {"step": 9, "seconds_left": 62.0, **figures}
    assert lines[-1] == {"note": "[red] is a colour"}
    assert spoken(60, quiet=True) == ""
    assert capsys.readouterr().out == ""
