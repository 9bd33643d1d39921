"""An IP-Adapter (arXiv 2308.06721): attention of the UNet to a picture, beside its attention to the words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.reading.problems import first_line, quiet


@dataclass(frozen=True)
class Adapter:
    """The file of an IP-Adapter, with its ``image_encoder`` folder beside it, and how strongly the picture counts."""

    file: Path
    scale: float = 0.6


def add_adapter(pipeline: Any, adapter: Adapter, picture: Path, model: str | Path) -> tuple[Tensor, Tensor]:
    """Put an IP-Adapter into a loaded pipeline, and return what it sees, [1, L, D] each: in nothing, and in a picture.

    The picture is put on white if it is transparent. Raises DreamFusionError for files that are missing or of another
    family.
    """
    if adapter.file.suffix not in (".safetensors", ".bin") or not adapter.file.is_file():
        raise DreamFusionError(f"The IP-Adapter {adapter.file} is no file: give its .safetensors file.")
    if adapter.file.suffix == ".bin":
        raise DreamFusionError(f"{adapter.file} can run code when it is read: take the .safetensors file beside it.")
    if not (adapter.file.parent / "image_encoder").is_dir():
        raise DreamFusionError(
            f"The IP-Adapter {adapter.file} needs the folder image_encoder beside it: download that of its repository."
        )
    shown = _on_white(picture)
    try:
        with quiet(), torch.no_grad():
            pipeline.load_ip_adapter(
                str(adapter.file.parent), subfolder="", weight_name=adapter.file.name, local_files_only=True
            )
            pipeline.set_ip_adapter_scale(adapter.scale)
            nothing, seen = pipeline.prepare_ip_adapter_image_embeds(shown, None, "cpu", 1, True)[0].chunk(2)
    except Exception as error:  # of many types: keys, shapes, formats
        reason = first_line(error)
        raise DreamFusionError(
            f"The IP-Adapter {adapter.file} is not for {model} ({reason}): take one that was made for this family."
        ) from None
    pipeline.image_encoder = None
    return nothing[:, 0].float(), seen[:, 0].float()


def _on_white(file: Path) -> Image.Image:
    try:
        picture = Image.open(file).convert("RGBA")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise DreamFusionError(f"The picture {file} cannot be read ({error}): give a PNG, JPEG or WebP file.") from None
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture).convert("RGB")
