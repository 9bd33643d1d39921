"""``python -m benchmarks.refinement RUN [RUN ...]``: what ``dreamfusion refine`` makes of finished runs.

Each run is refined into OUTPUT/<prompt>, and both are compared with the toy that the prompt names: how much outlines
overlap, and how far normals are off (`dreamfusion.evaluation.outlines`). What is finished is not made again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from dreamfusion.evaluation.outlines import score_outlines
from dreamfusion.io.files import slugify
from dreamfusion.runs.generate import generate
from dreamfusion.runs.refine import refine
from dreamfusion.runs.results import open_run
from dreamfusion.toybox.captions import parse_toy


def compare(run: Path, output: Path, preset: Any, threads: int) -> dict[str, Any]:
    """Refine a run, unless that was done, and return both scores."""
    torch.set_num_threads(threads)
    before = open_run(run)
    folder = output / slugify(before.config.prompt)
    if (folder / "mesh.glb").exists():
        after = open_run(folder)
    elif (folder / "checkpoints").exists():
        after = generate(resume=folder)
    else:
        after = refine(run, preset=preset, output=folder)
    toy = parse_toy(before.config.prompt)
    scores = {"nerf": asdict(score_outlines(before.finished, toy)), "mesh": asdict(score_outlines(after.finished, toy))}
    return {"prompt": before.config.prompt, **scores}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.refinement", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a finished run of a toy")
    parser.add_argument("--preset", default="default", help="of the refinement: quick, default or high")
    parser.add_argument("--output", type=Path, default=Path("runs/refinement"), help="folder of the refinements")
    parser.add_argument("--jobs", type=int, default=1, help="refinements side by side")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the scores to this file")
    options = parser.parse_args()
    threads = max(1, (os.cpu_count() or 1) // options.jobs)
    with ProcessPoolExecutor(options.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = [pool.submit(compare, run, options.output, options.preset, threads) for run in options.runs]
        rows = [job.result() for job in jobs]
    table = Table("prompt", "outlines: NeRF", "mesh", "normals: NeRF", "mesh")
    for row in rows:
        nerf, mesh = row["nerf"], row["mesh"]
        overlaps = [f"{score['silhouette_iou']:.3f}" for score in (nerf, mesh)]
        table.add_row(row["prompt"], *overlaps, *(f"{score['normal_error_deg']:.1f}°" for score in (nerf, mesh)))
    outlines = sum(row["mesh"]["silhouette_iou"] > row["nerf"]["silhouette_iou"] for row in rows)
    normals = sum(row["mesh"]["normal_error_deg"] < row["nerf"]["normal_error_deg"] for row in rows)
    console = Console()
    console.print(table)
    console.print(f"better outlines in {outlines} of {len(rows)}, better normals in {normals} of {len(rows)}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
