"""``dreamfusion experiment warmstart``."""

from __future__ import annotations

from pathlib import Path

from dreamfusion.app.cli.output import console
from dreamfusion.config.presets import Preset


def experiment_warmstart(
    *,
    network: Path = Path("weights/amortized"),
    prompts: tuple[str, ...] = ("a blue mushroom", "a green mushroom", "a yellow snowman", "a black duck"),
    output: Path = Path("runs/warmstart"),
    preset: Preset = "default",
    steps: int | None = None,
    every: int = 20,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Measure how much sooner a run is good that begins with an instant object of an amortised network.

    For example:
        dreamfusion experiment warmstart --network weights/amortized --steps 60

    Args:
        network: folder of a network of amortize train
        prompts: pairs of a kind and a colour that the network knows
        output: folder for warmstart.json, warmstart.md and warmstart.png; call again to go on
        preset: quick, default, high, or another system's settings
        steps: optimisation steps of every run, in place of the preset's
        every: steps between two looks at a run
        seed: of every run
        device: auto, cpu, cuda, cuda:N or mps

    """
    from dreamfusion.amortized.instant import open_amortized
    from dreamfusion.app.progress import EvaluationProgress
    from dreamfusion.device import pick_device
    from dreamfusion.evaluation.judge import ToyboxJudge
    from dreamfusion.experiments.warmstart import WarmStartSettings, run_warmstart
    from dreamfusion.runs.generate import load_guidance

    settings = WarmStartSettings(prompts, network, preset, steps, every, seed)
    settings.check()
    prior = load_guidance(open_amortized(network).config, pick_device(device))
    with EvaluationProgress(console, "cells") as progress:
        run_warmstart(output, settings, prior, ToyboxJudge(), changes={"device": device}, on_progress=progress.update)
    print((output / "warmstart.md").read_text(encoding="utf-8"))
