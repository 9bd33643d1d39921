"""A job: an order on its way through the queue, and what is known of it."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dreamfusion.runs.control import Requests
from dreamfusion.studio.orders import Order
from dreamfusion.studio.work import Work

State = Literal["waiting", "running", "done", "stopped", "failed"]
KEPT_NOTES = 20


@dataclass
class Job:
    """``owner`` is the secret by which its owner is known; nobody else is told. Times are of the monotonic clock."""

    order: Order
    owner: str
    id: str = field(default_factory=lambda: secrets.token_hex(6))
    state: State = "waiting"
    folder: Path | None = None
    step: int = 0
    steps: int | None = None
    message: str = ""
    notes: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    work: Work | None = None
    stopping: bool = False
    _since: tuple[float, int] | None = None
    _last_step: float | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more happens to it."""
        return self.state in ("done", "stopped", "failed")

    def hear(self, told: dict[str, Any], now: float | None = None) -> None:
        """Take in what the worker tells; the last word it says decides how the job ended."""
        now = time.monotonic() if now is None else now
        if "folder" in told:
            self.folder, self.steps = Path(told["folder"]), told["steps"]
        if "step" in told:
            self.step = told["step"]
            self._since = self._since or (now, self.step)
            self._last_step = now if self.step == self.steps else None
        if "note" in told:
            self.notes = [*self.notes, str(told["note"])][-KEPT_NOTES:]
        for word, state in (("files", "done"), ("stopped", "stopped"), ("error", "failed")):
            if word in told:
                self.state = state  # type: ignore[assignment]
                if word == "files":
                    self.files = [Path(name) for name in told["files"]]
                else:
                    self.message = str(told[word])

    def seconds_writing(self, now: float | None = None) -> float | None:
        """Return for how long the results have been written, None before the last step."""
        return None if self._last_step is None else (time.monotonic() if now is None else now) - self._last_step

    def seconds_left(self, writing: float, now: float | None = None) -> float | None:
        """Return an estimate, in which writing the results takes ``writing`` seconds; None before it can be told."""
        now = time.monotonic() if now is None else now
        if self.state != "running" or self._since is None or self.steps is None:
            return None
        written = self.seconds_writing(now)
        if written is not None:
            return writing - written if written < writing else None
        begun, first = self._since
        if self.step == first:
            return None
        return (now - begun) / (self.step - first) * (self.steps - self.step) + writing

    def as_json(self, owner: str, place: int | None, writing: float) -> dict[str, Any]:
        """Return what the interface tells of it to ``owner``; ``place`` is its place in the queue, from 1."""
        left = self.seconds_left(writing)
        answer = Requests(self.folder).answered() if self.state == "running" and self.folder else ""
        return {
            "id": self.id,
            "kind": self.order.kind,
            "title": self.order.title,
            "order": self.order.model_dump(mode="json", exclude_none=True),
            "state": self.state,
            "place": place,
            "mine": self.owner == owner,
            "run": None if self.folder is None else self.folder.name,
            "step": self.step,
            "steps": self.steps,
            "seconds_left": None if left is None else round(left, 1),
            "stopping": self.stopping,
            "message": self.message or answer,
            "notes": self.notes,
            "files": [path.name for path in self.files],
        }
