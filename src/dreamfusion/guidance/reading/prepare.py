"""How a loaded diffusers pipeline is made ready to be asked: the one place where `Execution`'s switches are applied."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import cpu_offload
from accelerate.hooks import CpuOffload, add_hook_to_module
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.compiled.engine import Engine, VaeEngine
from dreamfusion.guidance.execution import (
    COMPILED_VAE_SWITCHES,
    DENOISER_SWITCHES,
    VAE_SWITCHES,
    Attention,
    Execution,
    Precision,
)
from dreamfusion.guidance.reading.loading import load_tiny_vae
from dreamfusion.guidance.reading.problems import too_little_memory


def set_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the format of the weights; on CUDA, let PyTorch round the factors of float32 products for "tf32" only.

    TF32 is float32 with 10 bits of mantissa inside tensor cores. PyTorch's setting of it is global, so it holds for
    the scene's small networks as well.
    """
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    match precision:
        case "fp16":
            return torch.float16
        case "bf16":
            return torch.bfloat16
        case _:
            return torch.float32


def prepare(pipeline: Any, execution: Execution, device: torch.device, model: str | Path) -> None:
    """Freeze the modules of a loaded diffusers pipeline, apply the switches, and put its text encoders where they run.

    The rest waits for `settle`, so that the two never need memory together.

    Raises DreamFusionError if they do not fit in memory, if nothing compiles here, if a prior on pixels is asked for
    what only a VAE has, or a compiled engine for what it cannot do.
    """
    _fit_vae(pipeline, execution, model)
    _spare_vae(pipeline)
    denoiser = denoiser_of(pipeline)
    for part in pipeline.components.values():
        if isinstance(part, Engine):
            _open_engine(part, execution, device, model)
    with too_little_memory(model):
        for name, module in modules_of(pipeline).items():
            module.eval().requires_grad_(False)
            if execution.channels_last and not name.startswith("text_encoder"):
                module.to(memory_format=torch.channels_last)
            if execution.quantize == "int8" and (module is denoiser or name.startswith("text_encoder")):
                _to_int8(module)
            if name == "vae" or execution.offload == "none":
                if name.startswith("text_encoder"):  # the others follow when these may be gone: `settle`
                    module.to(device)
            elif module is denoiser and execution.offload == "layers":
                cpu_offload(module, execution_device=device)
            else:
                add_hook_to_module(module, _BackToCpu(execution_device=device))
    if execution.checkpoint_denoiser:
        denoiser.enable_gradient_checkpointing()
    if execution.compile:
        _try_compiler(device)
        denoiser.compile()


def _to_int8(module: nn.Module) -> None:
    """Hold the weights of a module's linear layers in 8 bits; DreamFusionError without torchao."""
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError:
        raise DreamFusionError(
            'guidance.execution.quantize needs torchao: pip install "dreamfusion[quantize]", or leave it out.'
        ) from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own changes between versions
        quantize_(module, Int8WeightOnlyConfig())


def settle(pipeline: Any, execution: Execution, device: torch.device, model: str | Path) -> None:
    """Bring what is asked at every step to where it runs; before, the text encoders had that memory for themselves.

    Raises DreamFusionError if it does not fit.
    """
    with too_little_memory(model):
        for name, module in modules_of(pipeline).items():
            # The gradient comes back through the VAE after the denoiser was asked, so its weights have to stay.
            if name == "vae" or (execution.offload == "none" and not name.startswith("text_encoder")):
                module.to(device)


def _open_engine(engine: Engine, execution: Execution, device: torch.device, model: str | Path) -> None:
    for switch in COMPILED_VAE_SWITCHES if isinstance(engine, VaeEngine) else DENOISER_SWITCHES:
        if getattr(execution, switch) != getattr(Execution(), switch):
            raise DreamFusionError(f"{model} is a compiled engine: leave out guidance.execution.{switch}.")
    engine.open(device)


_KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}


