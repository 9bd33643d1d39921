"""One picture of all runs of an evaluation: nobody has to take its figures on trust."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dreamfusion.assets.images import save_png, to_uint8
from dreamfusion.evaluation.evaluate import Evaluation, Record, load_views, run_folder
from dreamfusion.evaluation.worker import VIEW_SIZE
from dreamfusion.standard import AZIMUTHS_DEG

COLUMNS = 4
"""Runs side by side."""

_SHOWN = (("lambertian", 0.0), ("lambertian", 90.0), ("lambertian", 180.0), ("textureless", 45.0))
_GAP, _LINE = 2, 18  # pixels: between pictures, and for the prompt below them


def write_overview(evaluation: Evaluation, folder: Path) -> None:
    """Write overview.png into the folder of an evaluation."""
    save_png(overview(evaluation, folder), folder / "overview.png")


def overview(evaluation: Evaluation, folder: Path) -> Tensor:
    """Return one picture [3, H, W] of every run: from the front, the side and behind, and one view without colour.

    Prompts of held-out pairs have a star; a run that failed is left white.
    """
    step = VIEW_SIZE + _GAP
    width, height = len(_SHOWN) * step + 5 * _GAP, step + _LINE
    rows = -(-len(evaluation.records) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * width, rows * height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
    for index, record in enumerate(evaluation.records):
        left, top = index % COLUMNS * width, index // COLUMNS * height
        for place, pixels in enumerate(_views(record, folder)):
            sheet.paste(Image.fromarray(pixels), (left + place * step, top))
        draw.text((left, top + step), record.prompt + " *" * record.held_out, fill="black", font=font)
    return torch.from_numpy(np.array(sheet)).movedim(-1, 0).float() / 255.0


def _views(record: Record, folder: Path) -> list[np.ndarray]:
    views = None if record.error else load_views(run_folder(folder, record.prompt, record.seed))
    if views is None:
        return []
    return [to_uint8(views[shading][AZIMUTHS_DEG.index(azimuth)]) for shading, azimuth in _SHOWN]
