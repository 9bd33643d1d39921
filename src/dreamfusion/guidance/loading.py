"""Loading diffusers pipelines from a folder or the hub; whatever can go wrong there becomes one clear line."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import hf_hub_download, model_info, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, RepositoryNotFoundError
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from dreamfusion.errors import DreamFusionError

_INDEX = "model_index.json"
_REQUIRED = ("tokenizer", "text_encoder", "unet", "scheduler")
_WITHOUT: dict[str, Any] = {
    "safety_checker": None,
    "feature_extractor": None,
    "watermarker": None,
    "requires_safety_checker": False,
}
_INSTEAD = "give a folder with --model FOLDER, or use the embedded prior with --guidance toybox"


def load_pipeline(
    model: str | Path, dtype: torch.dtype = torch.float32, variant: str | None = None
) -> DiffusionPipeline:
    """Return the pixel-space text-to-image pipeline of a folder, or of a hub name (cached files come first).

    Only safetensors are read. ``variant`` names alternative weights of a hub model, for example "fp16". Raises
    DreamFusionError for an unknown name, no hub access, a folder that is no pipeline, a latent-space model, missing or
    truncated weights, and too little memory.
    """
    folder = _local_folder(model)
    _check_index(_read_index(folder / _INDEX if folder else _hub_index(str(model)), model), model)
    folder = folder or _download(str(model), variant)
    try:
        with _quiet():
            return DiffusionPipeline.from_pretrained(
                str(folder), torch_dtype=dtype, variant=variant, use_safetensors=True, local_files_only=True, **_WITHOUT
            )
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError, TypeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise _too_little_memory(model) from None
        raise DreamFusionError(
            f"The model {model} cannot be read ({_first_line(error)}): copy or download it again."
        ) from None


def move_to(module: torch.nn.Module, device: torch.device, model: str | Path) -> None:
    """Move the weights of ``model`` to the device; DreamFusionError if they do not fit."""
    try:
        module.to(device)
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise _too_little_memory(model) from None
        raise


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that the CPU or an accelerator has no memory left."""
    known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return known or "can't allocate memory" in str(error) or "not enough memory" in str(error)


def _too_little_memory(model: str | Path) -> DreamFusionError:
    return DreamFusionError(
        f"Not enough memory for the model {model}: use a smaller model, guidance.precision bf16, or another --device."
    )


def _local_folder(model: str | Path) -> Path | None:
    """Return the folder that ``model`` names, or None if it can only be a hub name."""
    path = Path(model).expanduser()
    if path.is_dir():
        if not (path / _INDEX).is_file():
            raise DreamFusionError(
                f"{model} is not a diffusers model: it has no {_INDEX}. Give the folder that has one."
            )
        return path
    if path.exists():
        raise DreamFusionError(f"{model} is a file: give the folder of a diffusers model (the one with {_INDEX}).")
    if isinstance(model, Path) or model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise DreamFusionError(f"There is no folder {model}: check the path given with --model.")
    return None


def _hub_index(name: str) -> Path:
    """Return the pipeline's index, downloaded unless cached: it says what a model is before gigabytes are fetched."""
    try:
        cached = try_to_load_from_cache(name, _INDEX)
        if isinstance(cached, str):
            return Path(cached)
        # Fails at once without a connection, where a download would be tried again for half a minute.
        model_info(name, timeout=10)
        return Path(hf_hub_download(name, _INDEX))
    except (RepositoryNotFoundError, HFValidationError):
        # The hub gives private, gated and misspelt names one and the same answer.
        raise DreamFusionError(
            f"Unknown model {name!r}: check its name, accept its licence on the hub and log in if it needs that, "
            f"{_INSTEAD}."
        ) from None
    except EntryNotFoundError:
        raise DreamFusionError(f"{name} is not a diffusers model: it has no {_INDEX}.") from None
    except Exception as error:
        # A lost connection raises what the hub's HTTP library raises, and that library changes between versions.
        raise _no_hub_access(name, error) from None


def _download(name: str, variant: str | None) -> Path:
    try:
        return Path(DiffusionPipeline.download(name, variant=variant, use_safetensors=True, **_WITHOUT))
    except (OSError, ValueError) as error:
        raise _no_hub_access(name, error) from None


def _no_hub_access(name: str, error: BaseException) -> DreamFusionError:
    return DreamFusionError(
        f"The model {name} is not on this machine and cannot be had from the hub ({_first_line(error)}): try again "
        f"online, {_INSTEAD}."
    )


def _read_index(path: Path, model: str | Path) -> dict[str, Any]:
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DreamFusionError(f"The {_INDEX} of {model} cannot be read ({_first_line(error)}).") from None
    return index if isinstance(index, dict) else {}


def _check_index(index: dict[str, Any], model: str | Path) -> None:
    """Refuse what is not a pixel-space text-to-image pipeline."""
    if _has(index, "vae"):
        raise DreamFusionError(
            f"{model} works in a latent space (it has a vae), which is not supported yet: use a pixel-space model of "
            "the DeepFloyd IF kind, or the embedded prior with --guidance toybox."
        )
    missing = [part for part in _REQUIRED if not _has(index, part)]
    if missing:
        raise DreamFusionError(f"{model} is not a text-to-image model: it has no {', '.join(missing)}.")


def _has(index: dict[str, Any], part: str) -> bool:
    return bool(index.get(part)) and index[part][0] is not None


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(" .:") if lines else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the libraries' own progress bars and warnings: the caller reports in one line."""
    libraries = (diffusers_logging, transformers_logging)
    before = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    try:
        for library in libraries:
            library.set_verbosity(library.CRITICAL)
            library.disable_progress_bar()
        with warnings.catch_warnings():
            # diffusers renames torch_dtype to dtype; the older versions we allow know the old name only.
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for library, (verbosity, progress_bar) in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
            if progress_bar:
                library.enable_progress_bar()
