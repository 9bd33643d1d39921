"""What commands print, and what they have in common."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from dreamfusion.app.terminal import say
from dreamfusion.errors import DreamFusionError

if TYPE_CHECKING:
    from dreamfusion.evaluation.prompts import PromptList
    from dreamfusion.runs.results import Result

console = Console(stderr=True)


def given(**options: Any) -> dict[str, Any]:
    """Return the options that were given."""
    return {key: value for key, value in options.items() if value is not None}


def as_text(path: Path | None) -> str | None:
    """Return a path as the configuration holds it."""
    return None if path is None else str(path)


def prior_settings(guidance: str | None, model: str | None, **options: Any) -> dict[str, Any] | None:
    """Return what is asked of the prior, None if nothing is; a model alone is one of diffusers."""
    return given(kind=guidance or ("diffusers" if model else None), model=model, **options) or None


def nemo_arguments(
    words: tuple[str, ...] | None, prompt: str | None
) -> tuple[Path | None, tuple[str, ...], str | None]:
    """Return the file of --nemo-config, the overrides behind it, and the prompt, which may stand there, too."""
    from dreamfusion.nemo.compose import is_override

    if words is None:
        return None, (), prompt
    if not words:
        raise DreamFusionError("--nemo-config needs a FILE, and may have KEY=VALUE behind it.")
    file, *behind = words
    if prompt is None and behind and not is_override(behind[-1]):
        prompt = behind.pop()
    return Path(file), tuple(behind), prompt


def note(line: str) -> None:
    """Tell of something that the user may want to know, on the error stream."""
    say(console, f"note: {line}")


def print_assets(result: Result, *, as_json: bool = False) -> None:
    """Name the files that a run has left, in a line each, or all of them in one of JSON."""
    if as_json:
        print(json.dumps({"files": [str(path) for path in result.files if path.exists()]}), flush=True)
        return
    written = [path for path in (result.contact_sheet, result.turntable, result.mesh, result.viewer) if path.exists()]
    print(*written, sep="\n")


def prompt_list(asked: str | None, model: str | None = None) -> PromptList:
    """Return the prompts of a file, saying what was left out, or drawn ones, of what the prior ``model`` knows."""
    from dreamfusion.evaluation.prompts import chosen_prompts
    from dreamfusion.toybox.world import prior_world

    chosen = chosen_prompts(asked, prior_world(model))
    for note in chosen.notes:
        say(console, f"{asked}: {note}")
    return chosen
