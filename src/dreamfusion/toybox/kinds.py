"""The kinds of toys: signed-distance primitives, what is painted, and which part a caption may name.

Every toy lies inside a sphere of radius 0.9, stands upright (z up), faces +x, has something only its front shows, and
is its own mirror image in y, so that ", side view" means one thing. Parts are large enough to be seen in a picture of
32 pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

BODY, PART, ACCENT = "body", "part", "accent"
"""Materials that captions paint: the toy's colour, the colour of its named part, and the second colour of a pattern."""

MATERIALS: dict[str, tuple[float, float, float]] = {
    BODY: (1.0, 1.0, 1.0),
    PART: (1.0, 1.0, 1.0),
    ACCENT: (1.0, 1.0, 1.0),
    "cream": (0.93, 0.87, 0.74),
    "dark": (0.10, 0.08, 0.08),
    "wood": (0.48, 0.31, 0.17),
    "glass": (0.62, 0.83, 0.94),
    "metal": (0.62, 0.64, 0.68),
    "beak": (0.96, 0.55, 0.08),
    "lamp": (1.00, 0.90, 0.45),
    "signal": (0.80, 0.10, 0.08),
    "paper": (0.95, 0.95, 0.93),
    "moss": (0.45, 0.58, 0.30),
}
"""Fixed materials, as display (sRGB) values in [0, 1]; the first three are placeholders that a caption fills in."""


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


@dataclass(frozen=True)
class Kind:
    """A kind of toy: its primitives, the part that captions may name, and what that part is made of otherwise.

    ``part`` is a noun, plural where the toy has several of them. ``part_material`` is a key of ``MATERIALS``; with
    ``BODY``, the part has the colour of the toy unless a caption says otherwise.
    """

    part: str
    part_material: str
    primitives: list[Primitive]


_P = Primitive

