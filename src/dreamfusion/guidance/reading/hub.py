"""Getting a model's files from the hub, cached ones first; what can go wrong becomes one clear line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from huggingface_hub import hf_hub_download, model_info, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HFValidationError, RepositoryNotFoundError

from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.names import STABLE_DIFFUSION
from dreamfusion.guidance.reading.problems import first_line
from dreamfusion.guidance.reading.telling import told_download
from dreamfusion.guidance.reading.weights import variant_for

_INSTEAD = "give a folder with --model FOLDER, or use the embedded prior with --guidance toybox"
_SUBSTITUTES = (STABLE_DIFFUSION, "stable-diffusion-v1-5/stable-diffusion-v1-5")


def cached_file(name: str, file: str) -> Path | None:
    """Return one file of a hub model that was downloaded before, or None, also for what is no name of the hub."""
    try:
        cached = try_to_load_from_cache(name, file)
    except HFValidationError:
        return None
    return Path(cached) if isinstance(cached, str) else None


def hub_file(name: str, file: str) -> Path:
    """Return one file of a hub model, downloaded unless cached; DreamFusionError if it cannot be had."""
    try:
        if cached := cached_file(name, file):
            return cached
        # Fails at once without a connection, where a download would be tried again for half a minute.
        model_info(name, timeout=10)
        return Path(hf_hub_download(name, file))
    except GatedRepoError:
        raise _gated(name) from None
    except (RepositoryNotFoundError, HFValidationError):
        # The hub gives deleted, private and misspelt names one and the same answer.
        raise DreamFusionError(
            f"Unknown model {name!r}: the hub has none of that name, or it was deleted or is private; check the name, "
            f"use {_substitutes(name)}, {_INSTEAD}."
        ) from None
    except EntryNotFoundError:
        raise DreamFusionError(f"{name} is not a diffusers model: it has no {file}.") from None
    except Exception as error:
        # A lost connection raises what the hub's HTTP library raises, and that library changes between versions.
        raise _no_hub_access(name, error) from None


def download_pipeline(name: str, variant: str | None, dtype: torch.dtype, without: dict[str, Any]) -> Path:
    """Return the folder of a hub model, downloaded unless cached, but for the parts that are given in ``without``.

    Without a ``variant`` that of a half ``dtype`` is taken where the hub has it, which is half the download.
    """
    try:
        variant = variant or _variant_on_hub(name, dtype)
        with told_download(name):
            return Path(DiffusionPipeline.download(name, variant=variant, use_safetensors=True, **without))
    except GatedRepoError:
        raise _gated(name) from None
    except Exception as error:  # see hub_file
        raise _no_hub_access(name, error) from None


def _variant_on_hub(name: str, dtype: torch.dtype) -> str | None:
    """Return the variant of a hub model that serves best, by the files in the cache or else by the hub's list."""
    index = cached_file(name, "model_index.json")
    here = [] if index is None else [file.relative_to(index.parent) for file in index.parent.glob("*/*.safetensors")]
    listed = here or [Path(file.rfilename) for file in model_info(name, timeout=10).siblings or ()]
    parts = {file.parent for file in listed if len(file.parts) == 2}
    variants = [variant_for((file.name for file in listed if file.parent == part), dtype) for part in sorted(parts)]
    return next(filter(None, variants), None)


def download_parts(name: str, parts: Sequence[str]) -> Path:
    """Return the folder of a hub model with these parts alone, downloaded unless cached; no code is fetched."""
    try:
        return Path(snapshot_download(name, allow_patterns=["model_index.json", *(f"{part}/*" for part in parts)]))
    except GatedRepoError:
        raise _gated(name) from None
    except Exception as error:  # see hub_file
        raise _no_hub_access(name, error) from None


def download_configuration(name: str) -> Path:
    """Return the folder of a hub model's configuration files and vocabularies, without weights."""
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.txt", "*.model"]))
    except Exception as error:  # see hub_file
        raise _no_hub_access(name, error) from None


def _gated(name: str) -> DreamFusionError:
    return DreamFusionError(
        f"The model {name} is gated: accept its licence on the hub and log in (hf auth login), or use "
        f"{_substitutes(name)} in its place."
    )


def _substitutes(name: str) -> str:
    return " or ".join(other for other in _SUBSTITUTES if other != name)


def _no_hub_access(name: str, error: BaseException) -> DreamFusionError:
    return DreamFusionError(
        f"The model {name} is not on this machine and cannot be had from the hub ({first_line(error)}): try again "
        f"online, {_INSTEAD}."
    )
