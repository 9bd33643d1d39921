"""An experiment is a list of cells, each a pure function of the settings: what is finished is kept.

OUTPUT/cells/<name>.json holds the figures of a finished cell, <name>.safetensors its pictures. A cell that was cut
short is computed anew from its own seed, so that stopping changes no figure. After every cell the report is written;
until the last it says that it is partial.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dreamfusion.errors import DreamFusionError
from dreamfusion.io.checkpoints import refuse_other_settings
from dreamfusion.io.claims import claim
from dreamfusion.io.files import slugify, write_atomically, write_text
from dreamfusion.stopping import stop_at_once

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Outcome:
    """What a cell has found: ``figures`` by name, and ``pictures`` [n, 3, S, S] by name."""

    figures: dict[str, float | None]
    pictures: dict[str, Tensor]


@dataclass(frozen=True)
class Cell:
    """A part of an experiment: its name, unique within it, and what computes it."""

    name: str
    compute: Callable[[], Outcome]


@dataclass(frozen=True)
class Found:
    """The finished cells of an experiment, in their order, and how many there are in all."""

    outcomes: dict[str, Outcome]
    count: int

    @property
    def complete(self) -> bool:
        """Whether every cell is finished."""
        return len(self.outcomes) == self.count

    def heading(self, title: str) -> str:
        """Return the first lines of a report; they say so if it is partial."""
        if self.complete:
            return f"# {title}\n\n"
        done = f"**Partial: {len(self.outcomes)} of {self.count} cells are done.**"
        return f"# {title}\n\n{done} Run the same command again to go on.\n\n"


def run_cells(
    output: Path,
    experiment: str,
    settings: Mapping[str, Any],
    cells: Sequence[Cell],
    report: Callable[[Found], None],
    on_progress: Progress | None = None,
) -> Found:
    """Compute the cells that OUTPUT does not have yet, and call ``report`` after each.

    Writes OUTPUT/<experiment>.json: settings, ``complete`` and the figures of every finished cell. Raises
    DreamFusionError for other settings than OUTPUT has begun with, and `Stopped` if a signal ends it.
    """
    record = output / f"{experiment}.json"
    asked = json.loads(json.dumps(dict(settings)))
    with claim(output, evidence=(record.name,)), stop_at_once("the same command goes on with it"):
        if record.exists():
            refuse_other_settings(_read(record)["settings"], asked)
        (output / "cells").mkdir(exist_ok=True)
        places = {cell.name: output / "cells" / slugify(cell.name) for cell in cells}
        done = {name: outcome for name, place in places.items() if (outcome := _load(place)) is not None}

        def tell(what: str) -> Found:
            found = Found({name: done[name] for name in places if name in done}, len(cells))
            if done:
                _write_record(record, experiment, asked, found)
                report(found)
            if on_progress is not None:
                on_progress(len(done), len(cells), what)
            return found

        for cell in [cell for cell in cells if cell.name not in done]:
            tell(cell.name)
            done[cell.name] = cell.compute()
            _save(done[cell.name], places[cell.name])
        return tell("done")


def _write_record(record: Path, experiment: str, settings: Any, found: Found) -> None:
    figures = {name: outcome.figures for name, outcome in found.outcomes.items()}
    head = {"experiment": experiment, "complete": found.complete, "done": len(figures), "of": found.count}
    write_text(record, json.dumps(head | {"settings": settings, "cells": figures}, indent=1))


def _read(record: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
        return values | {"settings": dict(values["settings"])}
    except (OSError, ValueError, KeyError, TypeError):
        raise DreamFusionError(f"{record} is damaged: choose another --output to start again.") from None


def _load(place: Path) -> Outcome | None:
    """Return a finished cell, or None if it is not there or not whole: it is then computed anew."""
    try:
        figures = json.loads(place.with_suffix(".json").read_text(encoding="utf-8"))
        return Outcome(dict(figures), load_file(place.with_suffix(".safetensors")))
    except (OSError, ValueError, TypeError, SafetensorError):
        return None


def _save(outcome: Outcome, place: Path) -> None:
    pictures = {name: images.detach().cpu().contiguous() for name, images in outcome.pictures.items()}
    with write_atomically(place.with_suffix(".safetensors"), ours=True) as path:
        save_file(pictures, path)
    write_text(place.with_suffix(".json"), json.dumps(outcome.figures))  # last: a cell with figures is whole
