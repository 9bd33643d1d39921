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
from dreamfusion.scenes.scene import Scene, finished_views
from dreamfusion.standard import AZIMUTHS_DEG
from dreamfusion.toybox.captions import parse_toy

ELEVATION_DEG = 30.0
VIEW_SIZE = 64

BEHIND = "behind"
"""What the shaded views are called in which a second front would show."""

BEHIND_DEG = (150.0, 180.0, -150.0)
BEHIND_ELEVATION_DEG = 5.0
"""From low down: from 30 degrees above, the crown of a tree hides what only its front has."""


def run_task(folder: Path) -> None:
    """Generate, measure and render what ``task.json`` asks for; DreamFusionError if the run fails."""
    task = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    torch.set_num_threads(task["threads"])
    begun = time.monotonic()
    result = _generate(folder / "run", task)
    seconds = time.monotonic() - begun
    metrics = [json.loads(row) for row in (result.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    smoothing = result.config.scene.surface_smoothing
    score = asdict(score_geometry(result.scene.field, parse_toy(task["prompt"]), smoothing=smoothing))
    with write_atomically(folder / "views.safetensors") as path:
        save_file(evaluation_views(result.scene), path)
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


def evaluation_views(scene: Scene) -> dict[str, Tensor]:
    """Return the renderings that are judged, [8, 3, S, S] in [0, 1] per shading, all around, and three from behind."""
    scene.refresh()
    around = fixed_cameras(torch.tensor(AZIMUTHS_DEG), ELEVATION_DEG)
    behind = fixed_cameras(torch.tensor(BEHIND_DEG), BEHIND_ELEVATION_DEG)
    views: dict[str, Tensor] = dict(finished_views(scene, around, SHADINGS, VIEW_SIZE))
    views[BEHIND] = finished_views(scene, behind, ["lambertian"], VIEW_SIZE)["lambertian"]
    return {name: images.half().contiguous() for name, images in views.items()}


if __name__ == "__main__":
    try:
        run_task(Path(sys.argv[1]))
    except DreamFusionError as problem:
        print(problem, file=sys.stderr)
        raise SystemExit(1) from None
