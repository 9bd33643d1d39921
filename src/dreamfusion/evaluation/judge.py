"""The judge: which of many captions does a picture show? CLIP's part in R-Precision (paper section 4).

A judge is a dual encoder in transformers' own format: CLIP itself, such as OpenAI's B/32, B/16 and L/14, or the tiny
one that ships with the package, which was trained on the toybox apart from the prior (`training.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from dreamfusion.errors import DreamFusionError

TOYBOX_JUDGE = Path(__file__).parent / "judge"
"""Folder of the judge that ships with the package."""

_BATCH = 64
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)
"""What CLIP's pictures are normalised with; the toybox judge uses the same numbers."""


class Judge:
    """A dual encoder of pictures and captions, which ranks captions.

    ``model`` is a folder or a hub name such as "openai/clip-vit-base-patch32". Raises DreamFusionError if it cannot be
    loaded.
    """

    def __init__(self, model: str | Path = TOYBOX_JUDGE, device: torch.device | str = "cpu") -> None:
        self.name = "toybox" if model == TOYBOX_JUDGE else str(model)
        self.device = torch.device(device)
        verbosity = transformers_logging.get_verbosity()
        transformers_logging.set_verbosity_error()
        try:
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


def preprocess(images: Tensor, size: int) -> Tensor:
    """Return images [n, 3, H, W] in [0, 1] as CLIP takes them: square, ``size`` pixels, normalised."""
    if images.shape[-2:] != (size, size):
        images = interpolate(images, size=(size, size), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    mean, std = (torch.tensor(values, device=images.device)[:, None, None] for values in (_MEAN, _STD))
    return (images - mean) / std
