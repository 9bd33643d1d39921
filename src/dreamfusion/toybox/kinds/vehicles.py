"""Vehicles."""

from __future__ import annotations

from dreamfusion.toybox.kinds.shapes import BODY, PART, TRIM, Kind, Primitive, ball, disc, mirrored, ring, rod


def _wheel(x: float) -> list[Primitive]:
    """Return a wheel of the bicycle with its hub and spokes."""
    hub, spoke, slant = (x, 0.0, -0.30), 0.26, 0.18
    return [
        ring(PART, hub, 0.27, 0.05, "y"),
        disc("metal", hub, 0.06, 0.06, "y"),
        rod("metal", (x, 0, -0.30 - spoke), (x, 0, -0.30 + spoke), 0.02),
        rod("metal", (x - spoke, 0, -0.30), (x + spoke, 0, -0.30), 0.02),
        rod("metal", (x - slant, 0, -0.30 - slant), (x + slant, 0, -0.30 + slant), 0.02),
        rod("metal", (x - slant, 0, -0.30 + slant), (x + slant, 0, -0.30 - slant), 0.02),
    ]


VEHICLES: dict[str, Kind] = {
    "bicycle": Kind(
        part=("wheels", "dark"),
        trim=("saddle", "dark"),
        front="lamp and handlebar",
        primitives=[
            *_wheel(0.49),
            *_wheel(-0.49),
            rod(BODY, (-0.49, 0, -0.30), (-0.08, 0, -0.30), 0.045),
            rod(BODY, (-0.08, 0, -0.30), (-0.24, 0, 0.20), 0.05),
            rod(BODY, (-0.24, 0, 0.14), (-0.49, 0, -0.30), 0.04),
            rod(BODY, (-0.22, 0, 0.14), (0.32, 0, 0.16), 0.05),
            rod(BODY, (-0.08, 0, -0.30), (0.34, 0, 0.10), 0.05),
            rod(BODY, (0.29, 0, 0.36), (0.49, 0, -0.30), 0.05),
            Primitive("ellipsoid", TRIM, (-0.26, 0, 0.25), (0.18, 0.10, 0.06)),
            *mirrored(rod("metal", (0.28, 0, 0.36), (0.20, 0.28, 0.40), 0.04)),
            *mirrored(ball("dark", (0.19, 0.28, 0.40), 0.06)),
            ball("lamp", (0.42, 0, 0.20), 0.09),
            disc("metal", (-0.08, 0, -0.30), 0.10, 0.05, "y"),
        ],
    ),
    "truck": Kind(
        part=("wheels", "dark"),
        trim=("cabin", "paper"),
        front="windscreen, lamps and bumper",
        seat=(-0.20, 0.50),
        primitives=[
            Primitive("box", BODY, (-0.20, 0, 0.14), (0.48, 0.34, 0.36), rounding=0.02),
            Primitive("box", TRIM, (0.48, 0, 0.0), (0.18, 0.30, 0.26), rounding=0.04),
            Primitive("box", "glass", (0.62, 0, 0.10), (0.06, 0.25, 0.11)),
            Primitive("box", "dark", (0, 0, -0.27), (0.62, 0.26, 0.06)),
            Primitive("box", "metal", (0.66, 0, -0.26), (0.05, 0.30, 0.07)),
            *mirrored(ball("lamp", (0.66, 0.20, -0.11), 0.075)),
            *mirrored(Primitive("box", "signal", (-0.67, 0.24, -0.14), (0.03, 0.06, 0.06))),
            *mirrored(disc(PART, (0.44, 0.28, -0.36), 0.17, 0.08, "y")),
            *mirrored(disc(PART, (-0.12, 0.28, -0.36), 0.17, 0.08, "y")),
            *mirrored(disc(PART, (-0.48, 0.28, -0.36), 0.17, 0.08, "y")),
            *mirrored(disc("metal", (0.44, 0.35, -0.36), 0.07, 0.02, "y")),
            *mirrored(disc("metal", (-0.12, 0.35, -0.36), 0.07, 0.02, "y")),
            *mirrored(disc("metal", (-0.48, 0.35, -0.36), 0.07, 0.02, "y")),
        ],
    ),
    "helicopter": Kind(
        part=("rotors", "dark"),
        trim=("skids", "metal"),
        front="the glass of the cockpit; the tail is behind",
        primitives=[
            Primitive("ellipsoid", BODY, (0.12, 0, -0.10), (0.42, 0.29, 0.29)),
            Primitive("ellipsoid", "glass", (0.32, 0, -0.05), (0.27, 0.25, 0.23)),
            Primitive("cone", BODY, (-0.44, 0, 0.0), (0.14, 0.34, 0.05), turn_deg=(0, -86, 0)),
            Primitive("prism", BODY, (-0.72, 0, 0.13), (0.12, 0.04, 0.15)),
            disc(PART, (-0.72, 0, 0.10), 0.13, 0.07, "y"),
            rod("metal", (0.06, 0, 0.10), (0.06, 0, 0.38), 0.05),
            Primitive("box", PART, (0.06, 0, 0.38), (0.66, 0.07, 0.03), rounding=0.02),
            Primitive("box", PART, (0.06, 0, 0.38), (0.07, 0.66, 0.03), rounding=0.02),
            *mirrored(rod(TRIM, (-0.30, 0.26, -0.54), (0.52, 0.26, -0.54), 0.05)),
            *mirrored(rod(TRIM, (-0.06, 0.26, -0.54), (0.0, 0.16, -0.26), 0.04)),
            *mirrored(rod(TRIM, (0.28, 0.26, -0.54), (0.24, 0.16, -0.26), 0.04)),
        ],
    ),
}
"""By the word that captions use."""
