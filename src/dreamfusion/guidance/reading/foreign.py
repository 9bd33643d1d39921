"""Folders in diffusers' layout whose pipeline is none of diffusers' own: each part is loaded by itself.

Such a folder names classes of a module that came with it. No code of it is run: a family says which of its classes it
knows, and reads their configuration and weights into modules of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn

from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.reading.hub import download_parts
from dreamfusion.guidance.reading.loading import check_parts, load_text_encoders, refuse_incomplete
from dreamfusion.guidance.reading.places import local_folder, model_index, pipeline_kind, read_index
from dreamfusion.guidance.reading.problems import quiet, unreadable
from dreamfusion.guidance.reading.weights import limit_tokenizer, part_variant, refuse_pickled, weight_files


@dataclass(frozen=True)
class OwnPart:
    """A part whose class is none of the libraries': the name of that class, and what reads it.

    ``read(configuration, weights, place)`` returns the module; ``place`` is named in what goes wrong.
    """

    class_name: str
    read: Callable[[dict[str, Any], dict[str, Tensor], Path], Any]


def load_parts(
    model: str | Path,
    family: str,
    parts: Sequence[str],
    own: Mapping[str, OwnPart],
    dtype: torch.dtype = torch.float32,
    variant: str | None = None,
) -> dict[str, Any]:
    """Return the named parts of a folder or a hub name of the kind ``family``, on the CPU.

    ``own`` are those that this package reads itself; `load_pipeline` says what is read and refused of the others.
    """
    found = pipeline_kind(model)
    if found != family:
        raise DreamFusionError(f"{model} is of the kind {found}, where {family} is needed.")
    index = {part: value for part, value in model_index(model).items() if part in parts}
    check_parts(index, parts, model, {part: one.class_name for part, one in own.items()})
    folder = local_folder(model) or download_parts(str(model), parts)
    refuse_pickled(folder, index, model)
    variants = {part: variant or part_variant(folder / part, dtype) for part in parts}
    options = {"torch_dtype": dtype, "use_safetensors": True, "local_files_only": True}
    try:
        with quiet():
            loaded: dict[str, Any] = load_text_encoders(folder, index, variants, options)
            for part in parts:
                if part in own:
                    loaded[part] = _read_own(folder / part, own[part], variants[part], dtype)
                elif part not in loaded:
                    loaded[part] = _of_library(folder, part, index[part], variants[part], options)
    except DreamFusionError:
        raise
    except Exception as error:  # the libraries raise what they like
        raise unreadable(model, error) from None
    refuse_incomplete(loaded, model)
    for part, module in loaded.items():
        if part.startswith("tokenizer"):
            limit_tokenizer(module, loaded[part.replace("tokenizer", "text_encoder")])
    return loaded


def _read_own(place: Path, part: OwnPart, variant: str | None, dtype: torch.dtype) -> nn.Module:
    config = read_index(place / "config.json", place)
    weights: dict[str, Tensor] = {}
    for file in weight_files(place, variant):
        weights |= load_file(file)
    return part.read(config, {name: x.to(dtype) for name, x in weights.items()}, place)


def _of_library(folder: Path, part: str, value: list[str], variant: str | None, options: dict[str, Any]) -> Any:
    library, name = value
    source = getattr(diffusers if library == "diffusers" else transformers, name)
    if part.startswith(("tokenizer", "scheduler")):
        return source.from_pretrained(str(folder), subfolder=part, local_files_only=True)
    return source.from_pretrained(str(folder), subfolder=part, variant=variant, **options)
