"""Pictures and films of a finished run: any camera, any light, any background (`dreamfusion render`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
from PIL import ImageColor
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor

from dreamfusion.assets.images import save_png
from dreamfusion.assets.video import save_video
from dreamfusion.config import PictureShading, Shading
from dreamfusion.errors import DreamFusionError
from dreamfusion.io.files import refuse_foreign_files, replace_folder
from dreamfusion.method.cameras import Cameras, fixed_cameras, spherical_position
from dreamfusion.method.shading import GAMMA, Lights, headlights
from dreamfusion.pictures.environment import irradiance_coefficients, load_environment, load_picture, look_up
from dreamfusion.runs.results import FPS, open_run
from dreamfusion.scenes.scene import Finished
from dreamfusion.standard import ORBIT_ELEVATION_DEG, ORBIT_FOCAL, ORBIT_RADIUS

FILMS = (".mp4", ".webm", ".gif")
_LIGHT_DISTANCE = 4.0


@dataclass(frozen=True)
class Light:
    """One light and what comes from all around.

    ``azimuth_deg`` None: the light goes with the camera, or there is none if there is an ``environment``, a picture of
    the light all around (.hdr, .exr or an ordinary one). ``color`` as CSS writes it. ``ambient`` is the share that
    comes evenly from everywhere, by default 0.3, or 0 with an environment. ``intensity`` multiplies all of it.
    """

    azimuth_deg: float | None = None
    elevation_deg: float = 45.0
    intensity: float = 1.0
    color: str = "white"
    ambient: float | None = None
    environment: Path | None = None


class _View(BaseModel):
    """One camera of a JSON list: angles and distance around the origin, or a pose."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    azimuth_deg: float | None = None
    elevation_deg: Annotated[float, Field(ge=-90, le=90)] | None = None
    radius: Annotated[float, Field(gt=0.1, le=1000)] | None = None
    focal: Annotated[float, Field(gt=0, le=1000)] | None = None
    camera_to_world: list[Annotated[list[float], Field(min_length=4, max_length=4)]] | None = Field(
        default=None, min_length=3, max_length=4
    )


def render_run(
    folder: Path | str,
    *,
    output: Path | None = None,
    shading: PictureShading = "lambertian",
    azimuths_deg: Sequence[float] = (30.0,),
    elevations_deg: Sequence[float] = (ORBIT_ELEVATION_DEG,),
    radius: float = ORBIT_RADIUS,
    focal: float = ORBIT_FOCAL,
    size: Sequence[int] = (512,),
    light: Light | None = None,
    background: str = "#cccfd6",
    turntable_frames: int | None = None,
    cameras_file: Path | None = None,
    fps: float = FPS,
    device: str = "auto",
) -> Path:
    """Render a run from given cameras under a given light and return what was written.

    Angles in degrees, lengths in world units, ``focal`` in image widths, ``size`` one side or width and height in
    pixels. Several azimuths or elevations give several pictures, as do a turntable and a JSON list of cameras. The name
    of ``output`` decides the format: .png (a strip), .mp4, .webm or .gif, or a folder of numbered pictures. Without it
    that is RUN/render.png, for a turntable or list of cameras RUN/render.mp4, or the folder RUN/render if transparent.
    ``background`` is a colour as CSS writes it, a picture, "environment" or "transparent".
    Raises DreamFusionError for values out of range and files that cannot be read.
    """
    light = light or Light()
    if not azimuths_deg or not elevations_deg:
        raise DreamFusionError("--azimuth and --elevation need at least one number of degrees each.")
    width, height = _check(size, radius, focal, turntable_frames, light, fps)
    if turntable_frames is not None:
        azimuths_deg = [azimuths_deg[0] + frame * 360.0 / turntable_frames for frame in range(turntable_frames)]
    cameras = _around(azimuths_deg, elevations_deg, radius, focal)
    if cameras_file is not None:
        cameras = read_cameras(cameras_file, cameras[:1])
    film = turntable_frames is not None or cameras_file is not None
    name = "render.png"
    if film:  # films have no transparency
        name = "render" if background == "transparent" else "render.mp4"
    path = output or Path(folder) / name
    _check_format(path, background)
    refuse_foreign_files(path)

    environment = load_environment(light.environment) if light.environment else None
    behind = _background(background, environment, (width, height))
    lights = _lights(light, cameras, environment)
    scene = open_run(folder, device).finished
    frames = _frames(scene, cameras, lights, shading, (width, height), behind)
    if path.suffix.lower() in FILMS:
        save_video(frames, path, fps=fps)
    elif path.suffix:
        save_png(torch.cat(list(frames), dim=2), path)
    else:
        with replace_folder(path) as temporary:
            for index, frame in enumerate(frames):
                save_png(frame, temporary / f"{index:04d}.png")
    return path


