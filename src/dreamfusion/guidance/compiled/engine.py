"""The compiled engine: the networks of a prior that ONNX Runtime runs in place of PyTorch, by TensorRT where that is.

`dreamfusion.guidance.compiled.compiling` writes it: the folder of a diffusers model in which the weights of denoiser,
text encoders and VAE are exchanged for graphs, such as ``unet/model.onnx``. An engine is called like the module whose
place it takes, so that nothing else has to know of it. Only the VAE's encoder has a gradient, which is a graph of its
own: score distillation asks for no other.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch import Tensor

from dreamfusion.errors import DreamFusionError

GRAPH, GRADIENT = "model.onnx", "gradient.onnx"
PROVIDERS = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")
"""What runs the graph: the first of these that ONNX Runtime has and that is able to."""

# ONNX Runtime's names of number formats; ours; and the numbers of the ONNX standard for them.
_FORMATS = {
    "tensor(float)": (torch.float32, 1),
    "tensor(int64)": (torch.int64, 7),
    "tensor(float16)": (torch.float16, 10),
}
_AGAIN = "compile or copy it again"


def is_engine(folder: Path) -> bool:
    """Tell whether a part of a model is a graph alone; many models on the hub have one beside their weights."""
    return (folder / GRAPH).is_file() and not any(folder.glob("*.safetensors"))


def engine_of(folder: Path) -> Engine:
    """Return the engine of a part of a model, by the part's name: ``vae``, ``text_encoder...``, or the denoiser."""
    if folder.name == "vae":
        return VaeEngine(folder)
    return TextEngine(folder) if folder.name.startswith("text_encoder") else Engine(folder)


class Engine:
    """A compiled denoiser, called with the arguments of the diffusers module that it was made from.

    ``folder`` holds the graph and the module's ``config.json``. Nothing is read into memory before `open`.
    ``dtype`` is the format of its weights and results. Raises DreamFusionError if ONNX Runtime is missing or the
    configuration cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        require_onnx_runtime()
        self.folder = folder
        try:
            self.config = FrozenDict(json.loads((folder / "config.json").read_text(encoding="utf-8")))
            self.dtype = {"float32": torch.float32, "float16": torch.float16}[self.config["dtype"]]
        except (OSError, ValueError, TypeError, KeyError):
            raise DreamFusionError(f"The engine {folder} has no readable config.json: {_AGAIN}.") from None

    def open(self, device: torch.device) -> None:
        """Load the graph where it will run, on ``device`` if ONNX Runtime can, else on the CPU with a warning.

        Raises DreamFusionError for a graph that is truncated, lacks its weights, or is not one of this program.
        """
        self.graph = Graph(self.folder / GRAPH, self.dtype, device)
        self.device = device

    def modules(self) -> Iterator[torch.nn.Module]:
        """Return no modules; diffusers looks among them for its own hooks before it asks where the inputs go."""
        return iter(())

    def __call__(self, *args: Tensor, return_dict: bool = False, **kwargs: Any) -> tuple[Tensor, ...]:
        """Return the module's output for the module's own arguments, on the device of the first; no gradient."""
        return tuple(self.graph(*args, **kwargs))


class TextEngine(Engine):
    """A compiled text encoder, called like the transformers module that it was made from."""

    def __call__(self, *args: Tensor, **kwargs: Any) -> Any:
        """Return the module's output, its tensors by name and by number, for tokens [B, L]."""
        output: dict[str, Any] = {}
        for name, value in zip(self.config["outputs"], self.graph(*args, **kwargs), strict=True):
            name, *number = name.split(".")
            # One state of each layer, as in hidden_states.0.
            output[name] = (*output.get(name, ()), value) if number else value
        return _Output(output)


class _Output(dict[str, Any]):
    """What transformers' modules return: values by name, as attributes, or by number."""

    def __getattr__(self, name: str) -> Any:
        return super().__getitem__(name)

    def __getitem__(self, key: str | int) -> Any:
        return list(self.values())[key] if isinstance(key, int) else super().__getitem__(key)


class VaeEngine(Engine):
    """A compiled encoder of an AutoencoderKL, with a second graph for its gradient; there is no decoder."""

    def open(self, device: torch.device) -> None:
        """Load both graphs; see `Engine.open`."""
        super().open(device)
        self.gradient = Graph(self.folder / GRADIENT, self.dtype, device)

    def encode(self, pixels: Tensor) -> AutoencoderKLOutput:
        """Return the distribution of the latents of pixels [B, 3, H, W] in [-1, 1]; differentiable."""
        return AutoencoderKLOutput(latent_dist=DiagonalGaussianDistribution(_Encode.apply(pixels, self)))


