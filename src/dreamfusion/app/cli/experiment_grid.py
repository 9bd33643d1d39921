"""``dreamfusion experiment grid``."""

from __future__ import annotations

from pathlib import Path

from dreamfusion.app.cli.output import console
from dreamfusion.config.presets import Preset


def experiment_grid(
    *,
    output: Path = Path("runs/grid"),
    prompt: str = "a red mushroom",
    methods: tuple[str, ...] = ("SDS", "annealed SDS", "VSD"),
    scales: tuple[float, ...] = (1.0, 3.0, 10.0),
    seeds: int = 3,
    preset: Preset = "quick",
    steps: int | None = None,
    model: str | None = None,
    device: str = "auto",
) -> None:
    """Compare guidance scales and seeds in 3D, and measure how different the objects are (paper Figure 9).

    For example:
        dreamfusion experiment grid --scales 1 5 --seeds 2 --steps 60

    Args:
        output: folder for all runs, grid.json, grid.md and grid.png; call again to go on
        prompt: what to make, a toy of the toybox
        methods: some of SDS, "annealed SDS" and VSD (which needs dreamfusion[vsd])
        scales: guidance scales
        seeds: objects with each method and scale, with seeds 0 to SEEDS - 1
        preset: quick, default, high, or another system's settings
        steps: optimisation steps of every run, in place of the preset's
        model: folder or hub name of a pixel-space diffusers pipeline; the embedded prior if not given
        device: auto, cpu, cuda, cuda:N or mps

    """
    from dreamfusion.app.progress import EvaluationProgress
    from dreamfusion.device import pick_device
    from dreamfusion.evaluation.judge import ToyboxJudge
    from dreamfusion.experiments.grid import GridSettings, run_grid
    from dreamfusion.guidance.names import model_named
    from dreamfusion.guidance.pixel import PixelGuidance

    settings = GridSettings(prompt, methods, scales, seeds, preset, steps)
    settings.check()
    prior = PixelGuidance(model_named(model or "toybox"), device=pick_device(device))
    changes = {"device": device} | ({"guidance": {"kind": "diffusers", "model": model}} if model else {})
    with EvaluationProgress(console, "cells") as progress:
        run_grid(output, settings, prior, ToyboxJudge(), changes=changes, on_progress=progress.update)
    print((output / "grid.md").read_text(encoding="utf-8"))
