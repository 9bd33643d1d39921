"""The second stage: a finished run, or any closed mesh, becomes a mesh that is optimised itself (Magic3D, Fantasia3D).

A NeRF is easy to grow from nothing, but soft: its surface is a level of a fog. Here the surface is a mesh in a grid of
tetrahedra (`fields/tetrahedra.py`), rendered by rasterisation, and optimised by the same loop with the same prior.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from dreamfusion.assets.load import load_mesh
from dreamfusion.assets.mesh import Mesh
from dreamfusion.config import Config, changed_config, merged, read_yaml
from dreamfusion.config.presets import RefinePreset
from dreamfusion.device import pick_device
from dreamfusion.errors import DreamFusionError
from dreamfusion.fields.field import Field
from dreamfusion.guidance.base import Guidance
from dreamfusion.io.claims import refuse_busy
from dreamfusion.io.files import slugify
from dreamfusion.method.optimize import Step
from dreamfusion.method.prompts import validate_prompt
from dreamfusion.method.ranks import ALONE, Ranks
from dreamfusion.method.state import State
from dreamfusion.nemo import read_stage, stock_values
from dreamfusion.runs.beginning import save_beginning
from dreamfusion.runs.fitting import fit_device, fit_memory, fit_views
from dreamfusion.runs.generate import (
    RUNS,
    as_read,
    carry_out,
    check_suits,
    load_guidance,
    new_folder,
    rooted,
    with_scale,
)
from dreamfusion.runs.results import Result, open_run
from dreamfusion.scenes.mesh import MeshScene
from dreamfusion.standard import MESH_RESOLUTION
from dreamfusion.stopping import stop_at_once

GPU_RESOLUTION = 512
"""Side of the rendered views on a GPU, in pixels; on a CPU the preset's."""

_OF_A_MESH = {"scene": {"kind": "mesh"}}

COMMON: dict[str, Any] = {
    **_OF_A_MESH,
    "shading": {"albedo_probability": {"from": 0.0}, "latent": 0},
    "loss": {
        "opacity": 0.0,
        "entropy": 0.0,
        "orientation": 0.0,
        "normal_smooth_3d": 0.0,
        "normal_consistency": 300.0,
        "laplacian": 1000.0,
    },
}
"""What the presets of our own change of a run: the shape is there, so light is on at once, and only it is smoothed."""

EMBEDDED: dict[str, Any] = {
    "guidance": {
        "guidance_scale": 2.0,
        "t_min": 0.6,
        "t_max": 0.9,
        "weighting": "ism",
    },
    "scene": {"tetrahedra": {"bulge_resolution": 16}},
    "loss": {"normal_consistency": 3.0, "laplacian": 10.0},
    "optim": {"surface_lr": 3e-5, "bulge_lr": 1e-3, "grid_lr": 3e-3, "network_lr": 6e-4},
}
"""What they change besides for the embedded prior.

It sees 32 pixels: larger steps of single vertices follow its noise into ripples as wide as the grid's cells, and losses
strong enough to smooth those hold the shape fast. So the shape moves in the large, as a bulge, and vertices hardly. At
the guidance scale of a run outlines grow too wide, at 1 too narrow. At lower noise, with the rates of a run, colours
drift: a pale stem took on the green of its cap.
"""

OTHERS: dict[str, Any] = {
    "guidance": {"t_min": 0.02, "t_max": 0.5},
}
"""And for any other prior: less noise than for a run, as in Magic3D's second stage (in threestudio)."""

WITHOUT_RUN: dict[str, Any] = {
    "guidance": {"guidance_scale": 8.0, "weighting": None},
    "shading": {"albedo_probability": 0.35, "textureless_probability": 0.1},
}
"""What a refinement that begins with a mesh alone does not have as a run has it by default: any prior may follow."""


def _sizes(steps: int, resolution: int, tetrahedra: int) -> dict[str, Any]:
    """Return the settings in which our presets differ, with a warm-up of 10 steps."""
    share = 10 / steps
    return {
        "steps": steps,
        "resolution": resolution,
        "scene": {"tetrahedra": {"resolution": tetrahedra}},
        "optim": {"warmup": {"until": share}, "decay": {"from": share}},
    }


