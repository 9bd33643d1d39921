"""The network of the toybox judge: a small convolutional one with a classifier for everything that can be read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dreamfusion.errors import DreamFusionError
from dreamfusion.io.files import replace_folder, write_text
from dreamfusion.toybox.kinds import MATERIALS

IMAGE_SIZE = 64
"""Side of the pictures that it reads, in pixels."""

CELL = 8
"""Side of the cells, in pixels, for which it says what is where."""

PLACES = len(MATERIALS) + 1 + 3
"""Of each cell: how much of it every material covers, and nothing; and its mean normal."""

FEATURES = 256
"""Length of what it knows of a picture before it is asked for words."""


class Block(nn.Module):
    """Two convolutions beside a shortcut (He et al. 2016)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.first_norm = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.second, self.second_norm = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the shape of ``x`` [n, width, h, w]."""
        change = self.second_norm(self.second(self.first_norm(self.first(x)).relu()))
        return (x + change).relu()


class Reader(nn.Module):
    """Reads pictures [n, 3, 64, 64] in [0, 1]: log-probabilities of ``words``, by attribute.

    Small at full size and wider as pictures shrink to 16, 8 and 4 pixels: about 40 million multiplications and
    additions per picture with a ``width`` of 32. While it is trained, it also says what is where, in ``places`` numbers
    for each of 8 x 8 cells. It takes smaller pictures as well, and so can be trained on those first.
    """

    def __init__(self, words: Mapping[str, Sequence[str]], width: int = 32, places: int = PLACES) -> None:
        super().__init__()
        self.words = {name: tuple(choices) for name, choices in words.items()}
        self.width, self.places = width, places
        self.stem = nn.Conv2d(3, width // 2, 4, 2, 1, bias=False)
        self.near = nn.Sequential(
            *_normed(width // 2),
            *_halved(width // 2, width, 4),
            Block(width),
            *_halved(width, 2 * width),
            Block(2 * width),
            Block(2 * width),
        )
        self.far = nn.Sequential(*_halved(2 * width, 4 * width), Block(4 * width), Block(4 * width))
        self.where = nn.Conv2d(2 * width, places, 1)
        self.embed, self.embed_norm = nn.Linear(4 * width * 4, FEATURES, bias=False), nn.BatchNorm1d(FEATURES)
        self.heads = nn.ModuleDict({name: nn.Linear(FEATURES, len(choices)) for name, choices in self.words.items()})
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def features(self, images: Tensor) -> Tensor:
        """Return what is known of pictures [n, 3, 64, 64], [n, FEATURES]."""
        return self._known(self._parts(images))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return log-probabilities [n, number of words] by attribute."""
        return self._words(self.features(images))

    def words_and_places(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return the same and what is where, [n, places, S / CELL, S / CELL]."""
        parts = self._parts(images)
        return self._words(self._known(parts)), self.where(parts)

    def _parts(self, images: Tensor) -> Tensor:
        x = (2 * images - 1).contiguous(memory_format=torch.channels_last)
        return self.near(self.stem(x))

    def _known(self, parts: Tensor) -> Tensor:
        quarters = nn.functional.adaptive_avg_pool2d(self.far(parts), 2)
        return self.embed_norm(self.embed(quarters.flatten(1))).relu()

    def _words(self, known: Tensor) -> dict[str, Tensor]:
        return {name: head(known).log_softmax(dim=-1) for name, head in self.heads.items()}


def _normed(width: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(width), nn.ReLU()]


def _halved(narrow: int, wide: int, kernel: int = 2) -> list[nn.Module]:
    return [nn.Conv2d(narrow, wide, kernel, 2, kernel // 2 - 1, bias=False), *_normed(wide)]


def save_reader(reader: Reader, folder: Path, record: Mapping[str, object]) -> None:
    """Write a judge's weights in half precision, its words, and how it was trained."""
    shape = {"width": reader.width, "places": reader.places, "words": reader.words}
    state = reader.state_dict()
    weights = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replace_folder(folder) as aside:
        save_file({name: value.contiguous() for name, value in weights.items()}, aside / "model.safetensors")
        write_text(aside / "config.json", json.dumps(shape, indent=1))
        write_text(aside / "training.json", json.dumps(dict(record), indent=2))


def is_reader(folder: Path) -> bool:
    """Tell whether a folder holds a judge that `save_reader` wrote, and not a dual encoder."""
    try:
        return "words" in json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def load_reader(folder: Path) -> Reader:
    """Return the network of a judge that `save_reader` wrote; DreamFusionError if there is none."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        reader = Reader(config["words"], config["width"], config["places"])
        reader.load_state_dict(load_file(folder / "model.safetensors"))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise DreamFusionError(f"{folder} holds no toybox judge: train one with: dreamfusion judge train.") from error
    return reader
