"""The processes that share the views of a step, and what they say to each other: sums, and little else.

A step of N processes is the step of one: all of them draw the same random numbers for all views, each renders and
distils its own share of these, and the gradients are summed. The parameters stay equal because the sums are.

Figures are summed first, on the CPU, so that a process that has died is noticed there and not inside of a GPU's
library.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dreamfusion.errors import DreamFusionError


class LostError(DreamFusionError):
    """Another process of this run has died, hangs, or cannot be reached."""


@dataclass(frozen=True)
class Ranks:
    """The processes of a run: the number of this one, how many there are, and its number on its own host."""

    index: int = 0
    count: int = 1
    local: int = 0

    def portions(self, views: int, parts: int, together: int = 1) -> Iterator[slice]:
        """Yield this process's share of ``views`` in ``parts`` portions, as equal as can be, without empty ones.

        Every ``together`` views, one after the other, stay in one portion.
        """
        first, last = (views // together * index // self.count for index in (self.index, self.index + 1))
        ends = [first + (last - first) * part // parts for part in range(parts + 1)]
        for start, stop in pairwise(ends):
            if start < stop:
                yield slice(start * together, stop * together)

    def most_portions(self, views: int) -> int:
        """Return in how many portions this process can take its share of ``views``."""
        return len(list(self.portions(views, views)))

    def jitter(self, generator: torch.Generator, views: slice, size: int) -> torch.Generator:
        """Return the generator of some views' samples: a single process's own, or a copy that is as far as it would be.

        Marching takes one number per ray; there are ``size`` x ``size`` rays to a view.
        """
        if self.count == 1:
            return generator
        copy = torch.Generator()
        copy.set_state(generator.get_state())
        torch.rand(views.start * size**2, generator=copy)
        return copy

    def pass_over(self, generator: torch.Generator, views: int, size: int) -> None:
        """Bring the generator of all processes as far as that of a single one would be after marching ``views``."""
        if self.count > 1:
            torch.rand(views * size**2, generator=generator)

    def sum_figures(self, figures: Mapping[str, float]) -> dict[str, float]:
        """Return figures, the same ones everywhere, summed over all processes."""
        if self.count == 1:
            return dict(figures)
        values = torch.tensor(list(figures.values()), dtype=torch.float64)
        with _answered():
            dist.all_reduce(values)
        return dict(zip(figures, values.tolist(), strict=True))

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Put the sum over all processes in the place of each gradient; one that nobody has stays away."""
        if self.count == 1:
            return
        several = list(parameters)
        flat = [torch.zeros(p.numel() + 1, device=p.device) if p.grad is None else _counted(p.grad) for p in several]
        together = torch.cat(flat)
        with _answered():
            dist.all_reduce(together)
        for p, part in zip(several, together.split([len(one) for one in flat]), strict=True):
            p.grad = part[:-1].view_as(p).to(p.dtype) if part[-1] > 0 else None

    def all(self, holds: bool) -> bool:
        """Return whether something holds in every process."""
        return self.largest(int(not holds)) == (0,)

    def largest(self, *values: int) -> tuple[int, ...]:
        """Return the largest of each value over all processes."""
        if self.count == 1:
            return values
        several = torch.tensor(values)
        with _answered():
            dist.all_reduce(several, op=dist.ReduceOp.MAX)
        return tuple(several.tolist())

    def from_first(self, value: Any = None) -> Any:
        """Return what the first process says, which is the only one whose ``value`` counts."""
        if self.count == 1:
            return value
        several = [value]
        with _answered():
            dist.broadcast_object_list(several, src=0)
        return several[0]

    def from_all(self, value: Any) -> list[Any]:
        """Return what every process says, in their order."""
        if self.count == 1:
            return [value]
        several: list[Any] = [None] * self.count
        with _answered():
            dist.all_gather_object(several, value)
        return several


ALONE = Ranks()
"""A single process: nothing is said, and every sum is what it was."""


def _counted(gradient: Tensor) -> Tensor:
    """Return a gradient as a vector of float32, with a 1 behind it: it is there."""
    return torch.cat([gradient.detach().flatten().float(), gradient.new_ones(1, dtype=torch.float32)])


@contextmanager
def _answered() -> Iterator[None]:
    """Raise LostError where another process does not answer."""
    try:
        yield
    except RuntimeError as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise LostError(f"Another process of this run has died or no longer answers ({lines[0].strip()})") from None


def check_shared(ranks: Ranks, views: int, loss: str) -> None:
    """Raise DreamFusionError for what several processes cannot do: share too few ``views``, or train a critic."""
    if ranks.count > views:
        raise DreamFusionError(
            f"A step has {views} views, too few for {ranks.count} processes: start at most {views}, or give more views "
            "in a --config file."
        )
    if ranks.count > 1 and loss == "vsd":
        raise DreamFusionError('loss.kind "vsd" trains its critic in one process: leave out torchrun, or take another.')
