"""The toybox: a procedural world of toys whose exact geometry is known.

A `Toy` is what a caption can say: kind, colour, pattern, size and the colour of one part. `kinds.py` has the shapes,
`captions.py` the words.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from dreamfusion.toybox.kinds import BODY, KINDS, MATERIALS

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

_WITH_DARK = ("white", "yellow")  # colours whose patterns have dark marks; all others have white ones


@dataclass(frozen=True)
class Toy:
    """One toy.

    ``color`` None: unsaid, so any. ``pattern`` None: plain. ``size`` None: as designed. ``part_color`` None: the part
    is of its usual material.
    """

    kind: str
    color: str | None = None
    pattern: str | None = None
    size: str | None = None
    part_color: str | None = None

    @property
    def scale(self) -> tuple[float, float, float]:
        """Factors on x, y and z."""
        return SIZES[self.size] if self.size else (1.0, 1.0, 1.0)

    def paint(self, color: tuple[float, float, float] | None = None) -> list[tuple[float, float, float]]:
        """Return the colours of `BODY`, `PART` and `ACCENT`; ``color`` replaces the named one (a shade of it).

        Unnamed colours become those of the first name.
        """
        name = self.color or next(iter(COLORS))
        body = color or COLORS[name]
        material = KINDS[self.kind].part_material
        usual = body if material == BODY else MATERIALS[material]
        return [
            body,
            COLORS[self.part_color] if self.part_color else usual,
            MATERIALS["dark" if name in _WITH_DARK else "paper"],
        ]


def as_shown(toy: Toy) -> Toy:
    """Return the toy as the prior is shown it: a small one from nearer by, at full size, so that none costs detail."""
    return replace(toy, size=None) if toy.size in AT_FULL_SIZE else toy


def held_out(kind: str, color: str) -> bool:
    """Tell whether (kind, colour) is one of the 10 % of pairs never shown in training, one colour per kind."""
    return (7 * list(KINDS).index(kind) + 3) % len(COLORS) == list(COLORS).index(color)


def part_held_out(kind: str, part_color: str) -> bool:
    """Tell whether (kind, colour of its part) is one of the 10 % of pairs never shown in training."""
    return (3 * list(KINDS).index(kind) + 6) % len(COLORS) == list(COLORS).index(part_color)


def is_held_out(toy: Toy) -> bool:
    """Tell whether a toy has a combination that was never shown in training."""
    return (toy.color is not None and held_out(toy.kind, toy.color)) or (
        toy.part_color is not None and part_held_out(toy.kind, toy.part_color)
    )
