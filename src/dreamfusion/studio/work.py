"""A worker process, seen from the studio: started with an order, listened to, stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from dreamfusion.runs.control import Requests

WORKER = (sys.executable, "-m", "dreamfusion.studio.worker")


class Work:
    """One order in the hands of a process of its own, so that the page answers meanwhile and a stop can end it."""

    def __init__(self, order: dict[str, Any], log: Path, command: Sequence[str] = WORKER) -> None:
        self._log = log
        with log.open("wb") as errors:
            # A session of its own: Ctrl-C is the studio's, which then asks its workers to end with a checkpoint.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
                text=True,
                encoding="utf-8",
            )
        with suppress(OSError):  # it has ended at once; its exit code says so
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.close()

    def messages(self) -> Iterator[dict[str, Any]]:
        """Yield what the worker tells, until it ends; an error of its own if it ends without a word."""
        assert self._process.stdout is not None
        said: dict[str, Any] = {}
        for line in self._process.stdout:
            with suppress(ValueError):
                said = json.loads(line)
                yield said
        self._process.stdout.close()
        code = self._process.wait()
        if not said.keys() & {"files", "stopped", "error"}:
            yield {"stopped": "Stopped before the first step."} if code < 0 else {"error": self._last_words(code)}

    def stop(self, folder: Path | None) -> None:
        """Ask it to end after this step with a checkpoint; what has no steps ends at once."""
        if os.name == "posix" or folder is None or not Requests(folder).open:
            self._process.terminate()
        else:  # Windows would end it without a checkpoint
            Requests(folder).send("stop")

    def kill(self) -> None:
        """End it now."""
        self._process.kill()

    def wait(self, seconds: float) -> bool:
        """Return whether it has ended after so many seconds."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
            return True
        return False

    def _last_words(self, code: int) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"The worker ended with code {code}: {lines[-1] if lines else 'it said nothing'} (see {self._log})."
