"""From a preset, a file and options to a configuration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dreamfusion.config.earlier import translated
from dreamfusion.config.files import read_yaml
from dreamfusion.config.loss import LossConfig
from dreamfusion.config.methods import METHODS
from dreamfusion.config.parse import parse_config
from dreamfusion.config.presets import PRESETS, Preset, preset_values
from dreamfusion.config.run import Config
from dreamfusion.config.scene import SceneConfig
from dreamfusion.config.schedule import Schedule
from dreamfusion.config.tables import merged
from dreamfusion.config.wrong import WrongValueError
from dreamfusion.errors import DreamFusionError


def build_config(
    preset: Preset, changes: dict[str, Any], file: Path | str | None = None, *, base: dict[str, Any] | None = None
) -> Config:
    """Return a preset, or ``base`` in its place, with the YAML file's keys and then ``changes`` applied.

    Raises DreamFusionError, naming the key and what it accepts, if one is wrong or missing.
    """
    if preset not in PRESETS:
        raise DreamFusionError(f"Unknown preset {preset!r}: choose one of {', '.join(PRESETS)}.")
    asked = changes if file is None else merged(read_yaml(Path(file)), changes)
    return changed_config(preset_values(preset) if base is None else base, asked)


def changed_config(base: dict[str, Any], asked: dict[str, Any]) -> Config:
    """Return the configuration of ``base`` with what the user ``asked`` for.

    A loss that is asked for brings the constants of its method along (`config.methods`).
    Raises DreamFusionError as `parse_config` does, and for a weight that was asked for and would have no effect. One
    that is as by default, or as in ``base``, may have been asked for by a saved configuration, which holds every key.
    """
    asked = translated(asked, base.get("steps", Config.model_fields["steps"].default))
    base = _with_method(base, asked)
    config = parse_config(merged(base, asked))
    usual = (LossConfig(), LossConfig(**base.get("loss", {})))
    for name, (where, has_effect) in _LOSSES_OF_ONE_KIND.items():
        weight = getattr(config.loss, name)
        counts = weight.largest > 0 if isinstance(weight, Schedule) else weight > 0
        new = name in asked.get("loss", {}) and weight not in [getattr(loss, name) for loss in usual]
        if counts and new and not has_effect(config.scene):
            raise WrongValueError(f"loss.{name}", f"loss.{name} is for {where} and has no effect here: leave it out.")
    return config


def _with_method(base: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """Return ``base`` with the constants of the loss that is asked for, unless it is the one of ``base`` already."""
    kind = asked.get("loss", {}).get("kind") if isinstance(asked.get("loss"), dict) else None
    if kind not in METHODS or base.get("loss", {}).get("kind", "sds") == kind:
        return base
    return merged(base, METHODS[kind])


def _is_mesh(scene: SceneConfig) -> bool:
    return scene.kind == "mesh"


_LOSSES_OF_ONE_KIND: dict[str, tuple[str, Callable[[SceneConfig], bool]]] = {
    "laplacian": ("meshes", _is_mesh),
    "normal_consistency": ("meshes", _is_mesh),
    "normal_smooth_3d": ("volumes", lambda scene: not _is_mesh(scene)),
    "z_variance": ("volumes", lambda scene: not _is_mesh(scene)),
    "orientation": ("volumes", lambda scene: not _is_mesh(scene)),
    "interlevel": (
        "scene.renderer 'proposal'",
        lambda scene: not _is_mesh(scene) and scene.renderer == "proposal",
    ),
}
"""Losses that only some scenes have: which, in words, and whether a scene is one of them."""