def read_cameras(path: Path, default: Cameras) -> Cameras:
    """Return the cameras of a JSON list, whose missing values are those of ``default``, one camera.

    An entry is ``{"azimuth_deg": 0, "elevation_deg": 15, "radius": 2.7, "focal": 1.35}`` or has a ``camera_to_world``
    of 3 or 4 rows of 4 (see docs/conventions.md). Raises DreamFusionError if the file is none such.
    """
    try:
        views = TypeAdapter(list[_View]).validate_python(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the list"
        raise DreamFusionError(f"{path}: {place}: {first['msg']}.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not JSON"
        raise DreamFusionError(f"Cannot read the cameras {path}: {reason}.") from None
    if not views:
        raise DreamFusionError(f"{path} lists no camera: give at least one.")
    single = [_camera_of(view, default) for view in views]
    names = ("camera_to_world", "focal", "azimuth_deg", "elevation_deg", "radius")
    return Cameras(**{name: torch.cat([getattr(camera, name) for camera in single]) for name in names})


def _camera_of(view: _View, default: Cameras) -> Cameras:
    given = view.model_dump(exclude_none=True, exclude={"camera_to_world"})
    names = ("azimuth_deg", "elevation_deg", "radius", "focal")
    azimuth, elevation, radius, focal = (given.get(name, float(getattr(default, name))) for name in names)
    camera = fixed_cameras(azimuth, elevation, radius=radius, focal=focal)
    if view.camera_to_world is None:
        return camera
    return replace(camera, camera_to_world=torch.tensor(view.camera_to_world)[None, :3])


def _around(azimuths_deg: Sequence[float], elevations_deg: Sequence[float], radius: float, focal: float) -> Cameras:
    if len(azimuths_deg) > 1 and len(elevations_deg) not in (1, len(azimuths_deg)):
        raise DreamFusionError("Give one --elevation, or as many as --azimuth.")
    azimuth, elevation = (torch.tensor(angles, dtype=torch.float32) for angles in (azimuths_deg, elevations_deg))
    return fixed_cameras(azimuth, elevation, radius=radius, focal=focal)


def _lights(light: Light, cameras: Cameras, environment: Tensor | None) -> Lights:
    """Return one light per camera, in display-referred strengths."""
    count = len(cameras)
    ambient = (0.0 if environment is not None else 0.3) if light.ambient is None else float(light.ambient)
    lights = headlights(cameras, ambient=ambient)
    shines = 1.0 - ambient
    if light.azimuth_deg is not None:
        place = (_LIGHT_DISTANCE, light.azimuth_deg, light.elevation_deg)
        lights = replace(lights, position=spherical_position(*(torch.full((count,), float(value)) for value in place)))
    elif environment is not None:
        shines = 0.0
    color = torch.tensor(_color(light.color, "--light-color"))
    coefficients = None
    if environment is not None:
        coefficients = irradiance_coefficients(environment) * light.intensity**GAMMA
    return replace(
        lights,
        diffuse=(light.intensity * shines * color).expand(count, 3),
        ambient=torch.full((count,), light.intensity * ambient),
        environment=coefficients,
    )


Surroundings = Callable[[Cameras], Tensor]
"""What one camera sees behind the object, [3, H, W]."""


def _background(text: str, environment: Tensor | None, size: tuple[int, int]) -> Surroundings | None:
    """Return what ``text`` names, None if nothing; a picture is cut to ``size`` around its middle."""
    width, height = size
    if text == "transparent":
        return None
    if text == "environment":
        if environment is None:
            raise DreamFusionError("--background environment needs --environment PICTURE.")
        return lambda camera: _seen(environment, camera.rays(height, width).directions[0])
    if not Path(text).is_file():
        color = torch.tensor(_color(text, "--background (or no such picture)")).view(3, 1, 1)
        return lambda camera: color
    picture = load_picture(text)
    scale = max(width / picture.shape[2], height / picture.shape[1])
    grown = (max(height, round(picture.shape[1] * scale)), max(width, round(picture.shape[2] * scale)))
    picture = torch.nn.functional.interpolate(picture[None], grown, mode="bilinear", antialias=True)[0]
    top, left = (grown[0] - height) // 2, (grown[1] - width) // 2
    cut = picture[:, top : top + height, left : left + width]
    return lambda camera: cut


def _seen(environment: Tensor, toward: Tensor) -> Tensor:
    """Return the environment [3, H, W] as displayed, in directions [H, W, 3]."""
    return look_up(environment, toward).permute(2, 0, 1).clamp(0, 1) ** (1 / GAMMA)


def _frames(
    scene: Finished,
    cameras: Cameras,
    lights: Lights,
    shading: PictureShading,
    size: tuple[int, int],
    behind: Surroundings | None,
) -> Iterator[Tensor]:
    """Render one frame after the other: [3, H, W], or [4, H, W] without a background."""
    normals = shading == "normal"
    of: Shading = "albedo" if shading == "normal" else shading
    for index in range(len(cameras)):
        one = slice(index, index + 1)
        (layer,) = scene.layers(cameras[one], [of], size, lights=lights[one], with_normals=normals)
        opacity, color = layer.opacity[0].cpu(), layer.rgb[0].cpu()
        if normals and layer.normal is not None:  # a mesh brings them along unasked
            normal = torch.nn.functional.normalize(layer.normal[0].cpu(), dim=0)
            color = (0.5 * normal + 0.5) * opacity
        if behind is None:
            yield torch.cat([color / opacity.clamp(min=1e-6), opacity])
        else:
            yield color + (1 - opacity) * behind(cameras[one])


def _color(text: str, option: str) -> tuple[float, float, float]:
    """Return the colour that CSS calls so, three numbers from 0 to 1."""
    try:
        red, green, blue = ImageColor.getrgb(text)[:3]
    except ValueError:
        raise DreamFusionError(f'{option}: {text!r} is no colour; write a name or "#rrggbb".') from None
    return red / 255, green / 255, blue / 255


def _check(
    size: Sequence[int], radius: float, focal: float, turntable_frames: int | None, light: Light, fps: float
) -> tuple[int, int]:
    """Return width and height; DreamFusionError for the first value out of range."""
    if len(size) not in (1, 2) or not all(8 <= side <= 4096 for side in size):
        raise DreamFusionError(f"--size must be one or two numbers from 8 to 4096 (given: {' '.join(map(str, size))}).")
    if not (radius > 0.1 and focal > 0):
        raise DreamFusionError("--radius must be above 0.1 and --focal above 0.")
    if light.ambient is not None and not 0 <= light.ambient <= 1:
        raise DreamFusionError("--ambient must be from 0 to 1.")
    if not 0 <= light.intensity <= 100:
        raise DreamFusionError("--light-intensity must be from 0 to 100.")
    if turntable_frames is not None and not 2 <= turntable_frames <= 2000:
        raise DreamFusionError(f"--turntable must be from 2 to 2000 frames (given: {turntable_frames}).")
    if not 1 <= fps <= 120:
        raise DreamFusionError("--fps must be from 1 to 120.")
    return size[0], size[-1]


def _check_format(path: Path, background: str) -> None:
    if path.suffix.lower() not in ("", ".png", *FILMS):
        raise DreamFusionError(f"{path}: write .png, {', '.join(FILMS)}, or a folder (a name without a dot).")
    if background == "transparent" and path.suffix.lower() in FILMS:
        raise DreamFusionError("A film has no transparency: write .png, or a folder of pictures.")
    if not path.suffix and path.exists():
        raise DreamFusionError(f"{path} exists already: give a new folder for the pictures with --output.")
