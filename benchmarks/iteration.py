"""Where the time of a step of the default run goes, and what whole runs take."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import Row
from dreamfusion.config import Config, build_config
from dreamfusion.config.presets import Preset
from dreamfusion.fields.field import Field
from dreamfusion.fields.mip_nerf import MipField
from dreamfusion.fields.nerf import NerfField
from dreamfusion.guidance.base import Guidance
from dreamfusion.method.cameras import sample_cameras
from dreamfusion.method.optimize import optimize
from dreamfusion.method.shading import Shading, sample_lights
from dreamfusion.method.state import State
from dreamfusion.renderers import volume
from dreamfusion.renderers.proposal import ProposalNetwork
from dreamfusion.runs.generate import load_guidance
from dreamfusion.scenes.scene import Views
from dreamfusion.scenes.volume import VolumeScene

PARTS: dict[str, list[tuple[Any, str]]] = {
    "sampling": [(volume, "_visible_samples"), (ProposalNetwork, "propose")],
    "encoding": [(NerfField, "encode"), (NerfField, "encoding_slope"), (MipField, "encode")],
    "networks": [(Field, "density"), (Field, "evaluate")],
    "shading": [(volume, "_shaded")],
    "compositing": [(volume, "_show"), (volume, "ray_weights")],
    "backward": [(torch.Tensor, "backward")],
    "other rendering": [(VolumeScene, "render"), (VolumeScene, "prepare")],
}
"""What is timed under which name; a part does not count the parts that it calls."""


class Shares:
    """Seconds spent in each part: ``spent`` by name."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self._inside = [0.0]  # seconds of timed parts within each part under way

    def timed(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """Return ``function``, its time being added to ``name``."""

        def run(*arguments: Any, **options: Any) -> Any:
            begun = time.perf_counter()
            self._inside.append(0.0)
            try:
                return function(*arguments, **options)
            finally:
                seconds = time.perf_counter() - begun
                self.spent[name] += seconds - self._inside.pop()
                self._inside[-1] += seconds

        return run


@contextlib.contextmanager
def measured() -> Iterator[Shares]:
    """Time the parts of the scene in this block."""
    shares = Shares()
    places = [(owner, attribute, name) for name, pairs in PARTS.items() for owner, attribute in pairs]
    originals = [getattr(owner, attribute) for owner, attribute, _ in places]
    for (owner, attribute, name), original in zip(places, originals, strict=True):
        setattr(owner, attribute, shares.timed(original, name))
    try:
        yield shares
    finally:
        for (owner, attribute, _), original in zip(places, originals, strict=True):
            setattr(owner, attribute, original)


def rows(quick: bool = False) -> list[Row]:
    """Return the shares of a step in a default run: the parts of the scene and their sum, guidance, the rest."""
    config = build_config("default", {"prompt": "a red mushroom", "device": "cpu", "steps": 40 if quick else 200})
    guidance: Guidance = load_guidance(config, torch.device("cpu"))
    state = State.fresh(config, torch.device("cpu"))
    with measured() as shares:
        guidance.predict_noise = shares.timed(guidance.predict_noise, "guidance")  # type: ignore[method-assign]
        begun = time.perf_counter()
        for _ in optimize(config, guidance, state):
            pass
        total = time.perf_counter() - begun
    spent = {name: shares.spent[name] for name in PARTS}
    spent["scene (all of these)"] = sum(spent.values())
    spent["guidance"] = shares.spent["guidance"]
    spent["rest"] = total - spent["scene (all of these)"] - spent["guidance"]
    table = [Row("step of the default run", 1000 * total / config.steps, "ms")]
    return table + [Row(f"share of {name}", 100 * seconds / total, "%") for name, seconds in spent.items()]


SCENES: dict[str, tuple[Preset, dict[str, Any]]] = {
    "hash grid": ("default", {"views": 2}),
    "hash grid, analytic normals": ("default", {"views": 2, "scene": {"nerf": {"normal_method": "analytic"}}}),
    "mip-NeRF 360, marching": (
        "default",
        {
            "views": 2,
            "scene": {
                "architecture": "mip360",
                "mip": {"density_bias": -6.5, "blob_density": 8.0, "blob_std": 0.55},  # the hash grid's ball, no fog
            },
        },
    ),
    "mip-NeRF 360, proposals": (
        "default",
        {"views": 2, "scene": {"architecture": "mip360", "renderer": "proposal"}},
    ),
    "preset paper, one of its four views": ("paper", {"views": 1}),
}
"""Presets and what is changed of them: 2 views of 32 x 32 pixels, but for the paper's 64 x 64, of which one view alone
takes 5 GB."""


def architectures(quick: bool = False) -> list[Row]:
    """Return how many steps per second the scene alone makes, of a fresh scene, one view lit."""
    table = []
    for name, (preset, changes) in SCENES.items():
        config = build_config(preset, {"prompt": "a red mushroom", "device": "cpu"} | changes)
        state, steps = State.fresh(config, torch.device("cpu")), 1 if quick else 5
        state.scene.prepare(0, 0.0, state.generators["occupancy"])

        def step(config: Config = config, state: State = state) -> None:
            random = state.generators
            cameras = sample_cameras(config.views, config.cameras, random["camera"])
            lights = sample_lights(cameras, config.lights, random["light"])
            modes: list[Shading] = ["lambertian", "albedo"][: config.views]
            views = Views(cameras, lights, modes, config.resolution, torch.full((config.views, 3), 0.5))
            out = state.scene.render(views, random["jitter"])
            terms = state.scene.regularize(out, views, config.loss, 1.0, random["jitter"])
            (out.rgb.square().mean() + sum(terms.values())).backward()

        step()  # compiles
        with measured() as shares:
            begun = time.perf_counter()
            for _ in range(steps):
                step()
            seconds = time.perf_counter() - begun
        table.append(Row(f"{name}: scene steps", steps / seconds, "1/s"))
        table += [Row(f"{name}: {part}", 100 * shares.spent[part] / seconds, "%") for part in list(PARTS)[:-1]]
    return table


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
