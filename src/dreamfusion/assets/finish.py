"""The last touch before a mesh is written: where its origin is, how tall it is, and what the file says about it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dreamfusion.assets.mesh import Mesh
from dreamfusion.standard import Pivot


@dataclass(frozen=True)
class About:
    """What a file says of its object beside the shape.

    ``name`` is that of node, mesh and material; ``roughness`` in [0, 1] and ``reflectance``, the share of light that is
    mirrored at right angles (0: a matte material), those of its surface (see `surface_of`); ``licence`` and ``extras``
    are written where a format has a place for them.
    """

    name: str = "object"
    roughness: float = 1.0
    reflectance: float = 0.0
    licence: str = ""
    extras: dict[str, Any] = field(default_factory=dict)

    @property
    def identifier(self) -> str:
        """The name in letters, digits and underscores alone, for formats that take no others."""
        word = re.sub(r"\W+", "_", self.name, flags=re.ASCII).strip("_")
        return word if re.match(r"[A-Za-z]", word) else f"object_{word}".rstrip("_")


def surface_of(specular: float, shininess: float) -> tuple[float, float]:
    """Return roughness and reflectance of the microfacet surface whose highlight is a Phong one of these numbers.

    A Phong lobe of exponent n around the mirrored ray is as wide as one of 4 n around the normal, whose width is
    alpha^2 = 2 / (4 n + 2), and alpha is roughness squared. At its peak the highlight sends back F / (4 alpha^2) of a
    light that a white diffuse surface would send back whole; that is the Phong weight if F = 4 alpha^2 specular, at
    most 1.
    """
    if specular <= 0:
        return 1.0, 0.0
    squared = 2.0 / (4.0 * shininess + 2.0)
    return squared**0.25, min(4.0 * squared * specular, 1.0)


def placed(mesh: Mesh, pivot: Pivot | None = None, height: float | None = None) -> Mesh:
    """Return the mesh with its origin at the middle of its base or box, and of this height (world units along z).

    Without a pivot the origin stays what it was; without a height, so does the size.
    """
    vertices = mesh.vertices.astype(np.float64)
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    if pivot is not None:
        middle = (low + high) / 2
        vertices -= [middle[0], middle[1], low[2] if pivot == "base" else middle[2]]
    if height is not None:
        vertices *= height / (high[2] - low[2])
    return replace(mesh, vertices=vertices.astype(np.float32))


def texels_at(size: int, level: int, smallest: int) -> int:
    """Return the side of a texture for a level of detail: half the one before, and at least ``smallest``."""
    return max(smallest, size >> level)


def faces_at(faces: int, level: int) -> int:
    """Return the face budget of a level of detail: a quarter of the one before, so that edges are twice as long."""
    return max(4, math.ceil(faces / 4**level))
