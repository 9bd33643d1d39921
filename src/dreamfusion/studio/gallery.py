"""What lies in the folder of runs: each run with its prompt, how far it is, its rating and its files."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dreamfusion.config import Config, load_config
from dreamfusion.errors import DreamFusionError
from dreamfusion.io.files import write_text
from dreamfusion.runs.control import Requests

RATING = "rating.json"
BEST = 5
_OWN = re.compile(r"config\.yaml|metrics\.jsonl|preview\.png|rating\.json|\..*")
"""Files that are no result to take away."""
_NAMED = ("mesh.glb", "contact_sheet.png", "turntable.mp4", "growth.mp4", "thumbnail.png", "viewer.html")
"""Results in the order in which they are offered; others follow by name."""

Sort = Literal["newest", "rating", "name"]


@dataclass(frozen=True)
class _Known:
    stamp: tuple[int, int]
    config: Config


class Gallery:
    """The runs directly inside a folder."""

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self._known: dict[str, _Known] = {}

    def folder(self, name: str) -> Path:
        """Return the folder of a run by its name; DreamFusionError if there is none, or the name is a path."""
        folder = self.runs / name
        if name in ("", ".", "..") or Path(name).name != name or folder.is_symlink() or not _holds_run(folder):
            raise DreamFusionError(f"There is no run {name} here.")
        return folder

    def list(self, search: str = "", sort: Sort = "newest") -> list[dict[str, Any]]:
        """Return what there is to say of every run whose name or prompt has all the words of ``search``."""
        words = search.casefold().split()
        shown = []
        for folder in self.runs.iterdir() if self.runs.is_dir() else ():
            if folder.name.startswith(".") or folder.is_symlink() or not _holds_run(folder):
                continue
            with suppress(OSError, DreamFusionError):  # one that is just being removed, or was damaged
                run = self.describe(folder)
                text = f"{run['name']} {run['prompt']}".casefold()
                if all(word in text for word in words):
                    shown.append(run)
        shown.sort(key=lambda run: run["name"])
        if sort != "name":
            shown.sort(key=lambda run: run["begun"], reverse=True)
        if sort == "rating":
            shown.sort(key=lambda run: run["rating"], reverse=True)
        return shown

    def describe(self, folder: Path) -> dict[str, Any]:
        """Return what there is to say of one run."""
        config = self._config(folder)
        step = _last_step(folder)
        going = Requests(folder).open
        finished = step >= config.steps and (folder / "mesh.glb").is_file()
        picture = next((name for name in ("thumbnail.png", "preview.png") if (folder / name).is_file()), None)
        return {
            "name": folder.name,
            "prompt": config.prompt_at(config.steps),
            "state": "running" if going else "finished" if finished else "stopped",
            "refined": config.scene.kind == "mesh",
            "seed": config.seed,
            "step": step,
            "steps": config.steps,
            "begun": (folder / "config.yaml").stat().st_mtime,
            "rating": rating_of(folder),
            "picture": picture,
            "changed": (folder / picture).stat().st_mtime if picture else 0,
            "viewer": (folder / "mesh.glb").is_file(),
            "files": files_of(folder),
        }

    def rate(self, folder: Path, stars: int) -> None:
        """Remember how good a run is; DreamFusionError for what is no number of stars."""
        if not 0 <= stars <= BEST:
            raise DreamFusionError(f"A rating is a number from 1 to {BEST}, or 0 to take it back.")
        write_text(folder / RATING, json.dumps({"stars": stars}) + "\n")

    def _config(self, folder: Path) -> Config:
        path = folder / "config.yaml"
        status = path.stat()
        stamp = (status.st_mtime_ns, status.st_size)
        known = self._known.get(folder.name)
        if known is None or known.stamp != stamp:
            known = self._known[folder.name] = _Known(stamp, load_config(path))
        return known.config


def rating_of(folder: Path) -> int:
    """Return the stars of a run, 0 if it has none."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        stars = json.loads((folder / RATING).read_text(encoding="utf-8"))["stars"]
        return stars if isinstance(stars, int) and 0 <= stars <= BEST else 0
    return 0


def files_of(folder: Path) -> list[dict[str, Any]]:
    """Return the results that a run holds, the most important first, with their sizes in bytes."""
    files = [path for path in folder.iterdir() if path.is_file() and not _OWN.fullmatch(path.name)]
    order = {name: place for place, name in enumerate(_NAMED)}
    files.sort(key=lambda path: (order.get(path.name, len(order)), path.name))
    return [{"name": path.name, "bytes": path.stat().st_size} for path in files]


def _holds_run(folder: Path) -> bool:
    return (folder / "config.yaml").is_file()


def _last_step(folder: Path) -> int:
    """Return the step of the newest checkpoint, 0 if there is none."""
    steps = [path.name.removeprefix("step_") for path in (folder / "checkpoints").glob("step_*")]
    return max((int(step) for step in steps if step.isdigit()), default=0)
