"""The toybox: a procedural world of toys whose exact geometry is known.

A kind of toy (``KINDS``) is a list of signed-distance primitives, each painted with a material: ``BODY`` takes the
colour that the caption names, the others are fixed. Every toy lies inside a sphere of radius 0.8, stands
upright (z up), faces +x, has something only its front shows, and is its own mirror image in y, so that
", side view" means one thing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

BODY = "body"

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

MATERIALS: dict[str, tuple[float, float, float]] = {
    BODY: (1.0, 1.0, 1.0),  # replaced by the colour of the caption
    "cream": (0.93, 0.87, 0.74),
    "dark": (0.10, 0.08, 0.08),
    "wood": (0.48, 0.31, 0.17),
    "glass": (0.62, 0.83, 0.94),
    "metal": (0.62, 0.64, 0.68),
    "beak": (0.96, 0.55, 0.08),
    "lamp": (1.00, 0.90, 0.45),
    "signal": (0.80, 0.10, 0.08),
    "paper": (0.95, 0.95, 0.93),
}
"""Fixed materials of parts, as display (sRGB) values in [0, 1]."""


@dataclass(frozen=True)
class Primitive:
    """One signed-distance primitive.

    ``shape``: "ellipsoid" (size = semi-axes), "box" (size = half extents), "cylinder" (size = radius, half
    height, unused), "cone" (size = bottom radius, half height, top radius), "torus" (size = ring radius,
    tube radius, unused) or "prism" (a gable: size = half extents, ridge along y). Cylinder, cone and torus
    have their axis along z. ``turn_deg`` turns the primitive about x, then y, then z. ``rounding`` softens
    the edges of boxes and cylinders. ``carve`` subtracts it from all that stands before it in the list.
    """

    shape: str
    material: str
    center: tuple[float, float, float]
    size: tuple[float, float, float]
    turn_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    rounding: float = 0.0
    carve: bool = False

    def rotation(self) -> list[list[float]]:
        """Return the 3x3 matrix that turns local into world directions."""
        (cx, sx), (cy, sy), (cz, sz) = ((math.cos(math.radians(a)), math.sin(math.radians(a))) for a in self.turn_deg)
        return [
            [cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx],
            [sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx],
            [-sy, cy * sx, cy * cx],
        ]


def _mirrored(part: Primitive) -> list[Primitive]:
    """Return a primitive and its mirror image in y."""
    x, y, z = part.center
    turn_x, turn_y, turn_z = part.turn_deg
    return [part, replace(part, center=(x, -y, z), turn_deg=(-turn_x, turn_y, -turn_z))]


def _ball(material: str, center: tuple[float, float, float], radius: float) -> Primitive:
    return Primitive("ellipsoid", material, center, (radius, radius, radius))


_P = Primitive

KINDS: dict[str, list[Primitive]] = {
    "mushroom": [
        _P("ellipsoid", BODY, (0, 0, 0.06), (0.66, 0.66, 0.56)),
        _P("box", BODY, (0, 0, -0.46), (0.8, 0.8, 0.52), carve=True),
        _P("cone", "cream", (0, 0, -0.28), (0.27, 0.36, 0.21)),
        _P("box", "wood", (0.22, 0, -0.44), (0.06, 0.10, 0.18), rounding=0.02),
    ],
    "snowman": [
        _ball(BODY, (0, 0, -0.36), 0.40),
        _ball(BODY, (0, 0, 0.14), 0.29),
        _ball(BODY, (0, 0, 0.47), 0.20),
        _P("cone", "beak", (0.27, 0, 0.46), (0.06, 0.12, 0.01), turn_deg=(0, 90, 0)),
        *_mirrored(_ball("dark", (0.17, 0.08, 0.53), 0.035)),
        _ball("dark", (0.28, 0, 0.20), 0.045),
        _ball("dark", (0.28, 0, 0.06), 0.045),
        _P("cylinder", "dark", (0, 0, 0.61), (0.24, 0.02, 0)),
        _P("cylinder", "dark", (0, 0, 0.69), (0.15, 0.09, 0)),
    ],
    "car": [
        _P("box", BODY, (0, 0, -0.10), (0.70, 0.33, 0.15), rounding=0.06),
        _P("box", "glass", (-0.12, 0, 0.14), (0.36, 0.27, 0.14), rounding=0.05),
        _P("box", BODY, (-0.12, 0, 0.28), (0.34, 0.28, 0.035), rounding=0.02),
        *_mirrored(_P("cylinder", "dark", (0.42, 0.32, -0.24), (0.17, 0.06, 0), turn_deg=(90, 0, 0), rounding=0.02)),
        *_mirrored(_P("cylinder", "dark", (-0.42, 0.32, -0.24), (0.17, 0.06, 0), turn_deg=(90, 0, 0), rounding=0.02)),
        *_mirrored(_ball("lamp", (0.67, 0.20, -0.06), 0.075)),
        *_mirrored(_P("box", "signal", (-0.69, 0.20, -0.05), (0.03, 0.08, 0.05))),
    ],
    "house": [
        _P("box", BODY, (0, 0, -0.22), (0.42, 0.46, 0.34)),
        _P("prism", "wood", (0, 0, 0.34), (0.54, 0.54, 0.24)),
        _P("box", "metal", (-0.26, 0, 0.44), (0.08, 0.08, 0.20)),
        _P("box", "dark", (0.42, 0, -0.36), (0.04, 0.12, 0.20)),
        *_mirrored(_P("box", "glass", (0.42, 0.29, -0.10), (0.03, 0.09, 0.10))),
    ],
    "chair": [
        _P("box", BODY, (0, 0, -0.06), (0.38, 0.38, 0.06), rounding=0.02),
        _P("box", BODY, (-0.33, 0, 0.32), (0.06, 0.38, 0.36), rounding=0.02),
        *_mirrored(_P("cylinder", "wood", (0.30, 0.30, -0.39), (0.06, 0.29, 0))),
        *_mirrored(_P("cylinder", "wood", (-0.30, 0.30, -0.39), (0.06, 0.29, 0))),
    ],
    "tree": [
        _P("cylinder", "wood", (0, 0, -0.50), (0.15, 0.24, 0)),
        _P("cone", BODY, (0, 0, -0.10), (0.52, 0.24, 0.16)),
        _P("cone", BODY, (0, 0, 0.20), (0.42, 0.22, 0.10)),
        _P("cone", BODY, (0, 0, 0.50), (0.30, 0.24, 0.01)),
        _P("ellipsoid", "dark", (0.13, 0, -0.53), (0.05, 0.09, 0.12)),
    ],
    "mug": [
        _P("cylinder", BODY, (0, 0, 0), (0.42, 0.48, 0), rounding=0.03),
        _P("cylinder", BODY, (0, 0, 0.12), (0.34, 0.50, 0), carve=True),
        _P("torus", BODY, (-0.48, 0, 0.0), (0.22, 0.065, 0), turn_deg=(90, 0, 0)),
        _P("cylinder", BODY, (0, 0, 0.12), (0.34, 0.50, 0), carve=True),
        _P("cylinder", "paper", (0.40, 0, -0.02), (0.20, 0.04, 0), turn_deg=(0, 90, 0)),
        _P("cylinder", "wood", (0, 0, 0.16), (0.35, 0.02, 0)),
    ],
    "robot": [
        _P("box", BODY, (0, 0, -0.10), (0.22, 0.30, 0.28), rounding=0.03),
        _P("box", BODY, (0, 0, 0.40), (0.20, 0.22, 0.17), rounding=0.03),
        _P("cylinder", "metal", (0, 0, 0.20), (0.09, 0.08, 0)),
        _P("cylinder", "metal", (0, 0, 0.63), (0.025, 0.08, 0)),
        _ball("signal", (0, 0, 0.72), 0.055),
        *_mirrored(_ball("lamp", (0.20, 0.10, 0.43), 0.06)),
        _P("box", "glass", (0.22, 0, -0.06), (0.03, 0.17, 0.12)),
        *_mirrored(_P("cylinder", "metal", (0, 0.40, -0.10), (0.08, 0.26, 0), rounding=0.03)),
        *_mirrored(_P("box", "metal", (0.03, 0.15, -0.55), (0.14, 0.10, 0.19), rounding=0.02)),
    ],
    "duck": [
        _P("ellipsoid", BODY, (-0.06, 0, -0.22), (0.58, 0.40, 0.36)),
        _ball(BODY, (0.28, 0, 0.28), 0.28),
        _P("cone", BODY, (-0.58, 0, -0.02), (0.16, 0.18, 0.02), turn_deg=(0, -50, 0)),
        _P("ellipsoid", "beak", (0.58, 0, 0.24), (0.15, 0.13, 0.055)),
        *_mirrored(_ball("dark", (0.49, 0.14, 0.37), 0.055)),
    ],
    "rocket": [
        _P("cylinder", BODY, (0, 0, -0.08), (0.26, 0.42, 0)),
        _P("cone", "signal", (0, 0, 0.55), (0.26, 0.21, 0.02)),
        _P("cone", "metal", (0, 0, -0.58), (0.20, 0.08, 0.14)),
        *_mirrored(_P("box", "signal", (0.24, 0.24, -0.42), (0.18, 0.035, 0.22), turn_deg=(0, 0, 45))),
        *_mirrored(_P("box", "signal", (-0.24, 0.24, -0.42), (0.18, 0.035, 0.22), turn_deg=(0, 0, -45))),
        _P("cylinder", "glass", (0.24, 0, 0.10), (0.13, 0.05, 0), turn_deg=(0, 90, 0)),
    ],
    "boat": [
        _P("ellipsoid", BODY, (0, 0, 0.04), (0.76, 0.34, 0.42)),
        _P("box", BODY, (0, 0, 0.52), (0.9, 0.5, 0.52), carve=True),
        _P("box", "wood", (0, 0, 0.01), (0.50, 0.20, 0.03)),
        _P("box", "paper", (-0.14, 0, 0.14), (0.24, 0.17, 0.14)),
        _P("box", "glass", (0.10, 0, 0.18), (0.02, 0.12, 0.06)),
        _P("cylinder", "signal", (-0.20, 0, 0.42), (0.09, 0.16, 0)),
    ],
    "bear": [
        _P("ellipsoid", BODY, (0, 0, -0.26), (0.32, 0.34, 0.38)),
        _ball(BODY, (0.02, 0, 0.32), 0.30),
        *_mirrored(_ball(BODY, (0, 0.24, 0.56), 0.11)),
        _P("ellipsoid", "cream", (0.27, 0, 0.25), (0.13, 0.14, 0.11)),
        _ball("dark", (0.39, 0, 0.29), 0.045),
        *_mirrored(_ball("dark", (0.28, 0.12, 0.41), 0.045)),
        _P("ellipsoid", "cream", (0.19, 0, -0.24), (0.16, 0.22, 0.26)),
        *_mirrored(_P("ellipsoid", BODY, (0.08, 0.36, -0.06), (0.12, 0.11, 0.22), turn_deg=(35, 0, 0))),
        *_mirrored(_P("ellipsoid", BODY, (0.16, 0.20, -0.58), (0.20, 0.13, 0.13))),
    ],
}
"""The kinds of toys: what a caption names, and the primitives that make it."""


def held_out(kind: str, color: str) -> bool:
    """Tell whether (kind, colour) is one of the 10 % of pairs never shown in training, one colour per kind."""
    kinds, colors = list(KINDS), list(COLORS)
    return (7 * kinds.index(kind) + 3) % len(colors) == colors.index(color)


def article(word: str) -> str:
    """Return "an" before a vowel and "a" otherwise."""
    return "an" if word[0] in "aeiou" else "a"


TEMPLATES = ("{a} {color} {kind}", "{color} {kind}", "a photo of {a} {color} {kind}", "a toy {kind} in {color}")
PLAIN_TEMPLATES = ("a {kind}", "a photo of a {kind}")  # no colour named: any will do


def vocabulary() -> list[str]:
    """Return every word and mark that captions of this world use, sorted."""
    words = {"a", "an", ",", "view", "front", "side", "back", "overhead"} | set(KINDS) | set(COLORS)
    for template in TEMPLATES + PLAIN_TEMPLATES:
        words |= {w for w in template.split() if "{" not in w}
    return sorted(words)
