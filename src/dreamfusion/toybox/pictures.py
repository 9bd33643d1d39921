"""One's own captioned pictures, in the layout that the datasets library calls an image folder.

A folder holds pictures and metadata.jsonl, a line of JSON for each of them: ``{"file_name": "a.png", "text": "a red
mushroom"}``. Both may lie in a folder train inside of it. No camera is known of such pictures, which the camera's token
says. Transparent ones stand before the backdrops of the toybox.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.camera_token import FEATURES
from dreamfusion.method.shading import sample_backdrops
from dreamfusion.toybox.data import Batch
from dreamfusion.toybox.model import MAX_WORDS, build_tokenizer

METADATA = "metadata.jsonl"
MOST_WORDS = 4000
"""Words that join the vocabulary at most, the most frequent ones; others are read as unknown."""

_EXAMPLE = '{"file_name": "a.png", "text": "a red mushroom"}'


@dataclass(frozen=True)
class Pictures:
    """Pictures as uint8 [N, 4, S, S], with alpha, the caption of each, and the words of all captions, frequent first.

    Captions are in lower case and have at most ``MAX_WORDS`` words and marks, which is what a prior reads.
    """

    images: Tensor
    captions: tuple[str, ...]
    words: tuple[str, ...]

    @classmethod
    def read(cls, folder: Path, size: int) -> Pictures:
        """Read a folder; pictures become squares of ``size`` pixels, cut where they are solid, padded where not.

        Raises DreamFusionError, naming file and line, for a missing folder, metadata or picture, for a line without
        file name or caption, and for pictures that cannot be read.
        """
        metadata = _metadata(folder)
        rows = _rows(metadata)
        split = build_tokenizer(()).backend_tokenizer
        captions, counts = [], Counter[str]()
        for _, text in rows:
            pieces = split.pre_tokenizer.pre_tokenize_str(split.normalizer.normalize_str(text))
            words = [word for word, _ in pieces][:MAX_WORDS]
            counts.update(words)
            captions.append(" ".join(words))
        images = torch.stack([_square(metadata.parent / name, size) for name, _ in rows])
        return cls(images, tuple(captions), tuple(word for word, _ in counts.most_common(MOST_WORDS)))


class PicturesData:
    """Batches of one's own pictures; of 10 % of them the caption is empty, as in the toybox."""

    def __init__(
        self, pictures: Pictures, seed: int, batch_size: int, *, caption_dropout: float = 0.1, device: str = "cpu"
    ) -> None:
        self.pictures, self.seed, self.batch_size = pictures, seed, batch_size
        self.caption_dropout, self.device = caption_dropout, device

    def batch(self, step: int) -> Batch:
        """Return the batch of a training step; the same for the same seed and step."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        choose = random.Random(self.seed * 1_000_003 + step)
        count = self.batch_size
        picks = torch.randint(len(self.pictures.images), (count,), generator=generator)
        drawn = self.pictures.images[picks].float() / 255
        backdrop = sample_backdrops(count, generator)[:, :, None, None]
        images = drawn[:, :3] * drawn[:, 3:] + backdrop * (1 - drawn[:, 3:])
        said = ["" if choose.random() < self.caption_dropout else self.pictures.captions[i] for i in picks.tolist()]
        nothing = torch.zeros(count)
        told = (
            images,
            torch.tensor([[1.0, 0, 0, 0]]).repeat(count, 1),
            nothing[:, None].repeat(1, FEATURES),
            nothing,
            nothing,
        )
        pictures, weights, cameras, known, textureless = (values.to(self.device) for values in told)
        return Batch(pictures, [text for one in said for text in (one,) * 4], weights, cameras, known, textureless, [])


def _metadata(folder: Path) -> Path:
    """Return the file that says which pictures there are."""
    if not folder.is_dir():
        raise DreamFusionError(f"--pictures {folder}: there is no such folder.")
    for place in (folder, folder / "train"):
        if (place / METADATA).is_file():
            return place / METADATA
    raise DreamFusionError(f"{folder} has no {METADATA}: write a line for each picture, such as {_EXAMPLE}")


def _rows(metadata: Path) -> list[tuple[str, str]]:
    """Return file name and caption of every line that is not empty."""
    try:
        lines = metadata.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DreamFusionError(f"{metadata} is not UTF-8 (byte {error.start}): save it in that encoding.") from None
    except OSError as error:
        raise DreamFusionError(f"Cannot read {metadata}: {error.strerror}.") from None
    rows = [_row(f"{metadata}, line {number}", line) for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise DreamFusionError(f"{metadata} is empty: write a line for each picture, such as {_EXAMPLE}")
    missing = [name for name, _ in rows if not (metadata.parent / name).is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DreamFusionError(f"{metadata} names {missing[0]}{more}, which is not there: take such lines out.")
    return rows


def _row(where: str, line: str) -> tuple[str, str]:
    try:
        row: Any = json.loads(line)
    except ValueError:
        row = None
    name, text = (row.get("file_name"), row.get("text")) if isinstance(row, dict) else (None, None)
    if not isinstance(name, str) or not isinstance(text, str):
        raise DreamFusionError(f"{where}: give file_name and text in JSON, such as {_EXAMPLE}")
    if not text.strip():
        raise DreamFusionError(f"{where}: the caption of {name} is empty: say what the picture shows.")
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise DreamFusionError(f"{where}: {name} lies outside of the folder: move the picture into it.")
    return name, text


def _square(path: Path, size: int) -> Tensor:
    """Return a picture uint8 [4, size, size] with alpha, averaged over what each pixel covers."""
    try:
        with Image.open(path) as opened:
            picture = ImageOps.exif_transpose(opened).convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise DreamFusionError(f"{path} cannot be read as a picture: replace it, or take its line out.") from None
    solid = picture.getchannel("A").getextrema()[0] == 255
    side = min(picture.size) if solid else max(picture.size)
    left, top = ((length - side) // 2 for length in picture.size)
    square = picture.crop((left, top, left + side, top + side))  # what lies outside is transparent
    premultiplied = square.convert("RGBa").resize((size, size), Image.Resampling.BOX).convert("RGBA")
    return torch.from_numpy(np.asarray(premultiplied).copy()).permute(2, 0, 1)
