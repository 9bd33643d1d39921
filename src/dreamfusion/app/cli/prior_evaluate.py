"""``dreamfusion prior evaluate``."""

from __future__ import annotations

from pathlib import Path

from dreamfusion.app.cli.output import console


def prior_evaluate(
    *,
    model: str | None = None,
    output: Path = Path("runs/prior-evaluation"),
    quick: bool = False,
    card: bool = False,
    judge: Path | None = None,
    device: str = "auto",
) -> None:
    """Score a prior of the toybox: its loss, what its samples show, how true and how different they are.

    For example:
        dreamfusion prior evaluate --quick

    Args:
        model: folder of the prior; the embedded prior if not given
        output: folder for scores.json and scores.md
        quick: a glance, at a twentieth of the cost
        card: write the scores beside the prior and their tables into its README.md, too
        judge: folder of a judge that judge train has made, in place of the one that ships with the package
        device: auto, cpu, cuda, cuda:N or mps

    """
    from dreamfusion.app.progress import EvaluationProgress
    from dreamfusion.device import pick_device
    from dreamfusion.evaluation.judge import TOYBOX_JUDGE, ToyboxJudge
    from dreamfusion.evaluation.prior import QUICK, PriorTrial, evaluate_prior, write_scores
    from dreamfusion.guidance.pixel import PixelGuidance
    from dreamfusion.standard import EMBEDDED_PRIOR
    from dreamfusion.toybox.scores import score_tables

    folder, chosen = Path(model or EMBEDDED_PRIOR), pick_device(device)
    guidance, reader = PixelGuidance(folder, device=chosen), ToyboxJudge(judge or TOYBOX_JUDGE, chosen)
    trial = QUICK if quick else PriorTrial()
    with EvaluationProgress(console, "parts") as progress:
        scores = evaluate_prior(guidance, reader, trial, name=folder.name, on_progress=progress.update)
    write_scores(scores, output, folder if card else None)
    print(score_tables(scores))
    print(output / "scores.json")
