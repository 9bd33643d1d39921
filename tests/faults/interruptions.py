"""Interruptions of work: whatever ends it, going on gives the same bits as if nothing had."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
from functools import partial
from pathlib import Path

from faults.forked import CRASHED, Outcome, run
from faults.work import Work

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def interrupted(work: Work, folder: Path, draw: random.Random, seconds: float, right: dict[str, str]) -> str | None:
    """Kill the work up to three times at random moments; return what is wrong with the result, None if nothing is."""
    for attempt in range(draw.randint(1, 3)):
        do = work.begin if attempt == 0 or not started(folder) else work.resume
        run(partial(do, folder), folder.parent, signals=[(draw.uniform(0, seconds), signal.SIGKILL)], limit_s=600)
    return finished(work, folder, right)


def stopped(work: Work, folder: Path, draw: random.Random, seconds: float, right: dict[str, str]) -> str | None:
    """Send a signal, and perhaps Ctrl-C soon after it; the exit is a stop of the package's own, and nothing is lost."""
    at, number = draw.uniform(0, seconds), draw.choice(STOPS)
    more = [(at + draw.uniform(0, 0.2), signal.SIGINT)] * draw.randint(0, 2)
    outcome = run(partial(_stopping, work, folder), folder.parent, signals=[(at, number), *more], limit_s=600)
    if outcome.code == CRASHED and "Traceback" in outcome.text:
        return outcome.text[-2000:]
    return finished(work, folder, right)


def _stopping(work: Work, folder: Path) -> None:
    from dreamfusion.errors import Stopped

    try:
        work.begin(folder)
    except Stopped as stop:
        raise SystemExit(128 + stop.number) from None


def full_disk(work: Work, folder: Path, draw: random.Random, seconds: float, right: dict[str, str]) -> str | None:
    """Let no file grow beyond some size for a while: one line, no half file, and it goes on once there is room."""
    size = int(10 ** draw.uniform(2, 5.5))

    def cramped() -> None:
        from dreamfusion.errors import DreamFusionError

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        try:
            work.begin(folder)
        except DreamFusionError:
            raise SystemExit(1) from None

    outcome = run(cramped, folder.parent, limit_s=600)
    if outcome.code not in (0, 1):
        return outcome.text[-2000:] or f"ended with {outcome.code}"
    return finished(work, folder, right)


def damaged(work: Work, folder: Path, draw: random.Random, seconds: float, right: dict[str, str]) -> str | None:
    """Flip a bit of, or truncate, one file of the newest checkpoint after a kill: the one before takes its place."""
    run(partial(work.begin, folder), folder.parent, signals=[(draw.uniform(0.5, 1) * seconds, signal.SIGKILL)])
    place = folder if (folder / "checkpoints").is_dir() else folder.with_name(f"{folder.name}-training")
    saved = sorted((place / "checkpoints").glob("step_*"))
    if len(saved) >= 2:
        file = draw.choice(sorted(saved[-1].iterdir()))
        data = bytearray(file.read_bytes())
        if draw.random() < 0.5:
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        else:
            del data[draw.randrange(len(data)) :]
        file.write_bytes(data)
    return finished(work, folder, right)


def started(folder: Path) -> bool:
    """Return whether there is anything to go on with."""
    return (folder / "config.yaml").exists() or not folder.exists()


def finished(work: Work, folder: Path, right: dict[str, str]) -> str | None:
    """Go on to the end and return what is wrong, None if nothing is."""
    do = work.resume if (folder / "config.yaml").exists() else work.begin
    for path in folder.rglob(".tmp-*"):  # those of a kill just now may be another command's, so they would stay
        os.utime(path, (0, 0))
    outcome = run(partial(do, folder), folder.parent, limit_s=600)
    wrong = _wrong(work, folder, right, outcome)
    shutil.rmtree(folder, ignore_errors=True)
    return wrong


def _wrong(work: Work, folder: Path, right: dict[str, str], outcome: Outcome) -> str | None:
    if outcome.code != 0:
        return f"going on ended with {outcome.code}: {outcome.text[-2000:]}"
    found = work.digests(folder)
    other = [name for name in right.keys() | found.keys() if right.get(name) != found.get(name)]
    if other:
        return f"other bits: {', '.join(sorted(other)[:5])}"
    # Checkpoints clear away what a kill has left unfinished; the lists of folders are complete.
    stray = [str(path.relative_to(folder)) for path in folder.rglob(".tmp-*") if "checkpoints" not in path.parts]
    return f"left behind: {', '.join(stray)}" if stray else None
