"""How a command ends, and how it speaks: one line on standard error, whatever is in it and whatever reads it."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

from dreamfusion.errors import DreamFusionError, Stopped
from dreamfusion.standard import LOADING
from dreamfusion.stopping import stop_at_once


def say(console: Console, line: str, *, label: str = "", style: str = "") -> None:
    """Print a line as it is: brackets and colons in a prompt or a path are no markup."""
    console.print(Text.assemble((label, style), line), highlight=False, soft_wrap=True)


def run(command: Callable[[], object], console: Console) -> None:
    """Run a command; what the user can put right ends with one line and code 1, a signal with 128 and its number.

    A reader that has gone away, as in ``dreamfusion ... | head``, ends it without a word and with code 141, as it ends
    others.
    """
    _write_any_text()
    try:
        with stop_at_once(), _lines(console):
            command()
            sys.stdout.flush()
    except Stopped as stop:
        say(console, str(stop))
        raise SystemExit(128 + stop.number) from None
    except DreamFusionError as error:
        _fail(console, str(error))
    except UnicodeEncodeError as error:
        _fail(console, f"{error.object[error.start : error.end]!r} is no text: leave it out of options and names.")
    except RecursionError:
        _fail(console, "Something is nested too deeply: give a flatter file.")
    except MemoryError:
        _fail(console, "Not enough memory: ask for fewer or smaller pictures, or a smaller model.")
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ESHUTDOWN):
            raise
        # Python would flush again at its end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None


def _fail(console: Console, line: str) -> None:
    say(console, f" {line}", label="error:", style="bold red")
    raise SystemExit(1) from None


def _write_any_text() -> None:
    """Have characters that the terminal's encoding lacks written as escapes, and what comes as bytes kept apart."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # not of those that tests put there
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


@contextmanager
def _lines(console: Console) -> Iterator[None]:
    """Print the package's warnings while the block lasts."""
    logger, handler = logging.getLogger("dreamfusion"), _Lines(console)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Lines(logging.Handler):
    """Warnings of the package, and what is loaded, as lines like any other, above a bar that is being drawn."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.INFO)
        self.console = console
        self.addFilter(lambda record: record.levelno >= logging.WARNING or record.name == LOADING)

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record's message."""
        say(self.console, f"note: {record.getMessage()}")
