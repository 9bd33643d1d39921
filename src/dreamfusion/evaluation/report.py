"""Reports of an evaluation: Markdown tables and a web page with pictures, both made from evaluation.json alone.

``python -m dreamfusion.evaluation.report`` writes the tables of docs/evaluation.json into the documents again.
"""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path

import torch
from PIL import Image

from dreamfusion.assets.images import to_uint8
from dreamfusion.evaluation.evaluate import Evaluation, Record, from_json, load_views, run_folder
from dreamfusion.evaluation.judging import NAMED
from dreamfusion.evaluation.overview import write_overview
from dreamfusion.evaluation.statistics import Estimate
from dreamfusion.io.files import write_table, write_text
from dreamfusion.runs.results import SHADINGS
from dreamfusion.standard import AZIMUTHS_DEG

FIGURES = {
    "albedo_precision": ("R-Precision, albedo", "%", ""),
    "color_precision": ("R-Precision, color", "%", "at least 97 %"),
    "geo_precision": ("R-Precision, geo", "%", "at least 95 %"),
    "pattern_right": ("pattern read right", "%", "at least 90 %"),
    "size_right": ("size read right", "%", "at least 95 %"),
    "part_color_right": ("part colour read right", "%", "at least 90 %"),
    "iou_median": ("volume IoU, median", "", "at least 0.87"),
    "iou_lowest_tenth": ("volume IoU, lowest tenth", "", "at least 0.70"),
    "iou_unaligned_median": ("volume IoU without alignment, median", "", ""),
    "janus_rate": ("Janus rate", "%", "at most 2 %"),
    "failed": ("failed or collapsed runs", "%", "0"),
    "unrecognisable": ("kind wrong from most sides", "%", "at most 2 %"),
    "chamfer": ("Chamfer distance", "", ""),
    "normal_error_deg": ("normal error", "°", "at most 14°"),
    "saturation": ("saturation", "", "as the true toys"),
    "speckle": ("speckle", "", "as the true toys"),
    "opacity": ("opacity", "", ""),
    "seconds": ("seconds per run", "s", ""),
}
"""Title, unit and aim of each figure of a summary, in the order shown."""

_GROUPS = {"all": "all runs", "seen": "seen pairs", "held out": "held-out pairs", "true toys": "the true toys"}
_SHOWN = (0, 2, 4, 6)  # of the eight azimuths
_COLUMNS = ("prompt", "seed", "held out", "color", "geo", "wrong", "IoU", "Janus", "")


def show(estimate: Estimate | None, unit: str, *, interval: bool = True) -> str:
    """Return "93 % (90 to 96)", or a dash where there is nothing to show."""
    if estimate is None:
        return "–"
    factor, digits = {"%": (100, 0), "°": (1, 0), "s": (1, 0)}.get(unit, (1, 3))
    value, low, high = (f"{factor * number:.{digits}f}" for number in (estimate.value, estimate.low, estimate.high))
    gap = " " if unit in ("%", "s") else ""
    return f"{value}{gap}{unit}" + (f" ({low} to {high})" if interval else "")


def markdown(evaluation: Evaluation) -> str:
    """Return the report as Markdown: the summary, then one row per run."""
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|---" * len(_COLUMNS) + "|"]
    lines += ["| " + " | ".join(_row(record)) + " |" for record in evaluation.records]
    return summary_table(evaluation) + "\n" + "\n".join(lines) + "\n"


def summary_table(evaluation: Evaluation) -> str:
    """Return the figures of an evaluation as a Markdown table, under a line that says what was run."""
    settings, summary = evaluation.settings, evaluation.summary()
    lines = [
        f"{settings['prompts']} prompts x {settings['seeds']} seeds, preset {settings['preset']}"
        + (f", changes {settings['changes']}" if settings["changes"] else "")
        + "; in brackets 95 % confidence intervals over the runs.",
        "",
        "| | " + " | ".join(_GROUPS.values()) + " | aim |",
        "|---" * (len(_GROUPS) + 2) + "|",
    ]
    for name, (title, unit, aim) in FIGURES.items():
        cells = [show(summary[group][name], unit, interval=group != "true toys") for group in _GROUPS]
        lines.append(f"| {title} | " + " | ".join(cells) + f" | {aim} |")
    return "\n".join(lines) + "\n"


