"""One run of an evaluation, in a process of its own: ``python -m dreamfusion.evaluation.worker FOLDER``.

The folder holds ``task.json``. A run that stopped is resumed. Afterwards it holds ``score.json`` (geometry, opacity,
seconds) and ``views.safetensors``, the renderings that the judge will see.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from dreamfusion.errors import DreamFusionError, Stopped
from dreamfusion.evaluation.geometry import score_geometry
from dreamfusion.io.files import write_atomically, write_text
from dreamfusion.method.cameras import fixed_cameras
from dreamfusion.runs.generate import generate
from dreamfusion.runs.results import SHADINGS, Result
from dreamfusion.scenes.scene import Finished, finished_views
from dreamfusion.standard import AZIMUTHS_DEG
from dreamfusion.stopping import stop_at_once
from dreamfusion.toybox.captions import parse_toy
from dreamfusion.toybox.world import WIDE

ELEVATION_DEG = 30.0
VIEW_SIZE = 64
SUPERVISED = "supervised"
"""Second argument of a worker that ends with its parent."""

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
    result.scene.refresh()
    scene = result.finished
    smoothing = result.config.scene.surface_smoothing * scene.scale
    score = asdict(score_geometry(scene.field, parse_toy(task["prompt"], WIDE), smoothing=smoothing))
    with write_atomically(folder / "views.safetensors", ours=True) as path:
        save_file(evaluation_views(scene), path)
    last = metrics[-20:]
    record = score | {"seconds": round(seconds, 1), "opacity": sum(row["opacity"] for row in last) / len(last)}
    write_text(folder / "score.json", json.dumps(record, indent=2))


def _generate(folder: Path, task: dict[str, object]) -> Result:
    changes = dict(task["changes"])  # type: ignore[call-overload]
    if (folder / "config.yaml").exists():
        return generate(resume=folder, assets=False)
    return generate(
        str(task["prompt"]),
        preset=task["preset"],  # type: ignore[arg-type]
        output=folder,
        assets=False,
        seed=task["seed"],
        **changes,
    )


def evaluation_views(scene: Finished) -> dict[str, Tensor]:
    """Return the renderings that are judged, [8, 3, S, S] in [0, 1] per shading, all around, and three from behind."""
    around = fixed_cameras(torch.tensor(AZIMUTHS_DEG), ELEVATION_DEG)
    behind = fixed_cameras(torch.tensor(BEHIND_DEG), BEHIND_ELEVATION_DEG)
    views = {str(shading): images for shading, images in finished_views(scene, around, SHADINGS, VIEW_SIZE).items()}
    views[BEHIND] = finished_views(scene, behind, ["lambertian"], VIEW_SIZE)["lambertian"]
    return {name: images.half().contiguous() for name, images in views.items()}


def end_with_parent() -> None:
    """Ask this process to stop, as a signal does, when its standard input ends: its parent holds the other side."""

    def wait() -> None:
        while os.read(0, 1 << 10):
            pass
        signal.raise_signal(signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    try:
        with stop_at_once():
            if sys.argv[2:] == [SUPERVISED]:
                end_with_parent()
            run_task(Path(sys.argv[1]))
    except Stopped as stop:
        raise SystemExit(128 + stop.number) from None
    except DreamFusionError as problem:
        print(problem, file=sys.stderr)
        raise SystemExit(1) from None
