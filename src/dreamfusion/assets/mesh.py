"""Meshes: the closed surface of a density field, reduced to a budget of faces.

Everything here is in the world of the package (z up, front +x) and in display-referred colours; files of other
conventions are written by `dreamfusion.assets.formats`, textures made by `dreamfusion.assets.texture`.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, Protocol

import fast_simplification
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage import measure
from torch import Tensor

from dreamfusion.assets.checks import check_triangles
from dreamfusion.errors import DreamFusionError
from dreamfusion.standard import MESH_RESOLUTION

Floats = NDArray[np.float32]
Faces = NDArray[np.int64]

MIN_SHARE = 0.02
"""Pieces of less than this share of the largest one's volume are dropped from meshes."""

_CHUNK = 1 << 17  # Points evaluated at once.


class ColoredDensity(Protocol):
    """What a mesh is made from: density [N] (per world unit) and albedo [N, 3] in [0, 1] at points [N, 3]."""

    def density(self, x: Tensor) -> Tensor:
        """Return the density at points [N, 3]."""

    def albedo(self, x: Tensor) -> Tensor:
        """Return the albedo at points [N, 3]."""


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh, z up with its front facing +x.

    ``vertices`` and unit ``normals`` [V, 3], ``faces`` [F, 3] wound counter-clockwise seen from outside, ``colors``
    [V, 3] display-referred (sRGB) in [0, 1]. With a texture, ``uv`` [V, 2] in [0, 1] say where in the picture
    ``texture`` [H, W, 3] (sRGB) a vertex lies, u to the right and v upwards from the lower left corner. With a
    ``normal_map`` [H, W, 3], ``tangents`` [V, 4] say how its directions lie in space (see `assets.normal_map`).
    """

    vertices: Floats
    faces: Faces
    normals: Floats
    colors: Floats
    uv: Floats | None = None
    texture: NDArray[np.uint8] | None = None
    tangents: Floats | None = None
    normal_map: NDArray[np.uint8] | None = None


def extract_mesh(
    field: ColoredDensity,
    resolution: int = MESH_RESOLUTION,
    *,
    bound: float = 1.0,
    level: float | None = None,
    smoothing: float = 0.0,
    min_share: float = MIN_SHARE,
    max_faces: int | None = None,
    device: torch.device | str | None = None,
) -> Mesh:
    """Return the surface of a field within the ball of radius ``bound`` (world units), by marching cubes.

    ``resolution`` is the number of samples along each axis. ``level`` is the density at the surface; by default it is
    chosen by `surface_level`; ``smoothing`` is that of `surface_opacity`. Pieces with less than ``min_share`` of the
    volume of the largest one are dropped, closed hollows are filled, and the mesh is always closed. With ``max_faces``
    it is reduced by `decimate`. The field is evaluated on ``device``, by default where its parameters are.
    Raises `DreamFusionError` if the scene is empty or full.
    """
    device = _device_of(field) if device is None else torch.device(device)
    density = sample_density(field, resolution, bound=bound, device=device)
    spacing = 2.0 * bound / (resolution - 1)
    values = surface_opacity(density, spacing, level=level, smoothing=smoothing)
    inside = values > 0.5
    _check_extent(inside)
    solid = solid_part(inside, min_share)
    values[solid & ~inside] = 1.0
    values[~solid & inside] = 0.0
    padded = np.pad(values, 1)
    # "ascent" although the inside is denser: scikit-image speaks of axes in the order z, y, x, a mirror image of ours.
    vertices, faces, _, _ = measure.marching_cubes(padded, 0.5, gradient_direction="ascent", allow_degenerate=False)
    vertices = ((vertices - 1.0) * spacing - bound).astype(np.float32)
    faces = faces.astype(np.int64)
    if max_faces is not None:
        vertices, faces = decimate(vertices, faces, max_faces)
    return Mesh(vertices, faces, vertex_normals(vertices, faces), _sample_albedo(field, vertices, device))


def sample_density(
    field: ColoredDensity, resolution: int, *, bound: float = 1.0, device: torch.device | str = "cpu"
) -> Floats:
    """Return the density on a regular grid [R, R, R] (indexed x, y, z) over the cube of half side ``bound``.

    It is zero outside the ball of radius ``bound``, where nothing is rendered, and where the field is not finite.
    """
    axis = torch.linspace(-bound, bound, resolution, device=device)
    slabs = []
    for x in axis.split(max(1, _CHUNK // resolution**2)):
        points = torch.cartesian_prod(x, axis, axis)
        inside = points.norm(dim=1) < bound
        density = torch.zeros(len(points), device=device)
        density[inside] = _evaluate(field.density, points[inside]).nan_to_num(nan=0.0, neginf=0.0)
        slabs.append(density)
    return torch.cat(slabs).view(resolution, resolution, resolution).cpu().numpy()


def surface_opacity(density: Floats, spacing: float, *, level: float | None = None, smoothing: float = 0.0) -> Floats:
    """Return numbers that are one half at the surface, more inside, for densities [R, R, R] ``spacing`` units apart.

    They are the opacity of a length that is half opaque at ``level``, by default that of `surface_level`. The density
    itself will not do: where it jumps to a high value, its surface would lie next to the sample outside, while opacity
    saturates on both sides. ``smoothing`` is the deviation, in world units, of a Gaussian that they are blurred with:
    surfaces that are distilled from small pictures are rough below the size of a pixel. A blur alone makes round and
    thin things smaller, so the surface is put where its outlines fit those of the rendered volume best.
    """
    level = surface_level(density, spacing) if level is None else level
    values = 1.0 - np.exp2(-density / np.float32(level))
    if smoothing <= 0:
        return values
    values = gaussian_filter(values, smoothing / spacing)
    candidates = np.linspace(0.05, 0.95, num=91)
    overlap = _overlaps(values, density, spacing, candidates)
    best = candidates[np.lexsort((np.abs(candidates - 0.5), -overlap))[0]]
    return values + np.float32(0.5 - best)


def surface_level(density: Floats, spacing: float) -> float:
    """Return the density to put the surface at, for samples [R, R, R] that are ``spacing`` world units apart.

    A fixed number fails: one scene peaks at a density of 20, another at 2000. The surface should be where the renderer
    shows one, so candidates are judged by their outlines (`_overlaps`). Many levels can agree equally well, when edges
    are sharp; of those within 0.01 of the best overlap, the one nearest to ln 2 per ``spacing`` is taken, the density
    at which one step of a ray becomes half opaque.
    Raises `DreamFusionError` if no ray becomes half opaque.
    """
    # A ray of N samples is half opaque only if one of them has at least an N-th of ln 2, so none lies lower.
    lowest = math.log(2.0) / (spacing * len(density))
    candidates = np.geomspace(lowest, min(max(float(density.max()), lowest), 1e30), num=96)[:-1]
    overlap = _overlaps(density, density, spacing, candidates)
    good = candidates[overlap >= overlap.max() - 0.01]
    return float(good[np.abs(np.log(good * spacing / math.log(2.0))).argmin()])


def decimate(vertices: Floats, faces: Faces, max_faces: int) -> tuple[Floats, Faces]:
    """Return a closed surface, vertices [V, 3] and faces [F, 3], reduced to about ``max_faces`` faces and no more.

    Edges collapse in the order of their quadric error (Garland and Heckbert 1997). That may leave vertices on top of
    each other, which are merged, thin parts of two faces back to back, which are dropped, or more than two faces at
    one edge; then gentler and harder reductions are tried. If none stays closed (seen on 2 of 120 surfaces, all but
    torn by noise), the surface is returned as it was.
    Raises `DreamFusionError` if it cannot be computed with (see `check_triangles`).
    """
    check_triangles(vertices, faces, "The mesh")
    if len(faces) <= max_faces:
        return vertices, faces
    for share, aggressiveness in itertools.product((1.0, 0.97, 0.94), (5, 6, 4, 7)):
        target = int(share * max_faces)
        reduced = fast_simplification.simplify(vertices, faces, target_count=target, agg=aggressiveness)
        points, triangles = _without_flat_parts(reduced[0].astype(np.float32), reduced[1].astype(np.int64))
        if 0 < len(triangles) <= max_faces and _is_closed(triangles):
            return points, triangles
    return vertices, faces


def reduced(mesh: Mesh, max_faces: int, field: ColoredDensity, device: torch.device | str) -> Mesh:
    """Return a mesh without texture with at most about ``max_faces`` faces (see `decimate`), coloured by its field."""
    vertices, faces = decimate(mesh.vertices, mesh.faces, max_faces)
    if faces is mesh.faces:
        return mesh
    return Mesh(vertices, faces, vertex_normals(vertices, faces), _sample_albedo(field, vertices, device))


def vertex_normals(vertices: Floats, faces: Faces) -> Floats:
    """Return unit normals [V, 3], the mean of the adjacent faces' weighted by their area."""
    corners = vertices[faces]
    by_area = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.zeros_like(vertices)
    for corner in range(3):
        np.add.at(normals, faces[:, corner], by_area)
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    up = np.array([0.0, 0.0, 1.0], dtype=np.float32)
    return np.where(lengths > 0, normals / np.maximum(lengths, 1e-30), up).astype(np.float32)


