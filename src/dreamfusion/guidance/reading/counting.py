"""How large a model is, told from the heads of its files before anything is loaded."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors import safe_open

from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.compiled.engine import is_engine
from dreamfusion.guidance.execution import Precision
from dreamfusion.guidance.reading.hub import cached_file
from dreamfusion.guidance.reading.loading import WITHOUT
from dreamfusion.guidance.reading.places import INDEX, read_index
from dreamfusion.guidance.reading.problems import UNREADABLE, unreadable
from dreamfusion.guidance.reading.weights import part_variant, weight_files


def count_parameters(model: str | Path) -> dict[str, int]:
    """Return how many numbers the weights of each part of a model have, from the heads of its files alone.

    Only folders and hub models that were downloaded before can be told of; for others, and for a compiled denoiser,
    the result is empty. Raises DreamFusionError for a file that cannot be read.
    """
    folder = Path(model).expanduser()
    if not folder.is_dir():
        cached = None if folder.is_file() else cached_file(str(model), INDEX)
        if cached is None:
            return {}
        folder = cached.parent
    counts: dict[str, int] = {}
    for part in read_index(folder / INDEX, model):
        if part in WITHOUT:
            continue
        if is_engine(folder / part):
            return {}  # a graph keeps its weights in a file of its own
        # A part may lie there in several formats and variants of which one is loaded: the plain one, if there is one.
        variant = part_variant(folder / part, torch.float32)
        try:
            for file in weight_files(folder / part, variant):
                with safe_open(file, "pt") as weights:
                    shapes = [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118
                counts[part] = counts.get(part, 0) + sum(math.prod(shape) for shape in shapes)
        except UNREADABLE as error:
            raise unreadable(model, error) from None
    return counts


BYTES: dict[Precision, int] = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2}
"""Bytes of a number in each precision."""


def known_parameters(model: str | Path) -> dict[str, int]:
    """Return the number of parameters of each part, nothing if its files do not tell; loading then says why."""
    try:
        return count_parameters(model)
    except DreamFusionError:
        return {}
