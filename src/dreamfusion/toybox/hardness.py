"""What is hard: the loss on held-out pictures by what they show, and how often each is drawn for training.

The held-out pictures are the same at every look, of another seed than those of training. What has more loss there than
others of its sort, one kind more than other kinds, is drawn more often: in proportion to its running mean, within
limits, for a checkered toy has more to get wrong than a plain one however well it is known.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from dreamfusion.toybox.kinds import ALL_KINDS
from dreamfusion.toybox.world import PATTERNS, Toy

SORTS: dict[str, tuple[str, ...]] = {
    "kind": tuple(ALL_KINDS),
    "pattern": ("plain", *PATTERNS),
    "part": ("usual", "named"),
}
"""What is measured: of each sort, a toy shows one."""

LIMIT = 1.5
"""Nothing is drawn more or less often than by this factor, whatever its loss."""
_NEW = 0.5  # share of the newest look in the running mean


def shown(toy: Toy) -> dict[str, str]:
    """Return which of each of the `SORTS` a toy is."""
    return {
        "kind": toy.kind,
        "pattern": toy.pattern or "plain",
        "part": "named" if toy.part_color else "usual",
    }


def mean_by_sort(losses: Tensor, toys: list[Toy]) -> dict[str, dict[str, float]]:
    """Return the mean of the losses [N] of N toys for each of each sort, without those that no toy is."""
    means: dict[str, dict[str, float]] = {}
    for sort, names in SORTS.items():
        of_each = {name: [i for i, toy in enumerate(toys) if shown(toy)[sort] == name] for name in names}
        means[sort] = {name: losses[rows].mean().item() for name, rows in of_each.items() if rows}
    return means


class Hardness:
    """Running means of the loss for each of the `SORTS`, and what follows: how often each is drawn."""

    def __init__(self) -> None:
        self.means: dict[str, dict[str, float]] = {sort: {} for sort in SORTS}

    def look(self, measured: Mapping[str, Mapping[str, float]]) -> None:
        """Take in what `mean_by_sort` has measured."""
        for sort, losses in measured.items():
            for name, loss in losses.items():
                before = self.means[sort].get(name, loss)
                self.means[sort][name] = before + _NEW * (loss - before)

    def weight(self, sort: str, name: str) -> float:
        """Return the factor on how often something is drawn: its loss over the mean of its sort, within `LIMIT`."""
        losses = self.means[sort]
        if name not in losses:
            return 1.0
        relative = losses[name] * len(losses) / sum(losses.values())
        return min(LIMIT, max(1 / LIMIT, relative))
