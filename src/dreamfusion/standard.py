"""What several places share: how finished objects are looked at, how fine their meshes are, where the prior lies.

They stand here once, below everything else, because the configuration must not import torch to know them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

Format = Literal["glb", "obj", "ply", "stl", "usdz"]
"""The formats of mesh files, by the suffix."""

Pivot = Literal["base", "center"]
"""Where a mesh may have its origin."""

EMBEDDED_PRIOR = Path(__file__).parent / "toybox" / "prior"
"""Folder of the prior that ships with the package."""

ORBIT_RADIUS = 2.7
"""Distance of the cameras of finished pictures from the centre, in world units."""

ORBIT_FOCAL = 1.35
"""Their focal length, in image widths: the unit sphere fills the picture."""

ORBIT_ELEVATION_DEG = 15.0
"""How far above the horizon they are."""

AZIMUTHS_DEG = (0.0, 45.0, 90.0, 135.0, 180.0, -135.0, -90.0, -45.0)
"""Eight views all around, from the front on."""

MESH_RESOLUTION = 128
"""Samples per side of the grid in which the surface of a volume is found."""

MESH_FACES = 20_000
"""Most faces of a finished mesh."""

TEXTURE_SIZE = 1024
"""Side of a finished texture, in texels."""

LOADING = "dreamfusion.loading"
"""The logger that is told, at the level INFO, what of a model is being fetched or read."""
