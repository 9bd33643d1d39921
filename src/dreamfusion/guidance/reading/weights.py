"""Which files hold the weights of a model's part: the plain ones, or a variant such as ``model.fp16.safetensors``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from dreamfusion.errors import DreamFusionError

_SHARD = re.compile(r"-\d{5}-of-\d{5}")
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".h5")
_UNLIMITED = 10**6
"""Tokens from which on a tokenizer's limit is none: transformers writes 1e30 where nothing else was said."""


def variant_named(file: str) -> str | None:
    """Return the variant that a file's name tells, such as fp16; None if it is plain."""
    stem = _SHARD.sub("", Path(file).name.removesuffix(".safetensors"))
    return stem.partition(".")[2] or None


def variant_for(files: Iterable[str], dtype: torch.dtype) -> str | None:
    """Return which variant of a part is loaded: that of a half ``dtype`` if it is there, else the plain files.

    Where neither is there, it is another, fp16 before the rest. ``files`` are names.
    """
    found = {variant_named(file) for file in files if file.endswith(".safetensors")}
    wanted = {torch.float16: ("fp16",), torch.bfloat16: ("bf16", "fp16")}.get(dtype, ())
    others = ("fp16", *sorted(found - {None, "fp16"}, key=str))
    return next((name for name in (*wanted, None, *others) if name in found), None)


def part_variant(part: Path, dtype: torch.dtype) -> str | None:
    """Return which variant of the part in a folder is loaded; None for the plain files."""
    return variant_for((file.name for file in part.glob("*.safetensors")), dtype)


def weight_files(part: Path, variant: str | None) -> list[Path]:
    """Return the weights of the part in a folder in one variant, None for the plain ones."""
    return [file for file in sorted(part.glob("*.safetensors")) if variant_named(file.name) == variant]


def refuse_pickled(folder: Path, index: dict[str, Any], model: str | Path) -> None:
    """Raise DreamFusionError for a part whose weights are there, but in files alone that can run code when read."""
    for part in index:
        names = [file.name for file in (folder / part).glob("*")] if (folder / part).is_dir() else []
        pickled = [name for name in names if name.endswith(_PICKLED)]
        if pickled and not any(name.endswith((".safetensors", ".onnx")) for name in names):
            raise DreamFusionError(
                f"The {part} of {model} is in {min(pickled)} alone, and such files can run code when they are read: if "
                "you trust it, load it once with diffusers (use_safetensors=False) and give the folder that its "
                "save_pretrained writes."
            )


def limit_tokenizers(pipeline: Any) -> None:
    """Give tokenizers without a limit that of their text encoder."""
    for name, part in pipeline.components.items():
        if name.startswith("tokenizer") and part is not None:
            limit_tokenizer(part, getattr(pipeline, name.replace("tokenizer", "text_encoder"), None))


def limit_tokenizer(tokenizer: Any, encoder: Any | None) -> None:
    """Give a tokenizer without a limit that of its text encoder."""
    if tokenizer.model_max_length > _UNLIMITED:
        tokenizer.model_max_length = getattr(encoder.config, "max_position_embeddings", 512) if encoder else 512
