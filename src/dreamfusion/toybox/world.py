"""The toybox: a procedural world of toys whose exact geometry is known.

A `Toy` is what a caption can say: kind, colour, pattern, size, the colours of its parts, its finish, and another toy
beside or below it. `kinds/` has the shapes, `captions.py` the words. A `World` says which of that there is: the small
one is that of the first priors, and a prior's own words tell which one it knows.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from dreamfusion.toybox.kinds import ALL_KINDS, BODY, KINDS, MATERIALS

COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.10, 0.10),
    "orange": (0.95, 0.50, 0.08),
    "yellow": (0.95, 0.85, 0.15),
    "green": (0.15, 0.62, 0.20),
    "blue": (0.12, 0.30, 0.85),
    "purple": (0.52, 0.20, 0.68),
    "pink": (0.95, 0.55, 0.72),
    "brown": (0.45, 0.27, 0.13),
    "white": (0.93, 0.93, 0.93),
    "black": (0.10, 0.10, 0.11),
}
"""The colours that captions name, as display (sRGB) values in [0, 1]."""

PATTERNS = ("striped", "spotted", "checkered")
"""The patterns that captions name; a toy without one is plain."""

SIZES: dict[str, tuple[float, float, float]] = {
    "small": (0.65, 0.65, 0.65),
    "tall": (0.70, 0.70, 1.0),
    "wide": (1.0, 1.0, 0.65),
}
"""The sizes that captions name, as factors on x, y and z; they only shrink, so that every toy fits the picture."""

AT_FULL_SIZE = ("small",)
"""The sizes that shrink all axes alike: pictures for training show such a toy from nearer by, see `as_shown`."""

FINISHES = ("shiny", "wooden", "matte")
"""The finishes that captions name: a highlight, grain, and neither, which is how a toy looks that has none named."""

NEXT_TO, ON = "next to", "on"
RELATIONS = (NEXT_TO, ON)
"""Where a toy can be that has company: at the left of the other as seen from the front, or standing on it."""

NATURAL_WOOD = (0.72, 0.52, 0.32)
"""The colour of a wooden toy whose colour is not said."""

_WITH_DARK = ("white", "yellow")  # colours whose patterns have dark marks; all others have white ones
_BESIDE, _APART = 0.5, 0.45  # size of toys next to each other, and how far to the side their centres are
_UNDER, _ABOVE = 0.70, 0.45  # sizes of a toy that carries another, and of that other

Color = tuple[float, float, float]


@dataclass(frozen=True)
class World:
    """What there is: ``kinds``, ``finishes`` and ``relations`` of two toys by their words.

    ``trims``: captions name the second part of a kind as well.
    """

    kinds: tuple[str, ...]
    finishes: tuple[str, ...] = ()
    relations: tuple[str, ...] = ()
    trims: bool = False


SMALL = World(tuple(KINDS))
"""The world of the prior and the judge that ship with the package."""

WIDE = World(tuple(ALL_KINDS), FINISHES, RELATIONS, trims=True)
"""All that there is."""

WorldName = Literal["small", "wide"]
"""What settings call the two."""


def world_named(name: WorldName) -> World:
    """Return the world that a setting names."""
    return WIDE if name == "wide" else SMALL


def world_known(words: Collection[str]) -> World | None:
    """Return the largest world all of whose words are among those that a prior knows; None if not even colours are."""
    known = set(words)
    if not {"a", "with", *COLORS, *PATTERNS, *SIZES} <= known:
        return None
    kinds = tuple(name for name, kind in ALL_KINDS.items() if {name, kind.part[0]} <= known)
    trims = all(ALL_KINDS[name].trim[0] in known for name in kinds)
    relations = tuple(name for name in RELATIONS if {*name.split()} <= known)
    finishes = tuple(name for name in FINISHES if name in known)
    return World(kinds, finishes, relations, trims) if kinds else None


def prior_world(folder: str | None) -> World:
    """Return the world that the tokenizer in a prior's folder knows; the small one if there is none such."""
    try:
        saved = json.loads((Path(folder or "") / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8"))
        return world_known(saved["model"]["vocab"]) or SMALL
    except (OSError, ValueError, KeyError, TypeError):
        return SMALL


@dataclass(frozen=True)
class Toy:
    """One toy, or two.

    ``color`` None: unsaid, so any. ``pattern`` None: plain. ``size`` None: as designed. ``part_color`` and
    ``trim_color`` None: the part is of its usual material. ``finish`` None: matte. With ``relation``, one of
    `RELATIONS`, it is next to or on the ``other`` toy; neither has a size then.
    """

    kind: str
    color: str | None = None
    pattern: str | None = None
    size: str | None = None
    part_color: str | None = None
    trim_color: str | None = None
    finish: str | None = None
    relation: str | None = None
    other: Toy | None = None

    @property
    def scale(self) -> tuple[float, float, float]:
        """Factors on x, y and z."""
        return SIZES[self.size] if self.size else (1.0, 1.0, 1.0)

    @property
    def alone(self) -> Toy:
        """The toy without the other one."""
        return replace(self, relation=None, other=None) if self.other else self

    def paint(self, color: Color | None = None) -> list[Color]:
        """Return the colours of `BODY`, `PART`, `ACCENT` and `TRIM`; ``color`` replaces the named one (a shade of it).

        Unnamed colours become those of the first name, or that of wood for a wooden toy.
        """
        name = self.color or next(iter(COLORS))
        unsaid = NATURAL_WOOD if self.finish == "wooden" and not self.color else COLORS[name]
        body, kind = color or unsaid, ALL_KINDS[self.kind]

        def part(said: str | None, material: str) -> Color:
            return COLORS[said] if said else body if material == BODY else MATERIALS[material]

        accent = MATERIALS["dark" if name in _WITH_DARK else "paper"]
        return [body, part(self.part_color, kind.part[1]), accent, part(self.trim_color, kind.trim[1])]

    def finished(self) -> list[str | None]:
        """Return the finish of the same four: parts of other materials or colours have none."""
        kind = ALL_KINDS[self.kind]
        part, trim = (
            self.finish if material == BODY and not said else None
            for said, (_, material) in ((self.part_color, kind.part), (self.trim_color, kind.trim))
        )
        return [self.finish, part, self.finish, trim]


@dataclass(frozen=True)
class Placed:
    """A toy alone in its place: its point p is at ``place`` + ``scale`` p."""

    toy: Toy
    scale: tuple[float, float, float]
    place: tuple[float, float, float]


def placed(toy: Toy) -> list[Placed]:
    """Return the one or two toys in their places, so that together they stand upright around the origin."""
    if toy.other is None:
        return [Placed(toy, toy.scale, (0.0, 0.0, 0.0))]
    first, second = ALL_KINDS[toy.kind], ALL_KINDS[toy.other.kind]
    (low, high), (other_low, other_high) = first.height, second.height
    if toy.relation == ON:
        x, z = second.seat or (0.0, other_high)
        floor = z * _UNDER - low * _ABOVE
        lift = -(other_low * _UNDER + max(other_high * _UNDER, floor + high * _ABOVE)) / 2
        scales, places = (_ABOVE, _UNDER), ((x * _UNDER, 0.0, lift + floor), (0.0, 0.0, lift))
    else:
        ground = -_BESIDE * max(high - low, other_high - other_low) / 2
        scales = (_BESIDE, _BESIDE)
        places = ((0.0, -_APART, ground - _BESIDE * low), (0.0, _APART, ground - _BESIDE * other_low))
    pairs = zip((toy.alone, toy.other), scales, places, strict=True)
    return [Placed(one, (scale, scale, scale), place) for one, scale, place in pairs]


def as_shown(toy: Toy) -> Toy:
    """Return the toy as the prior is shown it: a small one from nearer by, at full size, so that none costs detail."""
    return replace(toy, size=None) if toy.size in AT_FULL_SIZE else toy


def held_out(kind: str, color: str) -> bool:
    """Tell whether (kind, colour) is one of the 10 % of pairs never shown in training, one colour per kind."""
    return (7 * list(ALL_KINDS).index(kind) + 3) % len(COLORS) == list(COLORS).index(color)


def part_held_out(kind: str, part_color: str) -> bool:
    """Tell whether (kind, colour of its part) is one of the 10 % of pairs never shown in training."""
    return (3 * list(ALL_KINDS).index(kind) + 6) % len(COLORS) == list(COLORS).index(part_color)


def trim_held_out(kind: str, trim_color: str) -> bool:
    """Tell whether (kind, colour of its second part) is one of the 10 % of pairs never shown in training."""
    return (9 * list(ALL_KINDS).index(kind) + 1) % len(COLORS) == list(COLORS).index(trim_color)


def finish_held_out(kind: str, finish: str) -> bool:
    """Tell whether (kind, finish) is one of the tenth of pairs never shown in training."""
    return (len(FINISHES) * list(ALL_KINDS).index(kind) + FINISHES.index(finish)) % 10 == 4


def together_held_out(kind: str, relation: str, other: str) -> bool:
    """Tell whether (kind, relation, other kind) is one of the tenth of scenes never shown in training."""
    first, second = (list(ALL_KINDS).index(name) for name in (kind, other))
    return (3 * first + 7 * second + RELATIONS.index(relation)) % 10 == 0


def is_held_out(toy: Toy) -> bool:
    """Tell whether a toy has a combination that was never shown in training."""
    alone = (
        (toy.color is not None and held_out(toy.kind, toy.color))
        or (toy.part_color is not None and part_held_out(toy.kind, toy.part_color))
        or (toy.trim_color is not None and trim_held_out(toy.kind, toy.trim_color))
        or (toy.finish is not None and finish_held_out(toy.kind, toy.finish))
    )
    if toy.other is None or toy.relation is None:
        return alone
    return alone or is_held_out(toy.other) or together_held_out(toy.kind, toy.relation, toy.other.kind)
