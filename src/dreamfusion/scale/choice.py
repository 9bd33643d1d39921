"""Which runs are worth looking at: their scores, which of them are alike, and the order in which they are shown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dreamfusion.errors import DreamFusionError
from dreamfusion.evaluation.judge import ClipJudge, ToyboxJudge
from dreamfusion.evaluation.judging import covered, is_janus, true_views
from dreamfusion.evaluation.worker import BEHIND
from dreamfusion.io.claims import refuse_busy
from dreamfusion.io.files import remove_folder
from dreamfusion.scale.plan import Trial
from dreamfusion.scale.trial import unpacked
from dreamfusion.toybox.captions import parse_toy
from dreamfusion.toybox.world import WIDE

SAME_SHAPE = 0.9
"""Overlap of two volumes, intersection over union, from which on they may be near-duplicates."""

SAME_PICTURE = 0.06
"""Mean difference of two objects' pictures, channels in [0, 1], up to which they may be near-duplicates."""

TWO_FACED = 0.5
"""Factor on the score of an object that shows a face from behind as well."""


@dataclass(frozen=True)
class Entry:
    """One run in the ranking of a sweep.

    ``score`` is None for a run that failed, or that no judge can read. ``like`` is the folder of a better run of the
    same prompt that looks nearly the same. ``files`` says whether the run itself is still there (`keep_best`).
    """

    prompt: str
    seed: int
    varied: dict[str, Any]
    folder: str
    score: float | None = None
    two_faced: bool | None = None
    like: str | None = None
    error: str | None = None
    seconds: float | None = None
    opacity: float | None = None
    machine: str | None = None
    files: bool = True


@dataclass
class Scorer:
    """Scores finished runs by a judge; without one, and for prompts that it does not know, by nothing.

    The score is the mean over eight shaded views of what the judge says of them: the toybox judge the probability
    that the picture shows all that the prompt says, CLIP its similarity. It is halved if the object is two-faced.
    """

    judge: ToyboxJudge | ClipJudge | None
    _clear: dict[str, bool] = field(default_factory=dict)

    def entry(self, trial: Trial, output: Path, error: str | None) -> Entry:
        """Return the entry of a trial that has ended, well or with an ``error``."""
        entry = Entry(trial.prompt, trial.seed, trial.varied, trial.folder.relative_to(output).as_posix())
        if error is None:
            try:
                record = json.loads((trial.folder / "score.json").read_text(encoding="utf-8"))
                views = views_of(trial.folder)
                known = {name: record[name] for name in ("seconds", "opacity", "machine")}
                files = (trial.folder / "run").is_dir()
                return replace(entry, **known, **self.score(views, trial.prompt), files=files)
            except (OSError, ValueError, KeyError, RecursionError, SafetensorError):
                error = "what it left cannot be read: delete its folder and start the sweep again"
        return replace(entry, error=error, files=False)

    def score(self, views: dict[str, Tensor], prompt: str) -> dict[str, Any]:
        """Return ``score`` and ``two_faced`` of the renderings of a run."""
        if self.judge is None:
            return {}
        likeness = self.judge.similarity(views["lambertian"], [prompt])[:, 0]
        score = (likeness.exp() if isinstance(self.judge, ToyboxJudge) else likeness).mean().item()
        two_faced = self._tells_sides(prompt) and is_janus(views[BEHIND], prompt, self.judge)
        return {"score": score * TWO_FACED if two_faced else score, "two_faced": two_faced}

    def _tells_sides(self, prompt: str) -> bool:
        """Return whether the judge takes the true toy's back for a back; of other things nobody knows."""
        if prompt not in self._clear:
            assert self.judge is not None
            try:
                behind = true_views(parse_toy(prompt, WIDE))[BEHIND]
                self._clear[prompt] = not is_janus(behind, prompt, self.judge)
            except DreamFusionError:
                self._clear[prompt] = False
        return self._clear[prompt]


def views_of(folder: Path) -> dict[str, Tensor]:
    """Return the renderings and the volume that a trial has left."""
    saved = load_file(folder / "views.safetensors")
    views = {name: images.float() for name, images in saved.items() if name != "volume"}
    return views | {"volume": unpacked(saved["volume"])}


def ranked(entries: Iterable[Entry], output: Path) -> list[Entry]:
    """Return the entries best first, those that failed last, with near-duplicates of better ones marked."""
    order = sorted(entries, key=lambda entry: (entry.error is not None, -(entry.score or 0.0)))
    by_prompt: dict[str, list[Entry]] = {}
    for entry in order:
        if entry.error is None:
            by_prompt.setdefault(entry.prompt, []).append(entry)
    likes: dict[str, str] = {}
    for of_one_prompt in by_prompt.values():
        likes |= _likes([entry.folder for entry in of_one_prompt], output)
    return [replace(entry, like=likes.get(entry.folder)) for entry in order]


def _likes(folders: Sequence[str], output: Path) -> dict[str, str]:
    """Return for each near-duplicate the better run that it is like; ``folders`` come best first."""
    better: list[tuple[str, dict[str, Tensor]]] = []
    likes = {}
    for folder in folders:
        views = views_of(output / folder)
        like = next((other for other, theirs in better if are_alike(views, theirs)), None)
        if like is None:
            better.append((folder, views))
        else:
            likes[folder] = like
    return likes


def are_alike(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Return whether two objects are near-duplicates: their volumes overlap, and their pictures differ little."""
    return overlap(a["volume"], b["volume"]) >= SAME_SHAPE and picture_difference(a, b) <= SAME_PICTURE


def overlap(a: Tensor, b: Tensor) -> float:
    """Return intersection over union of two volumes of booleans; 0 if both are empty."""
    return ((a & b).sum() / (a | b).sum().clamp(min=1)).item()


def picture_difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Return the mean difference of the shaded views of two objects where either of them is."""
    either = covered(a["textureless"]) | covered(b["textureless"])
    difference = (a["lambertian"] - b["lambertian"]).abs().mean(dim=1)
    return difference[either].mean().item() if either.any() else 0.0


def keep_best(entries: Sequence[Entry], output: Path, keep: int) -> list[Entry]:
    """Delete the runs of all but the best ``keep`` of each prompt, and return the entries as they are then.

    Near-duplicates do not count among the best. Scores and pictures of all runs stay, so that nothing is run again;
    a deleted run comes back, the same, from its prompt, seed and settings.
    """
    if keep < 1:
        raise DreamFusionError(f"--keep must be at least 1 (given: {keep}).")
    kept: dict[str, int] = {}
    result = []
    for entry in entries:
        best = entry.error is None and entry.like is None and kept.get(entry.prompt, 0) < keep
        if best:
            kept[entry.prompt] = kept.get(entry.prompt, 0) + 1
        elif entry.files:
            run = output / entry.folder / "run"
            refuse_busy(run)
            remove_folder(run)
            entry = replace(entry, files=False)
        result.append(entry)
    return result


def to_json(entries: Sequence[Entry], settings: dict[str, Any]) -> str:
    """Return the ranking of a sweep as JSON."""
    return json.dumps({"settings": settings, "ranking": [asdict(entry) for entry in entries]}, indent=1)
