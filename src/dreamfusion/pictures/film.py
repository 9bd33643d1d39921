"""Films of a finished run: the mesh once around, and how the object came out of the fog.

The mesh is drawn, not the volume that it was made from: at 512 x 512 pixels a frame takes a CPU core a fraction of a
second, and what is seen is what the files hold.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dreamfusion.assets.mesh import Mesh
from dreamfusion.config import Shading
from dreamfusion.fields.tetrahedra import Surface
from dreamfusion.method.cameras import Cameras, fixed_cameras
from dreamfusion.method.shading import headlights
from dreamfusion.renderers.mesh import render_surface
from dreamfusion.scenes.scene import PICTURE_BACKDROP, Finished, Scene
from dreamfusion.standard import ORBIT_FOCAL

_ENLARGED = 3
_ROOM = 1.08
"""How much farther away a camera is than where the object would touch the edge."""
_FADE, _END = 6, 15
"""Frames from one preview to the next, and for which the last one stays."""


@torch.no_grad()
def mesh_pictures(
    scene: Scene | Finished, mesh: Mesh, cameras: Cameras, shading: Shading, size: int
) -> Iterator[Tensor]:
    """Yield square pictures [3, size, size] of the mesh of a scene, in the colours of its field, one per camera.

    A light goes with the camera; the backdrop is that of all finished pictures.
    """
    device = scene.device
    surface = Surface(torch.from_numpy(mesh.vertices).to(device), torch.from_numpy(mesh.faces).int().to(device))
    albedo = scene.field.albedo
    lights, cameras = headlights(cameras).to(device), cameras.to(device)
    backdrop = torch.tensor([PICTURE_BACKDROP], device=device)
    for index in range(len(cameras)):
        one = slice(index, index + 1)
        view = render_surface(
            surface,
            albedo,
            torch.zeros_like,
            cameras[one],
            lights[one],
            [shading],
            (size, size),
            material=scene.config.material,
            backdrop=backdrop,
            rasterizer=scene.config.rasterizer,
        )
        yield view.rgb[0]


def framing_camera(mesh: Mesh, azimuth_deg: float, elevation_deg: float) -> Cameras:
    """Return one camera that has all of a mesh in the middle of a square picture, however large and wherever it is."""
    middle = (mesh.vertices.min(axis=0) + mesh.vertices.max(axis=0)) / 2
    reach = float(np.linalg.norm(mesh.vertices - middle, axis=1).max())
    # The edge of the picture touches a ball of this reach at a distance of reach / sin(half the angle of view).
    away = _ROOM * reach / math.sin(math.atan(0.5 / ORBIT_FOCAL))
    return _moved(fixed_cameras(azimuth_deg, elevation_deg, radius=away), middle)


def level_with(cameras: Cameras, mesh: Mesh) -> Cameras:
    """Return cameras raised or lowered with what they look at, the origin, to the middle of a mesh's height."""
    height = float(mesh.vertices[:, 2].min() + mesh.vertices[:, 2].max()) / 2
    return _moved(cameras, np.array([0.0, 0.0, height]))


def _moved(cameras: Cameras, by: NDArray[np.floating[Any]]) -> Cameras:
    pose = cameras.camera_to_world.clone()
    pose[:, :, 3] += torch.as_tensor(by, dtype=pose.dtype)
    return replace(cameras, camera_to_world=pose)


def growth_frames(previews: Sequence[Path]) -> Iterator[Tensor]:
    """Yield frames [3, H, W] that fade from each preview to the next, the step of it written beneath.

    ``previews`` are pictures of one size named step_<step>.png, in their order.
    """
    pictures = [_with_step(path) for path in previews]
    for earlier, later in pairwise(pictures):
        for frame in range(_FADE):
            yield torch.lerp(earlier, later, frame / _FADE)
    for _ in range(_END if pictures else 0):
        yield pictures[-1]


def _with_step(path: Path) -> Tensor:
    """Return a preview, enlarged, with its step beneath."""
    with Image.open(path) as picture:
        size = (picture.width * _ENLARGED, picture.height * _ENLARGED)
        large = picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    font = ImageFont.load_default(size=max(10, large.height // 9))
    strip = round(font.getbbox("Ag")[3] * 1.6)
    canvas = Image.new("RGB", (large.width, large.height + strip), "white")
    canvas.paste(large)
    step = int(path.stem.removeprefix("step_"))
    ImageDraw.Draw(canvas).text(
        (large.width // 2, large.height + strip // 2), f"step {step}", fill="black", font=font, anchor="mm"
    )
    return torch.from_numpy(np.array(canvas)).movedim(-1, 0).float() / 255.0
