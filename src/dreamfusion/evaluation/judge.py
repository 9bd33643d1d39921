"""Judges: which of many captions does a picture show? CLIP's part in R-Precision (paper section 4).

The toybox judge ships with the package and was trained on the toybox apart from the prior (`training.py`). It reads
attributes, from which it ranks captions. CLIP itself, such as OpenAI's B/32, B/16 and L/14, and any other dual encoder
in transformers' format can take its place where captions are ranked.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from dreamfusion.errors import DreamFusionError
from dreamfusion.evaluation.network import IMAGE_SIZE, is_reader, load_reader
from dreamfusion.evaluation.reading import SILENT, shown
from dreamfusion.guidance.reading.problems import ONE_AT_A_TIME
from dreamfusion.method.prompts import VIEWS
from dreamfusion.toybox.captions import parse_toy
from dreamfusion.toybox.world import SMALL, WIDE

TOYBOX_JUDGE = Path(__file__).parent / "judge"
"""Folder of the judge that ships with the package."""

_BATCH = 64
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)
"""What CLIP's pictures are normalised with."""


class Judge(Protocol):
    """What ranks captions; ``name`` says which one it is."""

    name: str

    def first(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        """Return the index [n] of the caption that each image [n, 3, H, W] in [0, 1] is most like."""


class ToyboxJudge:
    """Reads kind, colour, pattern, size, colour of the part and view off pictures of toys.

    Raises DreamFusionError if ``folder`` holds none.
    """

    def __init__(self, folder: Path = TOYBOX_JUDGE, device: torch.device | str = "cpu") -> None:
        self.name = "toybox" if folder == TOYBOX_JUDGE else str(folder)
        self.device = torch.device(device)
        self._reader = load_reader(folder).eval().requires_grad_(False).to(self.device)
        self.words = self._reader.words
        self.world = WIDE if "finish" in self.words else SMALL

    def read(self, images: Tensor) -> dict[str, Tensor]:
        """Return log-probabilities [n, words] of the ``words`` of each attribute for images [n, 3, H, W] in [0, 1]."""
        parts = [self._reader(part) for part in self._batches(images)]
        return {name: torch.cat([part[name] for part in parts]) for name in self.words}

    def features(self, images: Tensor) -> Tensor:
        """Return what the judge knows of images [n, 3, H, W] before it is asked for words, [n, FEATURES]."""
        return torch.cat([self._reader.features(part) for part in self._batches(images)])

    def similarity(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        """Return the log-probability [n, m] of all that each of m captions claims; see `reading`."""
        read = self.read(images)
        columns = [
            sum((read[name][:, index] for name, index in self._claims(text).items()), torch.zeros(len(images)))
            for text in texts
        ]
        return torch.stack([column.to(self.device) for column in columns], dim=1)

    def first(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        """Return the index [n] of the caption that each image is most like."""
        return self.similarity(images, texts).argmax(dim=1).cpu()

    def _batches(self, images: Tensor) -> list[Tensor]:
        return [resized(part, IMAGE_SIZE) for part in images.to(self.device).split(_BATCH)]

    def _claims(self, text: str) -> dict[str, int]:
        """Return what a caption claims, as the index of a word by attribute."""
        what, _, last = text.rpartition(", ")
        view = last.removesuffix(" view")
        toy = parse_toy(what if what and view in VIEWS else text, WIDE)
        claimed = shown(toy, view if what and view in VIEWS else None, WIDE)
        # A judge of the small world is not asked what it was never taught, unless the caption speaks of it.
        silent = {**SILENT, **({} if toy.trim_color else {"trim_color": claimed["trim_color"]})}
        asked = {
            name: word
            for name, word in claimed.items()
            if word is not None and (name in self.words or word != silent.get(name))
        }
        try:
            return {name: self.words[name].index(word) for name, word in asked.items()}
        except (KeyError, ValueError):
            raise DreamFusionError(
                f"The judge {self.name} was trained before the toybox knew all words of {text!r}: train one with: "
                "dreamfusion judge train."
            ) from None


class ClipJudge:
    """A dual encoder of pictures and captions in transformers' format.

    ``model`` is a folder or a hub name such as "openai/clip-vit-base-patch32". Raises DreamFusionError if it cannot be
    loaded.
    """

    def __init__(self, model: str | Path, device: torch.device | str = "cpu") -> None:
        self.name = str(model)
        self.device = torch.device(device)
        verbosity = transformers_logging.get_verbosity()
        transformers_logging.set_verbosity_error()
        try:
            with ONE_AT_A_TIME:
                self._model: Any = AutoModel.from_pretrained(str(model), torch_dtype=torch.float32)
                self._tokenizer: Any = AutoTokenizer.from_pretrained(str(model))
        except Exception as error:  # a hub's HTTP library raises what it likes
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise DreamFusionError(
                f"The judge {model} cannot be loaded ({reason}): give a folder or name of a CLIP model with --judge, "
                "or train the toybox judge with: dreamfusion judge train."
            ) from None
        finally:
            transformers_logging.set_verbosity(verbosity)
        self._model.eval().requires_grad_(False).to(self.device)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return unit embeddings [n, D] of captions."""
        tokens = self._tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt").to(self.device)
        hidden = self._model.text_model(**{k: tokens[k] for k in ("input_ids", "attention_mask")}).pooler_output
        return normalize(self._model.text_projection(hidden), dim=-1)

    @torch.no_grad()
    def embed_images(self, images: Tensor) -> Tensor:
        """Return unit embeddings [n, D] of images [n, 3, H, W] in [0, 1]."""
        parts = []
        for part in images.to(self.device).split(_BATCH):
            pixels = preprocess(part, self._model.config.vision_config.image_size)
            parts.append(self._model.visual_projection(self._model.vision_model(pixels).pooler_output))
        return normalize(torch.cat(parts), dim=-1)

    def similarity(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        """Return the cosine similarity [n, m] of images [n, 3, H, W] and m captions."""
        return self.embed_images(images) @ self.embed_texts(texts).T

    def first(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        """Return the index [n] of the caption that each image is most like."""
        return self.similarity(images, texts).argmax(dim=1).cpu()


def open_judge(model: str | Path | None = None, device: torch.device | str = "cpu") -> ToyboxJudge | ClipJudge:
    """Return the judge that ships with the package, one that `judge train` wrote, or CLIP by folder or hub name."""
    folder = Path(model or TOYBOX_JUDGE)
    return ToyboxJudge(folder, device) if is_reader(folder) else ClipJudge(model or folder, device)


def resized(images: Tensor, size: int) -> Tensor:
    """Return images [n, 3, H, W] in [0, 1] as squares of ``size`` pixels."""
    if images.shape[-2:] == (size, size):
        return images
    return interpolate(images, size=(size, size), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


def preprocess(images: Tensor, size: int) -> Tensor:
    """Return images [n, 3, H, W] in [0, 1] as CLIP takes them: square, ``size`` pixels, normalised."""
    mean, std = (torch.tensor(values, device=images.device)[:, None, None] for values in (_MEAN, _STD))
    return (resized(images, size) - mean) / std
