"""Scores of a prior as tables: ``scores.json``, which `dreamfusion prior evaluate` leaves, in words and numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SCORES = "scores.json"
"""Name of the file beside a prior that holds its scores."""

COLUMNS = {
    "kind": "kind",
    "color": "colour",
    "pattern": "pattern",
    "size": "size",
    "part_color": "part colour",
    "view": "view",
    "trim_color": "second part",
    "finish": "finish",
    "relation": "relation",
    "other_kind": "other kind",
    "other_color": "other colour",
    "all": "all together",
}
"""Titles of what is read from samples, by the names of attributes."""


def score_tables(scores: Mapping[str, Any]) -> str:
    """Return the tables of a model card: what samples show, then the loss by noise level and by what is shown."""
    settings, loss = scores["settings"], scores["loss"]
    read = [name for name in COLUMNS if all(name in row for row in scores["samples"].values())]
    lines = [
        f"{settings['toys']} toys, half of them held-out pairs, {settings['steps']} DDIM steps; read by the judge.",
        "",
        "| guidance scale | " + " | ".join(COLUMNS[name] for name in read) + " | Fréchet distance |",
        "|---" * (len(read) + 2) + "|",
        *(_sample_row(scale, row, read) for scale, row in scores["samples"].items()),
        f"| other true pictures |{' |' * len(read)} {scores['frechet_of_truth']:.2f} |",
        "",
        "| noise level | " + " | ".join(loss["noise level"]) + " |",
        "|---" * (len(loss["noise level"]) + 1) + "|",
        "| loss | " + " | ".join(f"{value:.4f}" for value in loss["noise level"].values()) + " |",
        "",
        "| loss by | least | most |",
        "|---|---|---|",
        *(_loss_row(name, words) for name, words in loss.items() if name != "noise level"),
        "",
        f"Diversity at a guidance scale of {settings['diversity_scale']:g}: pictures of one prompt are "
        f"{scores['diversity']['samples']:.2f} apart, true ones in other lights and shades "
        f"{scores['diversity']['true pictures']:.2f}.",
    ]
    return "\n".join(lines) + "\n"


def _sample_row(scale: str, row: Mapping[str, float | None], read: Sequence[str]) -> str:
    cells = [show_share(row[name]) for name in read]
    return f"| {scale} | " + " | ".join(cells) + f" | {row['frechet']:.2f} |"


def _loss_row(name: str, words: Mapping[str, float]) -> str:
    ordered = sorted(words, key=words.__getitem__)
    least, most = (f"{word} {words[word]:.4f}" for word in (ordered[0], ordered[-1]))
    return f"| {COLUMNS.get(name, name)} | {least} | {most} |"


def show_share(value: float | None) -> str:
    """Return "93 %", or a dash where nothing could be read."""
    return "–" if value is None else f"{100 * value:.0f} %"
