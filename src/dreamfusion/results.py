"""What a run leaves behind: the finished assets, and how to open a run again, render it and export it.

runs/<slug-of-prompt>/
    config.yaml         every number of the run
    metrics.jsonl       one row per step
    preview.png         refreshed while it runs
    checkpoints/        what --resume continues from
    contact_sheet.png   albedo, shaded and textureless views all around
    turntable.mp4       the shaded object, once around (unless pictures.video is off)
    validation/         a picture every pictures.val_every steps, if that is set
    mesh.glb            the object with its colours
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dreamfusion.assets.images import contact_sheet, save_png
from dreamfusion.assets.mesh import extract_mesh, save_glb
from dreamfusion.assets.video import save_mp4
from dreamfusion.cameras import Cameras, fixed_cameras, orbit_cameras, spherical_position
from dreamfusion.checkpoints import latest_checkpoint, load_checkpoint
from dreamfusion.config import Config, PicturesConfig, load_config
from dreamfusion.device import pick_device
from dreamfusion.errors import DreamFusionError
from dreamfusion.optimize import State
from dreamfusion.scene import PICTURE_BACKDROP, Scene
from dreamfusion.shading import Lights, Shading, headlights

SHADINGS: tuple[Shading, ...] = ("albedo", "lambertian", "textureless")
SHEET_AZIMUTHS_DEG = (0.0, 45.0, 90.0, 135.0, 180.0, -135.0, -90.0, -45.0)
_LIGHT_DISTANCE = 4.0
_PREVIEW_SIZE = 72
SHEET_SIZE = 112
TURNTABLE_SIZE, TURNTABLE_FRAMES = 144, 30
MESH_RESOLUTION = 128
_FPS = 15


@dataclass(frozen=True)
class Result:
    """A run: its folder, its configuration and the scene itself."""

    folder: Path
    config: Config
    scene: Scene

    @property
    def mesh(self) -> Path:
        """The mesh with colours, glTF binary."""
        return self.folder / "mesh.glb"

    @property
    def turntable(self) -> Path:
        """The video of the object turning once."""
        return self.folder / "turntable.mp4"

    @property
    def contact_sheet(self) -> Path:
        """The picture of albedo, shaded and textureless views all around."""
        return self.folder / "contact_sheet.png"


def open_state(folder: Path, config: Config, device: torch.device) -> State:
    """Return the newest state of a run, or a fresh one if it has no checkpoint yet."""
    state = State.fresh(config, device)
    newest = latest_checkpoint(folder / "checkpoints")
    if newest is not None:
        state.restore(load_checkpoint(newest, device))
    return state


def open_run(folder: Path | str, device: str = "auto") -> Result:
    """Return an earlier run with its newest scene; DreamFusionError if the folder holds none."""
    folder = Path(folder)
    if latest_checkpoint(folder / "checkpoints") is None:
        raise DreamFusionError(f"{folder} holds no run with a checkpoint: give the folder that generate printed.")
    config = load_config(folder / "config.yaml")
    state = open_state(folder, config, pick_device(device))
    # Finished pictures skip what is empty now; between two refreshes of the run the grid lags behind.
    state.scene.refresh_occupancy()
    return Result(folder, config, state.scene)


def write_assets(result: Result) -> None:
    """Write contact sheet, turntable (if configured) and mesh; DreamFusionError if there is no object to write."""
    scene = result.scene
    scene.refresh_occupancy()
    cameras = fixed_cameras(torch.tensor(SHEET_AZIMUTHS_DEG), 15.0)
    sheet = {str(shading): images for shading, images in scene.pictures(cameras, SHADINGS, SHEET_SIZE).items()}
    save_png(contact_sheet(sheet, [f"{a:.0f}°" for a in SHEET_AZIMUTHS_DEG]), result.contact_sheet)
    pictures = result.config.pictures
    if pictures.video:
        frames = _around(scene, pictures, pictures.video_frames or TURNTABLE_FRAMES, pictures.video_resolution)
        save_mp4(frames, result.turntable, fps=pictures.video_fps)
    save_glb(extract_mesh(scene.field, MESH_RESOLUTION), result.mesh)


def _around(scene: Scene, pictures: PicturesConfig, count: int, size: int | None) -> Iterator[Tensor]:
    """Render pictures [3, S, S] of the scene once around, one at a time: large ones together take gigabytes."""
    cameras = orbit_cameras(count, elevation_deg=pictures.elevation_deg, radius=pictures.radius, focal=pictures.focal)
    for index in range(count):
        view = scene.pictures(cameras[index : index + 1], [pictures.shading], size or TURNTABLE_SIZE)
        yield view[pictures.shading][0]


def save_validation(scene: Scene, pictures: PicturesConfig, step: int, folder: Path) -> None:
    """Write validation/step_<step>.png in the folder of a run, the configured views side by side."""
    (folder / "validation").mkdir(exist_ok=True)
    views = _around(scene, pictures, pictures.val_views, pictures.val_resolution)
    save_png(torch.cat(list(views), dim=2), folder / "validation" / f"step_{step:06d}.png")


def preview(scene: Scene) -> Tensor:
    """Return a small picture [3, H, W] of the scene from four sides, shaded."""
    return torch.cat(list(scene.pictures(orbit_cameras(4), ["lambertian"], _PREVIEW_SIZE)["lambertian"]), dim=2)


def render_run(
    folder: Path | str,
    *,
    output: Path | None = None,
    shading: Shading = "lambertian",
    azimuths_deg: Sequence[float] = (30.0,),
    elevation_deg: float = 15.0,
    radius: float = 2.7,
    focal: float = 1.35,
    size: int = 512,
    light_azimuth_deg: float | None = None,
    light_elevation_deg: float = 45.0,
    ambient: float = 0.3,
    backdrop: Sequence[float] = PICTURE_BACKDROP,
    turntable_frames: int | None = None,
) -> Path:
    """Render a run from given cameras under a given light and return the picture or video written.

    Angles in degrees, lengths in world units, ``focal`` in image widths. Several azimuths give a strip. With
    ``turntable_frames`` a video is written instead. Without ``light_azimuth_deg`` the light goes with the camera.
    Raises DreamFusionError for values out of range.
    """
    if not 8 <= size <= 4096:
        raise DreamFusionError(f"--size must be from 8 to 4096 (given: {size}).")
    if radius <= 0.1 or focal <= 0:
        raise DreamFusionError("--radius must be above 0.1 and --focal above 0.")
    if not 0 <= ambient <= 1 or not all(0 <= c <= 1 for c in backdrop):
        raise DreamFusionError("--ambient and --background must be from 0 to 1.")
    if turntable_frames is not None and not 2 <= turntable_frames <= 2000:
        raise DreamFusionError(f"--turntable must be from 2 to 2000 frames (given: {turntable_frames}).")
    result = open_run(folder)
    if turntable_frames is None:
        azimuth = torch.tensor(azimuths_deg)
    else:
        azimuth = torch.arange(turntable_frames) * (360.0 / turntable_frames) + azimuths_deg[0]
    cameras = fixed_cameras(azimuth, elevation_deg, radius=radius, focal=focal)
    lights = _lights(cameras, light_azimuth_deg, light_elevation_deg, ambient)
    images = result.scene.pictures(cameras, [shading], size, lights=lights, backdrop=backdrop)[shading]
    if turntable_frames is None:
        path = output or result.folder / "render.png"
        save_png(torch.cat(list(images), dim=2), path)
    else:
        path = output or result.folder / "render.mp4"
        save_mp4(images, path, fps=_FPS)
    return path


def _lights(cameras: Cameras, azimuth_deg: float | None, elevation_deg: float, ambient: float) -> Lights:
    if azimuth_deg is None:
        return headlights(cameras, ambient=ambient)
    count = len(cameras)
    position = spherical_position(
        torch.full((count,), _LIGHT_DISTANCE), torch.full((count,), azimuth_deg), torch.full((count,), elevation_deg)
    )
    return Lights(position, torch.full((count,), 1 - ambient), torch.full((count,), ambient))


def export_run(folder: Path | str, *, output: Path | None = None, resolution: int = MESH_RESOLUTION) -> Path:
    """Extract the mesh of a run at ``resolution`` cells per side, write it as GLB and return its path."""
    if not 16 <= resolution <= 512:
        raise DreamFusionError(f"--resolution must be from 16 to 512 (given: {resolution}).")
    if output is not None and output.suffix.lower() != ".glb":
        raise DreamFusionError(f"--output must end in .glb (given: {output}).")
    result = open_run(folder)
    path = output or result.mesh
    save_glb(extract_mesh(result.scene.field, resolution), path)
    return path
