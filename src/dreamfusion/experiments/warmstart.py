"""``dreamfusion experiment warmstart``: how much sooner a run is good that begins with an instant object.

The same prompts, seeds and settings twice: from the soft ball that every run begins with, and from what an amortised
network makes in one pass. Both take the ordinary loop's steps and are looked at on the way. Looking changes nothing of
a run, and is not counted as its time.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dreamfusion.amortized.instant import Amortized, open_amortized, run_config
from dreamfusion.amortized.network import text_features
from dreamfusion.assets.images import contact_sheet, save_png
from dreamfusion.config import Config, build_config
from dreamfusion.config.presets import Preset
from dreamfusion.device import pick_device
from dreamfusion.errors import DreamFusionError, refuse_small
from dreamfusion.evaluation.amortized import all_pairs
from dreamfusion.evaluation.geometry import overlap
from dreamfusion.evaluation.judge import ToyboxJudge
from dreamfusion.evaluation.prompts import PromptList
from dreamfusion.evaluation.worker import ELEVATION_DEG, VIEW_SIZE
from dreamfusion.experiments.cells import Cell, Found, Outcome, Progress, run_cells
from dreamfusion.experiments.tables import table
from dreamfusion.guidance.base import Guidance
from dreamfusion.io.files import write_text
from dreamfusion.method.cameras import fixed_cameras
from dreamfusion.method.optimize import optimize
from dreamfusion.method.state import State
from dreamfusion.runs.generate import as_read
from dreamfusion.scenes.scene import Finished, finished_views
from dreamfusion.standard import AZIMUTHS_DEG

TITLE = "A warm start"
BEGINNINGS = ("soft ball", "instant")
MEASURES = {"iou": "IoU", "right": "captions first"}
_SLACK = 0.02
"""How far below the end of an ordinary run a measure may be and count as good as that."""


@dataclass(frozen=True)
class WarmStartSettings:
    """Prompts, the network that knows their kinds, and when runs are looked at; ``steps`` None are the preset's."""

    prompts: tuple[str, ...]
    network: Path
    preset: Preset = "default"
    steps: int | None = None
    every: int = 20
    seed: int = 0

    def check(self) -> None:
        """Raise DreamFusionError for settings out of range."""
        if not self.prompts:
            raise DreamFusionError('--prompts: give at least one, for example "a red mushroom".')
        refuse_small({"every": self.every} | ({} if self.steps is None else {"steps": self.steps}))


def run_warmstart(
    output: Path,
    settings: WarmStartSettings,
    prior: Guidance,
    judge: ToyboxJudge,
    *,
    changes: Mapping[str, Any] | None = None,
    on_progress: Progress | None = None,
) -> Found:
    """Run the experiment, or go on with it, and write warmstart.json, .md and .png to ``output``.

    ``changes`` are keys of the configuration for every run. Raises DreamFusionError for settings out of range or other
    than those ``output`` has begun with, a network that is missing, prompts that it has not learned, and `Stopped`.
    """
    settings.check()
    amortized = open_amortized(settings.network)
    pairs = all_pairs(amortized)
    unknown = [prompt for prompt in settings.prompts if prompt not in pairs.toys]
    if unknown:
        raise DreamFusionError(
            f"--prompts: {unknown[0]!r} is none of the pairs that {settings.network} knows, such as "
            f"{next(iter(pairs.toys))!r}."
        )
    own = dict(changes or {}) | {"seed": settings.seed} | ({} if settings.steps is None else {"steps": settings.steps})
    cells = [
        Cell(
            f"{prompt}, {beginning}",
            partial(watch_run, prompt, beginning == "instant", amortized, settings, own, prior, judge, pairs),
        )
        for prompt in settings.prompts
        for beginning in BEGINNINGS
    ]
    about = asdict(settings) | {"network": str(settings.network), "changes": dict(changes or {}), "judge": judge.name}
    return run_cells(output, "warmstart", about, cells, partial(write_report, output=output), on_progress)


