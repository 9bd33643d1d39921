"""Furniture."""

from __future__ import annotations

from dreamfusion.toybox.kinds.shapes import BODY, PART, TRIM, Kind, Primitive, ball, mirrored, ring, rod, shrunk

FURNITURE: dict[str, Kind] = {
    "table": Kind(
        part=("legs", "wood"),
        trim=("drawer", BODY),
        front="the drawer with its knob",
        seat=(0.0, 0.33),
        primitives=[
            Primitive("box", BODY, (0, 0, 0.27), (0.46, 0.60, 0.06), rounding=0.02),
            *mirrored(rod(PART, (0.38, 0.50, 0.24), (0.38, 0.50, -0.58), 0.055)),
            *mirrored(rod(PART, (-0.38, 0.50, 0.24), (-0.38, 0.50, -0.58), 0.055)),
            Primitive("box", TRIM, (0.34, 0, 0.12), (0.10, 0.30, 0.10)),
            ball("metal", (0.46, 0, 0.12), 0.055),
        ],
    ),
    "lamp": Kind(
        part=("stand", "metal"),
        trim=("base", "dark"),
        front="the cord and its knob",
        primitives=[
            Primitive("cone", BODY, (0, 0, 0.42), (0.50, 0.27, 0.26)),
            Primitive("cone", BODY, (0, 0, 0.38), (0.46, 0.27, 0.22), carve=True),
            ball("lamp", (0, 0, 0.32), 0.15),
            rod(PART, (0, 0, -0.60), (0, 0, 0.26), 0.055),
            Primitive("cylinder", TRIM, (0, 0, -0.62), (0.36, 0.07, 0), rounding=0.03),
            rod("dark", (0.30, 0, -0.06), (0.30, 0, 0.30), 0.025),
            ball("signal", (0.30, 0, -0.10), 0.075),
        ],
    ),
    "bed": Kind(
        part=("frame", "wood"),
        trim=("pillow", "paper"),
        front="the low end; headboard and pillow are behind",
        seat=(0.12, 0.00),
        primitives=shrunk(
            0.96,
            Primitive("box", BODY, (0.06, 0, -0.11), (0.56, 0.38, 0.12), rounding=0.06),
            Primitive("box", PART, (0, 0, -0.28), (0.64, 0.42, 0.07)),
            Primitive("box", PART, (-0.64, 0, -0.02), (0.05, 0.42, 0.38), rounding=0.02),
            Primitive("box", PART, (0.64, 0, -0.22), (0.05, 0.42, 0.18), rounding=0.02),
            *mirrored(Primitive("box", PART, (0.60, 0.36, -0.42), (0.06, 0.06, 0.10))),
            *mirrored(Primitive("box", PART, (-0.60, 0.36, -0.42), (0.06, 0.06, 0.10))),
            Primitive("ellipsoid", TRIM, (-0.40, 0, 0.06), (0.17, 0.30, 0.11)),
        ),
    ),
    "shelf": Kind(
        part=("books", "signal"),
        trim=("vase", "glass"),
        front="the open side with books and a vase",
        primitives=[
            Primitive("box", BODY, (0, 0, 0), (0.24, 0.50, 0.68)),
            Primitive("box", BODY, (0.12, 0, 0.43), (0.28, 0.43, 0.18), carve=True),
            Primitive("box", BODY, (0.12, 0, 0.0), (0.28, 0.43, 0.18), carve=True),
            Primitive("box", BODY, (0.12, 0, -0.43), (0.28, 0.43, 0.18), carve=True),
            *mirrored(Primitive("box", PART, (0.04, 0.34, 0.38), (0.15, 0.07, 0.13))),
            *mirrored(Primitive("box", "paper", (0.04, 0.22, 0.36), (0.14, 0.04, 0.11))),
            *mirrored(Primitive("box", PART, (0.04, 0.12, 0.39), (0.15, 0.05, 0.14))),
            Primitive("box", PART, (0.04, 0, -0.55), (0.16, 0.30, 0.06)),
            Primitive("box", "paper", (0.04, 0, -0.45), (0.15, 0.24, 0.04)),
            Primitive("box", PART, (0.04, 0, -0.37), (0.15, 0.20, 0.05)),
            Primitive("ellipsoid", TRIM, (0.06, 0, -0.07), (0.13, 0.15, 0.12)),
            Primitive("cylinder", TRIM, (0.06, 0, 0.07), (0.06, 0.07, 0)),
        ],
    ),
    "clock": Kind(
        part=("hands", "dark"),
        trim=("bells", "lamp"),
        front="the face with its hands",
        primitives=[
            Primitive("cylinder", BODY, (0, 0, -0.08), (0.52, 0.17, 0), turn_deg=(0, 90, 0), rounding=0.04),
            Primitive("cylinder", "paper", (0.15, 0, -0.08), (0.42, 0.03, 0), turn_deg=(0, 90, 0)),
            ring(BODY, (0.17, 0, -0.08), 0.45, 0.05, "x"),
            *mirrored(rod(PART, (0.20, 0, -0.08), (0.20, 0.22, 0.10), 0.04)),
            ball(PART, (0.20, 0, -0.08), 0.06),
            *mirrored(Primitive("box", "dark", (0.18, 0.36, -0.08), (0.02, 0.04, 0.025))),
            Primitive("box", "dark", (0.18, 0, 0.28), (0.02, 0.025, 0.04)),
            Primitive("box", "dark", (0.18, 0, -0.44), (0.02, 0.025, 0.04)),
            *mirrored(Primitive("ellipsoid", TRIM, (0, 0.30, 0.46), (0.18, 0.20, 0.16), turn_deg=(-30, 0, 0))),
            ball("metal", (0, 0, 0.52), 0.08),
            *mirrored(rod("metal", (0, 0.26, -0.46), (0, 0.42, -0.72), 0.06)),
        ],
    ),
}
"""By the word that captions use."""
