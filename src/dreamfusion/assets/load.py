"""Meshes from files: any closed mesh as the start of a refinement."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import trimesh

from dreamfusion.assets.checks import check_triangles
from dreamfusion.assets.formats import from_file
from dreamfusion.assets.gltf import read_glb
from dreamfusion.assets.mesh import Mesh, vertex_normals
from dreamfusion.errors import DreamFusionError

MAX_FACES = 2_000_000
_MIN_VOLUME = 1e-6  # of the cube around it
_RADIUS = 0.8  # what the embedded prior's pictures are made for


def load_mesh(path: Path | str) -> Mesh:
    """Read a closed mesh (GLB, OBJ, PLY, STL and whatever else trimesh reads) into the world of the package.

    Its axes are those that `assets.formats` writes (`from_file`). A mesh that does not fit into the unit sphere, or is
    smaller than a quarter of it, is centred and scaled to a radius of 0.8. Colours are left behind (white). Raises
    DreamFusionError if the file cannot be read, cannot be computed with (see `check_triangles`), or is no closed
    surface with an inside of at most `MAX_FACES`.
    """
    path = Path(path)
    if not path.is_file():
        raise DreamFusionError(f"{path} is no file: give a mesh such as mesh.glb.")
    if path.suffix.lower() == ".glb":
        read_glb(path)  # says what cannot be read, and why, which trimesh passes over
    try:
        body = trimesh.load(path, force="mesh", process=False)
    except Exception as error:  # every format has errors of its own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DreamFusionError(f"{path} cannot be read as a mesh ({reason:.120}).") from None
    if not isinstance(body, trimesh.Trimesh):
        raise DreamFusionError(f"{path} holds no triangles: give a closed triangle mesh.")
    if len(body.faces) > MAX_FACES:
        raise DreamFusionError(f"{path} has {len(body.faces):,} faces: simplify it to at most {MAX_FACES:,}.")
    check_triangles(np.asarray(body.vertices), np.asarray(body.faces), path)
    body.merge_vertices(merge_tex=True, merge_norm=True)  # seams of texture and normals are no holes
    body.update_faces(body.nondegenerate_faces())
    if not body.is_watertight:
        raise DreamFusionError(
            f"{path} is not closed: an inside is needed, so every edge must join two faces. Close its holes first, for "
            "example with a voxel remesh."
        )
    if not body.is_winding_consistent:
        raise DreamFusionError(f"{path} has faces that are turned inside out: make its normals consistent first.")
    with np.errstate(divide="ignore", invalid="ignore"):  # of a flat body trimesh also asks for the centre
        volume = float(body.volume)
    if not abs(volume) > _MIN_VOLUME * float(body.extents.max()) ** 3:
        raise DreamFusionError(f"{path} is flat: a mesh with an inside is needed.")
    if volume < 0:
        body.invert()
    vertices = from_file(np.asarray(body.vertices, dtype=np.float32), path)
    radius = np.linalg.norm(vertices, axis=1).max()
    if not 0.25 <= radius <= 1.0:
        vertices = vertices - (vertices.min(0) + vertices.max(0)) / 2
        vertices *= _RADIUS / np.linalg.norm(vertices, axis=1).max()
    faces = np.asarray(body.faces, dtype=np.int64)
    return Mesh(vertices, faces, vertex_normals(vertices, faces), np.ones_like(vertices))
