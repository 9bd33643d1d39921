"""Compiling a prior: its networks become ONNX graphs, which `dreamfusion.guidance.compiled.engine` runs.

These are the denoiser, the text encoders, and the VAE's encoder with its gradient. Each graph is traced from the calls
that the prior itself makes, and compared with the module before it is kept.
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
from dreamfusion.guidance.base import Guidance
from dreamfusion.guidance.compiled.engine import (
    GRADIENT,
    GRAPH,
    Engine,
    VaeEngine,
    engine_of,
    require_onnx_runtime,
    tensors_of,
)
from dreamfusion.guidance.compiled.gradient import gradient_graph
from dreamfusion.guidance.execution import Execution
from dreamfusion.guidance.families import family_of, open_prior
from dreamfusion.guidance.reading.ldm_text import PaddedCLIPTextModel
from dreamfusion.guidance.reading.places import INDEX
from dreamfusion.guidance.reading.problems import quiet, too_little_memory
from dreamfusion.io.files import prepare_output_dir, replace_folder

_TOLERANCE = {torch.float32: 1e-3, torch.float16: 5e-2}
"""Largest difference between graph and module, as a share of the largest prediction."""


@dataclass(frozen=True)
class _Call:
    """What a module was given, and the tensors that it returned."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: dict[str, Tensor]


