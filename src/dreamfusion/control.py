"""What a viewer, or anybody, asks of a run while it goes on: small files that its loop takes between two steps.

RUN/requests/           there while the run goes on
    stop                stop, with a checkpoint (as Ctrl-C does)
    prompt              its text is the prompt from now on
    snapshot            write a checkpoint now, to be looked at
    answer              what the run says to the last new prompt

A shell will do: ``touch runs/a-red-mushroom/requests/stop``.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Literal

from typing_extensions import Self

from dreamfusion.files import write_text

Kind = Literal["stop", "prompt", "snapshot"]
KINDS: tuple[Kind, ...] = ("stop", "prompt", "snapshot")


class Requests:
    """The requests to the run in a folder. The run itself opens them with a ``with`` block, which drops old ones."""

    def __init__(self, run: Path) -> None:
        self.folder = run / "requests"

    def __enter__(self) -> Self:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

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
        """Whether there is a run that takes requests (or was killed before it could say no more)."""
        return self.folder.is_dir()

    def send(self, kind: Kind, text: str = "") -> None:
        """Ask; DreamFusionError if no run is there to take it."""
        write_text(self.folder / kind, text)
