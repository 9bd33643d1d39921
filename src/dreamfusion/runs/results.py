"""What a run leaves behind: the finished assets, and how to open a run again and export it.

runs/<slug-of-prompt>/
    config.yaml         every number of the run
    metrics.jsonl       one row per step
    preview.png         refreshed while it runs
    previews/           all of them, by step
    checkpoints/        what --resume continues from
    contact_sheet.png   albedo, shaded and textureless views all around
    thumbnail.png       the mesh in one square picture
    turntable.mp4       the mesh, once around (unless pictures.video is off)
    growth.mp4          how the object came out of the fog, from the previews (likewise)
    validation/         a picture every pictures.val_every steps, if that is set; if asked for, its depth and a video
    mesh.glb            the object with its texture
    viewer.html         the mesh in a page of its own, to turn and to light
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from dreamfusion.assets.compressed import require_draco
from dreamfusion.assets.finish import About, faces_at, placed, surface_of, texels_at
from dreamfusion.assets.formats import (
    FORMATS,
    TEXTURED,
    files_of,
    format_of,
    require_usd,
    save_glb,
    save_mesh,
)
from dreamfusion.assets.images import contact_sheet, save_png
from dreamfusion.assets.mesh import Mesh, reduced
from dreamfusion.assets.normal_map import with_normal_map
from dreamfusion.assets.texture import (
    MIN_TEXTURE_SIZE,
    can_unwrap,
    check_texture_size,
    require_unwrapping,
    texture_mesh,
)
from dreamfusion.assets.video import save_video
from dreamfusion.assets.viewer import save_viewer
from dreamfusion.config import Config, PicturesConfig, Shading, load_config
from dreamfusion.device import pick_device
from dreamfusion.errors import DreamFusionError
from dreamfusion.io.checkpoints import latest_checkpoint, load_checkpoint
from dreamfusion.io.files import prepare_output_dir, refuse_foreign_files
from dreamfusion.method.cameras import fixed_cameras, orbit_cameras
from dreamfusion.method.state import State
from dreamfusion.pictures.film import framing_camera, growth_frames, level_with, mesh_pictures
from dreamfusion.renderers.output import RenderOutput
from dreamfusion.scenes.scene import PICTURE_BACKDROP, Finished, Scene, finished_views
from dreamfusion.standard import (
    AZIMUTHS_DEG,
    MESH_FACES,
    MESH_RESOLUTION,
    ORBIT_ELEVATION_DEG,
    TEXTURE_SIZE,
    Format,
    Pivot,
)

_logger = logging.getLogger(__name__)

SHADINGS: tuple[Shading, ...] = ("albedo", "lambertian", "textureless")
_PREVIEW_SIZE = 72
SHEET_SIZE, THUMBNAIL_SIZE, VALIDATION_SIZE = 256, 512, 144
TURNTABLE_SIZE, TURNTABLE_FRAMES = 512, 30
MAX_LOD = 6
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
    def growth(self) -> Path:
        """The video of how the object came out of the fog."""
        return self.folder / "growth.mp4"

    @property
    def thumbnail(self) -> Path:
        """The mesh in one square picture."""
        return self.folder / "thumbnail.png"

    @property
    def contact_sheet(self) -> Path:
        """The picture of albedo, shaded and textureless views all around."""
        return self.folder / "contact_sheet.png"

    @property
    def files(self) -> tuple[Path, ...]:
        """Everything that is written at the end, the mesh first."""
        return self.mesh, self.viewer, self.thumbnail, self.contact_sheet, self.turntable, self.growth


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
    """Write mesh, viewer, pictures and films; DreamFusionError if there is nothing to make a mesh of.

    Without ``pictures.mesh_needed`` that is a warning, and all else is written: what NeMo's configurations ask for.
    The mesh comes first: what fails after it, for want of memory, disk or ffmpeg, costs neither the mesh nor its page.
    The contact sheet is written even without a mesh, for it shows why there is none.
    """
    result.scene.refresh()
    try:
        mesh = _find_surface(result)
        if mesh is not None:
            _save_object(result, mesh)
    finally:
        _or_warn(partial(_save_sheet, result), result.contact_sheet)
    if mesh is not None:
        _or_warn(partial(_save_thumbnail, result, mesh), result.thumbnail)
    if result.config.pictures.video:
        _or_warn(partial(_save_films, result, mesh), result.turntable)


def _find_surface(result: Result) -> Mesh | None:
    """Return the surface of the scene; without one None and a warning, or DreamFusionError if it is needed."""
    pictures = result.config.pictures
    try:
        return result.finished.mesh(pictures.mesh_resolution or MESH_RESOLUTION, MESH_FACES)
    except DreamFusionError as error:
        if pictures.mesh_needed:
            raise
        left_out = [result.mesh, result.viewer, result.thumbnail, *([result.turntable] if pictures.video else [])]
        _logger.warning("Left out: %s. %s", ", ".join(path.name for path in left_out), error)
        return None


def _or_warn(save: Callable[[], None], path: Path) -> None:
    try:
        save()
    except (DreamFusionError, OSError, RuntimeError, MemoryError) as error:
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        _logger.warning("%s could not be written (%s); write the results again with --resume.", path, reason[0])


def _save_object(result: Result, mesh: Mesh) -> None:
    """Write the mesh and its page."""
    # A run of hours must not end without its mesh for want of a library.
    save_glb(_textured(result.finished, mesh, TEXTURE_SIZE), result.mesh, _about(result))
    save_viewer(result.mesh, result.viewer, result.config.prompt_at(result.config.steps))


def _save_thumbnail(result: Result, mesh: Mesh) -> None:
    pictures = result.config.pictures
    side = pictures.thumbnail_resolution or THUMBNAIL_SIZE
    camera = framing_camera(mesh, 30.0, ORBIT_ELEVATION_DEG)
    (thumbnail,) = mesh_pictures(result.finished, mesh, camera, pictures.shading, side)
    save_png(thumbnail, result.thumbnail)


def _save_sheet(result: Result) -> None:
    """Write the scene itself from all around, in all shadings."""
    cameras = fixed_cameras(torch.tensor(AZIMUTHS_DEG), ORBIT_ELEVATION_DEG)
    views = finished_views(result.finished, cameras, SHADINGS, result.config.pictures.sheet_resolution or SHEET_SIZE)
    sheet = {str(shading): images for shading, images in views.items()}
    save_png(contact_sheet(sheet, [f"{a:.0f}°" for a in AZIMUTHS_DEG]), result.contact_sheet)


def _save_films(result: Result, mesh: Mesh | None) -> None:
    """Write the turntable of the mesh, if there is one, and, from the previews, how the object grew."""
    scene, pictures = result.finished, result.config.pictures
    if mesh is not None:
        cameras = orbit_cameras(
            pictures.video_frames or TURNTABLE_FRAMES,
            elevation_deg=pictures.elevation_deg,
            radius=pictures.radius,
            focal=pictures.focal,
        )
        cameras = level_with(cameras, mesh)
        frames = mesh_pictures(scene, mesh, cameras, pictures.shading, pictures.video_resolution or TURNTABLE_SIZE)
        save_video(frames, result.turntable, fps=pictures.video_fps)
    previews = sorted((result.folder / "previews").glob("step_*.png"))
    if previews:
        save_video(growth_frames(previews), result.growth, fps=FPS)


def _around(scene: Finished, pictures: PicturesConfig, count: int, size: int | None) -> Iterator[RenderOutput]:
    """Render pictures of the scene once around, one at a time: large ones together take gigabytes."""
    elevation = pictures.elevation_deg if pictures.val_elevation_deg is None else pictures.val_elevation_deg
    radius, focal = pictures.val_radius or pictures.radius, pictures.val_focal or pictures.focal
    cameras = orbit_cameras(count, elevation_deg=elevation, radius=radius, focal=focal)
    for index in range(count):
        side = (size or VALIDATION_SIZE,) * 2
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
        near = torch.cat([_nearness(view, pictures.val_radius or pictures.radius)[0] for view in views], dim=2)
        save_png(near.expand(3, -1, -1), place.with_name(f"{place.name}_depth.png"))
    if pictures.val_video:
        save_video((view.rgb[0] for view in views), place.with_suffix(".mp4"), fps=pictures.video_fps)


def _nearness(view: RenderOutput, radius: float) -> Tensor:
    """Return pictures [B, 1, H, W]: 1 at the near end of the unit sphere, 0 at its far end and where nothing is."""
    return view.opacity * ((radius + 1 - view.depth) / 2).clamp(0, 1)


def save_preview(scene: Finished, step: int, folder: Path) -> None:
    """Write preview.png, and the same as previews/step_<step>.png, of which growth.mp4 is made."""
    picture = preview(scene)
    (folder / "previews").mkdir(exist_ok=True)
    save_png(picture, folder / "preview.png")
    save_png(picture, folder / "previews" / f"step_{step:06d}.png")


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
    height_m: float | None = None,
    pivot: Pivot | None = None,
    lod: int = 0,
    normal_map: bool = False,
    compress: bool = False,
    licence: str = "",
    device: str = "auto",
    on_note: Callable[[str], None] | None = None,
) -> list[Path]:
    """Write the mesh of a run in one or more formats and return every file written.

    They are RUN/mesh.<format> (mesh_compressed.glb with ``compress``) or as ``output`` says; without ``formats`` the
    suffix of ``output`` decides, or else it is a GLB. ``resolution`` is the number of samples per side of the grid in
    which the surface is found (128 if None; a refined run has its surface already), ``max_faces`` its face budget,
    ``texture_size`` the side of the texture in texels. ``size_mm`` is the longest side of the object in millimetres,
    ``height_m`` its height in metres, ``pivot`` where its origin is put. ``lod`` more levels of detail, each with a
    quarter of the faces of the one before, get _lod1, _lod2, ... behind their names. With ``normal_map`` a GLB shows
    what the faces left out. ``compress`` makes a GLB of Draco and WebP; ``licence`` is written into it.
    ``on_note(line)`` is told what could not be done as asked.
    Raises DreamFusionError for values out of range, an empty or full scene, or a file that cannot be written.
    """
    tell = on_note or (lambda line: None)
    _check_export(resolution, max_faces, size_mm, height_m, lod)
    check_texture_size(texture_size)
    paths = _export_paths(Path(folder), formats, output, compress)
    places = [_at_level(path, level) for path in paths for level in range(lod + 1)]
    refuse_foreign_files(*(file for place in places for file in files_of(place)))
    kinds = {format_of(path) for path in paths}
    _check_libraries(kinds, compress, normal_map, tell)
    result = open_run(folder, device)
    if resolution is not None and result.scene.has_surface:
        tell("--resolution changes nothing here: a refined run has its surface already.")
    prepare_output_dir(paths[0].parent)  # before the minutes that follow
    scene, about = result.finished, _about(result, licence)
    dense = scene.mesh(resolution or MESH_RESOLUTION)
    written = []
    for level in range(lod + 1):
        budget, texels = faces_at(max_faces, level), texels_at(texture_size, level, MIN_TEXTURE_SIZE)
        mesh = reduced(dense, budget, scene.field, scene.device)
        if len(mesh.faces) > budget:
            tell(f"The mesh has {len(mesh.faces):,} faces, more than asked for: fewer would have torn it open.")
        # Plain formats take the mesh uncut: seams would leave an STL open.
        textured = _textured(scene, mesh, texels) if kinds & TEXTURED else mesh
        if normal_map and "glb" in kinds and textured.uv is not None:
            textured = with_normal_map(textured, dense, texels)
        for path in paths:
            chosen = placed(textured if format_of(path) in TEXTURED else mesh, pivot, height_m)
            written += save_mesh(chosen, _at_level(path, level), size_mm=size_mm, about=about, compress=compress)
    return written


def _at_level(path: Path, level: int) -> Path:
    """Return where a level of detail is written."""
    return path.with_name(f"{path.stem}_lod{level}{path.suffix}") if level else path


def _check_export(
    resolution: int | None, max_faces: int, size_mm: float | None, height_m: float | None, lod: int
) -> None:
    """Raise DreamFusionError for the first value out of range."""
    if resolution is not None and not 16 <= resolution <= 512:
        raise DreamFusionError(f"--resolution must be from 16 to 512 (given: {resolution}).")
    if not 100 <= max_faces <= 1_000_000:
        raise DreamFusionError(f"--faces must be from 100 to 1,000,000 (given: {max_faces}).")
    if size_mm is not None and not 1 <= size_mm <= 100_000:
        raise DreamFusionError(f"--size-mm must be from 1 to 100,000 (given: {size_mm:g}).")
    if height_m is not None and not 0.001 <= height_m <= 1000:
        raise DreamFusionError(f"--height must be from 0.001 to 1000 metres (given: {height_m:g}).")
    if size_mm is not None and height_m is not None:
        raise DreamFusionError("Give --height or --size-mm, not both: each of them sets the size.")
    if not 0 <= lod <= MAX_LOD:
        raise DreamFusionError(f"--lod must be from 0 to {MAX_LOD} (given: {lod}).")


def _check_libraries(kinds: set[Format], compress: bool, normal_map: bool, tell: Callable[[str], None]) -> None:
    """Raise DreamFusionError if a library is missing that what is asked for needs; tell what is left out."""
    if "usdz" in kinds:
        require_usd()
    if kinds & (TEXTURED - {"glb"}):
        require_unwrapping()
    elif kinds & TEXTURED and not can_unwrap():
        tell("Without xatlas the GLB has colours at its vertices and no texture: pip install xatlas.")
    if compress and "glb" in kinds:
        require_draco()
    for asked, option in ((compress, "--compress"), (normal_map, "--normal-map")):
        if asked and kinds != {"glb"}:
            tell(f"{option} is for GLB; other formats are written without.")


def _about(result: Result, licence: str = "") -> About:
    """Return what the files of a run say of its object."""
    config = result.config
    prompt = config.prompt_at(config.steps)
    material = config.scene.material
    roughness, reflectance = surface_of(material.specular, material.shininess)
    return About(prompt, roughness, reflectance, licence, {"prompt": prompt, "seed": config.seed})


def _textured(scene: Finished, mesh: Mesh, size: int) -> Mesh:
    """Return the mesh with its texture, or as it is, with its vertex colours, where the library for that is missing."""
    return texture_mesh(mesh, scene.field.albedo, size, device=scene.device) if can_unwrap() else mesh


def _export_paths(folder: Path, formats: Sequence[str], output: Path | None, compress: bool) -> list[Path]:
    for name in formats:
        if name not in FORMATS:
            raise DreamFusionError(f"No mesh format is called {name}: give {', '.join(FORMATS)}.")
    if output is None:
        # The run's own page and scenes that it is put into take mesh.glb: that one stays as it is.
        names = {"glb": "mesh_compressed.glb"} if compress else {}
        return [folder / names.get(name, f"mesh.{name}") for name in dict.fromkeys(formats or ["glb"])]
    if not formats:
        format_of(output)
        return [output]
    named = output.suffix.lower().removeprefix(".")
    if named in FORMATS and named not in formats:
        raise DreamFusionError(f"--output {output} is no {' or '.join(formats)}: change its suffix or --format.")
    stem = output.stem if named in FORMATS else output.name  # a dot may just be part of a name
    return [output.with_name(f"{stem}.{name}") for name in dict.fromkeys(formats)]