class _Encode(torch.autograd.Function):
    """Pixels to the moments of the latents, [B, 2C, H / 8, W / 8], and the gradient of moments to that of pixels."""

    @staticmethod
    def forward(ctx: Any, pixels: Tensor, engine: VaeEngine) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(pixels)
        ctx.engine = engine
        return engine.graph(pixels)[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (pixels,) = ctx.saved_tensors
        return ctx.engine.gradient(pixels, gradient)[0], None


class Graph:
    """A graph in ONNX Runtime's memory, called with its inputs in order or by name; it returns its outputs.

    ``dtype`` is the format of its weights, ``device`` where it should run. Raises DreamFusionError for a file that is
    no graph, and warns if ONNX Runtime cannot use the device.
    """

    def __init__(self, path: Path, dtype: torch.dtype, device: torch.device) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what goes wrong is raised as well
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self.session = onnxruntime.InferenceSession(path, options, providers=_providers(path.parent, dtype, device))
            self._formats = {value.name: _FORMATS[value.type] for value in self.session.get_inputs()}
            self._outputs = [value.name for value in self.session.get_outputs()]
        except Exception as error:  # ONNX Runtime's own exceptions have no class in common
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise DreamFusionError(f"The engine {path} cannot be read ({reason}): {_AGAIN}.") from None
        self.provider = self.session.get_providers()[0]
        self._device = torch.device("cpu") if self.provider == PROVIDERS[-1] else device
        if device.type == "cuda" and self._device.type == "cpu":
            warnings.warn(
                "ONNX Runtime has no provider for this GPU, so the engine runs on the CPU: install onnxruntime-gpu in "
                "place of onnxruntime.",
                stacklevel=2,
            )

    def __call__(self, *args: Tensor, **kwargs: Any) -> list[Tensor]:
        """Return the outputs on the device of the first input; no gradient."""
        given = dict(zip(self._formats, args, strict=False)) | tensors_of(kwargs)
        binding, kept = self.session.io_binding(), []
        for name, (dtype, number) in self._formats.items():
            x = given[name].detach().to(self._device, dtype).contiguous()
            kept.append(x)  # the graph reads its memory
            binding.bind_input(name, x.device.type, x.device.index or 0, number, tuple(x.shape), x.data_ptr())
        for name in self._outputs:
            binding.bind_output(name)  # in the CPU's memory: ONNX Runtime alone knows their sizes, and they are small
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()  # ONNX Runtime has a stream of its own
        self.session.run_with_iobinding(binding)
        device = next(iter(given.values())).device
        return [torch.from_numpy(value).to(device) for value in binding.copy_outputs_to_cpu()]


def _providers(folder: Path, dtype: torch.dtype, device: torch.device) -> list[Any]:
    """Return what may run a graph on ``device``, the best first, with its options."""
    import onnxruntime

    found = onnxruntime.get_available_providers() if device.type == "cuda" else PROVIDERS[-1:]
    number = {"device_id": device.index or 0}
    # TensorRT takes minutes to build an engine of its own, which is kept for the next run on the same kind of GPU.
    tensorrt = {
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(folder / "tensorrt"),
        "trt_fp16_enable": dtype == torch.float16,
    }
    options: dict[str, dict[str, Any]] = {PROVIDERS[0]: number | tensorrt, PROVIDERS[1]: number, PROVIDERS[2]: {}}
    return [(name, options[name]) for name in PROVIDERS if name in found]


def tensors_of(arguments: dict[str, Any]) -> dict[str, Tensor]:
    """Return the tensors among a module's arguments by name; those in a table, such as SDXL's, by their own."""
    found: dict[str, Tensor] = {}
    for name, value in arguments.items():
        if isinstance(value, dict):
            found |= tensors_of(value)
        elif isinstance(value, Tensor):
            found[name] = value
    return found


def require_onnx_runtime() -> None:
    """Raise DreamFusionError, with the line that installs it, if ONNX Runtime is missing."""
    try:
        import onnxruntime  # noqa: F401
    except ImportError:
        raise DreamFusionError('A compiled engine needs ONNX Runtime: pip install "dreamfusion[engine]".') from None
