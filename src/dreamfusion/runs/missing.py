"""What a run that is resumed has lost since it was stopped: told, for the rest of it goes on without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dreamfusion.config import Config


def tell_missing(folder: Path, config: Config, step: int, tell: Callable[[str], None]) -> None:
    """Call ``tell`` with every line of `not_found`."""
    for line in not_found(folder, config, step):
        tell(line)


def not_found(folder: Path, config: Config, step: int) -> list[str]:
    """Return a line for each thing that a run of ``step`` steps should hold and does not; call it before it goes on."""
    lines = []
    if step == 0:
        return ["no checkpoint was found: the run begins at its first step"]
    if not (folder / "metrics.jsonl").is_file():
        lines.append(f"metrics.jsonl was not found: its rows begin with step {step + 1}")
    shown = step // config.preview_every
    found = sum(1 for _ in (folder / "previews").glob("*.png"))
    if config.pictures.video and found < shown:
        lines.append(f"{shown - found} of {shown} previews were not found: growth.mp4 leaves those steps out")
    return lines
