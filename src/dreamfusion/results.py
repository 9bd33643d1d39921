"""What a run leaves behind: the finished assets, and how to open a run again and export it.

runs/<slug-of-prompt>/
    config.yaml         every number of the run
    metrics.jsonl       one row per step
    preview.png         refreshed while it runs
    checkpoints/        what --resume continues from
    contact_sheet.png   albedo, shaded and textureless views all around
    turntable.mp4       the shaded object, once around (unless pictures.video is off)
    validation/         a picture every pictures.val_every steps, if that is set
    mesh.glb            the object with its colours
    viewer.html         the mesh in a page of its own, to turn and to light
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dreamfusion.assets.images import contact_sheet, save_png
from dreamfusion.assets.mesh import extract_mesh, save_glb
from dreamfusion.assets.video import save_video
from dreamfusion.assets.viewer import save_viewer
from dreamfusion.cameras import fixed_cameras, orbit_cameras
from dreamfusion.checkpoints import latest_checkpoint, load_checkpoint
from dreamfusion.config import Config, PicturesConfig, load_config
from dreamfusion.device import pick_device
from dreamfusion.errors import DreamFusionError
from dreamfusion.optimize import State
from dreamfusion.scene import Scene
from dreamfusion.shading import Shading

SHADINGS: tuple[Shading, ...] = ("albedo", "lambertian", "textureless")
SHEET_AZIMUTHS_DEG = (0.0, 45.0, 90.0, 135.0, 180.0, -135.0, -90.0, -45.0)
_PREVIEW_SIZE = 72
SHEET_SIZE = 112
TURNTABLE_SIZE, TURNTABLE_FRAMES = 144, 30
MESH_RESOLUTION = 128
FPS = 15


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
    def viewer(self) -> Path:
        """The page to look at the mesh in a browser."""
        return self.folder / "viewer.html"

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
    """Write contact sheet, turntable (if configured), mesh and viewer; DreamFusionError if there is nothing to write."""
    scene = result.scene
    scene.refresh_occupancy()
    cameras = fixed_cameras(torch.tensor(SHEET_AZIMUTHS_DEG), 15.0)
    sheet = {str(shading): images for shading, images in scene.pictures(cameras, SHADINGS, SHEET_SIZE).items()}
    save_png(contact_sheet(sheet, [f"{a:.0f}°" for a in SHEET_AZIMUTHS_DEG]), result.contact_sheet)
    pictures = result.config.pictures
    if pictures.video:
        frames = _around(scene, pictures, pictures.video_frames or TURNTABLE_FRAMES, pictures.video_resolution)
        save_video(frames, result.turntable, fps=pictures.video_fps)
    save_glb(extract_mesh(scene.field, MESH_RESOLUTION), result.mesh)
    save_viewer(result.mesh, result.viewer, result.config.prompt_at(result.config.steps))


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
