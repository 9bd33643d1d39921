"""The hash grid and the networks of a field through tiny-cuda-nn's kernels, where that library is installed.

Parameters stay ours, in our modules and checkpoints: a staggered grid's table and a network without biases are, entry
by entry, what tiny-cuda-nn calls ``params`` (its encodings/grid.h and networks/fully_fused_mlp.h), so a run may begin
with it and go on without. It computes in half precision. The tests see to the order of the parameters.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dreamfusion.kernels.hashgrid import HashGridLayout

_FUSED_WIDTHS = (16, 32, 64, 128)
_ALIGNMENT = 16
"""Inputs and outputs of its networks are filled up to multiples of this."""


def usable(device: torch.device) -> bool:
    """Tell whether tiny-cuda-nn is installed and takes tensors of this device."""
    return device.type == "cuda" and _library() is not None


@functools.cache
def _library() -> Any:
    try:
        import tinycudann
    except (ImportError, OSError):  # OSError: what it raises where it finds no GPU that it was built for
        return None
    return tinycudann


def encode(points: Tensor, table: Tensor, layout: HashGridLayout) -> Tensor:
    """Return what `hash_encode` does for points [N, 3] in [0, 1]^3 and the table of a staggered grid, in float32."""
    return functional_call(_encoding(layout), {"params": table.flatten()}, (points,)).float()


def network(x: Tensor, layers: nn.Sequential) -> Tensor:
    """Return what ``layers``, linear ones without biases and ReLUs between them, make of ``x`` [N, C], in float32."""
    weights = [layer.weight for layer in layers if isinstance(layer, nn.Linear)]
    inputs, outputs, width = weights[0].shape[1], weights[-1].shape[0], weights[0].shape[0]
    # The library fills inputs up with ones, which would act as biases; zeros do not.
    missing = -inputs % _ALIGNMENT
    x = nn.functional.pad(x, (0, missing))
    module = _network(inputs + missing, outputs, width, len(weights) - 1)
    return functional_call(module, {"params": packed(weights)}, (x,)).float()


def packed(weights: list[Tensor]) -> Tensor:
    """Return the matrices [out, in] of a network row by row in one vector, inputs and outputs filled up with zeros."""
    first, *hidden, last = weights
    first = nn.functional.pad(first, (0, -first.shape[1] % _ALIGNMENT))
    last = nn.functional.pad(last, (0, 0, 0, -last.shape[0] % _ALIGNMENT))
    return torch.cat([weight.flatten() for weight in (first, *hidden, last)])


@functools.cache
def _encoding(layout: HashGridLayout) -> Any:
    sizes = [b - a for a, b in itertools.pairwise(layout.offsets)]
    first, last = layout.scales[0] + 1, layout.scales[-1] + 1
    config = {
        "otype": "HashGrid",
        "n_levels": layout.levels,
        "n_features_per_level": layout.features,
        "log2_hashmap_size": math.ceil(math.log2(max(sizes))),
        "base_resolution": round(first),
        "per_level_scale": (last / first) ** (1 / max(layout.levels - 1, 1)),
        "interpolation": "Smoothstep" if layout.smoothstep else "Linear",
    }
    return _library().Encoding(3, config, dtype=torch.float32)


@functools.cache
def _network(inputs: int, outputs: int, width: int, hidden_layers: int) -> Any:
    config = {
        "otype": "FullyFusedMLP" if width in _FUSED_WIDTHS else "CutlassMLP",
        "activation": "ReLU",
        "output_activation": "None",
        "n_neurons": width,
        "n_hidden_layers": hidden_layers,
    }
    return _library().Network(inputs, outputs, config)
