"""Textures: a mesh cut open and laid flat (UV unwrapping), and a field's colours baked into the picture it lies on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from dreamfusion.assets.checks import check_triangles
from dreamfusion.assets.mesh import Faces, Floats, Mesh
from dreamfusion.errors import DreamFusionError
from dreamfusion.kernels.rasterize import Fragments, interpolate, rasterize

MIN_TEXTURE_SIZE, MAX_TEXTURE_SIZE = 64, 4096

_CHART_SHARE = 1 / 20  # Of the surface, at most; growing charts without a bound takes xatlas four times as long.
_PADDING_SHARE = 1 / 32
"""Of the side, between charts, as xatlas is asked for it; it packs loosely, and a 60th of the picture is left. A viewer
that shrinks the picture sixteenfold, as for an object 128 pixels high, then still mixes a chart with its own colour."""
_PACKED_AT = 512
"""Side of the picture in which charts are laid out, at most: half the work of 1024, and as dense; uv have no grid."""
_CHUNK = 1 << 20  # Texels looked at together.

Colors = Callable[[Tensor], Tensor]
"""Anything that maps points [N, 3] to display-referred colours [N, 3] in [0, 1]."""


def can_unwrap() -> bool:
    """Return whether xatlas is installed; it has no wheels for ARM on Linux."""
    return find_spec("xatlas") is not None


def require_unwrapping() -> None:
    """Raise `DreamFusionError` if xatlas, which textures need, is not installed."""
    if not can_unwrap():
        raise DreamFusionError("A texture needs xatlas: pip install xatlas (on ARM Linux this takes a C++ compiler).")


def check_texture_size(size: int) -> None:
    """Raise `DreamFusionError` if a texture cannot have this side in texels."""
    if not MIN_TEXTURE_SIZE <= size <= MAX_TEXTURE_SIZE:
        raise DreamFusionError(
            f"--texture-size must be from {MIN_TEXTURE_SIZE} to {MAX_TEXTURE_SIZE} texels (given: {size})."
        )


def texture_mesh(mesh: Mesh, colors: Colors, size: int, *, device: torch.device | str = "cpu") -> Mesh:
    """Return the mesh with a texture of ``size`` x ``size`` texels; see `unwrap` and `bake`."""
    return bake(unwrap(mesh, size), colors, size, device=device)


def unwrap(mesh: Mesh, size: int) -> Mesh:
    """Return the mesh with ``uv``, its charts a 60th of the picture of side ``size`` apart.

    Vertices at the seams are doubled, with equal normals, so the surface still looks smooth.
    Raises `DreamFusionError` if xatlas is missing, the size out of range, or the mesh cannot be computed with.
    """
    check_texture_size(size)
    check_triangles(mesh.vertices, mesh.faces, "The mesh")
    require_unwrapping()
    import xatlas

    corners = mesh.vertices[mesh.faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1).sum() / 2
    charts, packing = xatlas.ChartOptions(), xatlas.PackOptions()
    charts.max_chart_area = float(area) * _CHART_SHARE
    packing.resolution = min(size, _PACKED_AT)
    packing.padding = max(2, round(packing.resolution * _PADDING_SHARE))
    atlas = xatlas.Atlas()
    atlas.add_mesh(mesh.vertices, mesh.faces.astype(np.uint32))
    atlas.generate(charts, packing)
    source, faces, uv = atlas[0]
    # xatlas only comes near to the asked side, and its pictures need not be square: charts must keep their shape.
    uv = uv * np.array([atlas.width, atlas.height], dtype=np.float32) / max(atlas.width, atlas.height)
    return Mesh(
        vertices=mesh.vertices[source],
        faces=faces.astype(np.int64),
        normals=mesh.normals[source],
        colors=mesh.colors[source],
        uv=uv.astype(np.float32),
    )


def bake(mesh: Mesh, colors: Colors, size: int, *, device: torch.device | str = "cpu") -> Mesh:
    """Return an unwrapped mesh with its texture: ``colors`` at the surface point of every texel.

    Texels between the charts take the colour of the nearest one within, so that no seam shows when a viewer
    interpolates or shrinks the picture.
    """
    if mesh.uv is None:
        raise ValueError("bake needs a mesh with uv: unwrap it first")
    picture = in_texture(mesh.uv, mesh.faces, size)
    rows, columns = (picture.face[0] >= 0).nonzero(as_tuple=True)
    points = interpolate(torch.from_numpy(mesh.vertices)[None], torch.from_numpy(mesh.faces).int(), picture)[0]
    texture = np.zeros((size, size, 3), np.uint8)
    empty = np.ones((size, size), bool)
    for row, column in zip(rows.split(_CHUNK), columns.split(_CHUNK), strict=True):
        with torch.no_grad():
            found = colors(points[row, column].to(device))
        found = torch.nan_to_num(found.float()).clamp(0.0, 1.0) * 255.0
        texture[row, column] = found.round().to(torch.uint8).cpu().numpy()
        empty[row, column] = False
    return replace(mesh, texture=bleed(texture, empty))


def bleed(picture: NDArray[np.uint8], empty: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return a picture [H, W, C] whose texels that are ``empty`` [H, W] have the colour of the nearest that is not."""
    if empty.all():
        return picture
    nearest = distance_transform_edt(empty, return_distances=False, return_indices=True)
    return picture[nearest[0], nearest[1]]


def in_texture(uv: Floats, faces: Faces, size: int) -> Fragments:
    """Return which face [F, 3] each texel of a picture of side ``size`` belongs to, and where in it its centre lies.

    ``uv`` [V, 2] has v upwards, and row 0 is the picture's upper edge, where v is 1: the mesh is drawn flat.
    """
    u, v = torch.from_numpy(uv).float().unbind(-1)
    clip = torch.stack([2 * u - 1, 1 - 2 * v, torch.full_like(u, 0.5), torch.ones_like(u)], dim=-1)
    return rasterize(clip[None], torch.from_numpy(faces).int(), size, size)
