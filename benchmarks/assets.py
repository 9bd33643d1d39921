"""What the parts of a finished asset take, from the density field to the textured mesh."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import torch

from benchmarks import Row
from dreamfusion.assets.mesh import Mesh, decimate, extract_mesh
from dreamfusion.assets.texture import bake, unwrap
from dreamfusion.fields.nerf import NerfField
from dreamfusion.results import MESH_FACES, MESH_RESOLUTION, TEXTURE_SIZE

T = TypeVar("T")


def rows(quick: bool = False) -> list[Row]:
    """Measure extraction, decimation, unwrapping and baking with the settings of ``generate``.

    The scene is one that no run has smoothed yet: the initial ball under random features of the size that training
    gives them, rough all over and so no easier than a finished one.
    """
    generator = torch.Generator().manual_seed(0)
    field = NerfField(generator=generator)
    with torch.no_grad():
        field.table.normal_(std=0.5, generator=generator)
    resolution, max_faces, size = (64, 5_000, 512) if quick else (MESH_RESOLUTION, MESH_FACES, TEXTURE_SIZE)
    table: list[Row] = []

    def timed(name: str, work: Callable[[], T]) -> T:
        begun = time.perf_counter()
        result = work()
        table.append(Row(name, time.perf_counter() - begun, "s"))
        return result

    whole = timed(f"extraction, {resolution} samples per side", lambda: extract_mesh(field, resolution))
    what = f"decimation, {len(whole.faces):,} to {max_faces:,} faces"
    vertices, faces = timed(what, lambda: decimate(whole.vertices, whole.faces, max_faces))
    mesh = Mesh(vertices, faces, vertices, vertices)
    unwrapped = timed("unwrapping", lambda: unwrap(mesh, size))
    timed(f"baking, {size} x {size} texels", lambda: bake(unwrapped, field.albedo, size))
    return [*table, Row("finished mesh, together", sum(row.value for row in table), "s")]
