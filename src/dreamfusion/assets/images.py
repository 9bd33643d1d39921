"""Pictures: PNG files, and the contact sheet that shows a scene from all around at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dreamfusion.io.files import write_atomically


def to_uint8(image: Tensor) -> NDArray[np.uint8]:
    """Return images [..., C, H, W] in [0, 1] as bytes [..., H, W, C]; values outside are clipped, NaN becomes 0."""
    levels = torch.nan_to_num(image.detach().float()).clamp(0.0, 1.0) * 255.0
    return levels.round().to(torch.uint8).movedim(-3, -1).cpu().numpy()


def save_png(image: Tensor, path: Path | str) -> None:
    """Write one image [1, H, W] (grey), [3, H, W] or [4, H, W] (with opacity) in [0, 1] as PNG, atomically.

    Raises `DreamFusionError` if it cannot be written.
    """
    if image.ndim != 3 or image.shape[0] not in (1, 3, 4):
        raise ValueError(f"an image is [1, H, W], [3, H, W] or [4, H, W], not {list(image.shape)}")
    pixels = to_uint8(image)
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    with write_atomically(path) as temporary:
        picture.save(temporary, format="PNG")


def contact_sheet(rows: Mapping[str, Tensor], columns: Sequence[str] = (), *, gap: int = 6) -> Tensor:
    """Return one picture [3, H', W'] of rows of images, each row labelled on the left, each column above.

    ``rows`` maps a label to its images [N, 3, H, W], all of one H and W; a shorter row leaves white space.
    ``columns`` are up to N labels. ``gap`` is the white space between pictures, in pixels.
    """
    if not rows:
        raise ValueError("a contact sheet needs at least one row")
    height, width = next(iter(rows.values())).shape[-2:]
    count = max(len(images) for images in rows.values())
    font = ImageFont.load_default(size=max(11, height // 10))
    text_height = font.getbbox("Ag")[3]
    margin_x = max(round(font.getlength(label)) for label in rows) + 2 * gap
    margin_y = round(text_height) + 2 * gap if columns else gap

    size = (margin_x + count * (width + gap), margin_y + len(rows) * (height + gap))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for column, label in enumerate(columns):
        centre = (margin_x + column * (width + gap) + width // 2, margin_y // 2)
        draw.text(centre, label, fill="black", font=font, anchor="mm")
    for row, (label, images) in enumerate(rows.items()):
        top = margin_y + row * (height + gap)
        draw.text((gap, top + height // 2), label, fill="black", font=font, anchor="lm")
        for column, pixels in enumerate(to_uint8(images)):
            sheet.paste(Image.fromarray(pixels), (margin_x + column * (width + gap), top))
    return torch.from_numpy(np.array(sheet)).movedim(-1, 0).float() / 255.0