@contextmanager
def attention_kernel(attention: Attention) -> Iterator[None]:
    """Let PyTorch's attention use one of its kernels only; DreamFusionError where there is none for what is asked."""
    if attention == "default":
        yield
        return
    try:
        with warnings.catch_warnings(), sdpa_kernel(_KERNELS[attention]):
            warnings.simplefilter("ignore", UserWarning)  # with the reasons against each kernel, one by one
            yield
    except RuntimeError as error:
        if not any(words in str(error) for words in ("No available kernel", "No viable backend")):  # CUDA's, the CPU's
            raise
        raise DreamFusionError(
            f"guidance.execution.attention: this device has no {attention} kernel for this model and precision; leave "
            "it at default."
        ) from None


def release_text_encoders(pipeline: Any) -> None:
    """Drop a pipeline's text encoders, so that neither the CPU nor the accelerator holds them; tokenizers stay."""
    for name in list(pipeline.components):
        if name.startswith("text_encoder"):
            setattr(pipeline, name, None)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def denoiser_of(pipeline: Any) -> Any:
    """Return the UNet or the transformer of a diffusers pipeline."""
    return pipeline.unet if hasattr(pipeline, "unet") else pipeline.transformer


def trainable(denoiser: Any) -> nn.Module | None:
    """Return the denoiser, or None for a compiled engine, which takes no adapters and gives no gradient."""
    return denoiser if isinstance(denoiser, nn.Module) else None


class _BackToCpu(CpuOffload):
    """Accelerate's hook that brings a module in for its forward pass; this one also takes it away right after."""

    def post_forward(self, module: nn.Module, output: Any) -> Any:
        module.to("cpu")
        return output


def modules_of(pipeline: Any) -> dict[str, Any]:
    """Return the networks of a pipeline that PyTorch runs, by the names of its parts."""
    return {name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)}


def _fit_vae(pipeline: Any, execution: Execution, model: str | Path) -> None:
    """Exchange the VAE and set its switches; DreamFusionError if there is none or the tiny one belongs elsewhere."""
    wanted = [name for name in VAE_SWITCHES if getattr(execution, name)]
    if wanted and not hasattr(pipeline, "vae"):
        raise DreamFusionError(f"{model} works on pixels and has no VAE: leave out guidance.execution.{wanted[0]}.")
    if execution.tiny_vae:
        tiny = load_tiny_vae(execution.tiny_vae, pipeline.vae.dtype)
        _refuse_other_latents(tiny, pipeline, execution.tiny_vae, model)
        pipeline.vae = tiny
    if isinstance(getattr(pipeline, "vae", None), Engine):
        return
    if execution.checkpoint_vae:
        if not pipeline.vae._supports_gradient_checkpointing:
            raise DreamFusionError(f"The VAE of {model} cannot be checkpointed: leave out execution.checkpoint_vae.")
        pipeline.vae.enable_gradient_checkpointing()
    if execution.vae_slicing:
        pipeline.vae.enable_slicing()


def _spare_vae(pipeline: Any) -> None:
    """Run a VAE in float32 whose activations are larger than a float16 can be, as Stable Diffusion XL's."""
    vae = getattr(pipeline, "vae", None)
    if vae is None or isinstance(vae, Engine):
        return
    if vae.dtype == torch.float16 and vae.config.get("force_upcast"):
        vae.float()


@torch.no_grad()
def _refuse_other_latents(tiny: Any, pipeline: Any, name: str, model: str | Path) -> None:
    """Raise DreamFusionError unless the tiny VAE's latents have the channels and the size of the full one's."""
    scale, channels = pipeline.vae_scale_factor, pipeline.vae.config.latent_channels
    found = tiny.encode(torch.zeros(1, 3, 4 * scale, 4 * scale, dtype=tiny.dtype)).latents.shape
    if found != (1, channels, 4, 4):
        raise DreamFusionError(
            f"The tiny VAE {name} was not made for {model}: its latents have {found[1]} channels and a side of "
            f"1/{4 * scale // found[2]}, where {channels} and 1/{scale} are needed."
        )


def _try_compiler(device: torch.device) -> None:
    """Compile something small; DreamFusionError if that fails, for else the first step would, with pages of text."""
    try:
        torch.compile(lambda x: 2 * x + 1)(torch.ones(8, device=device))
    except Exception as error:  # whatever a compiler, Triton or their absence raises
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(" .:")
        remedy = "a C++ compiler" if device.type == "cpu" else "Triton and a C compiler"
        raise DreamFusionError(
            f"torch.compile does not work here ({reason}): install {remedy}, or leave out guidance.execution.compile."
        ) from None
