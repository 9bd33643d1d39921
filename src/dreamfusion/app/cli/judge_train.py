"""``dreamfusion judge train``."""

from __future__ import annotations

from pathlib import Path

from dreamfusion.app.cli.output import console


def judge_train(
    *,
    output: Path = Path("runs/judge"),
    steps: int = 2600,
    batch_size: int = 96,
    lr: float = 2e-3,
    muon_lr: float = 2e-2,
    seed: int = 77_000,
    start_from: Path | None = None,
) -> None:
    """Train the toybox judge, which reads off pictures what they show.

    For example:
        dreamfusion judge train --steps 2600

    Args:
        output: folder for the judge
        steps: training steps
        batch_size: pictures per step
        lr: highest learning rate of norms, first and last layers (AdamW)
        muon_lr: highest learning rate of all other weights (Muon)
        seed: decides weights, data and noise; the prior's seed should be another
        start_from: folder of a finished judge to begin with, in place of random weights

    """
    from dreamfusion.app.progress import JudgeProgress
    from dreamfusion.evaluation.training import JudgeSettings, train_judge

    settings = JudgeSettings(steps=steps, batch_size=batch_size, lr=lr, muon_lr=muon_lr, seed=seed)
    with JudgeProgress(console, steps) as progress:
        print(train_judge(output, settings, start_from=start_from, on_progress=progress.update))
