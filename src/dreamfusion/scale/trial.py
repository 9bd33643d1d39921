"""One run of a sweep, in whichever process an engine gives it: it is made, or resumed, and rendered to be scored.

TRIAL/
    trial.json          what is run
    run/                the run itself, as `generate` leaves it
    views.safetensors   the renderings that the judge sees, and the volume, [R, R, R] packed to bits
    turning.webp        the object once around, frame beside frame
    score.json          seconds, opacity and machine of a finished run; the last to be written
    error.txt           what went wrong, in a run that failed
"""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from dreamfusion import __version__
from dreamfusion.assets.images import to_uint8
from dreamfusion.assets.mesh import sample_density, solid_part, surface_opacity
from dreamfusion.errors import DreamFusionError, Stopped
from dreamfusion.evaluation.worker import evaluation_views
from dreamfusion.io.claims import InUseError
from dreamfusion.io.files import read_rows, write_atomically, write_text
from dreamfusion.method.cameras import orbit_cameras
from dreamfusion.pictures.film import mesh_pictures
from dreamfusion.runs.generate import generate
from dreamfusion.runs.results import Result
from dreamfusion.scale.plan import TRIAL, read_trial
from dreamfusion.scenes.scene import Finished

VOLUME_RESOLUTION = 32
"""Samples per side of the volumes by which near-duplicates are known."""

TURNING_FRAMES, TURNING_SIZE, TURNING_MESH = 12, 128, 64

ERROR = "error.txt"

_PATIENCE_SECONDS = 60
"""For how long the folder of a run may still be held by a process that is about to end."""


class WrongMachineError(DreamFusionError):
    """A machine cannot run any trial: it does not see the folder, or has another version."""


def attempt(folder: str) -> str | None:
    """Run the trial in a folder to its end and return None, or the line that says why it failed.

    Raises WrongMachineError, which concerns all trials, and `Stopped` if it is told to end, after a checkpoint.
    """
    place = Path(folder)
    _check_machine(place)
    (place / ERROR).unlink(missing_ok=True)
    try:
        run_trial(place)
    except Stopped:
        raise
    except DreamFusionError as error:
        return str(error)
    except Exception as error:  # whatever it is, it is this run's alone
        return (str(error).strip().splitlines() or [""])[0] + f" ({type(error).__name__})"
    return None


def _check_machine(folder: Path) -> None:
    """Raise WrongMachineError if this machine does not see the folder, or has another version of the package."""
    here = socket.gethostname()
    if not (folder / TRIAL).is_file():
        raise WrongMachineError(f"{folder} is not there on {here}: give an --output that all machines share.")
    theirs = read_trial(folder).get("version")
    if theirs != __version__:
        raise WrongMachineError(
            f"{here} has dreamfusion {__version__}, and the sweep was started with {theirs}: install the same there."
        )


def run_trial(folder: Path) -> None:
    """Generate, or go on with, what ``trial.json`` asks for, and leave what its score is made of."""
    trial = read_trial(folder)
    torch.set_num_threads(trial["threads"])
    begun = time.monotonic()
    result = _generate(folder / "run", trial)
    seconds = time.monotonic() - begun
    result.scene.refresh()
    finished = result.finished
    views = evaluation_views(finished) | {"volume": _packed(solid_volume(result))}
    with write_atomically(folder / "views.safetensors", ours=True) as path:
        save_file(views, path)
    with write_atomically(folder / "turning.webp", ours=True) as path:
        Image.fromarray(turning_strip(finished)).save(path, quality=80)
    last = read_rows(result.folder / "metrics.jsonl")[-20:]
    opacity = sum(row["opacity"] for row in last) / max(1, len(last))
    record = {"seconds": round(seconds, 1), "opacity": opacity, "machine": socket.gethostname()}
    write_text(folder / "score.json", json.dumps(record, indent=1))


def _generate(folder: Path, trial: dict[str, Any]) -> Result:
    """Make the run, or go on with it; its folder may still be held by the process that is retried here."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            if (folder / "config.yaml").exists():
                return generate(resume=folder)
            return generate(trial["prompt"], preset=trial["preset"], output=folder, **trial["changes"])
        except InUseError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def solid_volume(result: Result) -> Tensor:
    """Return which samples of the cube [-1, 1]^3 lie inside the object, [R, R, R] of booleans."""
    scene = result.finished
    density = sample_density(scene.field, VOLUME_RESOLUTION)
    smoothing = result.config.scene.surface_smoothing * scene.scale
    opacity = surface_opacity(density, 2.0 / (VOLUME_RESOLUTION - 1), smoothing=smoothing)
    return torch.from_numpy(solid_part(opacity > 0.5))


def _packed(volume: Tensor) -> Tensor:
    return torch.from_numpy(np.packbits(volume.numpy()))


def unpacked(bits: Tensor) -> Tensor:
    """Return the volume [R, R, R] of what `run_trial` has left of it."""
    return torch.from_numpy(np.unpackbits(bits.numpy()).astype(bool)).view([VOLUME_RESOLUTION] * 3)


def turning_strip(scene: Finished) -> np.ndarray:
    """Return the surface once around, frame beside frame, as bytes [S, frames * S, 3].

    It is drawn as a mesh: a volume of as many pixels takes a CPU ten times as long.
    """
    mesh = scene.mesh(TURNING_MESH)
    views = mesh_pictures(scene, mesh, orbit_cameras(TURNING_FRAMES), "lambertian", TURNING_SIZE)
    return to_uint8(torch.cat(list(views), dim=2))


def steps_done(folder: Path) -> int:
    """Return how many steps the run of a trial has done, as far as can be seen from outside."""
    log = folder / "run" / "metrics.jsonl"
    try:
        return log.read_bytes().count(b"\n")
    except OSError:
        return 0


def is_finished(folder: Path) -> bool:
    """Return whether a trial has ended well."""
    return (folder / "score.json").is_file() and (folder / "views.safetensors").is_file()
