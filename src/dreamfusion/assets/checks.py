"""What a mesh must be before compiled code takes it: libraries and kernels read faces and numbers unasked."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dreamfusion.errors import DreamFusionError

MAX_COORDINATE, MIN_EXTENT = 1e6, 1e-6
"""How far from the origin a vertex may lie and how large a mesh must be, in world units: float32 squares beyond it
overflow, and sizes below it vanish."""


def check_triangles(vertices: NDArray[np.floating], faces: NDArray[np.integer], name: object) -> None:
    """Raise `DreamFusionError`, naming the mesh, unless vertices [V, 3] and faces [F, 3] can be computed with.

    That is: there are faces, of vertices that exist and are finite, neither far out nor all at one place or on a line.
    """
    if len(faces) == 0 or len(vertices) == 0:
        raise DreamFusionError(f"{name} holds no triangles: export it again, as triangles.")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise DreamFusionError(f"{name} has faces of vertices that are not there: export it again.")
    used = vertices[np.unique(faces)].astype(np.float64)
    if not np.isfinite(used).all():
        raise DreamFusionError(f"{name} has vertices that are no finite numbers: repair or export it again.")
    if np.abs(used).max() > MAX_COORDINATE:
        raise DreamFusionError(f"{name} reaches {np.abs(used).max():.1e} units from the origin: scale it to about 1.")
    size = float(np.ptp(used, axis=0).max())
    if size < MIN_EXTENT:
        raise DreamFusionError(f"{name} is only {size:.1e} units large: scale it to about 1.")
    corners = vertices[faces].astype(np.float64)
    across = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    if across.max() < 1e-10 * size**2:
        raise DreamFusionError(f"{name} has no faces with an area: all of its triangles are points or lines.")
