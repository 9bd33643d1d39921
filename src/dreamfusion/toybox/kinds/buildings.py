"""Buildings."""

from __future__ import annotations

from dreamfusion.toybox.kinds.shapes import BODY, PART, TRIM, Kind, Primitive, ball, mirrored, rod, shrunk

BUILDINGS: dict[str, Kind] = {
    "lighthouse": Kind(
        part=("lantern", "lamp"),
        trim=("door", "wood"),
        front="the door and the windows above it",
        primitives=[
            Primitive("cone", BODY, (0, 0, -0.16), (0.34, 0.52, 0.22)),
            Primitive("cylinder", "dark", (0, 0, 0.38), (0.32, 0.03, 0)),
            Primitive("cylinder", PART, (0, 0, 0.50), (0.18, 0.11, 0)),
            Primitive("cone", "signal", (0, 0, 0.71), (0.27, 0.12, 0.02)),
            Primitive("box", TRIM, (0.28, 0, -0.52), (0.09, 0.12, 0.17), rounding=0.02),
            Primitive("box", "dark", (0.24, 0, -0.12), (0.07, 0.07, 0.08)),
            Primitive("box", "dark", (0.20, 0, 0.18), (0.07, 0.06, 0.07)),
            Primitive("ellipsoid", "metal", (0, 0, -0.72), (0.48, 0.48, 0.10)),
        ],
    ),
    "windmill": Kind(
        part=("blades", "paper"),
        trim=("door", "dark"),
        front="blades and door",
        primitives=[
            Primitive("cone", BODY, (-0.10, 0, -0.24), (0.42, 0.52, 0.26)),
            Primitive("cone", "wood", (-0.10, 0, 0.42), (0.32, 0.20, 0.03)),
            rod("metal", (0.0, 0, 0.24), (0.40, 0, 0.24), 0.06),
            *mirrored(Primitive("box", PART, (0.36, 0, 0.24), (0.03, 0.09, 0.56), turn_deg=(45, 0, 0))),
            ball("signal", (0.41, 0, 0.24), 0.09),
            Primitive("box", TRIM, (0.24, 0, -0.58), (0.10, 0.13, 0.18), rounding=0.02),
        ],
    ),
    "tent": Kind(
        part=("poles", "wood"),
        trim=("flag", "signal"),
        front="the opening, with a bed inside",
        primitives=shrunk(
            0.9,
            Primitive("prism", BODY, (-0.04, 0, -0.10), (0.60, 0.56, 0.46), turn_deg=(0, 0, 90)),
            Primitive("prism", BODY, (0.10, 0, -0.17), (0.50, 0.62, 0.42), turn_deg=(0, 0, 90), carve=True),
            Primitive("box", "moss", (-0.02, 0, -0.57), (0.56, 0.56, 0.03)),
            Primitive("box", "glass", (0.02, 0, -0.48), (0.40, 0.16, 0.07), rounding=0.05),
            rod(PART, (0.52, 0, -0.56), (0.52, 0, 0.66), 0.04),
            rod(PART, (-0.58, 0, -0.56), (-0.58, 0, 0.40), 0.04),
            Primitive("box", TRIM, (0.34, 0, 0.56), (0.15, 0.025, 0.09)),
        ),
    ),
    "bridge": Kind(
        part=("railings", "wood"),
        trim=("lanterns", "lamp"),
        front="the two lanterns",
        seat=(0.00, 0.12),
        primitives=shrunk(
            0.9,
            Primitive("box", BODY, (0, 0, -0.14), (0.78, 0.32, 0.26)),
            Primitive("cylinder", BODY, (0, 0, -0.46), (0.50, 0.40, 0), turn_deg=(90, 0, 0), carve=True),
            Primitive("box", "metal", (0, 0, 0.11), (0.80, 0.24, 0.03)),
            *mirrored(rod(PART, (-0.74, 0.29, 0.34), (0.74, 0.29, 0.34), 0.04)),
            *mirrored(*(rod(PART, (x, 0.29, 0.10), (x, 0.29, 0.34), 0.04) for x in (-0.72, -0.36, 0.0, 0.36))),
            *mirrored(rod("dark", (0.72, 0.29, 0.10), (0.72, 0.29, 0.38), 0.05)),
            *mirrored(ball(TRIM, (0.72, 0.29, 0.42), 0.10)),
        ),
    ),
}
"""By the word that captions use."""
