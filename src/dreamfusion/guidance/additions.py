"""What people put on top of a model: LoRA weights and textual inversions, read by diffusers.

A LoRA (arXiv 2106.09685) is added to the weights once and for all, so that every switch and every loss works with it.
A textual inversion (arXiv 2208.01618) is one more word, whose vectors were learned from pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.compiled.engine import Engine
from dreamfusion.guidance.reading.problems import first_line, quiet

_OWN_NAME = ("emb_params", "string_to_param")
"""Keys of files that do not name their word: it is the name of the file then, as usual in the field."""


def lora_and_weight(text: str) -> tuple[Path, float]:
    """Return file and weight of ``FILE[:weight]``; the weight is 1 if it is not given."""
    file, colon, weight = text.rpartition(":")
    try:
        return (Path(file), float(weight)) if colon else (Path(text), 1.0)
    except ValueError:  # a colon of the path itself
        return Path(text), 1.0


def add_to(pipeline: Any, loras: Sequence[str], embeddings: Sequence[str], model: str | Path) -> None:
    """Add LoRAs, ``FILE[:weight]``, and textual inversions, files, to a loaded pipeline.

    Raises DreamFusionError for a file that is missing, of another family or of another kind, and for a model that takes
    none.
    """
    if (loras or embeddings) and any(isinstance(part, Engine) for part in pipeline.components.values()):
        raise DreamFusionError(f"{model} is a compiled engine: leave out guidance.loras and embeddings.")
    for text in loras:
        _add_lora(pipeline, *lora_and_weight(text), model)
    for text in embeddings:
        _add_embedding(pipeline, Path(text), model)


def _add_lora(pipeline: Any, file: Path, weight: float, model: str | Path) -> None:
    if not hasattr(pipeline, "load_lora_weights"):
        raise DreamFusionError(f"The kind of {model}, {type(pipeline).__name__}, takes no LoRA: leave out {file}.")
    if file.suffix != ".safetensors" or not file.is_file():
        raise DreamFusionError(f"The LoRA {file} is no .safetensors file: give --lora FILE or FILE:WEIGHT.")
    try:
        import peft  # noqa: F401
    except ImportError:
        raise DreamFusionError('A LoRA needs peft: pip install "dreamfusion[vsd]".') from None
    before = _fingerprint(pipeline)
    try:
        with quiet():
            pipeline.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name="added")
            pipeline.fuse_lora(lora_scale=weight)
            pipeline.unload_lora_weights()
    except Exception as error:  # of many types: keys, shapes, formats
        raise _of_another_kind("LoRA", file, model, first_line(error)) from None
    if weight != 0 and _fingerprint(pipeline) == before:
        raise _of_another_kind("LoRA", file, model, "it changes nothing")


def _fingerprint(pipeline: Any) -> list[float]:
    """Return a number for every weight that a LoRA may change, which changes with it."""
    parts = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    with torch.no_grad():
        return [p.float().square().sum().item() for part in parts for p in part.parameters() if p.ndim >= 2]


def _add_embedding(pipeline: Any, file: Path, model: str | Path) -> None:
    if not hasattr(pipeline, "load_textual_inversion"):
        raise DreamFusionError(
            f"The kind of {model}, {type(pipeline).__name__}, takes no textual inversion: leave out {file}."
        )
    try:
        read = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
        word = file.stem if any(name in read for name in _OWN_NAME) else None
        with quiet():
            if {"clip_l", "clip_g"} <= set(read):
                pipeline.load_textual_inversion(
                    read["clip_l"], file.stem, tokenizer=pipeline.tokenizer, text_encoder=pipeline.text_encoder
                )
                pipeline.load_textual_inversion(
                    read["clip_g"], file.stem, tokenizer=pipeline.tokenizer_2, text_encoder=pipeline.text_encoder_2
                )
            else:
                pipeline.load_textual_inversion(read, word)
    except Exception as error:  # of many types: missing and damaged files, shapes, words that are there already
        raise _of_another_kind("embedding", file, model, first_line(error)) from None


def _of_another_kind(what: str, file: Path, model: str | Path, reason: str) -> DreamFusionError:
    return DreamFusionError(f"The {what} {file} is not for {model} ({reason}): take one that was made for this family.")
