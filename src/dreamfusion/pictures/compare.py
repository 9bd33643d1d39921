"""Two results in one page, side by side under one light and one camera (`dreamfusion compare`)."""

from __future__ import annotations

from pathlib import Path

from dreamfusion.assets.gltf import read_glb
from dreamfusion.assets.viewer import save_viewer
from dreamfusion.errors import DreamFusionError
from dreamfusion.io.files import prepare_output_dir


def compare(first: Path, second: Path, output: Path | None = None) -> Path:
    """Write the page of two runs or .glb files and return it: ``output``, or compare.html beside the second mesh.

    Raises DreamFusionError if one of them has no mesh that can be shown, or the page cannot be written.
    """
    meshes = [mesh_of(first), mesh_of(second)]
    for mesh in meshes:
        read_glb(mesh)
    page = output or meshes[1].parent / "compare.html"
    if page.suffix.lower() != ".html":
        raise DreamFusionError(f"--output {page} is no page: end its name in .html.")
    prepare_output_dir(page.parent)
    labels = [_label(source) for source in (first, second)]
    save_viewer(meshes[0], page, " | ".join(labels), beside=meshes[1], labels=labels)
    return page


def mesh_of(source: Path) -> Path:
    """Return the GLB of a run's folder, or the file itself if one is named; DreamFusionError if there is none."""
    if source.is_dir():
        if not (source / "mesh.glb").is_file():
            raise DreamFusionError(f"{source} has no mesh.glb: finish the run, or write it with dreamfusion export.")
        return source / "mesh.glb"
    if not source.is_file():
        raise DreamFusionError(f"There is no run {source}: name the folder that generate printed, or a .glb file.")
    return source


def _label(source: Path) -> str:
    return source.resolve().name
