"""``dreamfusion ablate``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from dreamfusion.app.cli.output import console, prompt_list
from dreamfusion.config.presets import Preset


def ablate(
    study: Positional[Literal["parts", "guidance"]] = "parts",
    *,
    prompts: str | None = None,
    seeds: int = 1,
    preset: Preset = "default",
    output: Path = Path("runs/ablation"),
    steps: int | None = None,
    judge: str | None = None,
    jobs: int | None = None,
) -> None:
    """Measure what each part of the method contributes, or what the guidance scale does.

    For example:
        dreamfusion ablate guidance --prompts 5

    Args:
        study: parts (views, view prompts, lighting, textureless; paper Figure 6) or guidance (scale x seed; Figure 9)
        prompts: file with one prompt per line, or how many to draw that nobody picked (80 if not given)
        seeds: runs per prompt and variant
        preset: quick, default, high, or another system's settings
        output: folder for all runs, ablation.json, ablation.md and ablation.svg; call again to go on
        steps: optimisation steps of every run, in place of the preset's
        judge: folder of a trained judge, or folder or hub name of a CLIP model, in place of the toybox judge
        jobs: runs side by side (one per CPU core, or one on a GPU, if not given)

    """
    from dreamfusion.app.progress import EvaluationProgress
    from dreamfusion.evaluation.ablation import ablate as run
    from dreamfusion.evaluation.judge import open_judge

    chosen = prompt_list(prompts)
    with EvaluationProgress(console) as progress:
        run(
            output,
            chosen,
            study,
            seeds=seeds,
            preset=preset,
            changes={"steps": steps} if steps else {},
            judge=open_judge(judge),
            jobs=jobs,
            on_progress=progress.update,
        )
    print((output / "ablation.md").read_text(encoding="utf-8"))
