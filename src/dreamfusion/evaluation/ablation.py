"""``dreamfusion ablate``: what each part of the method contributes (paper Figure 6), and guidance x seed (Figure 9).

Each variant is an evaluation of its own in OUTPUT/<variant>/, so it resumes and keeps its records. Results are
ablation.json, a table (ablation.md) and a plot (ablation.svg); for guidance also a picture of every scale and seed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch

from dreamfusion.assets.images import contact_sheet, save_png
from dreamfusion.config.presets import Preset
from dreamfusion.errors import DreamFusionError
from dreamfusion.evaluation.evaluate import Evaluation, evaluate, load_views, run_folder
from dreamfusion.evaluation.judge import Judge, open_judge
from dreamfusion.evaluation.prompts import PromptList
from dreamfusion.evaluation.report import show
from dreamfusion.evaluation.statistics import Estimate
from dreamfusion.io.claims import claim
from dreamfusion.io.files import slugify, write_text

Study = Literal["parts", "guidance"]

_NARROW = {"azimuth_min_deg": -60.0, "azimuth_max_deg": 60.0, "elevation_min_deg": 0.0, "elevation_max_deg": 30.0}
_PLAIN = {"albedo_probability": 1.0, "textureless_probability": 0.0}
_NO_VIEW = {"view_texts": {"front": "", "side": "", "back": "", "overhead": ""}, "tell_cameras": False}

COMPONENTS: dict[str, dict[str, Any]] = {
    "base": {"cameras": _NARROW, "guidance": _NO_VIEW, "shading": _PLAIN},
    "+ wide views": {"guidance": _NO_VIEW, "shading": _PLAIN},
    "+ view-dependent prompts": {"shading": _PLAIN},
    "+ lighting": {"shading": {"textureless_probability": 0.0}},
    "+ textureless": {"shading": {"textureless_probability": 0.15}},
}
"""Configuration changes of each step of the paper's Figure 6, cumulative; the last is the whole method of the paper.

The paper does not say how narrow the base's views are; here they are 120 degrees wide and 30 degrees high. As there,
half of the lit views are textureless in the last; the presets of the embedded prior, which never saw one, have none.
"""

GUIDANCE_SCALES = (1.0, 2.0, 4.0, 8.0, 16.0)

_SCORES = {
    "albedo_precision": "albedo",
    "color_precision": "shaded",
    "geo_precision": "textureless",
    "iou_median": "IoU",
}


def variants(study: Study) -> dict[str, dict[str, Any]]:
    """Return the configuration changes of every variant of a study, by name."""
    if study == "parts":
        return COMPONENTS
    return {f"guidance scale {scale:g}": {"guidance": {"guidance_scale": scale}} for scale in GUIDANCE_SCALES}


def ablate(
    output: Path,
    prompts: PromptList,
    study: Study = "parts",
    *,
    seeds: int = 1,
    preset: Preset = "default",
    changes: Mapping[str, Any] | None = None,
    judge: Judge | None = None,
    jobs: int | None = None,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, Evaluation]:
    """Evaluate every variant of a study and write ablation.json, ablation.md and ablation.svg to ``output``.

    ``changes`` apply to all variants, where these do not set the same section. For the other arguments see `evaluate`.
    """
    judge = judge or open_judge()
    names = variants(study)
    clash = sorted({section for change in names.values() for section in change} & set(changes or {}))
    if clash:
        raise DreamFusionError(f"{', '.join(clash)} cannot be changed here: the study {study!r} varies it.")
    with claim(output, evidence=("ablation.json",)):
        results = {}
        for index, (name, change) in enumerate(names.items()):

            def progress(done: int, count: int, what: str, first: int = index, name: str = name) -> None:
                if on_progress is not None:
                    on_progress(first * count + done, len(names) * count, f"{name}: {what}")

            results[name] = evaluate(
                output / slugify(name),
                prompts,
                seeds=seeds,
                preset=preset,
                changes={**(changes or {}), **change},
                judge=judge,
                jobs=jobs,
                on_progress=progress,
            )
        write_results(results, output)
        if study == "guidance":
            save_png(guidance_sheet(output, next(iter(prompts.toys)), seeds), output / "guidance.png")
        return results


def figures(results: Mapping[str, Evaluation]) -> dict[str, dict[str, Estimate | None]]:
    """Return the scores of every variant over all of its runs."""
    return {name: {key: result.summary()["all"][key] for key in _SCORES} for name, result in results.items()}


def write_results(results: Mapping[str, Evaluation], output: Path) -> None:
    """Write the figures of all variants as JSON, Markdown and SVG."""
    rows = figures(results)
    plain = {name: {key: value and asdict(value) for key, value in row.items()} for name, row in rows.items()}
    write_text(output / "ablation.json", json.dumps(plain, indent=2))
    lines = ["| | " + " | ".join(_SCORES.values()) + " |", "|---" * (len(_SCORES) + 1) + "|"]
    for name, row in rows.items():
        cells = [show(row[key], "" if key == "iou_median" else "%") for key in _SCORES]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    write_text(output / "ablation.md", "\n".join(lines) + "\n")
    write_text(output / "ablation.svg", bar_chart(rows))


def bar_chart(rows: Mapping[str, Mapping[str, Estimate | None]]) -> str:
    """Return an SVG with one group of bars per variant, one bar per score from 0 to 1, and their intervals."""
    bar, gap, height, left, top = 26, 30, 220, 40, 40
    group = bar * len(_SCORES) + gap
    width = left + group * len(rows) + gap
    colors = ("#d08770", "#b02020", "#88909a", "#3a6ea5")
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top + height + 60}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{top + height + 60}" fill="white"/>',
    ]
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = top + height * (1 - tick)
        parts.append(f'<line x1="{left}" x2="{width}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for index, (title, color) in enumerate(zip(_SCORES.values(), colors, strict=True)):
        at = left + 100 * index
        parts.append(
            f'<rect x="{at}" y="10" width="11" height="11" fill="{color}"/><text x="{at + 16}" y="20">{title}</text>'
        )
    for column, (name, row) in enumerate(rows.items()):
        x = left + gap / 2 + column * group
        middle = x + bar * len(_SCORES) / 2
        parts.append(f'<text x="{middle:.1f}" y="{top + height + 18}" text-anchor="middle">{name}</text>')
        for key, color in zip(_SCORES, colors, strict=True):
            estimate = row[key]
            if estimate is not None:
                tall = height * estimate.value
                box = f'x="{x:.1f}" y="{top + height - tall:.1f}" width="{bar - 4}" height="{tall:.1f}"'
                parts.append(f'<rect {box} fill="{color}"/>')
                low, high = (top + height * (1 - value) for value in (estimate.low, estimate.high))
                centre = x + (bar - 4) / 2
                parts.append(
                    f'<line x1="{centre:.1f}" x2="{centre:.1f}" y1="{low:.1f}" y2="{high:.1f}" stroke="black"/>'
                )
            x += bar
    return "\n".join([*parts, "</svg>", ""])


def guidance_sheet(output: Path, prompt: str, seeds: int) -> torch.Tensor:
    """Return a picture [3, H, W] of one prompt: a row per guidance scale, a column per seed (paper Figure 9)."""
    rows = {}
    for name in variants("guidance"):
        images = []
        for seed in range(seeds):
            views = load_views(run_folder(output / slugify(name), prompt, seed))
            images.append(torch.ones(3, 64, 64) if views is None else views["lambertian"][1])
        rows[name] = torch.stack(images)
    return contact_sheet(rows, [f"seed {seed}" for seed in range(seeds)])
