"""Where the time of a step of the default run goes, and what whole runs take."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import Row
from dreamfusion.config import build_config
from dreamfusion.guidance.base import Guidance
from dreamfusion.optimize import State, optimize
from dreamfusion.run import load_guidance
from dreamfusion.scene import Scene


def _timed(function: Callable[..., Any], spent: dict[str, float], name: str) -> Callable[..., Any]:
    def run(*arguments: Any, **options: Any) -> Any:
        begun = time.perf_counter()
        result = function(*arguments, **options)
        spent[name] += time.perf_counter() - begun
        return result

    return run


def rows(quick: bool = False) -> list[Row]:
    """Return the shares of a step in the middle of a default run: scene (forward and backward), guidance, the rest."""
    config = build_config("default", {"prompt": "a red mushroom", "device": "cpu", "steps": 40 if quick else 200})
    guidance: Guidance = load_guidance(config, torch.device("cpu"))
    state = State.fresh(config, torch.device("cpu"))
    spent: dict[str, float] = defaultdict(float)
    originals = (Scene.render, torch.Tensor.backward)
    Scene.render = _timed(originals[0], spent, "scene")  # type: ignore[method-assign]
    torch.Tensor.backward = _timed(originals[1], spent, "scene")  # type: ignore[method-assign]
    guidance.predict_noise = _timed(guidance.predict_noise, spent, "guidance")  # type: ignore[method-assign]
    try:
        begun = time.perf_counter()
        for _ in optimize(config, guidance, state):
            pass
        total = time.perf_counter() - begun
    finally:
        Scene.render, torch.Tensor.backward = originals  # type: ignore[method-assign]
    spent["rest"] = total - spent["scene"] - spent["guidance"]
    table = [Row("step of the default run", 1000 * total / config.steps, "ms")]
    return table + [Row(f"share of {name}", 100 * seconds / total, "%") for name, seconds in spent.items()]


def whole_runs(quick: bool = False) -> list[Row]:
    """Return wall time and peak memory of ``dreamfusion generate`` as a user runs it."""
    table = []
    for preset in ("quick",) if quick else ("quick", "default"):
        with tempfile.TemporaryDirectory() as folder:
            command = ["generate", "a red mushroom", "--preset", preset, "--output", str(Path(folder) / "run")]
            begun = time.perf_counter()
            process = subprocess.Popen([sys.executable, "-m", "dreamfusion", *command], stderr=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - begun
            if status != 0:
                raise SystemExit(f"dreamfusion {' '.join(command)} failed: run it by hand to see why.")
        table.append(Row(f"generate --preset {preset}", seconds, "s"))
        table.append(Row(f"generate --preset {preset}, peak memory", usage.ru_maxrss / 1024**2, "GB"))
    return table
