"""``dreamfusion experiment figure2``."""

from __future__ import annotations

from pathlib import Path

from dreamfusion.app.cli.output import console


def experiment_figure2(
    *,
    output: Path = Path("runs/figure2"),
    prompts: tuple[str, ...] = ("a red mushroom", "a blue car", "a yellow duck", "a green house"),
    scales: tuple[float, ...] = (1.0, 5.0, 25.0),
    samples: int = 4,
    steps: int = 300,
    sampling_steps: int = 50,
    seed: int = 0,
    model: str | None = None,
    device: str = "auto",
) -> None:
    """Compare ancestral sampling with score distillation of pictures (paper Figure 2).

    For example:
        dreamfusion experiment figure2 --samples 1 --steps 100

    Args:
        output: folder for figure2.json, figure2.md and figure2.png; call again to go on
        prompts: what to draw, toys of the toybox
        scales: guidance scales
        samples: pictures of each prompt with each method and scale
        steps: steps of score distillation
        sampling_steps: steps of DDPM and DDIM
        seed: decides all noise
        model: folder or hub name of a pixel-space diffusers pipeline; the embedded prior if not given
        device: auto, cpu, cuda, cuda:N or mps

    """
    from dreamfusion.app.progress import EvaluationProgress
    from dreamfusion.device import pick_device
    from dreamfusion.evaluation.judge import ToyboxJudge
    from dreamfusion.experiments.figure2 import Figure2Settings, run_figure2
    from dreamfusion.guidance.names import model_named
    from dreamfusion.guidance.pixel import PixelGuidance

    settings = Figure2Settings(prompts, scales, samples, steps, sampling_steps, seed)
    settings.check()
    prior = PixelGuidance(model_named(model or "toybox"), device=pick_device(device))
    with EvaluationProgress(console, "cells") as progress:
        run_figure2(output, settings, prior, ToyboxJudge(), prior_name=model or "toybox", on_progress=progress.update)
    print((output / "figure2.md").read_text(encoding="utf-8"))
