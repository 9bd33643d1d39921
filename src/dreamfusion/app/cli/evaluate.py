"""``dreamfusion evaluate``."""

from __future__ import annotations

from pathlib import Path

from dreamfusion.app.cli.output import console, given, prompt_list
from dreamfusion.config.presets import Preset


def evaluate(
    *,
    prompts: str | None = None,
    seeds: int = 1,
    preset: Preset = "default",
    output: Path = Path("runs/evaluation"),
    steps: int | None = None,
    config: Path | None = None,
    judge: str | None = None,
    jobs: int | None = None,
    amortized: Path | None = None,
) -> None:
    """Score many runs: R-Precision, geometry against the truth, two-faced objects, failures.

    For example:
        dreamfusion evaluate --prompts 10 --preset quick

    Args:
        prompts: file with one prompt per line, or how many to draw that nobody picked (80 if not given)
        seeds: runs per prompt, with seeds 0 to SEEDS - 1
        preset: quick, default, high, or another system's settings
        output: folder for all runs, evaluation.json, report.md, report.html and overview.png; call again to go on
        steps: optimisation steps of every run, in place of the preset's
        config: YAML file with any of the settings of a run's config.yaml, for every run
        judge: folder of a trained judge, or folder or hub name of a CLIP model, in place of the toybox judge
        jobs: runs side by side (one per CPU core, or one on a GPU, if not given)
        amortized: folder of a network of amortize train, whose objects are scored in place of runs

    """
    from dreamfusion.app.progress import EvaluationProgress
    from dreamfusion.config import merged, read_yaml
    from dreamfusion.evaluation.amortized import score_network
    from dreamfusion.evaluation.evaluate import evaluate as run
    from dreamfusion.evaluation.judge import open_judge
    from dreamfusion.evaluation.report import markdown, write_reports

    if amortized is not None:
        with EvaluationProgress(console, "objects") as progress:
            scores = score_network(amortized, output, prompt_list(prompts) if prompts else None, judge, progress.update)
        print(scores)
        return
    changes = merged(read_yaml(config) if config else {}, given(steps=steps))
    prior = changes.get("guidance")
    chosen = prompt_list(prompts, prior.get("model") if isinstance(prior, dict) else None)
    with EvaluationProgress(console) as progress:
        evaluation = run(
            output,
            chosen,
            seeds=seeds,
            preset=preset,
            changes=changes,
            judge=open_judge(judge),
            jobs=jobs,
            on_progress=progress.update,
        )
    write_reports(evaluation, output)
    print(markdown(evaluation))
    print(output / "report.html")
