"""One run of an evaluation, in a process of its own: ``python -m dreamfusion.evaluation.worker FOLDER``.

The folder holds ``task.json``. A run that stopped is resumed. Afterwards it holds ``score.json`` (geometry, opacity,
seconds) and ``views.safetensors``, the renderings that the judge will see.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from dreamfusion.errors import DreamFusionError
from dreamfusion.evaluation.geometry import score_geometry
from dreamfusion.io.checkpoints import latest_checkpoint
from dreamfusion.io.files import write_atomically, write_text
from dreamfusion.method.cameras import fixed_cameras
from dreamfusion.runs.generate import generate
from dreamfusion.runs.results import SHADINGS, Result
from dreamfusion.scenes.scene import Finished, finished_views
from dreamfusion.toybox.captions import parse_toy

AZIMUTHS_DEG = (0.0, 45.0, 90.0, 135.0, 180.0, -135.0, -90.0, -45.0)
ELEVATION_DEG = 30.0
VIEW_SIZE = 64


def run_task(folder: Path) -> None:
    """Generate, measure and render what ``task.json`` asks for; DreamFusionError if the run fails."""
    task = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    torch.set_num_threads(task["threads"])
    begun = time.monotonic()
    result = _generate(folder / "run", task)
    seconds = time.monotonic() - begun
    metrics = [json.loads(row) for row in (result.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    result.scene.refresh()
    scene = result.finished
    smoothing = result.config.scene.surface_smoothing * scene.scale
    score = asdict(score_geometry(scene.field, parse_toy(task["prompt"]), smoothing=smoothing))
    with write_atomically(folder / "views.safetensors") as path:
        save_file(evaluation_views(scene), path)
    last = metrics[-20:]
    record = score | {"seconds": round(seconds, 1), "opacity": sum(row["opacity"] for row in last) / len(last)}
    write_text(folder / "score.json", json.dumps(record, indent=2))


def _generate(folder: Path, task: dict[str, object]) -> Result:
    changes = dict(task["changes"])  # type: ignore[call-overload]
    if latest_checkpoint(folder / "checkpoints") is not None:
        return generate(resume=folder, assets=False)
    (folder / "config.yaml").unlink(missing_ok=True)  # of a run that stopped before its first checkpoint
    return generate(
        str(task["prompt"]),
        preset=task["preset"],  # type: ignore[arg-type]
        output=folder,
        assets=False,
        seed=task["seed"],
        **changes,
    )


def evaluation_views(scene: Finished) -> dict[str, Tensor]:
    """Return the renderings that are judged, [8, 3, S, S] in [0, 1] per shading, all around at one elevation."""
    cameras = fixed_cameras(torch.tensor(AZIMUTHS_DEG), ELEVATION_DEG)
    views = finished_views(scene, cameras, SHADINGS, VIEW_SIZE)
    return {str(shading): images.half().contiguous() for shading, images in views.items()}


if __name__ == "__main__":
    try:
        run_task(Path(sys.argv[1]))
    except DreamFusionError as problem:
        print(problem, file=sys.stderr)
        raise SystemExit(1) from None