REFINE_PRESETS: dict[str, dict[str, Any]] = {
    "quick": merged(COMMON, _sizes(60, 96, 32)),
    "default": merged(COMMON, _sizes(150, 128, 48)),
    "high": merged(COMMON, _sizes(1000, 256, 64)),
}
"""What each preset of our own changes of its run; nemo-dmtet keeps nothing of it but prompt, device and networks."""


@stop_at_once()
def refine(
    run: Path | str | None = None,
    *,
    mesh: Path | str | None = None,
    preset: RefinePreset = "default",
    nemo_config: Path | str | None = None,
    nemo_overrides: Sequence[str] = (),
    config_file: Path | str | None = None,
    output: Path | str | None = None,
    guidance_model: Guidance | None = None,
    assets: bool = True,
    on_start: Callable[[Path, Config, int], None] | None = None,
    on_step: Callable[[Step], None] | None = None,
    on_note: Callable[[str], None] | None = None,
    ranks: Ranks = ALONE,
    **changes: Any,
) -> Result:
    """Turn a finished run into a mesh and optimise that; return where its files are, a folder <run>-refined.

    Shape, colours, prompt and all settings are those of ``run``, changed by the preset or by ``nemo_config`` (one of
    NVIDIA's NeMo for its second stage, DMTet, with ``nemo_overrides``, KEY=VALUE as behind its command), then the YAML
    of ``config_file``, then ``changes``. ``mesh``, a file,
    takes the place of the run's shape; without a run it needs a ``prompt`` among the changes, and its colours begin at
    random. The other arguments are those of `run.generate`, by which a stopped refinement is resumed too.
    Raises DreamFusionError, with one line that says what to do, for anything the user can put right.
    """
    if run is not None:
        refuse_busy(Path(run))
    source = None if run is None else open_run(run, changes.get("device", "auto"))
    shape, colors = _beginning(source, mesh)
    tell = on_note or (lambda line: None)
    if nemo_config is None:
        config = _configuration(source, preset, config_file, changes)
    else:
        read = read_stage(Path(nemo_config), nemo_overrides, preset, tell, mesh=True)
        config = _nemo_configuration(source, read, config_file, changes, tell)
    device = pick_device(config.device)
    if nemo_config is not None or preset == "nemo-dmtet":
        config = fit_device(config, device, tell)
    if guidance_model is None:
        config = fit_memory(config, device, tell)
    if config.scene.kind != "mesh":
        raise DreamFusionError("A refinement is of a mesh: leave scene.kind to it.")
    guidance = guidance_model or load_guidance(config, device)
    config = rooted(fit_views(config, guidance, tell))
    check_suits(guidance, config)
    config = as_read(_without_scale_of(source, config), guidance, tell)
    shape = shape if mesh is None else _at_full_size(shape, config.scene.scale or 1.0)
    config = _with_fitted_grid(config, shape)
    scene = MeshScene(config.scene, config.seed).to(device)
    scene.start_from(shape, colors)
    state = State.fresh(config, device, scene)
    default = RUNS / slugify(config.prompt) if source is None else source.folder.resolve()
    own = guidance_model is None
    with new_folder(default.with_name(f"{default.name}-refined"), output) as folder:
        # What it began from, so that it can be resumed whatever becomes of the first run.
        save_beginning(config, state, folder)
        return carry_out(
            config,
            guidance,
            state,
            folder,
            own_prior=own,
            assets=assets,
            on_start=on_start,
            on_step=on_step,
            ranks=ranks,
        )


def _configuration(
    source: Result | None, preset: RefinePreset, config_file: Path | str | None, changes: dict[str, Any]
) -> Config:
    if preset not in get_args(RefinePreset):
        raise DreamFusionError(f"Unknown preset {preset!r}: choose one of {', '.join(get_args(RefinePreset))}.")
    asked = _asked(config_file, changes)
    values = _settings_of(source)
    if preset == "nemo-dmtet":
        values = merged(_without_settings(values), merged(stock_values("dreamfusion-dmtet.yaml"), _OF_A_MESH))
        values = _with_networks_of(source, values)
    else:
        values = _with_networks_of(source, merged(values, REFINE_PRESETS[preset]))
        kind = merged(values, asked).get("guidance", {}).get("kind", "toybox")
        values = merged(values, EMBEDDED if kind == "toybox" else OTHERS)
    if pick_device(asked.get("device", values.get("device", "auto"))).type == "cuda":
        values["resolution"] = GPU_RESOLUTION
    return changed_config(values, asked)


