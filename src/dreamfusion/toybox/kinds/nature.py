"""Plants and food."""

from __future__ import annotations

import math

from dreamfusion.toybox.kinds.shapes import BODY, PART, TRIM, Kind, Primitive, ball, mirrored, rod


def _around(count: int, radius: float) -> list[tuple[float, float]]:
    """Return points of a circle, the first at angle 0: mirror images of each other in the second coordinate."""
    angles = [2 * math.pi * i / count for i in range(count)]
    return [(radius * math.cos(angle), radius * math.sin(angle)) for angle in angles]


NATURE: dict[str, Kind] = {
    "flower": Kind(
        part=("stem", "moss"),
        trim=("leaves", "moss"),
        front="the yellow middle of the blossom",
        primitives=[
            *[Primitive("ellipsoid", BODY, (0.06, y, 0.36 + z), (0.07, 0.16, 0.16)) for z, y in _around(7, 0.28)],
            Primitive("ellipsoid", "lamp", (0.12, 0, 0.36), (0.11, 0.17, 0.17)),
            Primitive("ellipsoid", "moss", (-0.02, 0, 0.36), (0.10, 0.16, 0.16)),
            rod(PART, (-0.04, 0, -0.72), (-0.04, 0, 0.36), 0.055),
            *mirrored(Primitive("ellipsoid", TRIM, (0.0, 0.25, -0.34), (0.12, 0.27, 0.05), turn_deg=(28, 0, 0))),
            Primitive("ellipsoid", "wood", (-0.04, 0, -0.72), (0.30, 0.30, 0.10)),
        ],
    ),
    "cactus": Kind(
        part=("pot", "wood"),
        trim=("blossoms", "signal"),
        front="the label on the pot",
        primitives=[
            Primitive("cylinder", BODY, (0, 0, 0.10), (0.21, 0.50, 0), rounding=0.20),
            *mirrored(rod(BODY, (0, 0.10, 0.02), (0, 0.44, 0.02), 0.11)),
            *mirrored(ball(BODY, (0, 0.44, 0.02), 0.115)),
            *mirrored(rod(BODY, (0, 0.44, 0.02), (0, 0.44, 0.28), 0.11)),
            *mirrored(ball(BODY, (0, 0.44, 0.28), 0.11)),
            ball(TRIM, (0, 0, 0.62), 0.13),
            *mirrored(ball(TRIM, (0, 0.44, 0.40), 0.09)),
            Primitive("cone", PART, (0, 0, -0.56), (0.28, 0.22, 0.38)),
            Primitive("cylinder", PART, (0, 0, -0.36), (0.43, 0.06, 0)),
            Primitive("box", "paper", (0.305, 0, -0.56), (0.05, 0.12, 0.09), turn_deg=(0, 13, 0)),
        ],
    ),
    "apple": Kind(
        part=("stem", "wood"),
        trim=("leaf", "moss"),
        front="the bite and the leaf",
        primitives=[
            Primitive("ellipsoid", BODY, (0, 0, 0.0), (0.58, 0.58, 0.50)),
            Primitive("ellipsoid", BODY, (0, 0, 0.56), (0.24, 0.24, 0.20), carve=True),
            Primitive("ellipsoid", BODY, (0.66, 0, 0.02), (0.30, 0.30, 0.26), carve=True),
            Primitive("ellipsoid", "cream", (0, 0, -0.04), (0.47, 0.47, 0.42)),
            rod(PART, (0, 0, 0.28), (-0.05, 0, 0.70), 0.05),
            Primitive("ellipsoid", TRIM, (0.18, 0, 0.60), (0.24, 0.13, 0.05), turn_deg=(0, -20, 0)),
        ],
    ),
    "cake": Kind(
        part=("candles", "glass"),
        trim=("icing", "paper"),
        front="the heart of cherries",
        seat=(0.0, 0.34),
        primitives=[
            Primitive("cylinder", "metal", (0, 0, -0.50), (0.68, 0.04, 0)),
            Primitive("cylinder", BODY, (0, 0, -0.26), (0.56, 0.20, 0), rounding=0.03),
            Primitive("cylinder", TRIM, (0, 0, -0.07), (0.58, 0.06, 0), rounding=0.04),
            Primitive("cylinder", BODY, (0, 0, 0.12), (0.36, 0.16, 0), rounding=0.03),
            Primitive("cylinder", TRIM, (0, 0, 0.28), (0.38, 0.06, 0), rounding=0.04),
            *[rod(PART, (x, y, 0.32), (x, y, 0.58), 0.05) for x, y in _around(5, 0.22)],
            *[Primitive("ellipsoid", "lamp", (x, y, 0.65), (0.05, 0.05, 0.09)) for x, y in _around(5, 0.22)],
            *mirrored(ball("signal", (0.55, 0.10, -0.22), 0.09)),
            ball("signal", (0.55, 0, -0.35), 0.09),
        ],
    ),
    "pumpkin": Kind(
        part=("stem", "moss"),
        trim=("face", "lamp"),
        front="the face",
        primitives=[
            *[Primitive("ellipsoid", BODY, (x, y, -0.10), (0.32, 0.32, 0.44)) for x, y in _around(8, 0.30)],
            Primitive("cone", PART, (0, 0, 0.42), (0.13, 0.16, 0.08), turn_deg=(0, -12, 0)),
            *mirrored(Primitive("prism", TRIM, (0.46, 0.20, 0.06), (0.12, 0.11, 0.10), turn_deg=(0, 0, 90))),
            Primitive("prism", TRIM, (0.57, 0, -0.09), (0.06, 0.07, 0.06), turn_deg=(0, 0, 90)),
            Primitive("box", TRIM, (0.46, 0, -0.26), (0.12, 0.23, 0.06)),
            Primitive("box", BODY, (0.54, 0, -0.23), (0.06, 0.05, 0.05)),
        ],
    ),
}
"""By the word that captions use."""
