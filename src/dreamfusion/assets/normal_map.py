"""Normal maps: what a dense mesh's surface does within the faces of a light one, baked into a picture.

Tangent space as glTF has it: red is the tangent, along which u grows, green the bitangent, along which v grows upwards
in the picture, blue the normal. The tangents are written beside the map, so that every program reads the same.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from dreamfusion.assets.mesh import Floats, Mesh
from dreamfusion.assets.texture import bleed, in_texture
from dreamfusion.kernels.rasterize import interpolate

_NEIGHBOURS = 4


def with_normal_map(mesh: Mesh, dense: Mesh, size: int) -> Mesh:
    """Return an unwrapped mesh with ``tangents`` and a ``normal_map`` [size, size, 3] of the surface of ``dense``.

    At every texel the dense normal is the mean of those of the nearest dense vertices on the same side, weighted by
    their nearness; where there is none, the map says that the surface is as it seems.
    """
    if mesh.uv is None:
        raise ValueError("a normal map needs a mesh with uv: unwrap it first")
    tangents = vertex_tangents(mesh)
    picture = in_texture(mesh.uv, mesh.faces, size)
    inside = picture.face[0] >= 0
    attributes = np.concatenate([mesh.vertices, mesh.normals, tangents], axis=1)
    spread = interpolate(torch.from_numpy(attributes)[None], torch.from_numpy(mesh.faces).int(), picture)[0]
    texels = spread[inside].numpy()
    points, normal, along, side = texels[:, :3], _unit(texels[:, 3:6]), texels[:, 6:9], np.sign(texels[:, 9:])
    along = _unit(along - normal * (along * normal).sum(1, keepdims=True))
    across = np.cross(normal, along) * side
    wanted = _nearest_normals(dense, points, normal)
    local = np.stack([(wanted * axis).sum(1) for axis in (along, across, normal)], axis=1)
    values = np.zeros((size, size, 3), np.uint8)
    values[inside.numpy()] = np.round((local * 0.5 + 0.5) * 255.0).clip(0, 255)
    return replace(mesh, tangents=tangents, normal_map=bleed(values, ~inside.numpy()))


def vertex_tangents(mesh: Mesh) -> Floats:
    """Return [V, 4]: the unit direction in which u grows, at right angles to the normal, and the side of the bitangent.

    The bitangent, in which v grows, is the cross product of normal and tangent times the fourth number, 1 or -1.
    """
    assert mesh.uv is not None
    corners, uv = mesh.vertices[mesh.faces].astype(np.float64), mesh.uv[mesh.faces].astype(np.float64)
    (a, b), (p, q) = ((x[:, 1] - x[:, 0], x[:, 2] - x[:, 0]) for x in (corners, uv))
    area = p[:, :1] * q[:, 1:] - p[:, 1:] * q[:, :1]
    # Times the area in the picture: larger faces count more, and flat ones not at all.
    directions = np.sign(area) * (a * q[:, 1:] - b * p[:, 1:])
    turned = np.broadcast_to(np.abs(area) * np.sign(area), (len(area), 1))
    sums = np.zeros((len(mesh.vertices), 4))
    for corner in range(3):
        np.add.at(sums, mesh.faces[:, corner], np.concatenate([directions, turned], axis=1))
    normals = mesh.normals.astype(np.float64)
    flat = sums[:, :3] - normals * (sums[:, :3] * normals).sum(1, keepdims=True)
    helpless = np.linalg.norm(flat, axis=1) < 1e-12
    axis = np.eye(3)[np.abs(normals).argmin(axis=1)]
    flat[helpless] = np.cross(normals, axis)[helpless]
    return np.concatenate([_unit(flat), np.where(sums[:, 3:] < 0, -1.0, 1.0)], axis=1).astype(np.float32)


def _nearest_normals(dense: Mesh, points: Floats, normal: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return unit normals [N, 3] of the dense surface nearest to points [N, 3], looking about the way of ``normal``."""
    distance, index = cKDTree(dense.vertices).query(points, k=min(_NEIGHBOURS, len(dense.vertices)))
    distance, index = distance.reshape(len(points), -1), index.reshape(len(points), -1)
    found = dense.normals[index]
    weight = (np.einsum("nkc,nc->nk", found, normal) > 0) / (distance + 1e-4)
    mean = np.einsum("nk,nkc->nc", weight, found)
    return np.where(np.linalg.norm(mean, axis=1, keepdims=True) > 0, _unit(mean), normal)


def _unit(vectors: NDArray[np.floating]) -> NDArray[np.floating]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
