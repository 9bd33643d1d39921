"""The model card of a trained prior: how it was made, its loss curve, and samples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from dreamfusion.assets.images import save_png
from dreamfusion.io.files import TABLE_BEGIN, TABLE_END, read_rows, write_text
from dreamfusion.toybox.hardness import SORTS
from dreamfusion.toybox.kinds import ALL_KINDS
from dreamfusion.toybox.model import BANDED_FROM, SHIFT
from dreamfusion.toybox.world import COLORS, SIZES, World, held_out, part_held_out, world_named

_WIDTH, _HEIGHT, _MARGIN = 560, 260, 40


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a training's log.jsonl: step, loss, seconds; none if there is no log yet."""
    return read_rows(path)


def loss_curve(rows: list[dict[str, float]]) -> torch.Tensor:
    """Return a picture [3, H, W] of the loss, logarithmic, against the step."""
    picture = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    draw = ImageDraw.Draw(picture)
    steps, losses = (np.array([row[key] for row in rows], dtype=float) for key in ("step", "loss"))
    low, high = np.log(losses.min() * 0.9), np.log(losses.max() * 1.1)
    x = _MARGIN + (_WIDTH - 2 * _MARGIN) * steps / steps.max()
    y = _HEIGHT - _MARGIN - (_HEIGHT - 2 * _MARGIN) * (np.log(losses) - low) / (high - low)
    draw.rectangle((_MARGIN, _MARGIN, _WIDTH - _MARGIN, _HEIGHT - _MARGIN), outline="#bbbbbb")
    draw.line(list(zip(x, y, strict=True)), fill="#b02020", width=2)
    draw.text((4, _MARGIN), f"{losses.max():.3f}", fill="black")
    draw.text((4, _HEIGHT - _MARGIN - 10), f"{losses.min():.3f}", fill="black")
    draw.text((_WIDTH - 2 * _MARGIN, _HEIGHT - _MARGIN + 6), f"step {steps.max():.0f}", fill="black")
    draw.text((_MARGIN, 12), "v-prediction loss, mean of 50 steps, logarithmic", fill="black")
    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1) / 255


def write_card(
    folder: Path, settings: Mapping[str, Any], seconds: float, training: Path, started_from: str | None
) -> None:
    """Write README.md and loss.png into the folder of a finished prior.

    ``training`` is the folder with its logs, ``seconds`` the time it took in all.
    """
    rows = read_log(training / "log.jsonl")
    if rows:
        save_png(loss_curve(rows), folder / "loss.png")
    steps = int(rows[-1]["step"]) if rows else 0
    options = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in settings.items() if name in _OPTIONS)
    command = f"dreamfusion prior train {options}" + (f" --start-from {started_from}" if started_from else "")
    size = settings["image_size"]
    world = world_named(settings.get("world", "small"))
    pairs = [f"{color} {kind}" for kind in world.kinds for color in COLORS if held_out(kind, color)]
    parts = [(kind, ALL_KINDS[kind].part[0]) for kind in world.kinds]
    pairs += [f"{kind} with {c} {part}" for kind, part in parts for c in COLORS if part_held_out(kind, c)]
    if world.trims:
        pairs += ["and a tenth of the second parts' colours, of finishes and of scenes (`toybox/world.py`)"]
    table = "\n".join(f"| {row['step']:.0f} | {row['loss']:.4f} |" for row in rows[:: max(1, len(rows) // 12)])
    write_text(
        folder / "README.md",
        f"""# The toybox prior

A text-conditional diffusion model of {size} x {size} pixels in diffusers' folder format (IFPipeline: T5 encoder, UNet,
DDPM scheduler and v-prediction). It knows {len(world.kinds)} kinds of toys in {len(COLORS)} colours, their patterns,
sizes and parts{_more(world)}, and no other words. {_on_bands(size)}

It knows the camera, and whether a picture is textureless, from a token behind the words. A small toy was shown from so
near that it appears at full size; its true size is {SIZES["small"][0]} of that.

| | |
|---|---|
| command | `{command}` |
| seed | {settings["seed"]} |
| steps, batch | {steps}, {settings["batch_size"]} |
| images seen | {steps * settings["batch_size"]:,} |
| time | {seconds / 60:.0f} minutes |
| weights | moving average ({settings["ema"]}), half precision |
| never shown in training | {", ".join(pairs)} |

| step | loss |
|---|---|
{table}
{_held_out(read_log(training / "held_out.jsonl"))}

{TABLE_BEGIN}
Not scored yet: `dreamfusion prior evaluate --card --model` and this folder.
{TABLE_END}

![loss](loss.png)
![samples](samples.png)
""",
    )


def _more(world: World) -> str:
    return ", two parts of each, finishes, and two toys at once" if world.trims else ""


def _on_bands(size: int) -> str:
    if size < BANDED_FROM:
        return "Its schedule is the cosine's."
    return (
        "Its UNet works on the Haar bands of a picture, at half the side, on a cosine schedule shifted by the factor "
        f"{SHIFT:g} (`dreamfusion.guidance.patched_unet`)."
    )


def _held_out(rows: list[dict[str, Any]]) -> str:
    """Return the last look at held-out pictures as Markdown: the loss of all, and of each of each sort."""
    if not rows:
        return ""
    last = rows[-1]
    lines = [f"| all | {last['loss']:.4f} |"]
    for sort in ("noise", *SORTS):
        lines += [f"| {sort}: {name} | {loss:.4f} |" for name, loss in last.get(sort, {}).items()]
    return "\n".join(["", "| held-out pictures, after the last step | loss |", "|---|---|", *lines])


_OPTIONS = ("steps", "batch_size", "image_size", "lr", "muon_lr", "decay_steps", "precision", "seed", "world")
