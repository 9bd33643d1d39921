"""What a viewer, or anybody, asks of a run while it goes on: small files that its loop takes between two steps.

RUN/requests/           there while the run goes on
    process             machine, number and birth of its process: one that is killed cannot remove the folder
    stop                stop, with a checkpoint (as Ctrl-C does)
    prompt              its text is the prompt from now on
    snapshot            write a checkpoint now, to be looked at
    answer              what the run says to the last new prompt

A shell will do: ``touch runs/a-red-mushroom/requests/stop``.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Literal

import psutil
from typing_extensions import Self

from dreamfusion.io.files import write_text

Kind = Literal["stop", "prompt", "snapshot"]
KINDS: tuple[Kind, ...] = ("stop", "prompt", "snapshot")


class Requests:
    """The requests to the run in a folder. The run itself opens them with a ``with`` block, which drops old ones."""

    def __init__(self, run: Path) -> None:
        self.folder = run / "requests"

    def __enter__(self) -> Self:
        self._clear()
        self.folder.mkdir(exist_ok=True)
        write_text(self.folder / "process", f"{socket.gethostname()} {os.getpid()} {psutil.Process().create_time()}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clear()

    def _clear(self) -> None:
        """Remove the requests, and their folder if nothing else is in it."""
        for name in (*KINDS, "process", "answer"):
            (self.folder / name).unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()

    def take(self) -> dict[Kind, str]:
        """Return the text of all requests and remove them."""
        taken: dict[Kind, str] = {}
        for kind in KINDS:
            path = self.folder / kind
            with suppress(FileNotFoundError):
                taken[kind] = path.read_text(encoding="utf-8", errors="replace").strip()
                path.unlink()
        return taken

    def answer(self, text: str) -> None:
        """Say something to those who ask."""
        write_text(self.folder / "answer", text)

    def answered(self) -> str:
        """Return what the run said last, or nothing."""
        with suppress(OSError):
            return (self.folder / "answer").read_text(encoding="utf-8")
        return ""

    @property
    def open(self) -> bool:
        """Whether there is a run that takes requests; of one on another machine only its folder is known."""
        try:
            machine, number, birth = (self.folder / "process").read_text(encoding="utf-8").split()
            return machine != socket.gethostname() or _lives(int(number), float(birth))
        except (OSError, ValueError):
            return False

    def send(self, kind: Kind, text: str = "") -> None:
        """Ask; DreamFusionError if no run is there to take it."""
        write_text(self.folder / kind, text)


def _lives(number: int, birth: float) -> bool:
    """Return whether there is a process of this number that began at this time, for numbers are given again."""
    try:
        process = psutil.Process(number)
        # The clock may have been set in the meantime.
        return abs(process.create_time() - birth) < 60 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True
