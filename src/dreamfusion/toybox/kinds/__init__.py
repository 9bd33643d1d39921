"""The kinds of toys: signed-distance primitives, what is painted, and which parts a caption may name.

Every toy lies inside a sphere of radius 0.9, stands upright (z up), faces +x, has something that only its front shows,
and is its own mirror image in y, so that ", side view" means one thing. Parts are large enough to be seen in a picture
of 64 pixels.

A kind is one entry of data in one of the files here. `KINDS` are those of the small world, which never change;
`ALL_KINDS` are those of the wide one, which begins with them.
"""

from __future__ import annotations

from dreamfusion.toybox.kinds.animals import ANIMALS
from dreamfusion.toybox.kinds.buildings import BUILDINGS
from dreamfusion.toybox.kinds.first import FIRST
from dreamfusion.toybox.kinds.furniture import FURNITURE
from dreamfusion.toybox.kinds.nature import NATURE
from dreamfusion.toybox.kinds.shapes import ACCENT, BODY, MATERIALS, PART, SURFACES, TRIM, Kind, Primitive
from dreamfusion.toybox.kinds.tools import TOOLS
from dreamfusion.toybox.kinds.vehicles import VEHICLES

KINDS: dict[str, Kind] = FIRST
"""The kinds of the small world, by the word that captions use."""

ALL_KINDS: dict[str, Kind] = {**FIRST, **FURNITURE, **VEHICLES, **ANIMALS, **NATURE, **BUILDINGS, **TOOLS}
"""All kinds, those of the small world first."""

__all__ = [
    "ACCENT",
    "ALL_KINDS",
    "BODY",
    "KINDS",
    "MATERIALS",
    "PART",
    "SURFACES",
    "TRIM",
    "Kind",
    "Primitive",
]
