"""The process that carries out one order: read from standard input, told about in lines of JSON on standard output.

    {"folder": ..., "steps": 200, "step": 0}    a run has begun
    {"step": 12}                                a step is done
    {"note": "..."}                             something the user may want to know
    {"files": [...]}                            done; what was written, the most important first
    {"stopped": "..."} or {"error": "..."}      why it ended early

A run is stopped by a signal, as everywhere, and leaves a checkpoint.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamfusion import api
from dreamfusion.errors import DreamFusionError, Stopped
from dreamfusion.io.quiet import quiet_libraries

if TYPE_CHECKING:
    from dreamfusion.config import Config
    from dreamfusion.method.optimize import Step
    from dreamfusion.runs.results import Result

Say = Callable[..., None]


def main() -> None:
    """Carry out the order on standard input."""
    say = _speaker()
    order = json.loads(sys.stdin.readline())
    logging.getLogger("dreamfusion").addHandler(_Notes(say))
    logging.getLogger("dreamfusion").setLevel(logging.INFO)
    quiet_libraries()
    try:
        say(files=[str(path) for path in carry_out(order["kind"], order["options"], say)])
    except Stopped as stop:
        say(stopped=str(stop))
    except DreamFusionError as error:
        say(error=str(error))
    except MemoryError:
        say(error="Not enough memory: ask for fewer or smaller pictures, or a smaller model.")


def carry_out(kind: str, options: dict[str, Any], say: Say) -> list[Path]:
    """Do what is asked and return the files written; raises what the functions of `dreamfusion.api` raise."""
    match kind:
        case "render":
            return [api.render(options.pop("run"), **options)]
        case "export":
            return api.export(options.pop("run"), **options)
        case _:
            return [path for path in _run(kind, options, say).files if path.exists()]


def _run(kind: str, options: dict[str, Any], say: Say) -> Result:
    """Generate, resume or refine."""

    def on_start(folder: Path, config: Config, first_step: int) -> None:
        say(folder=str(folder), steps=config.steps, step=first_step)

    def on_step(step: Step) -> None:
        say(step=step.number)

    if kind == "refine":
        from dreamfusion.runs.refine import refine

        run = options.pop("run")
        return refine(run, on_start=on_start, on_step=on_step, on_note=lambda line: say(note=line), **options)
    from dreamfusion.runs.generate import generate

    if kind == "resume":
        return generate(resume=options.pop("run"), on_start=on_start, on_step=on_step, **options)
    prompt = options.pop("prompt")
    return generate(prompt, on_start=on_start, on_step=on_step, on_note=lambda line: say(note=line), **options)


def _speaker() -> Say:
    """Return the function that writes lines to standard output, which is kept from all others, libraries included."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)

    def say(**message: Any) -> None:
        with suppress(OSError):  # nobody listens any more; the work is finished all the same
            out.write(json.dumps(message) + "\n")
            out.flush()

    return say


class _Notes(logging.Handler):
    """The package's notes and warnings as lines."""

    def __init__(self, say: Say) -> None:
        super().__init__(logging.INFO)
        self.say = say

    def emit(self, record: logging.LogRecord) -> None:
        """Tell a record's message."""
        self.say(note=record.getMessage())


if __name__ == "__main__":
    main()
