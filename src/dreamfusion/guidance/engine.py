"""The compiled engine: a denoiser that ONNX Runtime runs in place of PyTorch, through TensorRT where that is there.

`dreamfusion.guidance.compiling` writes it: the folder of a diffusers model in which the denoiser's weights are
exchanged for a graph, ``unet/model.onnx`` or ``transformer/model.onnx``. An `Engine` is called like the module whose
place it takes, so that nothing else has to know of it. It has no gradient, which score distillation does not ask for.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import FrozenDict
from torch import Tensor

from dreamfusion.errors import DreamFusionError

GRAPH = "model.onnx"
PROVIDERS = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")
"""What runs the graph: the first of these that ONNX Runtime has and that is able to."""

# ONNX Runtime's names of number formats; ours; and the numbers of the ONNX standard for them.
_FORMATS = {
    "tensor(float)": (torch.float32, 1),
    "tensor(int64)": (torch.int64, 7),
    "tensor(float16)": (torch.float16, 10),
}


def is_engine(folder: Path) -> bool:
    """Tell whether a part of a model is a graph alone; many models on the hub have one beside their weights."""
    return (folder / GRAPH).is_file() and not any(folder.glob("*.safetensors"))


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

        Raises DreamFusionError for a graph that is truncated, lacks its weights, or is not one of a denoiser.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what goes wrong is raised as well
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self._session = onnxruntime.InferenceSession(
                self.folder / GRAPH, options, providers=self._providers(device)
            )
            self._formats = {value.name: _FORMATS[value.type] for value in self._session.get_inputs()}
            (self._output,) = self._session.get_outputs()
        except Exception as error:  # ONNX Runtime's own exceptions have no class in common
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise DreamFusionError(f"The engine {self.folder / GRAPH} cannot be read ({reason}): {_AGAIN}.") from None
        self.provider = self._session.get_providers()[0]
        self._device = torch.device("cpu") if self.provider == PROVIDERS[-1] else device
        if device.type == "cuda" and self._device.type == "cpu":
            warnings.warn(
                "ONNX Runtime has no provider for this GPU, so the engine runs on the CPU: install onnxruntime-gpu in "
                "place of onnxruntime.",
                stacklevel=2,
            )

    def __call__(self, *args: Tensor, return_dict: bool = False, **kwargs: Any) -> tuple[Tensor]:
        """Return the module's output for the module's own arguments, on the device of the first; no gradient."""
        names = list(self._formats)
        given = dict(zip(names, args, strict=False)) | tensors_of(kwargs)
        binding, kept = self._session.io_binding(), []
        for name, (dtype, _) in self._formats.items():
            kept.append(given[name].detach().to(self._device, dtype).contiguous())  # the graph reads its memory
            self._bind(binding.bind_input, name, kept[-1])
        # An output is as large as the first input; only its channels may be more.
        shape = [n if isinstance(n, int) else m for n, m in zip(self._output.shape, kept[0].shape, strict=True)]
        output = torch.empty(shape, dtype=self.dtype, device=self._device)
        self._bind(binding.bind_output, self._output.name, output)
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()  # ONNX Runtime has a stream of its own
        self._session.run_with_iobinding(binding)
        return (output.to(given[names[0]].device),)

    def _providers(self, device: torch.device) -> list[Any]:
        """Return what may run the graph on ``device``, the best first, with its options."""
        import onnxruntime

        found = onnxruntime.get_available_providers() if device.type == "cuda" else PROVIDERS[-1:]
        number = {"device_id": device.index or 0}
        # TensorRT takes minutes to build an engine of its own, which is kept for the next run on the same kind of GPU.
        tensorrt = {
            "trt_engine_cache_enable": True,
            "trt_engine_cache_path": str(self.folder / "tensorrt"),
            "trt_fp16_enable": self.dtype == torch.float16,
        }
        options: dict[str, dict[str, Any]] = {PROVIDERS[0]: number | tensorrt, PROVIDERS[1]: number, PROVIDERS[2]: {}}
        return [(name, options[name]) for name in PROVIDERS if name in found]

    def _bind(self, bind: Any, name: str, x: Tensor) -> None:
        number = next(number for dtype, number in _FORMATS.values() if dtype == x.dtype)
        bind(name, x.device.type, x.device.index or 0, number, tuple(x.shape), x.data_ptr())


_AGAIN = "compile or copy it again"


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
