"""Which prompt a step of the training is about: a function of seed and step, over the toybox's vocabulary.

Combinations of kind and colour, or kind and part colour, that the prior has never seen are left out, so that they can
be asked for afterwards.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from dreamfusion.errors import DreamFusionError
from dreamfusion.toybox.captions import caption
from dreamfusion.toybox.kinds import KINDS
from dreamfusion.toybox.world import COLORS, PATTERNS, Toy, held_out, part_held_out

_SHAPES = ("tall", "wide")  # of the sizes; a small toy is distilled at full size


@dataclass(frozen=True)
class Vocabulary:
    """The ``kinds`` with every colour, and ``extra`` toys with patterns, sizes and colours of parts drawn by chance."""

    kinds: tuple[str, ...] = tuple(KINDS)
    extra: int = 400
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds:
            raise DreamFusionError(f"--kinds: give some of {', '.join(KINDS)} (not {', '.join(unknown) or 'none'}).")

    def pairs(self, *, new: bool) -> list[str]:
        """Return the captions of all pairs of kind and colour: those held out if ``new``, else those of the training.

        The two have no pair in common.
        """
        return [caption(Toy(kind, color)) for kind in self.kinds for color in COLORS if held_out(kind, color) == new]

    def captions(self) -> list[str]:
        """Return all captions of the training."""
        choose = random.Random(self.seed)
        drawn = [caption(self._draw(choose)) for _ in range(self.extra)]
        return list(dict.fromkeys([*self.pairs(new=False), *drawn]))

    def _draw(self, choose: random.Random) -> Toy:
        kind = choose.choice(self.kinds)
        color = choose.choice([c for c in COLORS if not held_out(kind, c)])
        part = choose.choice([c for c in COLORS if not part_held_out(kind, c) and c != color])
        return Toy(
            kind,
            color,
            pattern=choose.choice([None, *PATTERNS]),
            size=choose.choice([None, None, *_SHAPES]),
            part_color=choose.choice([None, part]),
        )

    def prompts(self, steps: int) -> list[str]:
        """Return the prompt of every step: each caption once in a random order, then in another, and so on."""
        captions, rounds = self.captions(), []
        for turn in range(-(-steps // len(captions))):
            order = list(captions)
            random.Random(self.seed * 7_919 + turn).shuffle(order)
            rounds += order
        return rounds[:steps]
