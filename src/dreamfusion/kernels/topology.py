"""Which faces of a triangle mesh meet at which edges.

Edge k of face f runs from its corner k to the next, and is half-edge 3 f + k.
"""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor


@torch.no_grad()
def half_edge_pairs(faces: Int[Tensor, "F 3"]) -> Int[Tensor, "E 2"]:
    """Return the pairs of half-edges that join two faces of ``faces`` [F, 3]: [E, 2] int64, sorted by their vertices.

    An edge with one face only, or with more than two, joins none.
    """
    start, end = faces.flatten().long(), faces.roll(-1, 1).flatten().long()
    key = torch.minimum(start, end) << 32 | torch.maximum(start, end)
    ordered, order = torch.sort(key, stable=True)
    _, run, length = torch.unique_consecutive(ordered, return_inverse=True, return_counts=True)
    return order[length[run] == 2].view(-1, 2)


@torch.no_grad()
def opposite_half_edges(faces: Int[Tensor, "F 3"]) -> Int[Tensor, "F 3"]:
    """Return for each half-edge of ``faces`` [F, 3] the one on the other side of its edge, [F, 3] int32; -1 if none."""
    pairs = half_edge_pairs(faces)
    opposite = torch.full((3 * len(faces),), -1, dtype=torch.int32, device=faces.device)
    opposite[pairs] = pairs.flip(1).int()
    return opposite.view(-1, 3)
