"""The viewer page: one HTML file with the mesh and three.js inside it, opened from disk without a network.

``viewer.html`` is the page, ``viewer.js`` its program, and ``viewer.min.js`` that program bundled with the parts of
three.js that it uses (MIT, see LICENSE-three) by ``build.sh``.
"""

from __future__ import annotations

import base64
import html
from pathlib import Path
from string import Template

from dreamfusion.errors import DreamFusionError
from dreamfusion.io.files import write_text

_HERE = Path(__file__).parent


def save_viewer(glb: Path | str, path: Path | str, title: str) -> None:
    """Write the page that shows a binary glTF file, atomically, under ``title``.

    Raises `DreamFusionError` if the mesh cannot be read or the page not be written.
    """
    try:
        model = Path(glb).read_bytes()
    except OSError as error:
        raise DreamFusionError(f"Cannot read the mesh {glb}: {error.strerror}.") from None
    template = Template((_HERE / "viewer.html").read_text(encoding="utf-8"))
    page = template.substitute(
        title=html.escape(title),
        model=base64.b64encode(model).decode("ascii"),
        script=(_HERE / "viewer.min.js").read_text(encoding="utf-8"),
    )
    write_text(path, page)
