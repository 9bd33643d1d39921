"""What a model's name means: a single file, a folder, or a name on the hub; and what its own index says it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from diffusers.loaders.single_file_utils import (
    fetch_diffusers_config,
    infer_diffusers_model_type,
    load_single_file_checkpoint,
)

from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.reading.hub import download_configuration, hub_file
from dreamfusion.guidance.reading.ldm_config import is_multi_view
from dreamfusion.guidance.reading.problems import UNREADABLE, first_line, quiet, unreadable

INDEX = "model_index.json"
"""The file in which diffusers says what a pipeline is and what its parts are."""

ORIGINAL_FAMILY = "StableDiffusionPipeline"
"""What NeMo's archives and checkpoints of the original latent-diffusion code with their YAML hold."""

MULTI_VIEW_FAMILY = "MVDreamPipeline"
"""What a checkpoint of the original code holds whose YAML names MVDream's denoiser."""

_SINGLE_FILES = (".safetensors", ".ckpt", ".pt", ".nemo")


def pipeline_kind(model: str | Path) -> str:
    """Return the pipeline class that a model's own index names; DreamFusionError if there is no index to be had."""
    file = single_file(model)
    if file and is_original(file):
        return _original_family(file)
    return str(model_index(model).get("_class_name"))


def _original_family(file: Path) -> str:
    """Return the family that the YAML beside a file says; what is wrong with it is told when it is read."""
    config = file.with_suffix(".yaml")
    try:
        multi_view = config.is_file() and is_multi_view(yaml.safe_load(config.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        multi_view = False
    return MULTI_VIEW_FAMILY if multi_view else ORIGINAL_FAMILY


def model_index(model: str | Path) -> dict[str, Any]:
    """Return the index of a model that is no original file; DreamFusionError if there is none to be had.

    A hub model's is downloaded unless cached: it says what a model is before gigabytes are fetched.
    """
    file = single_file(model)
    folder = config_folder(file) if file else local_folder(model)
    return read_index(folder / INDEX if folder else hub_file(str(model), INDEX), model)


def single_file(model: str | Path) -> Path | None:
    """Return the file with all weights that ``model`` names, or None if it is no file."""
    path = Path(model).expanduser()
    if not path.is_file():
        return None
    if path.suffix not in _SINGLE_FILES:
        raise DreamFusionError(
            f"{model} is a file of an unknown kind: give a {' or '.join(_SINGLE_FILES)} file, or the folder of a "
            f"diffusers model (the one with {INDEX})."
        )
    return path


def is_original(file: Path) -> bool:
    """Tell whether a file comes with the configuration of NeMo or of the original latent-diffusion code."""
    return file.suffix == ".nemo" or file.with_suffix(".yaml").is_file()


def config_folder(file: Path) -> Path:
    """Return the folder with the configuration of a single file: its own, or that of its family on the hub."""
    if (file.parent / INDEX).is_file():
        return file.parent
    if file.suffix == ".pt":
        raise DreamFusionError(
            f"{file} does not say what it is: put the YAML that came with it beside it, as {file.stem}.yaml."
        )
    try:
        with quiet():
            weights = load_single_file_checkpoint(str(file))
            kind = infer_diffusers_model_type(weights)
            name = fetch_diffusers_config(weights)["pretrained_model_name_or_path"]
            has_unet = any("input_blocks.0.0.weight" in str(key) for key in weights)
    except UNREADABLE as error:
        raise unreadable(file, error) from None
    if kind == "v1" and not has_unet:  # what diffusers calls everything that it does not recognise
        raise DreamFusionError(f"{file} holds no text-to-image model, or one of an unknown family.")
    if kind == "v2" or "v_pred" in weights:
        # The original files of Stable Diffusion 2 and 2-base differ in nothing but the values of their weights.
        raise DreamFusionError(
            f"{file} does not say whether it predicts noise or velocity: put the configuration of its diffusers model "
            f"({INDEX}, and the folders of its parts, without weights) beside it."
        )
    hub_file(name, INDEX)  # which says what is wrong with the name or the connection
    return download_configuration(name)


def local_folder(model: str | Path) -> Path | None:
    """Return the folder that ``model`` names, or None if it can only be a hub name."""
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / INDEX).is_file():
            raise DreamFusionError(
                f"{model} is not a diffusers model: it has no {INDEX}. Give the folder that has one."
            )
        return path
    if isinstance(model, Path) or model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise DreamFusionError(f"There is no folder or file {model}: check the path given with --model.")
    if model.endswith(_SINGLE_FILES):
        raise DreamFusionError(f"There is no file {model}: check the path given with --model.")
    return None


def read_index(path: Path, model: str | Path) -> dict[str, Any]:
    """Return an index or a part's configuration; DreamFusionError if it cannot be read."""
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DreamFusionError(f"The {INDEX} of {model} cannot be read ({first_line(error)}).") from None
    return index if isinstance(index, dict) else {}


def has_part(index: dict[str, Any], part: str) -> bool:
    """Tell whether an index names a part, and does not leave it out."""
    value = index.get(part)
    return isinstance(value, list) and bool(value) and value[0] is not None
