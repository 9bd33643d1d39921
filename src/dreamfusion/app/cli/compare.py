"""``dreamfusion compare``."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional


def compare(first: Positional[Path], second: Positional[Path], *, output: Path | None = None) -> None:
    """Put two results side by side into one page, to turn together: before and after refine, or two seeds.

    For example:
        dreamfusion compare runs/a-red-mushroom runs/a-red-mushroom-refined

    Args:
        first: folder of a run, or a .glb file
        second: folder of another, or a .glb file
        output: page to write (compare.html in the folder of the second if not given)

    """
    from dreamfusion.pictures.compare import compare as run

    print(run(first, second, output))
