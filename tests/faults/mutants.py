"""Plant small faults in the package's modules, one at a time, and see whether its tests notice.

``python -m tests.faults.mutants --minutes 20`` runs each module's tests once and notes which lines each of them
reaches. Then it plants faults at random (``--seed``) and runs, in a process forked from a warm one, the tests that
reach the line, until one fails. It prints the faults that no test noticed, and how many there were.
``--only renderers.occupancy`` takes one module, ``--line 112`` one line of it.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import os
import random
import resource
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import pytest

from faults.mutations import Mutation, mutations

ROOT = Path(__file__).parents[2]
WARM = (
    "torch warp numpy trimesh PIL.Image diffusers transformers safetensors.torch tyro pydantic rich playwright.sync_api"
)
"""Imported once: libraries that take long and hold nothing of this package."""

TESTS = {
    "method.losses": "losses optimize reference_defects",
    "method.distillation": "distillation optimize",
    "method.cameras": "cameras reference_defects render",
    "method.shading": "cameras renderer reference_defects",
    "method.optimize": "optimize run reference_defects",
    "method.optimizers": "optimizers",
    "renderers.occupancy": "renderer scenes",
    "renderers.volume": "renderer reference_defects",
    "renderers.proposal": "proposal",
    "renderers.mesh": "scenes rasterize",
    "runs.generate": "run",
    "runs.results": "run",
    "assets.mesh": "assets",
    "assets.texture": "formats",
    "assets.gltf": "formats mesh_input",
    "assets.formats": "formats",
    "assets.finish": "export",
    "assets.images": "assets",
    "assets.load": "mesh_input",
}
"""The files of tests that are there for a module."""

LIMIT_S = 90.0
"""Tests that took longer than this together, without the fault, are not all run for one; the quickest are."""


@dataclass
class Baseline:
    """What each test took, and which lines of the module it reached."""

    seconds: dict[str, float] = field(default_factory=dict)
    reached: dict[int, set[str]] = field(default_factory=lambda: defaultdict(set))

    def tests_of(self, mutation: Mutation) -> list[str]:
        """Return the tests that reach the statement, the quickest first, or all where it runs at import alone."""
        found = {test for line in range(mutation.first, mutation.last + 1) for test in self.reached.get(line, ())}
        chosen, total = [], 0.0
        for test in sorted(found or self.seconds, key=lambda test: self.seconds[test]):
            total += self.seconds[test]
            if total <= LIMIT_S:
                chosen.append(test)
        return chosen


class Watch:
    """A plugin of pytest that notes seconds and lines. What is prepared for one test counts for its whole file."""

    def __init__(self, module: Path, baseline: Baseline) -> None:
        self.module, self.baseline = str(module), baseline
        self.lines: set[int] = set()
        self.prepared: dict[str, set[int]] = defaultdict(set)

    def trace(self, frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:
        """Note the lines of the module's frames and of no other."""
        if frame.f_code.co_filename != self.module:
            return None
        self.lines.add(frame.f_lineno)
        return self.trace

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Any:
        """Measure one test."""
        begun = time.process_time()
        yield
        self.baseline.seconds[item.nodeid] = time.process_time() - begun

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Any:
        """Note what fixtures reach."""
        yield from self._noted(lambda lines: self.prepared[item.nodeid.partition("::")[0]].update(lines))

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Any:
        """Note what the test reaches."""
        yield from self._noted(lambda lines: [self.baseline.reached[line].add(item.nodeid) for line in lines])

    def _noted(self, keep: Callable[[set[int]], object]) -> Any:
        self.lines = set()
        sys.settrace(self.trace)
        yield
        sys.settrace(None)
        keep(self.lines)

    def finish(self) -> None:
        """Count what fixtures reached for every test of their file."""
        for file, lines in self.prepared.items():
            for line in lines:
                self.baseline.reached[line].update(
                    test for test in self.baseline.seconds if test.partition("::")[0] == file
                )


