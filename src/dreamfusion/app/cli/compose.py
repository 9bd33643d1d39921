"""``dreamfusion compose``."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional


def compose(
    objects: Positional[tuple[str, ...]],
    *,
    output: Path = Path("runs/scene"),
    azimuth: tuple[float, ...] = (25.0,),
    elevation: float = 18.0,
    size: tuple[int, int] = (960, 540),
    light_azimuth: float | None = None,
    light_elevation: float = 45.0,
    softness: float = 2.5,
    sky: float = 0.4,
    environment: Path | None = None,
    ground: tuple[float, float, float] = (0.86, 0.86, 0.87),
    samples: int = 48,
    device: str = "auto",
) -> None:
    """Place several results on a ground and write a picture with shadows, a GLB scene and a viewer page.

    For example:
        dreamfusion compose runs/a-red-mushroom runs/a-blue-car:0.5,1.2,1.5

    Args:
        objects: runs (or .glb files) as RUN, RUN:x,y, RUN:x,y,scale or RUN:x,y,scale,azimuth; x is towards the camera
        output: folder for scene.png, scene.glb and viewer.html
        azimuth: degrees around the scene, 0 is the front; several give a strip of pictures
        elevation: degrees above the horizon
        size: width and height of the picture in pixels
        light_azimuth: degrees around the scene the sun stands at (75, or no sun with an environment, if not given)
        light_elevation: degrees above the horizon the sun stands at
        softness: degrees of half the width of the sun; larger makes softer shadows
        sky: share of the light that comes evenly from everywhere
        environment: light all around in its place: studio, sunset, overcast, or an equirectangular .hdr, .exr or .png
        ground: colour of the ground, three numbers from 0 to 1
        samples: paths of light per pixel; more are slower and less grainy
        device: auto, cpu, cuda or cuda:N

    """
    from dreamfusion.pictures.compose import SunAndSky, parse_placement
    from dreamfusion.pictures.compose import compose as run

    picture = run(
        [parse_placement(text) for text in objects],
        output,
        azimuths_deg=azimuth,
        elevation_deg=elevation,
        size=size,
        light=SunAndSky(light_azimuth, light_elevation, softness, sky, environment),
        ground_color=ground,
        samples=samples,
        device=device,
    )
    print(f"{picture}\n{output / 'scene.glb'}\n{output / 'viewer.html'}")
