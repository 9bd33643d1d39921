"""Loading diffusers pipelines from a folder, a single file or the hub; what can go wrong becomes one clear line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderTiny, DiffusionPipeline
from diffusers.utils.constants import SAFETENSORS_WEIGHTS_NAME

from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.compiled.engine import engine_of, is_engine
from dreamfusion.guidance.patched_unet import PatchedUNet
from dreamfusion.guidance.reading.hub import download_pipeline, hub_file
from dreamfusion.guidance.reading.ldm_text import PaddedCLIPTextModel
from dreamfusion.guidance.reading.nemo_checkpoint import load_ldm_checkpoint, load_nemo
from dreamfusion.guidance.reading.places import (
    INDEX,
    config_folder,
    has_part,
    is_original,
    local_folder,
    model_index,
    pipeline_kind,
    read_index,
    single_file,
)
from dreamfusion.guidance.reading.problems import UNREADABLE, quiet, unreadable
from dreamfusion.guidance.reading.telling import tell_reading
from dreamfusion.guidance.reading.weights import limit_tokenizers, part_variant, refuse_pickled, weight_files

WITHOUT: dict[str, Any] = {
    "safety_checker": None,
    "feature_extractor": None,
    "image_encoder": None,
    "watermarker": None,
    "requires_safety_checker": False,
}
"""Parts of pipelines that have nothing to do with judging a picture, and are not loaded."""

_LIBRARIES = ("diffusers", "transformers")
_OURS = [PatchedUNet.__module__, PatchedUNet.__name__]
"""Where the classes come from that an index may name: these libraries, and the one class of this package."""


def load_pipeline(
    model: str | Path,
    family: str,
    parts: Sequence[str],
    dtype: torch.dtype = torch.float32,
    variant: str | None = None,
) -> DiffusionPipeline:
    """Return the text-to-image pipeline of a folder, a single file, or a hub name (cached files come first).

    ``family`` is the class of diffusers' that it must be, and ``parts`` are those that it must have.

    Of folders and hub names only safetensors are read; of a ``.ckpt`` only its tensors, so that no code in it can run.
    A single file is read with the configuration in its folder (a model_index.json and the parts' own config files), or
    else with the one of the hub model that it was made for; a ``.nemo`` archive with its own, and a file with the
    original names with the ``.yaml`` of the same name beside it. ``variant`` names alternative weights, for example
    "fp16"; without it those of a half ``dtype`` are taken where they are, or else the plain ones.

    Raises DreamFusionError for an unknown, deleted or gated name, no hub access, a folder that is no pipeline, another
    family, a part of a foreign class, missing or truncated weights, a tokenizer that nothing installed can read, and
    too little memory.
    """
    found = pipeline_kind(model)
    if found != family:
        raise DreamFusionError(f"{model} is of the kind {found}, where {family} is needed.")
    file = single_file(model)
    if file and is_original(file):
        return _from_original(file, dtype)
    index = model_index(model)
    check_parts(index, parts, model)
    folder = file or local_folder(model) or download_pipeline(str(model), variant, dtype, WITHOUT)
    if not file:
        refuse_pickled(folder, {part: value for part, value in index.items() if part not in WITHOUT}, model)
    _require_sentencepiece(file.parent if file else folder, model)
    try:
        with quiet():
            pipeline = _from_file(file, family, dtype) if file else _from_folder(folder, dtype, variant)
    except DreamFusionError:
        raise
    except Exception as error:  # the libraries raise what they like, tokenizers the bare class
        raise unreadable(model, error) from None
    refuse_incomplete({part: getattr(pipeline, part, None) for part in parts}, model)
    limit_tokenizers(pipeline)
    return pipeline


def check_parts(
    index: dict[str, Any], parts: Sequence[str], model: str | Path, known: Mapping[str, str] | None = None
) -> None:
    """Raise DreamFusionError if an index lacks parts, or names a class of another module.

    diffusers would import and call such a class. ``known`` are the classes that the caller reads itself, by part.
    """
    if missing := [part for part in parts if not has_part(index, part)]:
        raise DreamFusionError(f"{model} is not a text-to-image model: it has no {', '.join(missing)}.")
    for part, value in index.items():
        if part in WITHOUT and part not in parts:
            continue
        if not has_part(index, part) or value[0] in _LIBRARIES or value == _OURS:
            continue
        if known and value[1:] == [known.get(part)]:
            continue
        raise DreamFusionError(
            f"The {part} of {model} is {'.'.join(map(str, value))}: only parts of {' and '.join(_LIBRARIES)} are "
            "loaded, and the UNet of the embedded prior."
        )


def _from_folder(folder: Path, dtype: torch.dtype, variant: str | None) -> DiffusionPipeline:
    index = read_index(folder / INDEX, folder)
    variants = {part: variant or part_variant(folder / part, dtype) for part in index}
    options = {"torch_dtype": dtype, "use_safetensors": True, "local_files_only": True}
    # What the index leaves out on purpose, such as the T5 of Stable Diffusion 3, must be said to be left out.
    parts = {part: None for part, value in index.items() if value == [None, None]}
    engines = {part: engine_of(folder / part) for part in index if is_engine(folder / part)}
    encoders = load_text_encoders(
        folder, {part: index[part] for part in index if part not in engines}, variants, options
    )
    given = WITHOUT | parts | dict.fromkeys(engines) | encoders
    # Parts without this variant are read from their plain files.
    chosen = next((name for part, name in variants.items() if name and part not in given), None)
    rest = {part: weight_files(folder / part, variants[part]) for part in index if part not in given}
    tell_reading(", ".join(part for part, files in rest.items() if files), chain(*rest.values()))
    pipeline: Any = DiffusionPipeline.from_pretrained(str(folder), variant=chosen, **options, **given)
    for part, engine in engines.items():
        setattr(pipeline, part, engine)
    if "vae" in engines:  # a pipeline without its VAE guesses this
        pipeline.vae_scale_factor = 2 ** (len(engines["vae"].config["block_out_channels"]) - 1)
    return pipeline


def load_text_encoders(
    folder: Path, index: dict[str, Any], variants: dict[str, str | None], options: dict[str, Any]
) -> dict[str, torch.nn.Module]:
    """Load the text encoders apart: transformers makes up the weights that a file lacks, and says so only if asked."""
    encoders = {}
    for part, value in index.items():
        if part.startswith("text_encoder") and value[0] == "transformers":
            tell_reading(part, weight_files(folder / part, variants[part]))
            encoders[part], info = _encoder_class(folder / part, value[1]).from_pretrained(
                str(folder), subfolder=part, output_loading_info=True, variant=variants[part], **options
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
    padded = config.is_file() and read_index(config, folder).get("architectures") == [PaddedCLIPTextModel.__name__]
    return PaddedCLIPTextModel if padded else getattr(transformers, name)


def _from_file(file: Path, family: str, dtype: torch.dtype) -> DiffusionPipeline:
    config = config_folder(file)
    tell_reading(file.name, [file])
    index = read_index(config / INDEX, file)
    without = {part: value for part, value in WITHOUT.items() if part in index}
    return getattr(diffusers, family).from_single_file(
        str(file), config=str(config), torch_dtype=dtype, local_files_only=True, **without
    )


def _from_original(file: Path, dtype: torch.dtype) -> Any:
    """Return the pipeline of such a file, with the tokenizer in the folder beside it or the one its config names."""
    beside = file.parent / "tokenizer"
    tokenizer = beside if beside.is_dir() else None
    tell_reading(file.name, [file])
    with quiet():
        if file.suffix == ".nemo":
            return load_nemo(file, dtype, tokenizer)
        return load_ldm_checkpoint(file, dtype=dtype, tokenizer=tokenizer)


def refuse_incomplete(parts: Mapping[str, Any], model: str | Path) -> None:
    """Raise DreamFusionError if a part is missing or has weights that its files did not hold."""
    for part, module in parts.items():
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
    return load_module(name, AutoencoderTiny, "tiny VAE", dtype)


def load_module(name: str, module_class: Any, what: str, dtype: torch.dtype) -> Any:
    """Return a single module of diffusers, ``what`` in words, from a folder or hub name (cached files come first).

    Raises DreamFusionError for a folder or name without one, no hub access, and missing or truncated weights.
    """
    folder = Path(name).expanduser()
    on_hub = not folder.is_dir()
    if on_hub:
        folder = hub_file(name, "config.json").parent
    kind = read_index(folder / "config.json", name).get("_class_name")
    if kind != module_class.__name__:
        raise DreamFusionError(
            f"{name} is of the kind {kind}, where the {what} must be of the kind {module_class.__name__}."
        )
    if on_hub:
        hub_file(name, SAFETENSORS_WEIGHTS_NAME)  # into the same folder
    try:
        with quiet():
            module = module_class.from_pretrained(
                str(folder), torch_dtype=dtype, use_safetensors=True, local_files_only=True
            )
    except UNREADABLE as error:
        raise unreadable(name, error) from None
    _refuse_absent_weights(module, what, name)
    return module