def _without_flat_parts(vertices: Floats, faces: Faces) -> tuple[Floats, Faces]:
    """Merge vertices at one place, drop faces that become a line by it and pairs of faces back to back."""
    vertices, index = np.unique(vertices, axis=0, return_inverse=True)
    faces = index.ravel()[faces]
    faces = faces[(faces != np.roll(faces, 1, axis=1)).all(axis=1)]
    _, same, counts = np.unique(np.sort(faces, axis=1), axis=0, return_inverse=True, return_counts=True)
    used, index = np.unique(faces[counts[same.ravel()] == 1], return_inverse=True)
    return vertices[used], index.reshape(-1, 3)


def _is_closed(faces: Faces) -> bool:
    """Return whether every edge belongs to two faces that run along it in opposite directions."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    there, once = np.unique(edges, axis=0, return_counts=True)
    return bool((once == 1).all()) and np.array_equal(there, np.unique(there[:, ::-1], axis=0))


def _device_of(field: ColoredDensity) -> torch.device:
    parameter = next(field.parameters(), None) if isinstance(field, torch.nn.Module) else None
    return torch.device("cpu") if parameter is None else parameter.device


def _evaluate(function: Any, points: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([function(chunk).float() for chunk in points.split(_CHUNK)])


def _sample_albedo(field: ColoredDensity, vertices: Floats, device: torch.device | str) -> Floats:
    colors = _evaluate(field.albedo, torch.from_numpy(vertices).to(device))
    return torch.nan_to_num(colors).clamp(0.0, 1.0).cpu().numpy()


def _overlaps(values: Floats, density: Floats, spacing: float, candidates: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how well the outlines of values [R, R, R] above each candidate [C] fit those of the rendered density.

    An outline is what is covered when looking along an axis: by a value above the candidate, and by an accumulated
    opacity above one half. The fit is the intersection over union of the pixels of all three axes.
    Raises `DreamFusionError` if no ray becomes half opaque.
    """
    opaque = np.stack([density.sum(axis=axis) * spacing > math.log(2.0) for axis in range(3)])
    if not opaque.any():
        raise _empty()
    peaks = np.stack([values.max(axis=axis) for axis in range(3)])
    outlines = (peaks > candidate for candidate in candidates)
    return np.array([(opaque & outline).sum() / (opaque | outline).sum() for outline in outlines])