def in_child(work: Callable[[], object], result: Path, seconds: float) -> int:
    """Do work in a forked process of at most ``seconds`` of CPU; return its exit code, -N for signal N."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 99
    try:
        output = os.open(result, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        limit = int(time.process_time() + seconds)
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + 4 * 2**30
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
        code = int(work())  # type: ignore[call-overload]
    finally:
        os._exit(code)


def run_tests(tests: list[str], folder: Path, *plugins: object) -> int:
    """Run tests until one fails, as pytest does; return its exit code."""
    options = ["-n", "0", "-x", "-q", "-p", "no:cacheprovider", "--no-header", "--tb=line", f"--basetemp={folder}"]
    return int(pytest.main([*options, *tests], plugins=list(plugins)))


def measure(module: Path, files: list[str], folder: Path) -> Baseline:
    """Run the tests of a module as it is."""
    baseline = Baseline()
    kept = folder / "baseline"

    def work() -> int:
        watch = Watch(module, baseline)
        code = run_tests(files, folder / "pytest", watch)
        watch.finish()
        reached = {line: sorted(tests) for line, tests in baseline.reached.items()}
        kept.write_text(repr((baseline.seconds, reached)))
        return code

    if in_child(work, folder / "output", 3600) != 0:
        raise SystemExit(f"The tests of {module} fail without a fault:\n{(folder / 'output').read_text()[-3000:]}")
    seconds, reached = ast.literal_eval(kept.read_text())
    return Baseline(seconds, {line: set(tests) for line, tests in reached.items()})


def survives(module: Path, source: str, tests: list[str], seconds: float, folder: Path) -> bool:
    """Return whether all tests pass with this source in the module's place."""

    def work() -> int:
        plant(module, source)
        return run_tests(tests, folder / "pytest")

    return in_child(work, folder / "output", 20 + 4 * seconds) == 0


def plant(module: Path, source: str) -> None:
    """Let whatever loads the module get this source, also through import hooks."""
    get_data, path_stats = SourceFileLoader.get_data, SourceFileLoader.path_stats

    def data(self: Any, path: str) -> bytes:
        return source.encode() if Path(path) == module else get_data(self, path)

    def stats(self: Any, path: str) -> Any:
        # Another time than that of any compiled file.
        return path_stats(self, path) | ({"mtime": 0} if Path(path) == module else {})

    sys.dont_write_bytecode = True
    SourceFileLoader.get_data, SourceFileLoader.path_stats = data, stats  # type: ignore[method-assign]


def try_module(
    name: str, until: float, draw: random.Random, line: int | None, folder: Path, most: int
) -> tuple[int, list[str]]:
    """Plant faults in one module until the time is up; return how many, and those that no test noticed."""
    module = ROOT / "src/dreamfusion" / f"{name.replace('.', '/')}.py"
    tree = ast.parse(module.read_text(encoding="utf-8"))
    baseline = measure(module, [f"tests/test_{test}.py" for test in TESTS[name].split()], folder)
    faults = [fault for fault in mutations(tree) if line is None or fault.first <= line <= fault.last]
    draw.shuffle(faults)
    tried, missed = 0, []
    for fault in faults[:most]:
        if time.monotonic() >= until:
            break
        source, what = fault.planted(tree)
        tests = baseline.tests_of(fault)
        tried += 1
        if survives(module, source, tests, sum(baseline.seconds[test] for test in tests), folder):
            missed.append(f"{name}:{fault.first} {what}")
            print(missed[-1], f"[{len(tests)} tests]", flush=True)
    return tried, missed


def main() -> None:
    """Try the modules in turn, each for its share of the time, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.mutants", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=TESTS)
    parser.add_argument("--line", type=int)
    parser.add_argument("--most", type=int, default=10**6, help="faults in one module")
    given = parser.parse_args()
    os.chdir(ROOT)
    for library in WARM.split():
        importlib.import_module(library)
    names = [given.only] if given.only else list(TESTS)
    end = time.monotonic() + 60 * given.minutes
    rows, all_tried, all_missed = [], 0, 0
    with tempfile.TemporaryDirectory() as folder:
        for index, name in enumerate(names):
            now = time.monotonic()
            until = now + (end - now) / (len(names) - index)
            draw = random.Random(f"{given.seed} {name}")
            tried, missed = try_module(name, until, draw, given.line, Path(folder), given.most)
            rows.append(f"| `{name}` | {tried} | {len(missed)} |")
            print(rows[-1], flush=True)
            all_tried, all_missed = all_tried + tried, all_missed + len(missed)
    print(
        "| module | planted | not noticed |", "|---|---|---|", *rows, f"| all | {all_tried} | {all_missed} |", sep="\n"
    )


if __name__ == "__main__":
    main()
