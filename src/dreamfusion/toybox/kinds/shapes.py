"""What a kind of toy is made of: signed-distance primitives, and the materials that they have."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

BODY, PART, ACCENT, TRIM = "body", "part", "accent", "trim"
"""Surfaces that captions paint: the toy's colour, those of its first and second named part (`PART`, `TRIM`), and the
second colour of a pattern."""

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

SURFACES = (*MATERIALS, TRIM)
"""All that a traced pixel can show of one toy, by number: the materials, then the second named part."""

Triple = tuple[float, float, float]


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
    center: Triple
    size: Triple
    turn_deg: Triple = (0.0, 0.0, 0.0)
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

    def height(self) -> tuple[float, float]:
        """Return its lowest and its highest z."""
        (x, y, z), (a, b, c) = self.rotation()[2], self.size
        flat = math.sqrt(max(0.0, 1 - z * z))
        if self.shape == "ellipsoid":
            up = down = math.sqrt((a * x) ** 2 + (b * y) ** 2 + (c * z) ** 2)
        elif self.shape == "torus":
            up = down = a * flat + b
        elif self.shape == "cylinder":
            up = down = a * flat + b * abs(z)
        elif self.shape == "cone":
            up, down = (max(a * flat - s * b * z, c * flat + s * b * z) for s in (1, -1))
        else:
            up = down = a * abs(x) + b * abs(y) + c * abs(z)
        return self.center[2] - down, self.center[2] + up


@dataclass(frozen=True)
class Kind:
    """A kind of toy.

    ``part`` and ``trim`` are its two named parts: a noun, plural where the toy has several of them, and what that is
    made of unless a caption says otherwise (a key of `MATERIALS`; `BODY`: the toy's own colour). ``front`` tells what
    only the front shows. Other toys can stand on a toy with a ``seat``, at that x and z. ``many``: the word itself is a
    plural, such as "glasses".
    """

    part: tuple[str, str]
    trim: tuple[str, str]
    front: str
    primitives: list[Primitive]
    seat: tuple[float, float] | None = None
    many: bool = False

    @property
    def height(self) -> tuple[float, float]:
        """Its lowest and highest z; a little beyond the toy where something is carved away."""
        ends = [primitive.height() for primitive in self.primitives if not primitive.carve]
        return min(low for low, _ in ends), max(high for _, high in ends)


def mirrored(*parts: Primitive) -> list[Primitive]:
    """Return primitives and their mirror images in y."""
    images = []
    for part in parts:
        x, y, z = part.center
        turn_x, turn_y, turn_z = part.turn_deg
        images += [part, replace(part, center=(x, -y, z), turn_deg=(-turn_x, turn_y, -turn_z))]
    return images


def tilted(angle_deg: float, *parts: Primitive) -> list[Primitive]:
    """Return primitives turned together about the y axis, z towards x; of those that are not turned about z."""
    cos, sin = math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))
    turned = []
    for part in parts:
        (x, y, z), (turn_x, turn_y, turn_z) = part.center, part.turn_deg
        assert turn_z == 0, part
        center = (cos * x + sin * z, y, cos * z - sin * x)
        turned.append(replace(part, center=center, turn_deg=(turn_x, turn_y + angle_deg, 0.0)))
    return turned


def shrunk(factor: float, *parts: Primitive) -> list[Primitive]:
    """Return primitives made smaller together, about the origin."""

    def times(vector: Triple) -> Triple:
        return (factor * vector[0], factor * vector[1], factor * vector[2])

    return [
        replace(part, center=times(part.center), size=times(part.size), rounding=factor * part.rounding)
        for part in parts
    ]


def ball(material: str, center: Triple, radius: float) -> Primitive:
    """Return a ball."""
    return Primitive("ellipsoid", material, center, (radius, radius, radius))


def rod(material: str, start: Triple, end: Triple, radius: float) -> Primitive:
    """Return a cylinder from one point to another."""
    along = [b - a for a, b in zip(start, end, strict=True)]
    length = math.sqrt(sum(value**2 for value in along))
    x, y, z = (value / length for value in along)
    middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2, (start[2] + end[2]) / 2)
    turn = (-math.degrees(math.asin(y)), math.degrees(math.atan2(x, z)), 0.0)
    return Primitive("cylinder", material, middle, (radius, length / 2, 0), turn_deg=turn)


def ring(material: str, center: Triple, radius: float, tube: float, axis: str = "z") -> Primitive:
    """Return a torus about an axis: "x" (seen round from the front), "y" (from the side) or "z" (from above)."""
    turn = {"x": (0.0, 90.0, 0.0), "y": (90.0, 0.0, 0.0), "z": (0.0, 0.0, 0.0)}[axis]
    return Primitive("torus", material, center, (radius, tube, 0), turn_deg=turn)


def disc(material: str, center: Triple, radius: float, half: float, axis: str = "x") -> Primitive:
    """Return a flat cylinder of a half thickness about an axis."""
    turn = {"x": (0.0, 90.0, 0.0), "y": (90.0, 0.0, 0.0), "z": (0.0, 0.0, 0.0)}[axis]
    return Primitive("cylinder", material, center, (radius, half, 0), turn_deg=turn)
