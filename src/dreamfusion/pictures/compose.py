"""Several results in one scene: placed on a ground, lit by one sun and one sky, with the shadows that they cast.

scene.png       the picture (a strip, if there are several cameras), path-traced by `dreamfusion.kernels.pathtrace`
scene.glb       all meshes with everything that their files hold, and the ground
viewer.html     the scene in a page of its own
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from numpy.typing import NDArray
from torch import Tensor

from dreamfusion.assets.formats import finish_gltf
from dreamfusion.assets.gltf import Glb, Triangles, merge, parse_glb, read_glb, to_linear, triangles
from dreamfusion.assets.images import save_png
from dreamfusion.assets.viewer import save_viewer
from dreamfusion.device import pick_device
from dreamfusion.errors import DreamFusionError
from dreamfusion.io.files import prepare_output_dir, refuse_foreign_files, write_atomically
from dreamfusion.method.cameras import Cameras, look_at, spherical_position
from dreamfusion.pictures.compare import mesh_of
from dreamfusion.pictures.environment import load_environment

GROUND_COLOR = (0.86, 0.86, 0.87)
_GAP = 1.15  # Distance of neighbours that are placed by themselves, in widths of the widest.
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?"


@dataclass(frozen=True)
class Placement:
    """Where an object stands: ``x``, ``y`` in world units (None: find a place), ``scale``, and a turn about z."""

    source: Path
    x: float | None = None
    y: float | None = None
    scale: float = 1.0
    azimuth_deg: float = 0.0


@dataclass(frozen=True)
class SunAndSky:
    """Where the sun stands (degrees), how wide it is, and the share of the light that comes from an even sky.

    ``environment`` is a picture of the light all around (.hdr, .exr or an ordinary one) that takes the even sky's place
    and is seen behind the scene. ``azimuth_deg`` None: 75, or no sun if there is an environment.
    """

    azimuth_deg: float | None = None
    elevation_deg: float = 45.0
    radius_deg: float = 2.5
    sky: float = 0.4
    environment: Path | None = None


def parse_placement(text: str) -> Placement:
    """Return the placement that "RUN[:x,y[,scale[,azimuth_deg]]]" describes; DreamFusionError if it is none."""
    source, numbers = text, ""
    if match := re.fullmatch(rf"(.+):({_NUMBER}(?:,{_NUMBER})*)", text, re.IGNORECASE):
        source, numbers = match[1], match[2]
    values = [float(number) for number in numbers.split(",") if number]
    if len(values) == 1 or len(values) > 4:
        raise DreamFusionError(f"{text}: write RUN, RUN:x,y, RUN:x,y,scale or RUN:x,y,scale,azimuth.")
    if not all(math.isfinite(v) and abs(v) <= 1000 for v in values) or (len(values) > 2 and values[2] < 0.01):
        raise DreamFusionError(f"{text}: positions must be from -1000 to 1000 and the scale at least 0.01.")
    return Placement(Path(source), *values)


def compose(
    placements: Sequence[Placement],
    output: Path | str,
    *,
    azimuths_deg: Sequence[float] = (25.0,),
    elevation_deg: float = 18.0,
    size: Sequence[int] = (960, 540),
    light: SunAndSky | None = None,
    ground_color: Sequence[float] = GROUND_COLOR,
    samples: int = 48,
    device: str = "auto",
) -> Path:
    """Write picture, GLB and viewer page of several objects on a ground into ``output`` and return the picture.

    Every object stands on the plane z = 0. Those without a position are set in rows that face the front, in their
    order from left to right. The camera is placed so that all are seen. ``size`` is (width, height) in pixels,
    ``samples`` the paths per pixel: more are slower and less grainy.
    Raises DreamFusionError for objects that cannot be read and values out of range.
    """
    light = light or SunAndSky()
    _check(size, azimuths_deg, samples, elevation_deg, light, ground_color)
    if not placements:
        raise DreamFusionError("Nothing to compose: name at least one run.")
    environment = load_environment(light.environment) if light.environment else None
    files = [read_glb(mesh_of(p.source)) for p in placements]
    meshes = [triangles(file) for file in files]
    matrices = _stand(placements, meshes)
    scene = Triangles.joined([mesh.moved(matrix) for mesh, matrix in zip(meshes, matrices, strict=True)])
    cameras, reach = _cameras(scene, azimuths_deg, elevation_deg, size)
    merged = merge([*zip(files, matrices, strict=True), (_ground(reach, ground_color), np.eye(4))])
    folder = prepare_output_dir(output)
    refuse_foreign_files(*(folder / name for name in ("scene.png", "scene.glb", "viewer.html")))

    image = _picture(scene, cameras, reach, size, light, environment, ground_color, samples, pick_device(device))
    picture = folder / "scene.png"
    save_png(torch.cat(list(image), dim=2), picture)
    with write_atomically(folder / "scene.glb") as temporary:
        temporary.write_bytes(merged)
    save_viewer(folder / "scene.glb", folder / "viewer.html", "Scene")
    return picture


def _stand(placements: Sequence[Placement], meshes: Sequence[Triangles]) -> list[NDArray[np.float64]]:
    """Return the matrix of each object: turned, scaled, its lowest point on the ground, and at its place."""
    placed = [p.x is not None for p in placements]
    if any(placed) and not all(placed):
        raise DreamFusionError("Give a position for every object, or for none: RUN:x,y for each.")
    matrices = []
    for placement, mesh in zip(placements, meshes, strict=True):
        turn = math.radians(placement.azimuth_deg)
        matrix = np.eye(4)
        matrix[:2, :2] = [[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]
        matrix[:3, :3] *= placement.scale
        vertices = mesh.vertices @ matrix[:3, :3].T
        low, high = vertices.min(axis=0), vertices.max(axis=0)
        matrix[:3, 3] = *(-(low + high)[:2] / 2), -low[2]
        matrices.append(matrix)
    extents = [np.ptp(mesh.vertices @ m[:3, :3].T, axis=0) for mesh, m in zip(meshes, matrices, strict=True)]
    for matrix, place in zip(matrices, _places(placements, extents), strict=True):
        matrix[:2, 3] += place
    return matrices


def _places(placements: Sequence[Placement], extents: Sequence[NDArray[np.float64]]) -> list[tuple[float, float]]:
    """Return where the middle of each object is: as asked, or in rows one behind the other, the first in front."""
    if placements[0].x is not None:
        return [(float(p.x or 0.0), float(p.y or 0.0)) for p in placements]
    step = _GAP * max(float(extent[:2].max()) for extent in extents)
    count = len(placements)
    columns = count if count <= 4 else math.ceil(math.sqrt(count))
    places = []
    for index in range(count):
        row, column = divmod(index, columns)
        in_row = min(columns, count - row * columns)
        places.append((-row * step, (column - (in_row - 1) / 2) * step))
    return places


def _cameras(
    scene: Triangles, azimuths_deg: Sequence[float], elevation_deg: float, size: Sequence[int], focal: float = 1.6
) -> tuple[Cameras, float]:
    """Return cameras that see all of the scene, and the radius of its ball."""
    low, high = scene.vertices.min(axis=0), scene.vertices.max(axis=0)
    centre = torch.from_numpy((low + high) / 2)
    reach = float(np.linalg.norm(scene.vertices - centre.numpy(), axis=1).max())
    azimuth = torch.tensor(azimuths_deg, dtype=torch.float32)
    elevation = torch.full_like(azimuth, elevation_deg)
    axes = spherical_position(torch.ones_like(azimuth), azimuth, elevation)
    up = torch.tensor([0.0, 0.0, 1.0]).expand_as(axes)
    pose = look_at(axes, torch.zeros_like(axes), up)
    # Move back until the outermost vertex is inside the picture with a margin, in every picture.
    right, down, forward = (torch.from_numpy(scene.vertices - centre.numpy()) @ pose[:, :, axis].T for axis in range(3))
    width, height = size
    margin = 1.2 * focal * 2
    distance = torch.maximum(margin * right.abs(), margin * width / height * down.abs()) - forward
    radius = distance.max(dim=0).values
    position = centre + axes * radius[:, None]
    pose = look_at(position, centre.expand_as(position), up)
    return Cameras(pose, torch.full_like(azimuth, focal), azimuth, elevation, radius), reach


def _picture(
    scene: Triangles,
    cameras: Cameras,
    reach: float,
    size: Sequence[int],
    light: SunAndSky,
    environment: Tensor | None,
    ground_color: Sequence[float],
    samples: int,
    device: torch.device,
) -> Tensor:
    """Return display-referred pictures [B, 3, H, W]."""
    from dreamfusion.kernels.pathtrace import Ground, Sun, Textures, trace

    height = math.radians(light.elevation_deg)
    turn = math.radians(75.0 if light.azimuth_deg is None else light.azimuth_deg)
    direction = (math.cos(height) * math.cos(turn), math.cos(height) * math.sin(turn), math.sin(height))
    # Under an even sky the open ground has exactly its own colour, and what is behind it has the same, so that no
    # horizon is seen.
    strength = (1.0 - light.sky) / math.sin(height)
    if environment is not None and light.azimuth_deg is None:
        strength = 0.0
    ground = _linear(ground_color)
    arrays = (scene.vertices, scene.faces, scene.normals, scene.colors, scene.uv, scene.texture)
    vertices, faces, normals, colors, uv, texture = (torch.from_numpy(array).to(device) for array in arrays)
    linear = trace(
        vertices,
        faces,
        normals,
        colors,
        cameras,
        (size[0], size[1]),
        sun=Sun(direction, (strength, strength, strength), light.radius_deg),
        ground=Ground(ground, 8.0 * reach),
        sky=torch.full((1, 1, 3), light.sky) if environment is None else environment,
        textures=Textures([torch.from_numpy(picture) for picture in scene.textures], texture, uv),
        backdrop=ground if environment is None else None,
        samples=samples,
    )
    return to_display(linear)


def to_display(linear: Tensor) -> Tensor:
    """Return sRGB values for linear light (IEC 61966-2-1), clipped to [0, 1]."""
    linear = linear.clamp(0.0, 1.0)
    return torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clamp(min=1e-9) ** (1 / 2.4) - 0.055)


def _ground(reach: float, color: Sequence[float]) -> Glb:
    """Return a disc on the plane z = 0 as glTF, whose y is up."""
    turn = np.linspace(0.0, 2.0 * np.pi, 96, endpoint=False)
    ring = 1.3 * reach * np.stack([np.sin(turn), np.zeros(96), np.cos(turn)], axis=1)
    edge = np.arange(96)
    faces = np.stack([np.full(96, 96), edge, np.roll(edge, -1)], axis=1)
    up = np.tile([0.0, 1.0, 0.0], (97, 1))
    factor = [*_linear(color), 1.0]
    material = trimesh.visual.material.PBRMaterial(baseColorFactor=factor, metallicFactor=0.0, roughnessFactor=1.0)
    visual = trimesh.visual.TextureVisuals(material=material)
    disc = trimesh.Trimesh(np.vstack([ring, [[0, 0, 0]]]), faces, vertex_normals=up, visual=visual, process=False)
    scene = trimesh.Scene(disc)
    return parse_glb(scene.export(file_type="glb", include_normals=True, tree_postprocessor=finish_gltf))


def _linear(color: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = to_linear(np.asarray(color, np.float32)).tolist()
    return red, green, blue


def _check(
    size: Sequence[int],
    azimuths_deg: Sequence[float],
    samples: int,
    elevation_deg: float,
    light: SunAndSky,
    ground_color: Sequence[float],
) -> None:
    """Raise DreamFusionError for the first value out of range."""
    allowed: dict[str, tuple[Any, bool]] = {
        "--size must be two numbers from 16 to 4096": (size, len(size) == 2 and all(16 <= s <= 4096 for s in size)),
        "--azimuth needs at least one number of degrees": (tuple(azimuths_deg), len(azimuths_deg) > 0),
        "--samples must be from 1 to 4096": (samples, 1 <= samples <= 4096),
        "--elevation must be from 1 to 89 degrees": (elevation_deg, 1 <= elevation_deg <= 89),
        "--light-elevation must be from 5 to 90 degrees": (light.elevation_deg, 5 <= light.elevation_deg <= 90),
        "--softness must be from 0 to 30 degrees": (light.radius_deg, 0 <= light.radius_deg <= 30),
        "--sky must be from 0 to 1": (light.sky, 0 <= light.sky <= 1),
        "--ground must be three numbers from 0 to 1": (ground_color, all(0 <= c <= 1 for c in ground_color)),
    }
    for rule, (given, right) in allowed.items():
        if not right:
            raise DreamFusionError(f"{rule} (given: {given}).")