def watch_run(
    prompt: str,
    warm: bool,
    amortized: Amortized,
    settings: WarmStartSettings,
    changes: dict[str, Any],
    prior: Guidance,
    judge: ToyboxJudge,
    pairs: PromptList,
) -> Outcome:
    """Return the measures of one run at its beginning, after every ``settings.every`` steps and at its end.

    The names of the figures are "<measure> at <step>". "seconds" is the processor time of all steps.
    """
    if warm:
        config = run_config(amortized, prompt, settings.preset, changes)
    else:
        config = build_config(settings.preset, {"prompt": prompt, **changes})
    device = pick_device(config.device)
    config = as_read(config, prior, lambda line: None)
    scene = amortized.scene(text_features(prior, [prompt])[0], config.seed, device) if warm else None
    state = State.fresh(config, device, scene)
    figures, view = _look(state, config, prompt, prior, judge, pairs)
    pictures, seconds, begun = [view], 0.0, time.process_time()
    for step in optimize(config, prior, state):
        if step.number % settings.every == 0 or step.number == config.steps:
            seconds += time.process_time() - begun
            more, view = _look(state, config, prompt, prior, judge, pairs)
            figures |= more
            pictures.append(view)
            begun = time.process_time()
    return Outcome(figures | {"seconds": seconds}, {"views": torch.stack(pictures)})


def _look(
    state: State, config: Config, prompt: str, prior: Guidance, judge: ToyboxJudge, pairs: PromptList
) -> tuple[dict[str, float | None], torch.Tensor]:
    """Return the measures of a scene by name and step, and a picture of its front [3, S, S].

    iou: the overlap with the true toy. right: the share of eight shaded views for which the caption comes first among
    all of ``pairs``. The grid of what is occupied is put back as it was: it belongs to the run.
    """
    before = {name: value.clone() for name, value in state.scene.state_dict().items()}
    state.scene.refresh()
    finished = Finished(state.scene, prior.true_scale(prompt))
    around = fixed_cameras(torch.tensor(AZIMUTHS_DEG), ELEVATION_DEG)
    views = finished_views(finished, around, ["lambertian"], VIEW_SIZE)["lambertian"]
    captions = list(pairs.toys)
    right = (judge.first(views, captions) == captions.index(prompt)).float().mean().item()
    shared = overlap(finished.field, pairs.toys[prompt], smoothing=config.scene.surface_smoothing)
    state.scene.load_state_dict(before)
    return {f"iou at {state.step}": shared, f"right at {state.step}": right}, views[0].cpu()


def curves(outcomes: Sequence[Outcome]) -> dict[int, dict[str, float]]:
    """Return the mean measures of several runs by step."""
    steps = sorted({int(name.rsplit(" ", 1)[1]) for one in outcomes for name in one.figures if " at " in name})
    return {
        step: {
            measure: sum(float(one.figures[f"{measure} at {step}"] or 0.0) for one in outcomes) / len(outcomes)
            for measure in MEASURES
        }
        for step in steps
    }


def first_equal(curve: Mapping[int, Mapping[str, float]], goal: Mapping[str, float]) -> int | None:
    """Return the first step from which on no measure is more than 0.02 below the goal; None if there is none."""
    found = None
    for step in sorted(curve, reverse=True):
        if any(curve[step][measure] < goal[measure] - _SLACK for measure in MEASURES):
            break
        found = step
    return found


def write_report(found: Found, output: Path) -> None:
    """Write warmstart.md, with a table of the mean measures by step, and warmstart.png, with a row per run."""
    prompts = list(dict.fromkeys(name.rsplit(", ", 1)[0] for name in found.outcomes))
    whole = [prompt for prompt in prompts if all(f"{prompt}, {b}" in found.outcomes for b in BEGINNINGS)]
    text = found.heading(TITLE)
    if whole:
        by = {b: curves([found.outcomes[f"{prompt}, {b}"] for prompt in whole]) for b in BEGINNINGS}
        text += f"Means over {len(whole)} prompts.\n\n" + compared(by)
    write_text(output / "warmstart.md", text)
    sheet = {name: outcome.pictures["views"] for name, outcome in found.outcomes.items()}
    save_png(contact_sheet(sheet), output / "warmstart.png")


def compared(by: Mapping[str, Mapping[int, Mapping[str, float]]]) -> str:
    """Return the table of the `curves` of each beginning, and from which step on they equal the ordinary run's end."""
    ordinary = by[BEGINNINGS[0]]
    columns = {
        f"{measure} {b}": (f"{title}, {b}", "%" if measure == "right" else "")
        for measure, title in MEASURES.items()
        for b in by
    }
    rows = {
        f"{step}": {f"{measure} {b}": by[b][step][measure] for measure in MEASURES for b in by if step in by[b]}
        for step in ordinary
    }
    lines = []
    for b in BEGINNINGS:
        step = first_equal(by[b], ordinary[max(ordinary)])
        reached = "never" if step is None else f"from step {step} on"
        lines.append(f"Begun with the {b}: as good as the end of the ordinary run {reached}.\n")
    return table(rows, columns, "step") + "\n" + "".join(lines)
