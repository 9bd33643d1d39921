"""What goes wrong with a model's files, as one clear line each."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError

import huggingface_hub.errors
import torch
from diffusers.loaders.single_file_utils import SingleFileComponentError
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from dreamfusion.errors import DreamFusionError

_FULL = ("can't allocate memory", "not enough memory", "Failed to allocate")
"""What PyTorch says on a CPU, on one system or another, and what Warp and ONNX Runtime say of full memory."""
UNREADABLE = (
    OSError,
    SafetensorError,
    SingleFileComponentError,
    RuntimeError,
    ValueError,
    LookupError,
    ArithmeticError,
    AssertionError,
    TypeError,
    AttributeError,
    ImportError,
    MemoryError,
    UnpicklingError,
    getattr(huggingface_hub.errors, "StrictDataclassError", ValueError),  # of configurations, in newer releases
)
"""What the libraries raise for files that are damaged, or of another kind than they should be."""


@contextmanager
def too_little_memory(model: str | Path) -> Iterator[None]:
    """Raise DreamFusionError where the weights of ``model`` do not fit into the memory of the CPU or accelerator."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise _too_little_memory(model) from None
        raise


ONE_AT_A_TIME = threading.RLock()
"""Held while a model is loaded: transformers changes how PyTorch makes tensors meanwhile, for all threads."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that the CPU or an accelerator has no memory left."""
    known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return known or any(words in str(error) for words in _FULL)


def unreadable(model: str | Path, error: BaseException) -> DreamFusionError:
    """Return the error that says why a model cannot be read, and what to do."""
    if is_out_of_memory(error):
        return _too_little_memory(model)
    reason = "it lacks weights" if "meta tensor" in str(error) else first_line(error)
    remedy = "copy or download it again"
    if str(model).endswith(".ckpt"):
        remedy += ", or take the .safetensors file of the same model, for of a .ckpt only plain tensors are read"
    return DreamFusionError(f"The model {model} cannot be read ({reason}): {remedy}.")


def _too_little_memory(model: str | Path) -> DreamFusionError:
    return DreamFusionError(
        f"Not enough memory for the model {model}: use a smaller model, guidance.precision bf16, or another --device."
    )


def first_line(error: BaseException) -> str:
    """Return the first line of what an exception says, without its full stop; its class if it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(" .:") if lines else type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
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
