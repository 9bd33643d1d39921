"""Meshes from files: any closed mesh as the start of a refinement."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import trimesh

from dreamfusion.assets.formats import from_file
from dreamfusion.assets.mesh import Mesh, vertex_normals
from dreamfusion.errors import DreamFusionError

MAX_FACES = 2_000_000
_RADIUS = 0.8  # what the embedded prior's pictures are made for


def load_mesh(path: Path | str) -> Mesh:
    """Read a closed mesh (GLB, OBJ, PLY, STL and whatever else trimesh reads) into the world of the package.

    Its axes are those that `assets.formats` writes (`from_file`). A mesh that does not fit into the unit sphere, or is
    smaller than a quarter of it, is centred and scaled to a radius of 0.8. Colours are left behind (white). Raises
    DreamFusionError if the file cannot be read or is no closed surface of at most `MAX_FACES`.
    """
    path = Path(path)
    if not path.is_file():
        raise DreamFusionError(f"{path} is no file: give a mesh such as mesh.glb.")
    try:
        body = trimesh.load(path, force="mesh", process=False)
    except Exception as error:  # every format has errors of its own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DreamFusionError(f"{path} cannot be read as a mesh ({reason:.120}).") from None
    if not isinstance(body, trimesh.Trimesh) or len(body.faces) == 0:
        raise DreamFusionError(f"{path} holds no triangles: give a closed triangle mesh.")
    if len(body.faces) > MAX_FACES:
        raise DreamFusionError(f"{path} has {len(body.faces):,} faces: simplify it to at most {MAX_FACES:,}.")
    if not np.isfinite(body.vertices).all():
        raise DreamFusionError(f"{path} has vertices that are no finite numbers.")
    body.merge_vertices(merge_tex=True, merge_norm=True)  # seams of texture and normals are no holes
    body.update_faces(body.nondegenerate_faces())
    if not body.is_watertight:
        raise DreamFusionError(
            f"{path} is not closed: an inside is needed, so every edge must join two faces. Close its holes first, for "
            "example with a voxel remesh."
        )
    if not body.is_winding_consistent:
        raise DreamFusionError(f"{path} has faces that are turned inside out: make its normals consistent first.")
    if body.volume < 0:
        body.invert()
    vertices = from_file(np.asarray(body.vertices, dtype=np.float32), path)
    radius = np.linalg.norm(vertices, axis=1).max()
    if not 0.25 <= radius <= 1.0:
        vertices = vertices - (vertices.min(0) + vertices.max(0)) / 2
        vertices *= _RADIUS / np.linalg.norm(vertices, axis=1).max()
    faces = np.asarray(body.faces, dtype=np.int64)
    return Mesh(vertices, faces, vertex_normals(vertices, faces), np.ones_like(vertices))
