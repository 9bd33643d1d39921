"""The viewer page: one HTML file with the mesh and three.js inside it, opened from disk without a network.

``viewer.html`` is the page, ``viewer.js`` its program, and ``viewer.min.js`` that program bundled with the parts of
three.js that it uses (MIT, see LICENSE-three) by ``build.sh``. The page lets no other script run and fetches nothing.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Sequence
from pathlib import Path
from string import Template

from dreamfusion.errors import DreamFusionError
from dreamfusion.io.files import write_atomically

_HERE = Path(__file__).parent


def save_viewer(
    glb: Path | str, path: Path | str, title: str, *, beside: Path | str | None = None, labels: Sequence[str] = ()
) -> None:
    """Write the page that shows a binary glTF file, atomically, under ``title``.

    With ``beside``, a second one is shown at its side under the same light, from the same camera; ``labels`` then name
    the two. Raises `DreamFusionError` if a mesh cannot be read or the page not be written.
    """
    template = Template((_HERE / "viewer.html").read_text(encoding="utf-8"))
    script = (_HERE / "viewer.min.js").read_text(encoding="utf-8")
    page = template.substitute(
        title=html.escape(title),
        model=_encoded(glb),
        other="" if beside is None else _encoded(beside),
        labels="".join(f'<p class="label">{html.escape(label)}</p>' for label in labels),
        script=script,
        digest=base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii"),
    )
    with write_atomically(path) as temporary:
        temporary.write_text(page, encoding="utf-8", newline="\n")


def _encoded(glb: Path | str) -> str:
    try:
        return base64.b64encode(Path(glb).read_bytes()).decode("ascii")
    except OSError as error:
        raise DreamFusionError(f"Cannot read the mesh {glb}: {error.strerror}.") from None
