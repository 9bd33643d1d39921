"""``dreamfusion evaluate --amortized``: objects of one pass, scored like runs, held-out combinations apart."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dreamfusion.amortized.curriculum import Vocabulary
from dreamfusion.amortized.instant import Amortized, open_amortized
from dreamfusion.amortized.network import text_features
from dreamfusion.assets.images import contact_sheet, save_png
from dreamfusion.errors import DreamFusionError
from dreamfusion.evaluation.geometry import overlap
from dreamfusion.evaluation.judge import Judge, open_judge
from dreamfusion.evaluation.judging import judge_views
from dreamfusion.evaluation.prompts import PromptList
from dreamfusion.evaluation.worker import evaluation_views
from dreamfusion.guidance.base import Guidance
from dreamfusion.io.claims import claim
from dreamfusion.io.files import write_text
from dreamfusion.runs.generate import load_guidance
from dreamfusion.scenes.scene import Finished
from dreamfusion.toybox.captions import parse_toy
from dreamfusion.toybox.world import is_held_out

_SHOWN = 8  # prompts of each sort in the picture
_COLUMNS = {
    "color_precision": "R-Precision, shaded",
    "albedo_precision": "albedo",
    "geo_precision": "textureless",
    "kind_read": "kind read",
    "janus": "two-faced",
    "iou": "IoU",
    "seconds": "seconds",
}


def all_pairs(amortized: Amortized) -> PromptList:
    """Return all pairs of kind and colour of the training's kinds, those it was shown and those held out."""
    vocabulary = Vocabulary(amortized.kinds, 0)
    return PromptList({text: parse_toy(text) for new in (False, True) for text in vocabulary.pairs(new=new)})


def score_network(
    folder: Path,
    output: Path,
    prompts: PromptList | None,
    judge: str | None,
    on_progress: Callable[[int, int, str], None],
) -> str:
    """Return the tables of `evaluate_amortized` with the prior that the network was trained with."""
    guidance = load_guidance(open_amortized(folder).config, torch.device("cpu"))
    evaluate_amortized(folder, output, prompts, guidance, open_judge(judge), on_progress=on_progress)
    return (output / "amortized.md").read_text(encoding="utf-8")


def evaluate_amortized(
    folder: Path,
    output: Path,
    prompts: PromptList | None,
    guidance: Guidance,
    judge: Judge,
    *,
    seed: int = 0,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, Any]:
    """Score what a network makes of ``prompts`` (`all_pairs` if None), and write amortized.json, .md and .png.

    Raises DreamFusionError for a network that is missing, or for less than two prompts.
    """
    amortized = open_amortized(folder)
    prompts = prompts or all_pairs(amortized)
    if len(prompts.toys) < 2:
        raise DreamFusionError("--prompts: give at least 2, for captions to be told apart.")
    rows: dict[str, dict[str, Any]] = {}
    pictures: dict[str, torch.Tensor] = {}
    with claim(output, evidence=("amortized.json",)):
        for index, prompt in enumerate(prompts.toys):
            if on_progress is not None:
                on_progress(index, len(prompts.toys), prompt)
            rows[prompt], pictures[prompt] = _score(amortized, prompt, guidance, judge, prompts, seed)
        groups = {
            "seen": {p: row for p, row in rows.items() if not is_held_out(prompts.toys[p])},
            "held out": {p: row for p, row in rows.items() if is_held_out(prompts.toys[p])},
        }
        scores = {name: {key: _mean(group, key) for key in _COLUMNS} for name, group in groups.items() if group}
        record = {"network": str(folder), "judge": judge.name, "seed": seed, "scores": scores, "prompts": rows}
        write_text(output / "amortized.json", json.dumps(record, indent=1))
        write_text(output / "amortized.md", markdown(scores, groups))
        shown = [p for group in groups.values() for p in list(group)[:: max(1, len(group) // _SHOWN)][:_SHOWN]]
        save_png(contact_sheet({prompt: pictures[prompt] for prompt in shown}), output / "amortized.png")
    return record


def _score(
    amortized: Amortized, prompt: str, guidance: Guidance, judge: Judge, prompts: PromptList, seed: int
) -> tuple[dict[str, Any], torch.Tensor]:
    """Return the scores of one prompt and three shaded pictures of what was made of it."""
    toy = prompts.toys[prompt]
    begun = time.monotonic()
    words = guidance.understood(prompt).prompt
    scene = amortized.scene(text_features(guidance, [words])[0], seed, torch.device("cpu"))
    seconds = time.monotonic() - begun
    scene.refresh()
    finished = Finished(scene, guidance.true_scale(prompt))
    views = {name: images.float() for name, images in evaluation_views(finished).items()}
    row: dict[str, Any] = {"seconds": round(seconds, 4)} | judge_views(views, prompt, toy, judge, prompts)
    row["iou"] = overlap(finished.field, toy, smoothing=scene.config.surface_smoothing)
    return row, views["lambertian"][[0, 1, 4]]


def _mean(rows: dict[str, dict[str, Any]], key: str) -> float | None:
    values = [float(row[key]) for row in rows.values() if row.get(key) is not None]
    return sum(values) / len(values) if values else None


def markdown(scores: dict[str, dict[str, float | None]], groups: dict[str, dict[str, Any]]) -> str:
    """Return the scores as a Markdown table."""
    lines = ["| | prompts | " + " | ".join(_COLUMNS.values()) + " |", "|---" * (len(_COLUMNS) + 2) + "|"]
    for name, row in scores.items():
        cells = [_show(key, row[key]) for key in _COLUMNS]
        lines.append(f"| {name} | {len(groups[name])} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _show(key: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.2f}" if key in ("iou", "seconds") else f"{100 * value:.0f} %"
