"""Geometry against the truth: volume overlap, Chamfer distance and normal error of a scene and the toy it should be.

No other text-to-3D system can measure this, for none knows the truth; the toybox's shapes are exact. A scene may be
larger, smaller or off centre and still be right, so it is scored at its best scale and shift (no rotation: a front that
points sideways is wrong).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import trimesh
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import affine_transform
from scipy.spatial import cKDTree
from skimage import measure

from dreamfusion.assets.mesh import ColoredDensity, extract_mesh, sample_density, solid_part, surface_opacity
from dreamfusion.errors import DreamFusionError
from dreamfusion.toybox.render import signed_distance
from dreamfusion.toybox.world import Toy

RESOLUTION = 64
SCALES = tuple(float(s) for s in np.geomspace(0.75, 1.0 / 0.75, 13))
MAX_SHIFT = 0.3
"""World units along each axis."""
_POINTS = 10_000

Volume = NDArray[np.bool_]
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Alignment:
    """The best scale and shift (world units) of a scene's volume, x' = scale * x + shift, and their overlap (IoU)."""

    iou: float
    scale: float
    shift: tuple[float, float, float]


@dataclass(frozen=True)
class GeometryScore:
    """How near a scene's surface is to that of the toy it should be.

    ``iou`` and ``iou_unaligned``: volume intersection over union, with and without alignment. ``chamfer``: mean
    distance to the nearest point of the other surface, averaged over both directions, in world units.
    ``normal_error_deg``: mean angle between the normals of nearest points.
    """

    iou: float
    iou_unaligned: float
    scale: float
    chamfer: float
    normal_error_deg: float


def iou(a: Volume, b: Volume) -> float:
    """Return intersection over union; 0 if both are empty."""
    return float((a & b).sum() / max(1, (a | b).sum()))


def toy_volume(toy: Toy, resolution: int = RESOLUTION) -> Volume:
    """Return which samples of the cube [-1, 1]^3 lie inside a toy, [R, R, R] indexed x, y, z."""
    return toy_distances(toy, resolution) < 0


def toy_distances(toy: Toy, resolution: int = RESOLUTION) -> NDArray[np.float32]:
    """Return the signed distances of a toy at the samples of the cube [-1, 1]^3, [R, R, R] indexed x, y, z."""
    axis = torch.linspace(-1.0, 1.0, resolution)
    return signed_distance(toy, torch.cartesian_prod(axis, axis, axis)).view([resolution] * 3).numpy()


def best_alignment(volume: Volume, truth: Volume) -> Alignment:
    """Return the scale and shift that make a volume [R, R, R] overlap the truth best.

    For each of `SCALES` the overlap at every shift at once is a cross-correlation; the best over all is taken.
    """
    resolution = len(truth)
    spacing = 2.0 / (resolution - 1)
    reach = int(MAX_SHIFT / spacing)
    truth_waves = fft.rfftn(truth.astype(np.float32), s=[2 * resolution] * 3)
    best = Alignment(0.0, 1.0, (0.0, 0.0, 0.0))
    for scale in SCALES:
        scaled = _scaled(volume, scale)
        waves = fft.rfftn(scaled.astype(np.float32), s=[2 * resolution] * 3)
        overlap = fft.irfftn(truth_waves * waves.conj(), s=[2 * resolution] * 3)
        # Shifts of -reach .. reach voxels stand at the two ends of each axis.
        near = np.r_[0 : reach + 1, -reach:0]
        overlap = overlap[np.ix_(near, near, near)]
        union = truth.sum() + scaled.sum() - overlap
        ratio = overlap / np.maximum(union, 1)
        at = np.unravel_index(ratio.argmax(), ratio.shape)
        if ratio[at] > best.iou:
            shift = tuple(float(near[i]) * spacing for i in at)
            best = Alignment(float(ratio[at]), scale, (shift[0], shift[1], shift[2]))
    return best


def _scaled(volume: Volume, scale: float) -> Volume:
    """Return the volume scaled about the centre of the cube."""
    middle = (len(volume) - 1) / 2
    offset = [middle - middle / scale] * 3
    return affine_transform(volume.astype(np.float32), [1 / scale] * 3, offset, order=1) > 0.5


def overlap(field: ColoredDensity, toy: Toy, *, smoothing: float = 0.0) -> float:
    """Return the IoU of `score_geometry`, 0 for a scene that is empty or full and so has no surface."""
    try:
        return score_geometry(field, toy, smoothing=smoothing).iou
    except DreamFusionError:
        return 0.0


def score_geometry(field: ColoredDensity, toy: Toy, *, smoothing: float = 0.0) -> GeometryScore:
    """Compare the surface of a field with the toy it should be.

    ``smoothing`` is what its mesh is made with; volumes are what that mesh bounds, without hollows that nobody sees.
    Raises DreamFusionError if the scene is empty or full.
    """
    density = sample_density(field, RESOLUTION)
    volume = solid_part(surface_opacity(density, 2.0 / (RESOLUTION - 1), smoothing=smoothing) > 0.5)
    truth = toy_volume(toy)
    alignment = best_alignment(volume, truth)
    mesh = extract_mesh(field, RESOLUTION, smoothing=smoothing)
    points, normals = _surface_samples(mesh.vertices, mesh.faces)
    points = points * alignment.scale + np.array(alignment.shift)
    true_points, true_normals = _toy_surface(toy)
    chamfer, angle = compare_surfaces(points, normals, true_points, true_normals)
    return GeometryScore(alignment.iou, iou(volume, truth), alignment.scale, chamfer, angle)


def compare_surfaces(points: Vector, normals: Vector, others: Vector, other_normals: Vector) -> tuple[float, float]:
    """Return (Chamfer distance, normal error in degrees) of two sampled surfaces, [N, 3] and [M, 3] each."""
    distance, nearest = cKDTree(others).query(points)
    back, nearest_back = cKDTree(points).query(others)
    cosines = np.concatenate(
        [(normals * other_normals[nearest]).sum(axis=1), (other_normals * normals[nearest_back]).sum(axis=1)]
    )
    angles = np.degrees(np.arccos(cosines.clip(-1.0, 1.0)))
    return float((distance.mean() + back.mean()) / 2), float(angles.mean())


def _toy_surface(toy: Toy) -> tuple[Vector, Vector]:
    """Return points and normals of a toy's surface."""
    resolution = 2 * RESOLUTION
    # scikit-image counts axes z, y, x, a mirror image of ours: with "descent" faces turn outwards here.
    vertices, faces, _, _ = measure.marching_cubes(toy_distances(toy, resolution), 0.0, gradient_direction="descent")
    return _surface_samples(vertices * (2.0 / (resolution - 1)) - 1.0, faces)


def _surface_samples(vertices: NDArray[np.float32], faces: NDArray[np.int64]) -> tuple[Vector, Vector]:
    """Return evenly spread points of a mesh and the normals of their faces; the same every time."""
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    points, face = trimesh.sample.sample_surface(mesh, _POINTS, seed=0)
    return np.asarray(points, dtype=np.float64), np.asarray(mesh.face_normals[face], dtype=np.float64)