def _row(record: Record) -> list[str]:
    janus = "–" if record.janus is None else "yes" if record.janus else "no"
    wrong = ", ".join(name.replace("_", " ") for name in NAMED if getattr(record, f"{name}_right") is False)
    return [
        record.prompt,
        str(record.seed),
        "yes" if record.held_out else "no",
        f"{100 * record.color_precision:.0f} %",
        f"{100 * record.geo_precision:.0f} %",
        wrong,
        f"{record.iou:.2f}",
        janus,
        f"failed: {record.error}" if record.error else "",
    ]


def web_page(evaluation: Evaluation, folder: Path) -> str:
    """Return the report as one self-contained web page with pictures of every run in ``folder``."""
    summary = evaluation.summary()
    heads = "".join(f"<th>{name}</th>" for name in ("", *_GROUPS.values(), "aim"))
    figures = "".join(
        f"<tr><td>{title}</td>"
        + "".join(f"<td>{show(summary[group][name], unit)}</td>" for group in _GROUPS)
        + f"<td>{aim}</td></tr>"
        for name, (title, unit, aim) in FIGURES.items()
    )
    columns = (*_COLUMNS, *(f"{AZIMUTHS_DEG[i]:.0f}°" for i in _SHOWN))
    run_heads = "".join(f"<th>{name}</th>" for name in columns)
    runs = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in _row(record)) + _pictures(record, folder) + "</tr>"
        for record in evaluation.records
    )
    settings = html.escape(", ".join(f"{key} {value}" for key, value in evaluation.settings.items()))
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>DreamFusion evaluation</title>
<style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 2rem; color: #222 }}
table {{ border-collapse: collapse; margin-bottom: 2rem }}
td, th {{ padding: .3rem .7rem; border-bottom: 1px solid #ddd; text-align: left }}
img {{ display: block }}
</style>
<h1>DreamFusion evaluation</h1>
<p>{settings}. In brackets: 95 % confidence intervals over the runs.</p>
<table><tr>{heads}</tr>{figures}</table>
<h2>Runs</h2>
<p>Pictures: albedo, shaded and textureless, from four sides.</p>
<table><tr>{run_heads}</tr>{runs}</table>
</html>
"""


def _pictures(record: Record, folder: Path) -> str:
    """Return one table cell per azimuth with the three shadings above each other; empty cells for a failed run."""
    views = None if record.error else load_views(run_folder(folder, record.prompt, record.seed))
    if views is None:
        return "<td></td>" * len(_SHOWN)
    cells = []
    for index in _SHOWN:
        stack = torch.cat([views[shading][index] for shading in SHADINGS], dim=1)
        data = io.BytesIO()
        Image.fromarray(to_uint8(stack)).save(data, format="PNG")
        encoded = base64.b64encode(data.getvalue()).decode()
        cells.append(f'<td><img alt="{html.escape(record.prompt)}" src="data:image/png;base64,{encoded}"></td>')
    return "".join(cells)


def write_reports(evaluation: Evaluation, folder: Path) -> None:
    """Write report.md, report.html and overview.png beside evaluation.json."""
    write_text(folder / "report.md", markdown(evaluation))
    write_text(folder / "report.html", web_page(evaluation, folder))
    write_overview(evaluation, folder)


def publish(folder: Path) -> None:
    """Write the tables of ``folder``/docs/evaluation.json into README.md and docs/evaluation.md of the same folder."""
    evaluation = from_json((folder / "docs" / "evaluation.json").read_text(encoding="utf-8"))
    write_table(folder / "README.md", summary_table(evaluation))
    write_table(folder / "docs" / "evaluation.md", markdown(evaluation))


if __name__ == "__main__":
    publish(Path.cwd())
