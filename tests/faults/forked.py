"""One case in a process of its own, forked from a warm one."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

CRASHED = 70
"""Exit code of a case that ended in an exception which nobody turned into a line."""


_IDLE = 30
"""A process that waits for the machine this many times longer than it may compute is taken for one that hangs."""


@dataclass(frozen=True)
class Outcome:
    """How a process ended: its exit code, -N for signal N; what it wrote; and how long it took."""

    code: int
    text: str
    seconds: float


def run(
    work: Callable[[], object],
    folder: Path,
    *,
    signals: Sequence[tuple[float, int]] = (),
    limit_s: float = 60.0,
    stop_first: bool = False,
    watch: Callable[[], int | None] | None = None,
) -> Outcome:
    """Call ``work`` in a child that works in ``folder``, send it ``signals`` after seconds, and wait for its end.

    One that takes longer than ``limit_s`` is killed; with ``stop_first`` it is sent SIGTERM then and has as long again.
    Those are seconds of its own computing, or `_IDLE` times as many on the clock, so that a busy machine fails nothing.
    ``watch`` may give a signal at any moment, to be sent once.
    """
    output = folder.parent / f"{folder.name}.output"
    output.touch()  # a child may be killed before it writes
    begun = time.monotonic()
    child = os.fork()
    if child == 0:
        _work(work, folder, output)
    waiting = [*sorted(signals)]
    ends = [(limit_s, signal.SIGTERM)] if stop_first else []
    ends.append((limit_s * (2 if stop_first else 1), signal.SIGKILL))
    process = psutil.Process(child)
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        if waiting and time.monotonic() - begun >= waiting[0][0]:
            os.kill(child, waiting.pop(0)[1])
        if ends and _worked(process, begun) >= ends[0][0]:
            os.kill(child, ends.pop(0)[1])
        number = watch() if watch is not None else None
        if number is not None:
            os.kill(child, number)
            watch = None
        time.sleep(0.002)
    text = output.read_text(encoding="utf-8", errors="replace")
    output.unlink()
    return Outcome(os.waitstatus_to_exitcode(status), text, time.monotonic() - begun)


def _worked(child: psutil.Process, begun: float) -> float:
    """Return the seconds that a child has computed, or its share of the time on the clock if that is more."""
    used = child.cpu_times()
    return max(used.user + used.system, (time.monotonic() - begun) / _IDLE)


def _work(work: Callable[[], object], folder: Path, output: Path) -> None:
    """Do the work in the child and leave it without what its parent would do at its end."""
    code = 0
    try:
        os.setsid()
        handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  # pytest has put others there
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        os.chdir(folder)
        work()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else CRASHED
    except BaseException:
        traceback.print_exc()
        code = CRASHED
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
