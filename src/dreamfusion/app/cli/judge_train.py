"""``dreamfusion judge train``."""

from __future__ import annotations

from pathlib import Path

from dreamfusion.app.cli.output import console
from dreamfusion.toybox.world import WorldName


def judge_train(
    *,
    output: Path = Path("runs/judge"),
    steps: int = 9000,
    small_steps: int = 6000,
    batch_size: int = 96,
    lr: float = 3e-3,
    muon_lr: float = 3e-2,
    decay_steps: int = 3000,
    seed: int = 77_000,
    start_from: Path | None = None,
    world: WorldName = "small",
) -> None:
    """Train the toybox judge, which reads off pictures what they show; run it again to continue exactly.

    For example:
        dreamfusion judge train --steps 9000

    Args:
        output: folder for the judge; until it is finished, the training lies beside it
        steps: training steps in all
        small_steps: how many of them, the first, are on pictures of half the side
        batch_size: pictures per step
        lr: highest learning rate of norms, first and last layers (AdamW)
        muon_lr: highest learning rate of all other weights (Muon)
        decay_steps: steps at the end over which the learning rates fall to zero
        seed: decides weights, data and noise; the prior's seed should be another
        start_from: folder of a finished judge to begin with, in place of random weights
        world: what it learns to read: small holds what the embedded prior knows, wide all kinds, finishes and scenes

    """
    from dreamfusion.app.progress import JudgeProgress
    from dreamfusion.evaluation.training import JudgeSettings, train_judge

    settings = JudgeSettings(
        steps, small_steps, batch_size, lr, muon_lr, decay_steps=decay_steps, seed=seed, world=world
    )
    with JudgeProgress(console, steps) as progress:
        print(train_judge(output, settings, start_from=start_from, on_progress=progress.update))
