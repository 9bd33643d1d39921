"""``dreamfusion sweep``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, UseAppendAction, arg

from dreamfusion.app.cli.output import console, given, note
from dreamfusion.config.presets import Preset


def sweep(
    prompts: Positional[Path],
    *,
    seeds: int = 4,
    preset: Preset = "default",
    output: Path = Path("runs/sweep"),
    steps: int | None = None,
    config: Path | None = None,
    vary: Annotated[UseAppendAction[tuple[str, ...]], arg(name="set", metavar="KEY=A,B,C")] = (),
    judge: str | None = None,
    keep: int | None = None,
    cpus: float = 1.0,
    gpus: float | None = None,
    retries: int = 2,
    address: str | None = None,
    slurm: bool = False,
    partition: str | None = None,
    minutes: int | None = None,
) -> None:
    """Run many prompts with many seeds and settings on Ray or Slurm, and show what comes out, best first.

    For example:
        dreamfusion sweep prompts.txt --seeds 4 --set guidance.guidance_scale=4,8 --keep 1

    Args:
        prompts: file with one prompt per line
        seeds: runs per prompt and setting, with seeds 0 to SEEDS - 1
        preset: quick, default, high, or another system's settings
        output: folder for all runs, sweep.json and gallery.html, shared by all machines; call again to go on
        steps: optimisation steps of every run, in place of the preset's
        config: YAML file with any of the settings of a run's config.yaml, for every run
        vary: values of a configuration key to try; may be given again, and all combinations are run
        judge: folder of a trained judge, or folder or hub name of a CLIP model, in place of the toybox judge
        keep: delete the runs of all but the best KEEP of each prompt in the end; scores and previews stay
        cpus: CPU cores of each run; the machine or cluster runs as many side by side as fit
        gpus: GPUs of each run, which may be a fraction (1 where there are any, if not given)
        retries: how often a run whose process died is started again, from its last checkpoint
        address: host:port of a Ray cluster, or auto for the one that this machine belongs to (a local one if not given)
        slurm: run on Slurm, as an array of jobs, in place of Ray
        partition: Slurm's partition
        minutes: Slurm's time limit for each job (60 if not given); a run that needs longer is requeued and goes on

    """
    from dreamfusion.app.progress import SweepProgress
    from dreamfusion.config import merged, read_yaml
    from dreamfusion.scale.engines import chosen_engine
    from dreamfusion.scale.plan import Plan, parse_vary, prompts_of
    from dreamfusion.scale.sweep import sweep as run

    options = given(gpus=gpus, address=address, partition=partition, minutes=minutes)
    engine = chosen_engine(output, cpus=cpus, retries=retries, slurm=slurm, **options)
    words, notes = prompts_of(prompts)
    for line in notes:
        note(f"{prompts}: {line}")
    changes = merged(read_yaml(config) if config else {}, given(steps=steps))
    plan = Plan(words, seeds, preset, changes, parse_vary(vary))
    with SweepProgress(console) as progress:
        result = run(output, plan, engine, judge=judge, keep=keep, on_progress=progress.update, on_note=note)
    for entry in result.ranking:
        if entry.error is not None:
            note(f"{entry.folder} failed: {entry.error}")
    print(result.gallery)