def _settings_of(source: Result | None) -> dict[str, Any]:
    """Return all values of a run, with the prompt that it ended with; without a run, what is not as in one."""
    if source is None:
        return WITHOUT_RUN
    last = source.config.prompt_at(source.config.steps)
    return source.config.model_dump(mode="json") | {"prompt": last, "later_prompts": {}}


def _without_settings(values: dict[str, Any]) -> dict[str, Any]:
    """Return of a run's values what NeMo's second stage takes over: its settings are not made to go with others."""
    return {key: values[key] for key in ("prompt", "device") if key in values}


def _nemo_configuration(
    source: Result | None,
    read: dict[str, Any],
    config_file: Path | str | None,
    changes: dict[str, Any],
    tell: Callable[[str], None],
) -> Config:
    """Return what ``read`` of NeMo's second stage asks for; all of it, but for prompt and networks of a run."""
    asked = _asked(config_file, changes)
    run = _without_settings(_settings_of(source))
    values = _with_networks_of(source, merged(merged(read, _OF_A_MESH), run))
    if source is not None:
        tell("the colours go on in the networks of the run, not in those of the nerf group")
        if "prompt" not in asked and read.get("prompt") not in (None, run["prompt"]):
            tell(f"the prompt is the run's, not the file's: {run['prompt']}; --prompt gives another")
    return changed_config(values, asked)


def _with_networks_of(source: Result | None, values: dict[str, Any]) -> dict[str, Any]:
    """Return ``values`` with the networks of a run, in which its colours go on; as they are without a run."""
    if source is None:
        return values
    kept = source.config.scene.model_dump(mode="json", include={"architecture", "nerf", "mip"})
    return merged(values, {"scene": kept})


def _asked(config_file: Path | str | None, changes: dict[str, Any]) -> dict[str, Any]:
    """Return what the caller asks for by a file and by options, its prompt in order."""
    asked = changes if config_file is None else merged(read_yaml(Path(config_file)), changes)
    return {**asked, "prompt": validate_prompt(asked["prompt"])} if "prompt" in asked else asked


def _without_scale_of(source: Result | None, config: Config) -> Config:
    """Return the configuration without the size of the run's object if it is to become another one."""
    if source is None or config.prompt == source.config.prompt_at(source.config.steps):
        return config
    return with_scale(config, None) if config.scene.scale == source.config.scene.scale else config


def _with_fitted_grid(config: Config, shape: Mesh) -> Config:
    """Return the configuration with a grid of tetrahedra as large as the object, if it is to be."""
    grid = config.scene.tetrahedra
    if grid is None or not grid.fitted or grid.extent < 1:
        return config
    # NeMo, too, leaves 0.1 around what it finds.
    extent = min(1.0, float(np.linalg.norm(shape.vertices, axis=1).max()) + 0.1)
    grid = grid.model_copy(update={"extent": extent})
    return config.model_copy(update={"scene": config.scene.model_copy(update={"tetrahedra": grid})})


def _at_full_size(shape: Mesh, scale: float) -> Mesh:
    """Return a mesh as large as it is distilled, if ``scale`` was applied to it, as to the mesh.glb of a run."""
    vertices = shape.vertices / np.float32(scale)
    return replace(shape, vertices=vertices) if np.linalg.norm(vertices, axis=1).max() <= 1 else shape


def _beginning(source: Result | None, mesh: Path | str | None) -> tuple[Mesh, Field | None]:
    """Return the shape to begin with, and the colours if there are any yet."""
    if source is None:
        if mesh is None:
            raise DreamFusionError("Nothing to refine: give the folder of a finished run, or --mesh FILE and --prompt.")
        return load_mesh(mesh), None
    scene = source.scene
    shape = scene.mesh(MESH_RESOLUTION) if mesh is None else load_mesh(mesh)
    return shape, scene.colors
