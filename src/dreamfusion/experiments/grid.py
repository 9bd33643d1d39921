"""``dreamfusion experiment grid``: guidance scale x seed in 3D, and how different the objects are (paper Figure 9).

For score distillation with the paper's timesteps, the same with annealed ones (the presets'), and variational score
distillation. Each object is an ordinary run in OUTPUT/runs/, so that it resumes exactly; pairs of seeds are compared by
the overlap of their shapes and the distance of their colours.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamfusion.assets.images import contact_sheet, save_png
from dreamfusion.assets.mesh import ColoredDensity, sample_density, solid_part, surface_opacity
from dreamfusion.config.presets import Preset
from dreamfusion.errors import DreamFusionError, Stopped, refuse_small
from dreamfusion.evaluation.geometry import Volume, iou
from dreamfusion.evaluation.judge import ToyboxJudge
from dreamfusion.experiments.cells import Cell, Found, Outcome, Progress, run_cells
from dreamfusion.experiments.scores import check_prompts, check_scales
from dreamfusion.experiments.tables import table
from dreamfusion.guidance.base import Guidance
from dreamfusion.io.files import slugify, write_text
from dreamfusion.method.cameras import fixed_cameras
from dreamfusion.method.critic import check_adaptable
from dreamfusion.runs.generate import generate
from dreamfusion.runs.results import Result
from dreamfusion.scenes.scene import finished_views
from dreamfusion.toybox.captions import parse_toy
from dreamfusion.toybox.world import WIDE

TITLE = "Guidance scale and seed in 3D"
METHODS: dict[str, dict[str, Any]] = {
    "SDS": {"guidance": {"t_min": 0.02, "t_max": 0.98}},
    "annealed SDS": {},
    "VSD": {"loss": {"kind": "vsd"}},
}
"""What each method changes of the preset, whose timesteps are annealed; VSD keeps them."""

PICTURE = 64
_AZIMUTHS_DEG = (30.0, -150.0)
_RESOLUTION = 48

_COLUMNS = {
    "finished": ("objects", ""),
    "kind": ("kind read", "%"),
    "color": ("colour read", "%"),
    "shape_iou": ("IoU of two seeds", "%"),
    "color_distance": ("colour distance of two seeds", ""),
    "saturation": ("saturation", ""),
}


@dataclass(frozen=True)
class GridSettings:
    """One prompt, with every method, scale and seed; ``steps`` None are the preset's."""

    prompt: str = "a red mushroom"
    methods: tuple[str, ...] = tuple(METHODS)
    scales: tuple[float, ...] = (1.0, 3.0, 10.0)
    seeds: int = 3
    preset: Preset = "quick"
    steps: int | None = None

    def check(self) -> None:
        """Raise DreamFusionError for what cannot be compared."""
        check_prompts([self.prompt])
        check_scales(self.scales)
        unknown = [method for method in self.methods if method not in METHODS]
        if unknown or not self.methods:
            raise DreamFusionError(
                f"--methods: give some of {', '.join(METHODS)} (not {', '.join(unknown) or 'none'})."
            )
        if self.seeds < 2:
            raise DreamFusionError(f"--seeds must be at least 2, for there to be pairs (given: {self.seeds}).")
        if self.steps is not None:
            refuse_small({"steps": self.steps})


def run_grid(
    output: Path,
    settings: GridSettings,
    prior: Guidance,
    judge: ToyboxJudge,
    *,
    changes: Mapping[str, Any] | None = None,
    on_progress: Progress | None = None,
) -> Found:
    """Run the experiment, or go on with it, and write grid.json, grid.md and grid.png to ``output``.

    ``changes`` are keys of the configuration for every run. Raises DreamFusionError for settings out of range or other
    than those ``output`` has begun with, and `Stopped`.
    """
    settings.check()
    if "VSD" in settings.methods:
        check_adaptable(prior)

    def compute(method: str, scale: float) -> Outcome:
        results = [
            _object(output / "runs", settings, method, scale, seed, prior, changes or {})
            for seed in range(settings.seeds)
        ]
        return measure([result for result in results if result is not None], settings.prompt, judge)

    cells = [Cell(f"{m}, scale {s:g}", partial(compute, m, s)) for m in settings.methods for s in settings.scales]
    about = asdict(settings) | {"changes": dict(changes or {}), "judge": judge.name}
    return run_cells(output, "grid", about, cells, partial(write_report, output=output, settings=settings), on_progress)


