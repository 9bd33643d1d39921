"""``dreamfusion render``."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from dreamfusion.config import PictureShading
from dreamfusion.standard import ORBIT_ELEVATION_DEG, ORBIT_FOCAL, ORBIT_RADIUS


def render(
    run: Positional[Path],
    *,
    output: Path | None = None,
    shading: PictureShading = "lambertian",
    azimuth: tuple[float, ...] = (30.0,),
    elevation: tuple[float, ...] = (ORBIT_ELEVATION_DEG,),
    radius: float = ORBIT_RADIUS,
    focal: float = ORBIT_FOCAL,
    size: tuple[int, ...] = (512,),
    light_azimuth: float | None = None,
    light_elevation: float = 45.0,
    light_intensity: float = 1.0,
    light_color: str = "white",
    ambient: float | None = None,
    environment: Path | None = None,
    background: str = "#cccfd6",
    turntable: int | None = None,
    cameras: Path | None = None,
    fps: float = 15.0,
    device: str = "auto",
) -> None:
    """Render a finished run from any camera, under any light.

    For example:
        dreamfusion render runs/a-red-mushroom --azimuth 0 90 180
        dreamfusion render runs/a-red-mushroom --turntable 60 --output turn.mp4

    Args:
        run: folder of the run
        output: .png, .mp4, .webm, .gif or a folder of pictures (RUN/render.png, .mp4 or, transparent, a folder if none)
        shading: albedo (no light), lambertian (lit), textureless (lit, white) or normal (directions as colours)
        azimuth: degrees around the object, 0 is the front; several give a strip of pictures
        elevation: degrees above the horizon; one, or as many as azimuths
        radius: distance of the camera in world units; the object lies inside the unit sphere
        focal: focal length in image widths
        size: side of the picture in pixels, or width and height
        light_azimuth: degrees around the object the light stands at; by default it goes with the camera
        light_elevation: degrees above the horizon the light stands at
        light_intensity: factor on all light
        light_color: name such as "orange", or "#rrggbb"
        ambient: share of the light that comes from everywhere (0.3, or 0 with an environment, if not given)
        environment: studio, sunset, overcast, or a picture of the light all around: equirectangular, .hdr, .exr, .png
        background: colour name or "#rrggbb", a picture, "environment" or "transparent"
        turntable: make a video of this many frames, once around, in place of pictures
        cameras: JSON list of cameras for the frames of a video, see docs/pictures.md
        fps: frames per second of a video
        device: auto, cpu, cuda, cuda:N or mps

    """
    from dreamfusion.pictures.render import Light, render_run

    path = render_run(
        run,
        output=output,
        shading=shading,
        azimuths_deg=azimuth,
        elevations_deg=elevation,
        radius=radius,
        focal=focal,
        size=size,
        light=Light(light_azimuth, light_elevation, light_intensity, light_color, ambient, environment),
        background=background,
        turntable_frames=turntable,
        cameras_file=cameras,
        fps=fps,
        device=device,
    )
    print(path)
