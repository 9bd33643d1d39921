"""What a run leaves behind: the finished assets, and how to open a run again and export it.

runs/<slug-of-prompt>/
    config.yaml         every number of the run
    metrics.jsonl       one row per step
    preview.png         refreshed while it runs
    checkpoints/        what --resume continues from
    contact_sheet.png   albedo, shaded and textureless views all around
    turntable.mp4       the shaded object, once around (unless pictures.video is off)
    validation/         a picture every pictures.val_every steps, if that is set; if asked for, its depth and a video
    mesh.glb            the object with its texture
    viewer.html         the mesh in a page of its own, to turn and to light
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dreamfusion.assets.formats import FORMATS, TEXTURED, format_of, require_usd, save_glb, save_mesh
from dreamfusion.assets.images import contact_sheet, save_png
from dreamfusion.assets.mesh import Mesh
from dreamfusion.assets.texture import can_unwrap, check_texture_size, require_unwrapping, texture_mesh
from dreamfusion.assets.video import save_video
from dreamfusion.assets.viewer import save_viewer
from dreamfusion.config import Config, PicturesConfig, load_config
from dreamfusion.device import pick_device
from dreamfusion.errors import DreamFusionError
from dreamfusion.io.checkpoints import latest_checkpoint, load_checkpoint
from dreamfusion.io.files import prepare_output_dir
from dreamfusion.method.cameras import fixed_cameras, orbit_cameras
from dreamfusion.method.shading import Shading
from dreamfusion.method.state import State
from dreamfusion.renderers.output import RenderOutput
from dreamfusion.scenes.scene import PICTURE_BACKDROP, Finished, Scene, finished_views

SHADINGS: tuple[Shading, ...] = ("albedo", "lambertian", "textureless")
SHEET_AZIMUTHS_DEG = (0.0, 45.0, 90.0, 135.0, 180.0, -135.0, -90.0, -45.0)
_PREVIEW_SIZE = 72
SHEET_SIZE = 112
TURNTABLE_SIZE, TURNTABLE_FRAMES = 144, 30
MESH_RESOLUTION, MESH_FACES, TEXTURE_SIZE = 128, 20_000, 1024
FPS = 15


@dataclass(frozen=True)
class Result:
    """A run: its folder, its configuration and the scene itself. It may be given where a folder is asked for."""

    folder: Path
    config: Config
    scene: Scene

    def __fspath__(self) -> str:
        return str(self.folder)

    @property
    def finished(self) -> Finished:
        """The scene at its true size, as all results show it."""
        return at_true_size(self.scene, self.config)

    @property
    def mesh(self) -> Path:
        """The mesh with its texture, glTF binary."""
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


def at_true_size(scene: Scene, config: Config) -> Finished:
    """Return the scene as the results of a run show it."""
    return Finished(scene, config.scene.scale or 1.0)


def open_state(folder: Path, config: Config, device: torch.device, scene: Scene | None = None) -> State:
    """Return the newest state of a run, or a fresh one if it has no checkpoint yet; ``scene`` as for `State.fresh`."""
    state = State.fresh(config, device, scene)
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
    state.scene.refresh()
    return Result(folder, config, state.scene)


def write_assets(result: Result) -> None:
    """Write contact sheet, video (if configured), mesh and viewer; DreamFusionError if there is nothing to write."""
    result.scene.refresh()
    scene = result.finished
    cameras = fixed_cameras(torch.tensor(SHEET_AZIMUTHS_DEG), 15.0)
    sheet = {str(shading): images for shading, images in finished_views(scene, cameras, SHADINGS, SHEET_SIZE).items()}
    save_png(contact_sheet(sheet, [f"{a:.0f}°" for a in SHEET_AZIMUTHS_DEG]), result.contact_sheet)
    pictures = result.config.pictures
    if pictures.video:
        frames = _around(scene, pictures, pictures.video_frames or TURNTABLE_FRAMES, pictures.video_resolution)
        save_video((frame.rgb[0] for frame in frames), result.turntable, fps=pictures.video_fps)
    mesh = scene.mesh(MESH_RESOLUTION, MESH_FACES)
    # A run of hours must not end without its mesh for want of a library.
    save_glb(_textured(scene, mesh, TEXTURE_SIZE), result.mesh)
    save_viewer(result.mesh, result.viewer, result.config.prompt_at(result.config.steps))


def _around(scene: Finished, pictures: PicturesConfig, count: int, size: int | None) -> Iterator[RenderOutput]:
    """Render pictures of the scene once around, one at a time: large ones together take gigabytes."""
    cameras = orbit_cameras(count, elevation_deg=pictures.elevation_deg, radius=pictures.radius, focal=pictures.focal)
    for index in range(count):
        side = (size or TURNTABLE_SIZE,) * 2
        yield scene.layers(cameras[index : index + 1], [pictures.shading], side, backdrop=PICTURE_BACKDROP)[0]


def save_validation(scene: Finished, pictures: PicturesConfig, step: int, folder: Path) -> None:
    """Write validation/step_<step>.png in the folder of a run, the configured views side by side.

    If configured, step_<step>_depth.png shows how near they are, and step_<step>.mp4 has them one after the other.
    """
    (folder / "validation").mkdir(exist_ok=True)
    place = folder / "validation" / f"step_{step:06d}"
    views = list(_around(scene, pictures, pictures.val_views, pictures.val_resolution))
    save_png(torch.cat([view.rgb[0] for view in views], dim=2), place.with_suffix(".png"))
    if pictures.val_depth:
        near = torch.cat([_nearness(view, pictures.radius)[0] for view in views], dim=2)
        save_png(near.expand(3, -1, -1), place.with_name(f"{place.name}_depth.png"))
    if pictures.val_video:
        save_video((view.rgb[0] for view in views), place.with_suffix(".mp4"), fps=pictures.video_fps)


def _nearness(view: RenderOutput, radius: float) -> Tensor:
    """Return pictures [B, 1, H, W]: 1 at the near end of the unit sphere, 0 at its far end and where nothing is."""
    return view.opacity * ((radius + 1 - view.depth) / 2).clamp(0, 1)


def preview(scene: Finished) -> Tensor:
    """Return a small picture [3, H, W] of the scene from four sides, shaded."""
    return torch.cat(list(finished_views(scene, orbit_cameras(4), ["lambertian"], _PREVIEW_SIZE)["lambertian"]), dim=2)


def export_run(
    folder: Path | str,
    *,
    formats: Sequence[str] = (),
    output: Path | None = None,
    resolution: int | None = None,
    max_faces: int = MESH_FACES,
    texture_size: int = TEXTURE_SIZE,
    size_mm: float | None = None,
    device: str = "auto",
    on_note: Callable[[str], None] | None = None,
) -> list[Path]:
    """Write the mesh of a run in one or more formats and return the paths, RUN/mesh.<format> or as ``output`` says.

    Without ``formats`` the suffix of ``output`` decides, or else it is a GLB. ``resolution`` is the number of samples
    per side of the grid in which the surface is found (128 if None; a refined run has its surface already),
    ``max_faces`` its face budget, ``texture_size`` the side of the texture in texels, ``size_mm`` the longest side of
    the object in millimetres. ``on_note(line)`` is told what could not be done as asked.
    Raises DreamFusionError for values out of range, an empty or full scene, or a file that cannot be written.
    """
    tell = on_note or (lambda line: None)
    if resolution is not None and not 16 <= resolution <= 512:
        raise DreamFusionError(f"--resolution must be from 16 to 512 (given: {resolution}).")
    if not 100 <= max_faces <= 1_000_000:
        raise DreamFusionError(f"--faces must be from 100 to 1,000,000 (given: {max_faces}).")
    if size_mm is not None and not 1 <= size_mm <= 100_000:
        raise DreamFusionError(f"--size-mm must be from 1 to 100,000 (given: {size_mm:g}).")
    check_texture_size(texture_size)
    paths = _export_paths(Path(folder), formats, output)
    kinds = {format_of(path) for path in paths}
    if "usdz" in kinds:
        require_usd()
    if kinds & (TEXTURED - {"glb"}):
        require_unwrapping()
    elif kinds & TEXTURED and not can_unwrap():
        tell("Without xatlas the GLB has colours at its vertices and no texture: pip install xatlas.")
    result = open_run(folder, device)
    if resolution is not None and result.scene.has_surface:
        tell("--resolution changes nothing here: a refined run has its surface already.")
    prepare_output_dir(paths[0].parent)  # before the minutes that follow
    mesh = result.finished.mesh(resolution or MESH_RESOLUTION, max_faces)
    if len(mesh.faces) > max_faces:
        tell(f"The mesh has {len(mesh.faces):,} faces, more than asked for: fewer would have torn it open.")
    # Plain formats take the mesh uncut: seams would leave an STL open.
    textured = _textured(result.finished, mesh, texture_size) if kinds & TEXTURED else mesh
    for path in paths:
        save_mesh(textured if format_of(path) in TEXTURED else mesh, path, size_mm=size_mm)
    return paths


def _textured(scene: Finished, mesh: Mesh, size: int) -> Mesh:
    """Return the mesh with its texture, or as it is, with its vertex colours, where the library for that is missing."""
    return texture_mesh(mesh, scene.field.albedo, size, device=scene.device) if can_unwrap() else mesh


def _export_paths(folder: Path, formats: Sequence[str], output: Path | None) -> list[Path]:
    for name in formats:
        if name not in FORMATS:
            raise DreamFusionError(f"No mesh format is called {name}: give {', '.join(FORMATS)}.")
    if output is None:
        return [folder / f"mesh.{name}" for name in dict.fromkeys(formats or ["glb"])]
    if not formats:
        format_of(output)
        return [output]
    if output.suffix and format_of(output) not in formats:
        raise DreamFusionError(f"--output {output} is no {' or '.join(formats)}: change its suffix or --format.")
    return [output.with_suffix(f".{name}") for name in dict.fromkeys(formats)]
