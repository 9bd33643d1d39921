"""What the parts of a finished asset take, from the density field to the textured mesh and the viewer's page."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from benchmarks import Row
from dreamfusion.assets.formats import save_glb
from dreamfusion.assets.mesh import Mesh, decimate, extract_mesh
from dreamfusion.assets.texture import bake, texture_mesh, unwrap
from dreamfusion.assets.viewer import save_viewer
from dreamfusion.config import SceneConfig
from dreamfusion.fields.nerf import NerfField
from dreamfusion.runs.results import MESH_FACES, MESH_RESOLUTION, TEXTURE_SIZE
from dreamfusion.toybox.render import signed_distance
from dreamfusion.toybox.world import Toy

T = TypeVar("T")
_BUDGET_S, _BUDGET_MB = 60.0, 10.0
"""What a finished mesh and its page may take."""


class _Toy(NerfField):
    """What a good default run would leave: the shape of a toy, at the price of the networks that hold it in a run."""

    def density(self, x: Tensor) -> Tensor:
        """Return the density [N] of a red mushroom of the toybox at points [N, 3]."""
        distance = signed_distance(Toy("mushroom", "red"), x)
        return 22.0 * torch.exp(-distance / 0.008).clamp(max=50.0) + 0.0 * super().density(x)


def rows(quick: bool = False) -> list[Row]:
    """Measure extraction, decimation, unwrapping, baking and the page with the settings of ``generate``.

    First of a scene that no run has smoothed yet: the initial ball under random features of the size that training
    gives them, rough all over and so harder than a finished one. Then, as a whole and against what it may take, of a
    toy in place of a default run, which would take minutes to make: its shape is exact, its colours are random.
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
    table.append(Row("finished mesh of a rough scene, together", sum(row.value for row in table), "s"))
    return [*table, *_finished_toy(resolution, max_faces, size)]


def _finished_toy(resolution: int, max_faces: int, size: int) -> list[Row]:
    """Measure extraction and texturing of a toy together, and the page with it, against their budgets."""
    toy = _Toy(generator=torch.Generator().manual_seed(0))
    smoothing = SceneConfig().surface_smoothing
    begun = time.perf_counter()
    mesh = extract_mesh(toy, resolution, smoothing=smoothing, max_faces=max_faces)
    textured = texture_mesh(mesh, toy.albedo, size)
    seconds = time.perf_counter() - begun
    with tempfile.TemporaryDirectory() as folder:
        glb, page = Path(folder) / "mesh.glb", Path(folder) / "viewer.html"
        save_glb(textured, glb)
        save_viewer(glb, page, "a red mushroom")
        megabytes = page.stat().st_size / 1e6
    return [
        Row(f"finished mesh of a toy, {len(mesh.faces):,} faces", seconds, "s", _BUDGET_S, _BUDGET_S / seconds),
        Row("viewer.html of it", megabytes, "MB", _BUDGET_MB, _BUDGET_MB / megabytes),
    ]
