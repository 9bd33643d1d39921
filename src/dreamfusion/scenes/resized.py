"""How a scene tells that it has more or fewer parameters now."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Resized:
    """A parameter with another number of rows, ``after``, in the place of ``before``.

    ``rows`` [N] says which row of ``before`` each of the N rows of ``after`` continues; -1 for one that is new. What
    the optimiser has gathered of a row goes along.
    """

    before: nn.Parameter
    after: nn.Parameter
    rows: Tensor
