"""The one exception for anything the user can put right; the CLI prints its single line and exits with 1."""

from __future__ import annotations

import math
from collections.abc import Mapping


class DreamFusionError(Exception):
    """A problem with input, files or the machine: one clear line that says what to do."""


class Stopped(DreamFusionError):  # noqa: N818  # not an error, but the one way out that every caller can catch
    """A signal, Ctrl-C or a request has ended the work between two steps; what was done is saved.

    ``number`` is that of the signal, SIGINT if it was none. The CLI ends with 128 + ``number``, as shells do.
    """

    def __init__(self, message: str, number: int = 2) -> None:
        super().__init__(message)
        self.number = number


def refuse_small(options: Mapping[str, float], *, above_zero: bool = False) -> None:
    """Raise DreamFusionError for options, by name, below 1 or not finite; with ``above_zero``, those not above 0."""
    for name, value in options.items():
        if not math.isfinite(value) or (value <= 0 if above_zero else value < 1):
            raise DreamFusionError(
                f"--{name.replace('_', '-')} must be {'above 0' if above_zero else 'at least 1'} (given: {value:g})."
            )
