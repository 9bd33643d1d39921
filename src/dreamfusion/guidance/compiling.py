"""Compiling a prior: its denoiser becomes an ONNX graph, which `dreamfusion.guidance.engine` runs.

The denoiser is what a run asks at every step. The rest stays PyTorch's: the text encoders are asked once, in less time
than TensorRT would take to build an engine for them, and the gradient goes back through the VAE's encoder, which no
engine can do.
"""

from __future__ import annotations

import inspect
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamfusion.errors import DreamFusionError
from dreamfusion.files import prepare_output_dir, replace_folder
from dreamfusion.guidance.base import Guidance
from dreamfusion.guidance.engine import GRAPH, Engine, require_onnx_runtime, tensors_of
from dreamfusion.guidance.execution import Execution
from dreamfusion.guidance.families import open_prior
from dreamfusion.guidance.loading import INDEX, quiet, too_little_memory
from dreamfusion.guidance.nemo_checkpoint import PaddedCLIPTextModel

_TOLERANCE = {torch.float32: 1e-3, torch.float16: 5e-2}
"""Largest difference between graph and module, as a share of the largest prediction."""


@dataclass(frozen=True)
class _Call:
    """What a denoiser was given, and the first thing that it returned."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Tensor


def compile_prior(
    model: str | Path,
    output: Path | str,
    *,
    image_size: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Path:
    """Write the prior of a folder, single file or hub name as a folder with a compiled denoiser, and return that.

    Every family of `dreamfusion.guidance.families` can be compiled. Number of pictures, their size and the length of
    the prompts stay free, as far as the model has them free. ``image_size`` is the size that the graph is tried at
    first; ``device`` is where it is traced and tried.
    Raises DreamFusionError if ONNX Runtime or the exporter is missing, the model does not load or is compiled already,
    ``output`` is in use, or the graph does not give what the model gives.
    """
    require_onnx_runtime()
    _require_exporter()
    output = Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise DreamFusionError(f"{output} exists: choose another folder with --output, or remove it.")
    prior: Any = open_prior(
        model, device=device, dtype=dtype, image_size=image_size, execution=Execution(channels_last=False)
    )
    pipeline = prior._pipeline
    if prior.denoiser is None:
        raise DreamFusionError(f"{model} is compiled already: give the model that it was made from.")
    prepare_output_dir(output.parent)
    with replace_folder(output) as folder, too_little_memory(model), quiet():
        calls = _record(prior)
        for name, part in pipeline.components.items():
            if part is prior.denoiser:
                _export(part, calls, folder / name)
                _check(Engine(folder / name), calls, torch.device(device), model)
            elif part is not None:
                part.save_pretrained(folder / name)
        _write_index(pipeline, folder)
    return output


def _write_index(pipeline: Any, folder: Path) -> None:
    pipeline.save_config(folder)
    if isinstance(pipeline.text_encoder, PaddedCLIPTextModel):
        # diffusers knows its parent only; the encoder's own configuration says what it is.
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        index["text_encoder"] = ["transformers", "CLIPTextModel"]
        (folder / INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")


def _record(prior: Guidance) -> tuple[_Call, _Call]:
    """Ask the prior twice, with all that may vary from call to call different, and return the calls of its denoiser."""
    assert prior.denoiser is not None
    calls: list[_Call] = []
    hook = prior.denoiser.register_forward_hook(
        lambda _, args, kwargs, output: calls.append(_Call(args, kwargs, output[0])), with_kwargs=True
    )
    channels, side = prior.encode(torch.zeros(1, 3, 8, 8, device=prior.device)).shape[1:3]
    small = side if channels == 3 else side // 2  # a prior on pixels has its own size
    generator = torch.Generator().manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the long prompt, which T5 does not read to its end
        for count, size, prompt in ((2, side, "a"), (3, small, "a " * 100)):
            z = torch.randn(count, channels, size, size, generator=generator).to(prior.device)
            t = torch.arange(1, count + 1, device=prior.device) * (len(prior.alphas_cumprod) // 4)
            prior.predict_noise(z, t, prior.embed([prompt] * count))
    hook.remove()
    first, second = calls
    return first, second


def _export(denoiser: Any, calls: tuple[_Call, _Call], folder: Path) -> None:
    """Write the graph and the module's configuration."""
    one, other = calls
    positional = list(inspect.signature(denoiser.forward).parameters)[: len(one.args)]
    axes = [_free_axes(x, y) for x, y in zip(one.args, other.args, strict=True)]
    dynamic = dict(zip(positional, axes, strict=True)) | _free_axes(one.kwargs, other.kwargs)
    named = tensors_of(dict(zip(positional, one.args, strict=True)) | one.kwargs)
    folder.mkdir()
    try:
        with _quiet_exporter():
            torch.onnx.export(
                denoiser,
                one.args,
                folder / GRAPH,
                kwargs=one.kwargs,
                input_names=list(named),
                output_names=["output"],
                dynamic_shapes=dynamic,
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise DreamFusionError(f"The {type(denoiser).__name__} cannot be compiled ({reason:.200}).") from None
    config = json.loads(denoiser.to_json_string()) | {"dtype": str(denoiser.dtype).removeprefix("torch.")}
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def _free_axes(x: Any, y: Any) -> Any:
    """Return the axes in which two arguments differ, in the exporter's words: those that must stay free."""
    if isinstance(x, dict):
        return {name: _free_axes(x[name], y[name]) for name in x}
    if isinstance(x, Tensor):
        return {axis: torch.export.Dim.DYNAMIC for axis in range(x.ndim) if x.shape[axis] != y.shape[axis]}
    return None


def _check(engine: Engine, calls: tuple[_Call, _Call], device: torch.device, model: str | Path) -> None:
    """Raise DreamFusionError unless the graph gives what the module gave, at both sizes."""
    engine.open(device)
    for call in calls:
        found, expected = engine(*call.args, **call.kwargs)[0].float(), call.output.float()
        error = (found - expected).abs().max() / expected.abs().max()
        if not error < _TOLERANCE[engine.dtype]:
            raise DreamFusionError(
                f"{model} cannot be compiled: its graph differs from the model by {error:.2g} of the largest value."
            )


def _require_exporter() -> None:
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise DreamFusionError('Compiling needs onnx and onnxscript: pip install "dreamfusion[engine]".') from None


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Hold back what the exporter prints and logs; its failures are raised."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
