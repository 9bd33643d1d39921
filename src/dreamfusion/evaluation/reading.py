"""What a picture of a toy shows, in words that can be read off it, and what captions claim in the same words.

A caption that is silent still claims something: no pattern means plain, no size the usual one, no colour of the part
its usual material. Some usual materials look like a named colour ("a house" and "a house with a brown roof"); the part
is then read as that colour, for no picture can tell the two captions apart.
"""

from __future__ import annotations

from dreamfusion.method.prompts import VIEWS
from dreamfusion.toybox.kinds import BODY, KINDS, MATERIALS
from dreamfusion.toybox.world import COLORS, PATTERNS, SIZES, Toy

PLAIN, USUAL = "plain", "usual"
"""What a toy without a pattern is, and what the size of a toy is that has none named."""

_ALIKE = 0.1  # distance of two display colours, as vectors, that nobody can tell apart under a light


def _named_color(material: str) -> str:
    """Return the name of the colour that a material looks like, or its own where there is none."""
    value = MATERIALS[material]

    def distance(name: str) -> float:
        return sum((a - b) ** 2 for a, b in zip(value, COLORS[name], strict=True)) ** 0.5

    nearest = min(COLORS, key=distance)
    return nearest if distance(nearest) < _ALIKE else material


_USUAL_COLORS = {kind: _named_color(toy.part_material) for kind, toy in KINDS.items() if toy.part_material != BODY}

WORDS: dict[str, tuple[str, ...]] = {
    "kind": tuple(KINDS),
    "color": tuple(COLORS),
    "pattern": (*PATTERNS, PLAIN),
    "size": (*SIZES, USUAL),
    "part_color": (*COLORS, *sorted(set(_USUAL_COLORS.values()) - set(COLORS))),
    "view": VIEWS,
}
"""Everything that can be read off a picture, and the words for it."""


def shown(toy: Toy, view: str | None = None) -> dict[str, str | None]:
    """Return the words of `WORDS` that are true of a picture of a toy; None where it is not known.

    A toy without a colour is a shape alone, of which only kind, size and view are known.
    """
    usual = toy.color if KINDS[toy.kind].part_material == BODY else _USUAL_COLORS[toy.kind]
    return {
        "kind": toy.kind,
        "color": toy.color,
        "pattern": (toy.pattern or PLAIN) if toy.color else None,
        "size": toy.size or USUAL,
        "part_color": toy.part_color or (usual if toy.color else None),
        "view": view,
    }
