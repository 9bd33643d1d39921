"""``dreamfusion export``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from dreamfusion.app.cli.output import note
from dreamfusion.standard import MESH_FACES, TEXTURE_SIZE


def export(
    run: Positional[Path],
    *,
    format: tuple[str, ...] = (),
    output: Path | None = None,
    resolution: int | None = None,
    faces: int = MESH_FACES,
    texture_size: int = TEXTURE_SIZE,
    size_mm: float | None = None,
    height: float | None = None,
    pivot: Literal["base", "center"] | None = None,
    lod: int = 0,
    normal_map: bool = False,
    compress: bool = False,
    license: str = "",
    device: str = "auto",
) -> None:
    """Write the mesh of a finished run for other programs: GLB, OBJ, PLY, STL or USDZ.

    For example:
        dreamfusion export runs/a-red-mushroom --format glb stl

    Args:
        run: folder of the run
        format: one or more of glb, obj, ply, stl and usdz (what the suffix of --output says if not given, or glb)
        output: file to write (RUN/mesh.FORMAT if not given); with several formats its suffix is theirs
        resolution: samples per side of the grid in which the surface is found (128 if not given; not of refined runs)
        faces: the mesh has at most about this many triangles
        texture_size: side of the texture in texels (glb, obj, usdz)
        size_mm: longest side of the object in millimetres (stl: 100 if not given; others: 1 unit of the scene is 1 m)
        height: height of the object in metres, in place of --size-mm
        pivot: put the origin at the middle of the base or of the box (where the scene has it if not given)
        lod: also write this many levels of detail, mesh_lod1 and so on, each with a quarter of the faces
        normal_map: bake what the faces leave out into a normal map (glb)
        compress: make the GLB small: Draco and WebP, in RUN/mesh_compressed.glb; needs dreamfusion[compress]
        license: licence or copyright line to write into the file (glb, usdz)
        device: auto, cpu, cuda, cuda:N or mps

    """
    from dreamfusion.runs.results import export_run

    paths = export_run(
        run,
        formats=format,
        output=output,
        resolution=resolution,
        max_faces=faces,
        texture_size=texture_size,
        size_mm=size_mm,
        height_m=height,
        pivot=pivot,
        lod=lod,
        normal_map=normal_map,
        compress=compress,
        licence=license,
        device=device,
        on_note=note,
    )
    print(*paths, sep="\n")