KINDS: dict[str, Kind] = {
    "mushroom": Kind(
        "stem",
        "cream",
        [
            _P("ellipsoid", BODY, (0, 0, 0.06), (0.66, 0.66, 0.56)),
            _P("box", BODY, (0, 0, -0.46), (0.8, 0.8, 0.52), carve=True),
            _P("cone", PART, (0, 0, -0.28), (0.30, 0.36, 0.25)),
            _P("box", "wood", (0.25, 0, -0.43), (0.07, 0.13, 0.20), rounding=0.02),
        ],
    ),
    "snowman": Kind(
        "hat",
        "dark",
        [
            _ball(BODY, (0, 0, -0.36), 0.40),
            _ball(BODY, (0, 0, 0.14), 0.30),
            _ball(BODY, (0, 0, 0.47), 0.22),
            _P("cone", "beak", (0.30, 0, 0.44), (0.08, 0.15, 0.01), turn_deg=(0, 90, 0)),
            *_mirrored(_ball("dark", (0.18, 0.09, 0.53), 0.05)),
            _ball("dark", (0.28, 0, 0.21), 0.06),
            _ball("dark", (0.29, 0, 0.04), 0.06),
            _P("cylinder", PART, (0, 0, 0.61), (0.28, 0.03, 0)),
            _P("cylinder", PART, (0, 0, 0.72), (0.18, 0.11, 0)),
        ],
    ),
    "car": Kind(
        "wheels",
        "dark",
        [
            _P("box", BODY, (0, 0, -0.10), (0.70, 0.33, 0.15), rounding=0.06),
            _P("box", "glass", (-0.12, 0, 0.14), (0.36, 0.27, 0.14), rounding=0.05),
            _P("box", BODY, (-0.12, 0, 0.28), (0.34, 0.28, 0.04), rounding=0.02),
            *_mirrored(_P("cylinder", PART, (0.42, 0.32, -0.24), (0.19, 0.08, 0), turn_deg=(90, 0, 0), rounding=0.02)),
            *_mirrored(_P("cylinder", PART, (-0.42, 0.32, -0.24), (0.19, 0.08, 0), turn_deg=(90, 0, 0), rounding=0.02)),
            *_mirrored(_ball("lamp", (0.66, 0.20, -0.06), 0.10)),
            *_mirrored(_P("box", "signal", (-0.69, 0.20, -0.05), (0.04, 0.10, 0.07))),
        ],
    ),
    "house": Kind(
        "roof",
        "wood",
        [
            _P("box", BODY, (0, 0, -0.22), (0.42, 0.46, 0.34)),
            _P("prism", PART, (0, 0, 0.34), (0.54, 0.54, 0.24)),
            _P("box", "metal", (-0.26, 0, 0.44), (0.09, 0.09, 0.20)),
            _P("box", "dark", (0.42, 0, -0.33), (0.04, 0.13, 0.23)),
            *_mirrored(_P("box", "glass", (0.42, 0.30, -0.12), (0.03, 0.10, 0.12))),
        ],
    ),
    "chair": Kind(
        "legs",
        "wood",
        [
            _P("box", BODY, (0, 0, -0.06), (0.40, 0.40, 0.08), rounding=0.02),
            _P("box", BODY, (-0.33, 0, 0.32), (0.08, 0.40, 0.36), rounding=0.02),
            *_mirrored(_P("cylinder", PART, (0.30, 0.30, -0.39), (0.08, 0.29, 0))),
            *_mirrored(_P("cylinder", PART, (-0.30, 0.30, -0.39), (0.08, 0.29, 0))),
        ],
    ),
    "tree": Kind(
        "trunk",
        "wood",
        [
            _P("cylinder", PART, (0, 0, -0.48), (0.18, 0.26, 0)),
            _P("cone", BODY, (0, 0, -0.10), (0.54, 0.22, 0.18)),
            _P("cone", BODY, (0, 0, 0.20), (0.44, 0.22, 0.12)),
            _P("cone", BODY, (0, 0, 0.50), (0.32, 0.24, 0.01)),
            _P("ellipsoid", "dark", (0.15, 0, -0.52), (0.06, 0.11, 0.14)),
        ],
    ),
    "mug": Kind(
        "handle",
        BODY,
        [
            _P("cylinder", BODY, (0, 0, 0), (0.42, 0.48, 0), rounding=0.03),
            _P("cylinder", BODY, (0, 0, 0.12), (0.34, 0.50, 0), carve=True),
            _P("torus", PART, (-0.48, 0, 0.0), (0.24, 0.08, 0), turn_deg=(90, 0, 0)),
            _P("cylinder", BODY, (0, 0, 0.12), (0.34, 0.50, 0), carve=True),
            _P("cylinder", "paper", (0.40, 0, -0.02), (0.22, 0.04, 0), turn_deg=(0, 90, 0)),
            _P("cylinder", "wood", (0, 0, 0.20), (0.35, 0.02, 0)),
        ],
    ),
    "robot": Kind(
        "head",
        BODY,
        [
            _P("box", BODY, (0, 0, -0.10), (0.24, 0.30, 0.28), rounding=0.03),
            _P("box", PART, (0, 0, 0.40), (0.22, 0.24, 0.19), rounding=0.03),
            _P("cylinder", "metal", (0, 0, 0.20), (0.10, 0.08, 0)),
            _P("cylinder", "metal", (0, 0, 0.63), (0.04, 0.08, 0)),
            _ball("signal", (0, 0, 0.72), 0.08),
            *_mirrored(_ball("lamp", (0.22, 0.11, 0.43), 0.08)),
            _P("box", "glass", (0.24, 0, -0.06), (0.03, 0.18, 0.13)),
            *_mirrored(_P("cylinder", "metal", (0, 0.41, -0.10), (0.09, 0.26, 0), rounding=0.03)),
            *_mirrored(_P("box", "metal", (0.03, 0.15, -0.55), (0.15, 0.11, 0.19), rounding=0.02)),
        ],
    ),
    "duck": Kind(
        "beak",
        "beak",
        [
            _P("ellipsoid", BODY, (-0.08, 0, -0.24), (0.58, 0.40, 0.36)),
            _ball(BODY, (0.26, 0, 0.28), 0.28),
            _P("cone", BODY, (-0.60, 0, -0.02), (0.18, 0.18, 0.02), turn_deg=(0, -50, 0)),
            _P("ellipsoid", PART, (0.58, 0, 0.24), (0.20, 0.16, 0.075)),
            *_mirrored(_ball("dark", (0.46, 0.14, 0.38), 0.065)),
        ],
    ),
    "rocket": Kind(
        "fins",
        "signal",
        [
            _P("cylinder", BODY, (0, 0, -0.08), (0.26, 0.42, 0)),
            _P("cone", "signal", (0, 0, 0.55), (0.26, 0.21, 0.02)),
            _P("cone", "metal", (0, 0, -0.58), (0.20, 0.08, 0.14)),
            *_mirrored(_P("box", PART, (0.24, 0.24, -0.42), (0.18, 0.05, 0.22), turn_deg=(0, 0, 45))),
            *_mirrored(_P("box", PART, (-0.24, 0.24, -0.42), (0.18, 0.05, 0.22), turn_deg=(0, 0, -45))),
            _P("cylinder", "glass", (0.24, 0, 0.10), (0.15, 0.05, 0), turn_deg=(0, 90, 0)),
        ],
    ),
    "boat": Kind(
        "cabin",
        "paper",
        [
            _P("ellipsoid", BODY, (0, 0, 0.04), (0.76, 0.34, 0.42)),
            _P("box", BODY, (0, 0, 0.52), (0.9, 0.5, 0.52), carve=True),
            _P("box", "wood", (0, 0, 0.01), (0.50, 0.20, 0.03)),
            _P("box", PART, (-0.12, 0, 0.16), (0.26, 0.20, 0.17)),
            _P("box", "glass", (0.14, 0, 0.20), (0.02, 0.14, 0.08)),
            _P("cylinder", "signal", (-0.20, 0, 0.46), (0.11, 0.16, 0)),
        ],
    ),
    "bear": Kind(
        "belly",
        "cream",
        [
            _P("ellipsoid", BODY, (0, 0, -0.26), (0.32, 0.34, 0.38)),
            _ball(BODY, (0.02, 0, 0.32), 0.30),
            *_mirrored(_ball(BODY, (0, 0.24, 0.56), 0.12)),
            _P("ellipsoid", "cream", (0.27, 0, 0.25), (0.14, 0.15, 0.12)),
            _ball("dark", (0.40, 0, 0.29), 0.06),
            *_mirrored(_ball("dark", (0.28, 0.12, 0.42), 0.055)),
            _P("ellipsoid", PART, (0.19, 0, -0.24), (0.17, 0.24, 0.28)),
            *_mirrored(_P("ellipsoid", BODY, (0.08, 0.36, -0.06), (0.13, 0.12, 0.22), turn_deg=(35, 0, 0))),
            *_mirrored(_P("ellipsoid", BODY, (0.16, 0.20, -0.58), (0.20, 0.13, 0.13))),
        ],
    ),
    "fish": Kind(
        "fins",
        "cream",
        [
            _P("ellipsoid", BODY, (0.10, 0, 0), (0.56, 0.24, 0.36)),
            _P("prism", PART, (-0.58, 0, 0), (0.30, 0.07, 0.20), turn_deg=(0, 90, 0)),
            _P("ellipsoid", PART, (0.02, 0, 0.36), (0.26, 0.06, 0.18)),
            *_mirrored(_P("ellipsoid", PART, (0.12, 0.28, -0.12), (0.18, 0.14, 0.05), turn_deg=(20, 0, 0))),
            *_mirrored(_ball("paper", (0.48, 0.14, 0.12), 0.10)),
            *_mirrored(_ball("dark", (0.53, 0.19, 0.13), 0.065)),
            _P("ellipsoid", "signal", (0.64, 0, -0.06), (0.06, 0.12, 0.05)),
        ],
    ),
    "rabbit": Kind(
        "ears",
        BODY,
        [
            _P("ellipsoid", BODY, (-0.04, 0, -0.36), (0.36, 0.32, 0.36)),
            _ball(BODY, (0.10, 0, 0.12), 0.27),
            *_mirrored(_P("ellipsoid", PART, (0.04, 0.14, 0.54), (0.08, 0.10, 0.30), turn_deg=(-10, 0, 0))),
            _P("ellipsoid", "cream", (0.34, 0, 0.05), (0.10, 0.13, 0.09)),
            _ball("signal", (0.43, 0, 0.09), 0.05),
            *_mirrored(_ball("dark", (0.31, 0.13, 0.20), 0.06)),
            _ball("paper", (-0.42, 0, -0.42), 0.15),
            *_mirrored(_P("ellipsoid", BODY, (0.26, 0.18, -0.64), (0.20, 0.11, 0.09))),
        ],
    ),
    "train": Kind(
        "cabin",
        "metal",
        [
            _P("cylinder", BODY, (0.18, 0, 0.02), (0.26, 0.42, 0), turn_deg=(0, 90, 0), rounding=0.03),
            _P("box", PART, (-0.36, 0, 0.10), (0.22, 0.30, 0.34), rounding=0.03),
            _P("box", BODY, (-0.36, 0, 0.45), (0.26, 0.35, 0.05), rounding=0.02),
            *_mirrored(_P("box", "glass", (-0.36, 0.30, 0.22), (0.12, 0.03, 0.12))),
            _P("cylinder", "dark", (0.38, 0, 0.38), (0.11, 0.16, 0)),
            _ball("lamp", (0.60, 0, 0.06), 0.13),
            _P("box", "dark", (0, 0, -0.28), (0.62, 0.26, 0.06)),
            *_mirrored(_P("cylinder", "dark", (0.36, 0.28, -0.36), (0.18, 0.06, 0), turn_deg=(90, 0, 0))),
            *_mirrored(_P("cylinder", "dark", (-0.34, 0.28, -0.36), (0.18, 0.06, 0), turn_deg=(90, 0, 0))),
        ],
    ),
    "plane": Kind(
        "wings",
        "metal",
        [
            _P("ellipsoid", BODY, (0, 0, 0), (0.72, 0.20, 0.20)),
            _P("box", PART, (0.08, 0, -0.04), (0.20, 0.76, 0.05), rounding=0.03),
            _P("box", PART, (-0.60, 0, 0.06), (0.11, 0.32, 0.04), rounding=0.02),
            _P("prism", BODY, (-0.58, 0, 0.22), (0.16, 0.05, 0.20)),
            _P("ellipsoid", "glass", (0.34, 0, 0.14), (0.18, 0.13, 0.13)),
            _P("cylinder", "dark", (0.70, 0, 0), (0.20, 0.03, 0), turn_deg=(0, 90, 0)),
        ],
    ),
    "teapot": Kind(
        "lid",
        BODY,
        [
            _P("ellipsoid", BODY, (0, 0, -0.10), (0.46, 0.46, 0.40)),
            _P("cylinder", BODY, (0, 0, -0.48), (0.26, 0.05, 0)),
            _P("cone", BODY, (0.56, 0, 0.02), (0.14, 0.24, 0.07), turn_deg=(0, 42, 0)),
            _P("torus", "wood", (-0.48, 0, -0.06), (0.22, 0.07, 0), turn_deg=(90, 0, 0)),
            _P("ellipsoid", PART, (0, 0, 0.26), (0.30, 0.30, 0.12)),
            _ball("wood", (0, 0, 0.42), 0.10),
        ],
    ),
    "castle": Kind(
        "roofs",
        "wood",
        [
            _P("box", BODY, (0, 0, -0.24), (0.40, 0.40, 0.25)),
            *_mirrored(_P("cylinder", BODY, (0.40, 0.40, -0.11), (0.16, 0.38, 0))),
            *_mirrored(_P("cylinder", BODY, (-0.40, 0.40, -0.11), (0.16, 0.38, 0))),
            *_mirrored(_P("cone", PART, (0.40, 0.40, 0.43), (0.22, 0.17, 0.01))),
            *_mirrored(_P("cone", PART, (-0.40, 0.40, 0.43), (0.22, 0.17, 0.01))),
            _P("box", "dark", (0.40, 0, -0.29), (0.04, 0.14, 0.20)),
        ],
    ),
    "penguin": Kind(
        "belly",
        "paper",
        [
            _P("ellipsoid", BODY, (0, 0, -0.16), (0.36, 0.40, 0.52)),
            _ball(BODY, (0.02, 0, 0.44), 0.27),
            _P("ellipsoid", PART, (0.14, 0, -0.16), (0.26, 0.30, 0.42)),
            _P("cone", "beak", (0.36, 0, 0.42), (0.09, 0.13, 0.01), turn_deg=(0, 90, 0)),
            *_mirrored(_ball("paper", (0.22, 0.11, 0.52), 0.075)),
            *_mirrored(_ball("dark", (0.27, 0.12, 0.53), 0.05)),
            *_mirrored(_P("ellipsoid", BODY, (0, 0.44, -0.10), (0.16, 0.07, 0.32), turn_deg=(20, 0, 0))),
            *_mirrored(_P("ellipsoid", "beak", (0.16, 0.18, -0.68), (0.24, 0.14, 0.07))),
        ],
    ),
    "turtle": Kind(
        "head",
        "moss",
        [
            _P("ellipsoid", BODY, (-0.06, 0, -0.08), (0.52, 0.46, 0.40)),
            _P("box", BODY, (0, 0, -0.56), (0.9, 0.9, 0.40), carve=True),
            _P("cylinder", "moss", (-0.06, 0, -0.17), (0.50, 0.05, 0), rounding=0.02),
            _P("ellipsoid", PART, (0.56, 0, 0.04), (0.22, 0.18, 0.18)),
            *_mirrored(_ball("dark", (0.70, 0.12, 0.12), 0.06)),
            *_mirrored(_P("ellipsoid", "moss", (0.28, 0.36, -0.28), (0.18, 0.13, 0.16))),
            *_mirrored(_P("ellipsoid", "moss", (-0.36, 0.34, -0.28), (0.16, 0.13, 0.16))),
            _P("cone", "moss", (-0.64, 0, -0.18), (0.09, 0.12, 0.01), turn_deg=(0, -100, 0)),
        ],
    ),
}
"""The kinds of toys, by the word that captions use."""
