"""What a picture of a toy shows, in words that can be read off it, and what captions claim in the same words.

A caption that is silent still claims something: no pattern means plain, no size the usual one, no colour of the part
its usual material. Some usual materials look like a named colour ("a house" and "a house with a brown roof"); the part
is then read as that colour, for no picture can tell the two captions apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Literal

from dreamfusion.method.prompts import VIEWS
from dreamfusion.toybox.kinds import ALL_KINDS, BODY, MATERIALS
from dreamfusion.toybox.world import COLORS, PATTERNS, SIZES, SMALL, Toy, World

PLAIN, USUAL = "plain", "usual"
"""What a toy without a pattern is, and what the size of a toy is that has none named."""

MATTE, ALONE = "matte", "alone"
"""What a toy without a finish is, and how a toy stands that has no company."""

_ALIKE = 0.1  # distance of two display colours, as vectors, that nobody can tell apart under a light


def _named_color(material: str) -> str:
    """Return the name of the colour that a material looks like, or its own where there is none."""
    value = MATERIALS[material]

    def distance(name: str) -> float:
        return sum((a - b) ** 2 for a, b in zip(value, COLORS[name], strict=True)) ** 0.5

    nearest = min(COLORS, key=distance)
    return nearest if distance(nearest) < _ALIKE else material


def _usual_colors(kinds: Sequence[str], part: Literal["part", "trim"]) -> dict[str, str]:
    """Return what the named part of each kind that is not of the toy's own colour is read as."""
    materials = {kind: getattr(ALL_KINDS[kind], part)[1] for kind in kinds}
    return {kind: _named_color(material) for kind, material in materials.items() if material != BODY}


@cache
def words_of(world: World) -> dict[str, tuple[str, ...]]:
    """Return everything that can be read off a picture of a world, and the words for it."""

    def colors(part: Literal["part", "trim"]) -> tuple[str, ...]:
        return (*COLORS, *sorted(set(_usual_colors(world.kinds, part).values()) - set(COLORS)))

    words = {
        "kind": world.kinds,
        "color": tuple(COLORS),
        "pattern": (*PATTERNS, PLAIN),
        "size": (*SIZES, USUAL),
        "part_color": colors("part"),
        "view": VIEWS,
    }
    if world.trims:
        words["trim_color"] = colors("trim")
    if world.finishes:
        words["finish"] = world.finishes
    if world.relations:
        words |= {"relation": (*world.relations, ALONE), "other_kind": world.kinds, "other_color": tuple(COLORS)}
    return words


WORDS: dict[str, tuple[str, ...]] = words_of(SMALL)
"""Everything that can be read off a picture of the small world, and the words for it."""

SILENT = {"finish": MATTE, "relation": ALONE}
"""What captions claim that say nothing, where only judges of the wide world ask."""


def shown(toy: Toy, view: str | None = None, world: World = SMALL) -> dict[str, str | None]:
    """Return the words of `words_of` a world that are true of a picture of a toy; None where it is not known.

    A toy without a colour is a shape alone, of which only kind, size and view are known, and its company. Of two toys,
    parts are not told.
    """
    other = toy.other or Toy(toy.kind)
    bare = toy.color is None and toy.finish is None

    def part(said: str | None, name: Literal["part", "trim"]) -> str | None:
        usual = _usual_colors([toy.kind], name).get(toy.kind, toy.color)
        return None if toy.other else said or (None if bare else usual)

    said = {
        "kind": toy.kind,
        "color": toy.color,
        "pattern": (toy.pattern or PLAIN) if not bare else None,
        "size": (toy.size or USUAL) if not toy.other else None,
        "part_color": part(toy.part_color, "part"),
        "view": view,
        "trim_color": part(toy.trim_color, "trim"),
        "finish": (toy.finish or MATTE) if not bare else None,
        "relation": toy.relation or ALONE,
        "other_kind": other.kind if toy.other else None,
        "other_color": other.color if toy.other else None,
    }
    return {name: said[name] for name in words_of(world)}
