"""``dreamfusion toybox render``."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from dreamfusion.config import Shading
from dreamfusion.toybox.world import WorldName


def toybox_render(
    names: Positional[tuple[str, ...]] = (),
    *,
    output: Path = Path("toybox.png"),
    size: int = 96,
    shading: Shading = "lambertian",
    world: WorldName = "wide",
) -> None:
    """Show toys of the procedural world that priors are trained on.

    For example:
        dreamfusion toybox render "red mushroom" car

    Args:
        names: toys such as "red mushroom" or "car"; all kinds if none is given
        output: picture to write
        size: side of each view in pixels
        shading: albedo, lambertian or textureless
        world: small holds what the embedded prior knows, wide holds all

    """
    from dreamfusion.assets.images import save_png
    from dreamfusion.toybox.samples import toybox_sheet
    from dreamfusion.toybox.world import world_named

    save_png(toybox_sheet(names, size=size, shading=shading, world=world_named(world)), output)
    print(output)
