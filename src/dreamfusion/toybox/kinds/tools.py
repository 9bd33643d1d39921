"""Tools and things of every day."""

from __future__ import annotations

from dreamfusion.toybox.kinds.shapes import (
    BODY,
    PART,
    TRIM,
    Kind,
    Primitive,
    ball,
    disc,
    mirrored,
    ring,
    rod,
    shrunk,
    tilted,
)

TOOLS: dict[str, Kind] = {
    "hammer": Kind(
        part=("handle", "wood"),
        trim=("grip", "dark"),
        front="the flat face of the head; the claw is behind",
        primitives=[
            rod(PART, (0, 0, -0.78), (0, 0, 0.58), 0.085),
            Primitive("cylinder", TRIM, (0, 0, -0.54), (0.115, 0.26, 0), rounding=0.05),
            rod(BODY, (-0.16, 0, 0.46), (0.28, 0, 0.46), 0.15),
            disc("metal", (0.38, 0, 0.46), 0.20, 0.11),
            Primitive("prism", BODY, (-0.34, 0, 0.42), (0.11, 0.16, 0.26), turn_deg=(0, -112, 0)),
            Primitive("box", BODY, (-0.50, 0, 0.36), (0.16, 0.035, 0.20), carve=True),
        ],
    ),
    "umbrella": Kind(
        part=("handle", "wood"),
        trim=("tip", "metal"),
        front="the inside, for it leans back; the hook of the handle",
        primitives=tilted(
            -24,
            ring(PART, (0.13, 0, -0.62), 0.13, 0.05, "y"),
            Primitive("box", PART, (0.14, 0, -0.47), (0.30, 0.10, 0.15), carve=True),
            Primitive("ellipsoid", BODY, (0, 0, 0.06), (0.72, 0.72, 0.52)),
            Primitive("ellipsoid", BODY, (0, 0, 0.01), (0.68, 0.68, 0.49), carve=True),
            Primitive("box", BODY, (0, 0, -0.26), (0.80, 0.80, 0.30), carve=True),
            rod(PART, (0, 0, -0.62), (0, 0, 0.56), 0.045),
            Primitive("cone", TRIM, (0, 0, 0.66), (0.06, 0.12, 0.02)),
            *mirrored(*(ball("metal", (x, y, 0.04), 0.045) for x, y in ((0.64, 0.27), (0.27, 0.64)))),
            *mirrored(*(ball("metal", (-x, y, 0.04), 0.045) for x, y in ((0.64, 0.27), (0.27, 0.64)))),
        ),
    ),
    "basket": Kind(
        part=("handle", "wood"),
        trim=("eggs", "cream"),
        front="the red bow",
        primitives=[
            ring(PART, (0, 0, 0.02), 0.50, 0.055, "x"),
            Primitive("box", PART, (0, 0, -0.40), (0.60, 0.60, 0.42), carve=True),
            Primitive("cone", BODY, (0, 0, -0.28), (0.38, 0.30, 0.54)),
            Primitive("cone", BODY, (0, 0, -0.18), (0.34, 0.30, 0.52), carve=True),
            ring(BODY, (0, 0, 0.02), 0.54, 0.06),
            ring(BODY, (0, 0, -0.16), 0.49, 0.04),
            ring(BODY, (0, 0, -0.34), 0.44, 0.04),
            *mirrored(Primitive("ellipsoid", TRIM, (0.14, 0.16, -0.06), (0.15, 0.15, 0.20))),
            *mirrored(Primitive("ellipsoid", TRIM, (-0.18, 0.16, -0.06), (0.15, 0.15, 0.20))),
            *mirrored(Primitive("ellipsoid", "signal", (0.60, 0.14, 0.0), (0.06, 0.15, 0.11))),
            ball("signal", (0.63, 0, 0.0), 0.08),
        ],
    ),
    "glasses": Kind(
        part=("lenses", "glass"),
        trim=("arms", BODY),
        front="the lenses; the arms are behind",
        many=True,
        primitives=[
            *mirrored(ring(BODY, (0.44, 0.35, 0.0), 0.27, 0.055, "x")),
            *mirrored(Primitive("ellipsoid", PART, (0.44, 0.35, 0.0), (0.035, 0.26, 0.26))),
            Primitive("torus", BODY, (0.46, 0, 0.0), (0.10, 0.045, 0), turn_deg=(0, 90, 0)),
            Primitive("box", BODY, (0.46, 0, -0.09), (0.08, 0.07, 0.09), carve=True),
            *mirrored(ball(TRIM, (0.42, 0.62, 0.06), 0.065)),
            *mirrored(rod(TRIM, (0.42, 0.62, 0.06), (-0.40, 0.60, 0.06), 0.045)),
            *mirrored(rod(TRIM, (-0.40, 0.60, 0.06), (-0.62, 0.57, -0.14), 0.05)),
            *mirrored(ball(TRIM, (-0.40, 0.60, 0.06), 0.05)),
        ],
    ),
    "ladder": Kind(
        part=("rungs", "metal"),
        trim=("feet", "dark"),
        front="the rungs; a single bar is behind",
        primitives=shrunk(
            0.91,
            *mirrored(rod(BODY, (0.34, 0.32, -0.74), (0.02, 0.20, 0.70), 0.055)),
            *mirrored(rod(BODY, (-0.34, 0.32, -0.74), (-0.02, 0.20, 0.70), 0.045)),
            Primitive("box", BODY, (0, 0, 0.72), (0.13, 0.24, 0.05), rounding=0.02),
            *(
                Primitive("box", PART, (0.02 + 0.32 * s, 0, 0.70 - 1.44 * s), (0.09, 0.20 + 0.12 * s, 0.035))
                for s in (0.2, 0.38, 0.56, 0.74, 0.92)
            ),
            rod("metal", (-0.22, -0.27, -0.22), (-0.22, 0.27, -0.22), 0.035),
            *mirrored(Primitive("box", TRIM, (0.34, 0.32, -0.74), (0.08, 0.08, 0.06), rounding=0.02)),
            *mirrored(Primitive("box", TRIM, (-0.34, 0.32, -0.74), (0.08, 0.08, 0.06), rounding=0.02)),
        ),
    ),
    "bucket": Kind(
        part=("handle", "metal"),
        trim=("label", "paper"),
        front="the label",
        primitives=[
            Primitive("cone", BODY, (0, 0, -0.22), (0.34, 0.42, 0.50)),
            Primitive("cone", BODY, (0, 0, -0.12), (0.31, 0.42, 0.47), carve=True),
            ring(BODY, (0, 0, 0.20), 0.50, 0.05),
            Primitive("cylinder", "glass", (0, 0, 0.0), (0.45, 0.05, 0)),
            *mirrored(rod(PART, (0, 0.54, 0.20), (0, 0.47, 0.48), 0.045)),
            *mirrored(rod(PART, (0, 0.47, 0.48), (0, 0.28, 0.68), 0.045)),
            rod(PART, (0, -0.28, 0.68), (0, 0.28, 0.68), 0.045),
            *mirrored(ball(PART, (0, 0.47, 0.48), 0.045)),
            *mirrored(ball(PART, (0, 0.28, 0.68), 0.045)),
            *mirrored(ball("dark", (0, 0.53, 0.18), 0.08)),
            Primitive("box", TRIM, (0.395, 0, -0.20), (0.045, 0.16, 0.14), turn_deg=(0, 10, 0)),
        ],
    ),
}
"""By the word that captions use."""
