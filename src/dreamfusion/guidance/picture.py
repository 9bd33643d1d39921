"""A picture of the object beside the words, or in their place: the file, cut free from its background.

The background goes by the picture's own alpha, or else by the library rembg where it is installed. What is left is
put on white, in the middle of a square, as the priors that are shown pictures were trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dreamfusion.errors import DreamFusionError

Fourth = Literal["auto", "distance", "elevation"]
"""The last of the four numbers of a view: how much farther away it is, or how high the picture's camera stood."""

SHARE = 0.8
"""The object's longer side as a share of the square."""

_LEAST = 64
"""Pixels below which there is no object."""


@dataclass(frozen=True)
class Picture:
    """A picture of the object from its front, and its camera.

    ``elevation_deg`` is the camera's height in degrees above the horizon, ``distance`` that to the object in world
    units, of a camera with the views' focal length; ``fourth`` says what a view's last number means to the prior.
    """

    file: Path
    elevation_deg: float = 0.0
    distance: float = 2.5
    fourth: Fourth = "auto"


def cut_free(file: Path) -> Tensor:
    """Return the object of a picture on white, [3, S, S] in [0, 1], its longer side `SHARE` of S.

    Raises DreamFusionError for what is no picture, has no background to leave out and no rembg to find it, or holds no
    object.
    """
    try:
        picture = Image.open(file).convert("RGBA")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise DreamFusionError(f"The picture {file} cannot be read ({error}): give a PNG, JPEG or WebP file.") from None
    if np.asarray(picture)[..., 3].min() == 255:
        picture = _without_background(picture, file)
    pixels: NDArray[np.float32] = np.asarray(picture, dtype=np.float32) / np.float32(255)
    rows, columns = np.nonzero(pixels[..., 3] > 0.5)
    if len(rows) < _LEAST:
        raise DreamFusionError(
            f"The picture {file} shows no object: all of it is transparent, or taken for background."
        )
    return _on_white(pixels[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1])


def _without_background(picture: Image.Image, file: Path) -> Image.Image:
    try:
        from rembg import remove
    except ImportError:
        raise DreamFusionError(
            f"The picture {file} has no transparent background: give a PNG that has one, or let rembg find it: "
            'pip install "dreamfusion[image]".'
        ) from None
    try:
        return remove(picture).convert("RGBA")
    except Exception as error:  # of its network, which it downloads, and of ONNX Runtime
        raise DreamFusionError(f"rembg cannot cut {file} free ({error}): give a PNG with transparency.") from None


def _on_white(pixels: NDArray[np.float32]) -> Tensor:
    """Return the cut-out [H, W, 4] on white, in the middle of a square."""
    height, width = pixels.shape[:2]
    side = round(max(height, width) / SHARE)
    square = np.ones((side, side, 3), dtype=np.float32)
    top, left = (side - height) // 2, (side - width) // 2
    alpha = pixels[..., 3:]
    square[top : top + height, left : left + width] = pixels[..., :3] * alpha + 1 - alpha
    return torch.from_numpy(square).permute(2, 0, 1).contiguous()