def _check_extent(inside: NDArray[np.bool_]) -> None:
    """Raise `DreamFusionError` if nothing is inside, or nearly all of the outer tenth of the ball is."""
    if not inside.any():
        raise _empty()
    axis = np.linspace(-1.0, 1.0, len(inside)) ** 2
    radius = np.sqrt(axis[:, None, None] + axis[None, :, None] + axis[None, None, :])
    shell = inside[(radius > 0.9) & (radius < 1.0)]
    if shell.mean() > 0.9:
        raise DreamFusionError(
            "The scene is full: its surface is the edge of the ball that is rendered, so there is no object to see. "
            "Try another --seed, or a higher weight of the opacity loss."
        )


def _empty() -> DreamFusionError:
    return DreamFusionError(
        "The scene is empty: nothing in it is dense enough to be seen. Try more --steps or another --seed."
    )


def solid_part(inside: NDArray[np.bool_], min_share: float = MIN_SHARE) -> NDArray[np.bool_]:
    """Return ``inside`` [R, R, R] without pieces below ``min_share`` of the largest, its closed hollows filled."""
    pieces = measure.label(inside, connectivity=3)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    kept = (sizes >= min_share * sizes.max())[pieces] & inside
    # Padded, the outside is one region however far the object reaches, and its label is that of the corner.
    regions = measure.label(np.pad(~kept, 1, constant_values=True), connectivity=1)
    return (regions != regions[0, 0, 0])[1:-1, 1:-1, 1:-1]


def shared(values: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Return the different rows of values [V, C] in the order in which they come, and which of them each row is."""
    _, first, index = np.unique(values, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return values[first[order]], rank[index.ravel()]
