"""``dreamfusion experiment jacobian``."""

from __future__ import annotations

from pathlib import Path

from dreamfusion.app.cli.output import console


def experiment_jacobian(
    *,
    output: Path = Path("runs/jacobian"),
    prompts: tuple[str, ...] = ("a red mushroom", "a blue car", "a yellow duck", "a green house"),
    scales: tuple[float, ...] = (1.0, 5.0),
    samples: int = 2,
    steps: int = 200,
    draws: int = 64,
    seed: int = 0,
    model: str | None = None,
    device: str = "auto",
) -> None:
    """Compare score distillation with the loss that sends its gradient through the denoiser.

    For example:
        dreamfusion experiment jacobian --samples 1 --steps 50 --draws 16

    Args:
        output: folder for jacobian.json, jacobian.md and jacobian.png; call again to go on
        prompts: what to draw, toys of the toybox
        scales: guidance scales
        samples: pictures of each prompt with each loss and scale
        steps: optimisation steps of both losses
        draws: gradients drawn to measure their variance
        seed: decides all noise
        model: folder or hub name of a pixel-space diffusers pipeline; the embedded prior if not given
        device: auto, cpu, cuda, cuda:N or mps

    """
    from dreamfusion.app.progress import EvaluationProgress
    from dreamfusion.device import pick_device
    from dreamfusion.evaluation.judge import ToyboxJudge
    from dreamfusion.experiments.jacobian import JacobianSettings, run_jacobian
    from dreamfusion.guidance.names import model_named
    from dreamfusion.guidance.pixel import PixelGuidance

    settings = JacobianSettings(prompts, scales, samples, steps, draws, seed)
    settings.check()
    prior = PixelGuidance(model_named(model or "toybox"), device=pick_device(device))
    with EvaluationProgress(console, "cells") as progress:
        run_jacobian(output, settings, prior, ToyboxJudge(), prior_name=model or "toybox", on_progress=progress.update)
    print((output / "jacobian.md").read_text(encoding="utf-8"))
