"""Run cases until the time is up and print the table."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from faults import inputs, interruptions
from faults.work import KINDS, Work, warm

Case = Callable[[random.Random], tuple[str | None, str]]


def prepare(folder: Path, kinds: Sequence[str] = KINDS) -> dict[str, Case]:
    """Warm up in ``folder`` and return all kinds of cases; each gives what is wrong, None if nothing, and its name."""
    ready = warm(folder, kinds)
    cases: dict[str, Case] = {}
    for name, work in ready.items():
        begun = time.monotonic()
        work.begin(folder / "reference")
        seconds = time.monotonic() - begun
        right = work.digests(folder / "reference")
        shutil.rmtree(folder / "reference")
        for how in (
            interruptions.interrupted,
            interruptions.stopped,
            interruptions.full_disk,
            interruptions.damaged,
        ):
            cases[f"{how.__name__} {name}"] = partial(_interrupt, how, work, folder / "case", seconds, right, name)
    template = prepare_template(folder)
    for kind in inputs.KINDS:
        cases[f"input {kind}"] = partial(_input, kind, folder / "inputs" / "case", template)
    return cases


def prepare_template(folder: Path) -> Path:
    """Return the folder that every malformed input is tried in a copy of: a run, and files of the user's."""
    template = folder / "template"
    (template / "mine").mkdir(parents=True)
    (folder / "inputs").mkdir()
    shutil.copytree(folder / "finished", template / "run")
    for name in ("mine.txt", "mine.png", "mine/mine.txt"):
        (template / name).write_text("mine")
    (template / "prompts.txt").write_text("a red mushroom\n")
    return template


def _interrupt(
    how: Callable[..., str | None],
    work: Work,
    folder: Path,
    seconds: float,
    right: dict[str, str],
    name: str,
    draw: random.Random,
) -> tuple[str | None, str]:
    for path in folder.parent.glob("case*"):
        shutil.rmtree(path, ignore_errors=True)
    return how(work, folder, draw, seconds, right), name


def _input(kind: str, folder: Path, template: Path, draw: random.Random) -> tuple[str | None, str]:
    return inputs.wrong(kind, draw, folder, template)


def campaign(minutes: float, seed: int, only: str | None) -> int:
    """Run cases in turn, print what is wrong with any, and then the table; return how many were wrong."""
    done: Counter[str] = Counter()
    bad: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        kind, _, number = (only or "").rpartition(":")
        asked = kind or only or ""
        # Work that is not asked for is not warmed up.
        cases = prepare(Path(name), KINDS if not asked else [work for work in KINDS if asked.endswith(work)])
        chosen = {key: case for key, case in cases.items() if not only or key.startswith(asked)}
        until = time.monotonic() + 60 * minutes
        index = int(number) if number.isdigit() else 0
        while time.monotonic() < until:
            for key, case in chosen.items():
                problem, what = case(random.Random(f"{seed} {key} {index}"))
                done[key] += 1
                if problem is not None:
                    bad[key] += 1
                    print(f"--- {key}:{index} (seed {seed}) {what}\n{problem}\n", flush=True)
                if time.monotonic() >= until:
                    break
            if number.isdigit():
                break
            index += 1
    print(table(done, bad))
    return sum(bad.values())


def table(done: Counter[str], bad: Counter[str]) -> str:
    """Return the table of docs/reliability.md."""
    rows = [f"| {key} | {done[key]} | {bad[key]} |" for key in done]
    return "\n".join(["| case | tried | wrong |", "|---|---|---|", *rows, f"| all | {done.total()} | {bad.total()} |"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="beginning of the kinds to run, or one case as KIND:NUMBER")
    arguments = parser.parse_args()
    raise SystemExit(1 if campaign(arguments.minutes, arguments.seed, arguments.only) else 0)