def _object(
    folder: Path,
    settings: GridSettings,
    method: str,
    scale: float,
    seed: int,
    prior: Guidance,
    changes: Mapping[str, Any],
) -> Result | None:
    """Return the run of a method, scale and seed, made or gone on with; None if its scene collapsed."""
    place = folder / slugify(f"{method} scale {scale:g} seed {seed}")
    try:
        if (place / "config.yaml").exists():
            return generate(resume=place, assets=False, guidance_model=prior)
        own: dict[str, Any] = {} if settings.steps is None else {"steps": settings.steps}
        parts = METHODS[method]
        guidance = {**changes.get("guidance", {}), **parts.get("guidance", {}), "guidance_scale": scale}
        loss = {**changes.get("loss", {}), **parts.get("loss", {})}
        if loss:
            own["loss"] = loss
        rest = {name: value for name, value in changes.items() if name not in ("guidance", "loss")}
        return generate(
            settings.prompt,
            preset=settings.preset,
            output=place,
            seed=seed,
            assets=False,
            guidance_model=prior,
            guidance=guidance,
            **own,
            **rest,
        )
    except Stopped:
        raise
    except DreamFusionError as error:
        if "collapsed" in str(error) or "grown to fill" in str(error):
            return None
        raise


def measure(results: Sequence[Result], prompt: str, judge: ToyboxJudge) -> Outcome:
    """Return the figures and pictures of the objects of one method and scale; None where there are too few.

    ``finished``: how many there are. ``kind``, ``color``: the share of pictures from which the judge reads them.
    ``shape_iou`` and ``color_distance``: means over pairs of objects, see `overlap` and `color_distance`.
    """
    toy, views, volumes, fields = parse_toy(prompt, WIDE), [], [], []
    for result in results:
        result.scene.refresh()
        scene = result.finished
        cameras = fixed_cameras(torch.tensor(_AZIMUTHS_DEG), 20.0)
        views.append(finished_views(scene, cameras, ["albedo"], PICTURE)["albedo"].cpu())
        volumes.append(solid(scene.field, result.config.scene.surface_smoothing * scene.scale))
        fields.append(scene.field)
    if not results:
        return Outcome({"finished": 0.0}, {"views": torch.ones(1, 3, PICTURE, PICTURE)})
    images = torch.cat(views)
    read = judge.read(images)
    pairs = list(itertools.combinations(range(len(results)), 2))
    distances = [color_distance(fields[a], fields[b], volumes[a] & volumes[b]) for a, b in pairs]
    known = [distance for distance in distances if distance is not None]
    figures: dict[str, float | None] = {
        "finished": float(len(results)),
        "kind": _share(read["kind"], judge.words["kind"].index(toy.kind)),
        "color": _share(read["color"], judge.words["color"].index(toy.color)) if toy.color else None,
        "shape_iou": sum(iou(volumes[a], volumes[b]) for a, b in pairs) / len(pairs) if pairs else None,
        "color_distance": sum(known) / len(known) if known else None,
        "saturation": _saturation(fields, volumes),
    }
    return Outcome(figures, {"views": torch.stack([view[0] for view in views])})


def _share(read: Tensor, right: int) -> float:
    return (read.argmax(dim=1) == right).float().mean().item()


def solid(field: ColoredDensity, smoothing: float) -> Volume:
    """Return which samples of the cube [-1, 1]^3 lie inside an object, [R, R, R]; nothing for an empty one."""
    density = sample_density(field, _RESOLUTION)
    try:
        inside = surface_opacity(density, 2.0 / (_RESOLUTION - 1), smoothing=smoothing) > 0.5
    except DreamFusionError:  # empty
        return np.zeros(density.shape, dtype=np.bool_)
    return solid_part(inside) if inside.any() else inside


def _points(volume: Volume) -> Tensor:
    return torch.from_numpy(volume).nonzero().float() * (2 / (_RESOLUTION - 1)) - 1


def color_distance(field: ColoredDensity, other: ColoredDensity, both: Volume) -> float | None:
    """Return the mean distance of two albedos, as vectors, at the samples that are in both objects; None if none is."""
    points = _points(both)
    if not len(points):
        return None
    with torch.no_grad():
        return (field.albedo(points) - other.albedo(points)).norm(dim=-1).mean().item()


def _saturation(fields: Sequence[ColoredDensity], volumes: Sequence[Volume]) -> float | None:
    """Return largest less smallest channel of the albedo, mean over the samples inside, then over the objects."""
    values = []
    for field, volume in zip(fields, volumes, strict=True):
        points = _points(volume)
        if len(points):
            with torch.no_grad():
                albedo = field.albedo(points)
            values.append((albedo.amax(dim=1) - albedo.amin(dim=1)).mean().item())
    return sum(values) / len(values) if values else None


def write_report(found: Found, output: Path, settings: GridSettings) -> None:
    """Write grid.md with its table, and grid.png: a row per method and scale, a column per seed."""
    rows = {name: outcome.figures for name, outcome in found.outcomes.items()}
    text = found.heading(TITLE)
    steps = "" if settings.steps is None else f" of {settings.steps} steps"
    text += f"{settings.prompt!r}, {settings.seeds} seeds, preset {settings.preset}{steps}.\n\n"
    write_text(output / "grid.md", text + table(rows, _COLUMNS, "method"))
    sheet = {name: outcome.pictures["views"] for name, outcome in found.outcomes.items()}
    save_png(contact_sheet(sheet, [f"seed {seed}" for seed in range(settings.seeds)]), output / "grid.png")
