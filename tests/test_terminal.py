"""How commands end and speak, whatever the words are and whoever listens."""

import io
import logging
import os
import signal
import sys

import pytest
from rich.console import Console

from dreamfusion.app.progress import EvaluationProgress
from dreamfusion.app.terminal import run, say
from dreamfusion.errors import DreamFusionError
from dreamfusion.standard import LOADING


def fail(error: BaseException) -> None:
    raise error


def ended(command, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Return exit code and what was said."""
    said = io.StringIO()
    code = 0
    try:
        run(command, Console(file=said, width=40))
    except SystemExit as end:
        code = end.code
    return code, said.getvalue()


@pytest.mark.parametrize("text", ["a [red]car[/red]", "[/]", "[bold", ":smile: [link=x]", "12:30", "C:\\x\\[1]"])
def test_words_are_no_markup(text: str, monkeypatch: pytest.MonkeyPatch):
    assert ended(lambda: fail(DreamFusionError(text)), monkeypatch) == (1, f"error: {text}\n")
    said = io.StringIO()
    say(Console(file=said, width=10), text * 3)
    assert said.getvalue() == text * 3 + "\n"
    bar = EvaluationProgress(Console(file=io.StringIO(), width=200))
    with bar:
        bar.update(1, 2, text)
        assert bar.bar.columns[-1].render(bar.bar.tasks[0]).plain == text


@pytest.mark.parametrize("encoding", ["ascii", "cp932", "gbk", "cp1252"])
def test_characters_that_an_encoding_lacks_are_escapes(encoding: str, monkeypatch: pytest.MonkeyPatch):
    data = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(data, encoding=encoding))
    run(lambda: print("a \U0001f344 \udcff"), Console(file=io.StringIO()))
    assert data.getvalue() == b"a \\U0001f344 \\udcff\n"


def test_a_reader_that_goes_away_is_no_error(monkeypatch: pytest.MonkeyPatch):
    ours, theirs = os.pipe()
    os.close(ours)
    monkeypatch.setattr(sys, "stdout", os.fdopen(theirs, "w"))
    assert ended(lambda: print("x"), monkeypatch) == (141, "")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RecursionError(), "nested too deeply"),
        (MemoryError(), "Not enough memory"),
        (UnicodeEncodeError("utf-8", "a\udcffb", 1, 2, "surrogates not allowed"), "is no text"),
    ],
)
def test_what_python_says_in_pages_is_a_line(error: BaseException, words: str, monkeypatch: pytest.MonkeyPatch):
    code, said = ended(lambda: fail(error), monkeypatch)
    assert code == 1
    assert words in said
    assert said.count("\n") == 1


def test_other_errors_are_not_disguised(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ZeroDivisionError):
        ended(lambda: fail(ZeroDivisionError()), monkeypatch)


def test_a_signal_is_128_and_its_number(monkeypatch: pytest.MonkeyPatch):
    code, said = ended(lambda: signal.raise_signal(signal.SIGTERM), monkeypatch)
    assert (code, said) == (143, "Stopped by SIGTERM\n")


def test_what_is_loaded_is_a_line_and_other_news_none(monkeypatch: pytest.MonkeyPatch):
    def command() -> None:
        logging.getLogger(LOADING).info("reading unet, 3.4 GB")
        logging.getLogger("dreamfusion.io").info("nobody wants to know")

    monkeypatch.setattr(logging.getLogger(LOADING), "level", logging.INFO)
    assert ended(command, monkeypatch) == (0, "note: reading unet, 3.4 GB\n")


def test_warnings_of_the_package_are_lines_once(monkeypatch: pytest.MonkeyPatch):
    logger = logging.getLogger("dreamfusion.io.checkpoints")
    for _ in range(2):
        assert ended(lambda: logger.warning("passed over %s", "[x]"), monkeypatch) == (0, "note: passed over [x]\n")