def compile_prior(
    model: str | Path,
    output: Path | str,
    *,
    image_size: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Path:
    """Write the prior of a folder, single file or hub name as a folder of compiled networks, and return that.

    Every family of `dreamfusion.guidance.families` can be compiled. Number of pictures, their size and the length of
    the prompts stay free, as far as the model has them free. ``image_size`` is the size that the graph is tried at
    first; ``device`` is where it is traced and tried.
    Raises DreamFusionError if ONNX Runtime or the exporter is missing, the model does not load or is compiled already,
    ``output`` is in use, or the graph does not give what the model gives.
    """
    require_onnx_runtime()
    _require_exporter()
    if not family_of(model).compiles:
        raise DreamFusionError(f"{model} is of a kind that is not compiled: take guidance.execution.compile.")
    output = Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise DreamFusionError(f"{output} exists: choose another folder with --output, or remove it.")
    prior = open_prior(
        model, device=device, dtype=dtype, image_size=image_size, execution=Execution(channels_last=False)
    )
    pipeline = prior.pipeline
    if prior.denoiser is None:
        raise DreamFusionError(f"{model} is compiled already: give the model that it was made from.")
    prepare_output_dir(output.parent)
    with replace_folder(output) as folder, too_little_memory(model), quiet():
        modules = prior.modules()
        calls = _record(prior, modules)
        for name, part in pipeline.components.items():
            if name == "vae":
                _export_vae(part, calls[name], folder / name)
            elif name in modules:
                _export(part, calls[name], folder / name)
            elif part is not None:
                part.save_pretrained(folder / name)
        _write_index(pipeline, folder)
        for name in modules:
            _check(engine_of(folder / name), calls[name], torch.device(device), f"{model}'s {name}")
    return output


def _write_index(pipeline: Any, folder: Path) -> None:
    pipeline.save_config(folder)
    if isinstance(pipeline.text_encoder, PaddedCLIPTextModel):
        # diffusers knows its parent only; the encoder's own configuration says what it is.
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        index["text_encoder"] = ["transformers", "CLIPTextModel"]
        (folder / INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")


def _record(prior: Guidance, modules: dict[str, Any]) -> dict[str, tuple[_Call, _Call]]:
    """Ask the prior twice, with all that may vary from call to call different, and return the calls of its modules."""
    calls: dict[str, list[_Call]] = {name: [] for name in modules}

    def note(name: str, args: Any, kwargs: Any, output: Any) -> None:
        if not kwargs.get("return_dict", True):
            output = {"output": output[0]}
        calls[name].append(_Call(args, kwargs, _flat(output)))

    hooks = [
        module.register_forward_hook(
            lambda _, args, kwargs, output, name=name: note(name, args, kwargs, output), with_kwargs=True
        )
        for name, module in modules.items()
        if name != "vae"
    ]
    channels, side = prior.encode(torch.zeros(1, 3, 8, 8, device=prior.device)).shape[1:3]
    small = side if channels == 3 else side // 2  # a prior on pixels has its own size
    generator = torch.Generator().manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the long prompt, which T5 does not read to its end
        for count, size, prompt in ((2, side, "a"), (3, small, "a " * 100)):
            z = torch.randn(count, channels, size, size, generator=generator).to(prior.device)
            t = torch.arange(1, count + 1, device=prior.device) * (len(prior.alphas_cumprod) // 4)
            prior.predict_noise(z, t, prior.embed([prompt] * count))
            if "vae" in modules:
                pixels = torch.rand(count, 3, prior.sample_size * size // side, prior.sample_size * size // side)
                calls["vae"].append(_vae_call(modules["vae"], pixels.to(prior.device)))
    for hook in hooks:
        hook.remove()
    return {name: (made[0], made[-1]) for name, made in calls.items()}  # long prompts are several calls


def _vae_call(vae: Any, pixels: Tensor) -> _Call:
    """Return what an encoder makes of pixels [B, 3, H, W], and of a gradient of ones for what it has made."""
    pixels = (2 * pixels - 1).to(vae.dtype)
    with torch.enable_grad():
        x = pixels.requires_grad_()
        moments = vae._encode(x)
        (gradient,) = torch.autograd.grad(moments, x, torch.ones_like(moments))
    return _Call((pixels.detach(),), {}, {"moments": moments.detach(), "gradient": gradient})


def _flat(output: Any) -> dict[str, Tensor]:
    """Return the tensors of a module's output by name; those of a tuple, one for each layer, as name.0, name.1, ..."""
    found: dict[str, Tensor] = {}
    for name, value in output.items():
        values = {f"{name}.{i}": x for i, x in enumerate(value)} if isinstance(value, tuple) else {name: value}
        found |= {key: x for key, x in values.items() if isinstance(x, Tensor)}
    return found


class _TextEncoder(torch.nn.Module):
    """A text encoder that returns a tuple of tensors, asked for what it was asked for in a call."""

    def __init__(self, encoder: Any, call: _Call) -> None:
        super().__init__()
        self.encoder = encoder
        self.asked = {name: value for name, value in call.kwargs.items() if not isinstance(value, Tensor)}

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, ...]:
        mask = {} if attention_mask is None else {"attention_mask": attention_mask}
        return tuple(_flat(self.encoder(input_ids, **(self.asked | mask))).values())


def _export(module: Any, calls: tuple[_Call, _Call], folder: Path) -> None:
    """Write the graph of a denoiser or a text encoder, and its configuration."""
    one, other = calls
    traced, kwargs = module, one.kwargs
    if folder.name.startswith("text_encoder"):
        traced = _TextEncoder(module, one)
        kwargs = {name: value for name, value in kwargs.items() if isinstance(value, Tensor)}
    positional = list(inspect.signature(traced.forward).parameters)[: len(one.args)]
    axes = [_free_axes(x, y) for x, y in zip(one.args, other.args, strict=True)]
    dynamic = dict(zip(positional, axes, strict=True)) | _free_axes(kwargs, other.kwargs)
    named = tensors_of(dict(zip(positional, one.args, strict=True)) | kwargs)
    folder.mkdir()
    kind = type(module).__name__
    _to_onnx(traced, one.args, kwargs, list(named), list(one.outputs), dynamic, folder / GRAPH, kind)
    _save_config(module, folder, outputs=list(one.outputs))


class _Encoder(torch.nn.Module):
    """The encoder of a VAE: pixels to the moments of the latents."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, pixels: Tensor) -> Tensor:
        return self.vae._encode(pixels)


def _export_vae(vae: Any, calls: tuple[_Call, _Call], folder: Path) -> None:
    """Write the graph of a VAE's encoder, that of its gradient, and its configuration; the decoder is left out."""
    (pixels,) = calls[0].args
    axes = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    kind = type(vae).__name__
    folder.mkdir()
    _to_onnx(_Encoder(vae), (pixels,), {}, ["pixels"], ["moments"], (axes,), folder / GRAPH, kind)
    back, given = gradient_graph(vae)
    inputs = ["pixels", "gradient_of_moments"]
    _to_onnx(back, given, {}, inputs, ["gradient"], (axes, axes), folder / GRADIENT, kind)
    _save_config(vae, folder)


def _to_onnx(
    module: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    inputs: list[str],
    outputs: list[str],
    dynamic: Any,
    path: Path,
    kind: str,
) -> None:
    """Export a module with all of PyTorch's talk held back; DreamFusionError, naming its ``kind``, if that fails."""
    try:
        with _quiet_exporter():
            torch.onnx.export(
                module,
                args,
                path,
                kwargs=kwargs,
                input_names=inputs,
                output_names=outputs,
                dynamic_shapes=dynamic,
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise DreamFusionError(f"The {kind} cannot be compiled ({reason:.200}).") from None


def _save_config(module: Any, folder: Path, **more: Any) -> None:
    text = module.to_json_string() if hasattr(module, "to_json_string") else module.config.to_json_string()
    config = json.loads(text) | {"dtype": str(module.dtype).removeprefix("torch.")} | more
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def _free_axes(x: Any, y: Any) -> Any:
    """Return the axes in which two arguments differ, in the exporter's words: those that must stay free."""
    if isinstance(x, dict):
        return {name: _free_axes(x[name], y[name]) for name in x}
    if isinstance(x, Tensor):
        return {axis: torch.export.Dim.DYNAMIC for axis in range(x.ndim) if x.shape[axis] != y.shape[axis]}
    return None


def _check(engine: Engine, calls: tuple[_Call, _Call], device: torch.device, name: str) -> None:
    """Raise DreamFusionError unless the graphs give what the module gave, at both sizes."""
    engine.open(device)
    for call in calls:
        if isinstance(engine, VaeEngine):
            (pixels,) = call.args
            found = [engine.graph(pixels)[0], engine.gradient(pixels, torch.ones_like(call.outputs["moments"]))[0]]
        else:
            found = engine.graph(*call.args, **call.kwargs)
        for value, expected in zip(found, call.outputs.values(), strict=True):
            error = (value.float() - expected.float()).abs().max() / expected.float().abs().max()
            if not error < _TOLERANCE[engine.dtype]:
                raise DreamFusionError(
                    f"{name} cannot be compiled: its graph differs from the model by {error:.2g} of the largest value."
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
