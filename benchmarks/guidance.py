"""What one question to a prior costs, per family and switch, against the bare calls of diffusers in the same run.

A question is what a step asks: encode the pictures, predict the noise with and without the prompt, and go back through
the encoder. The weights are random, which changes no time. On a CPU the models are small, but large enough that they
and not Python take the time, and what counts is the processor time of one thread, which other programs on the machine
change little; on a GPU it is the time on the clock, and there is Stable Diffusion 2.1's own shape as well.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import Row
from dreamfusion.guidance.asked import Asked
from dreamfusion.guidance.base import Guidance
from dreamfusion.guidance.compiled.compiling import compile_prior
from dreamfusion.guidance.execution import Execution
from dreamfusion.guidance.families import open_prior
from dreamfusion.guidance.reading.prepare import denoiser_of
from dreamfusion.method.cameras import CameraRange, sample_cameras
from dreamfusion.standard import EMBEDDED_PRIOR
from tiny.families import save_flux, save_if, save_sd, save_sd3, save_sdxl

VIEWS, SIDE = 2, 64
_UNET = {"block_out_channels": (64, 128), "sample_size": SIDE // 2}
_TRANSFORMER = {"num_layers": 4, "attention_head_dim": 32, "num_attention_heads": 4}
_SWITCHES: dict[str, dict[str, Any]] = {
    "bf16": {"dtype": torch.bfloat16},
    "fp16": {"dtype": torch.float16},
    "channels_last off": {"execution": Execution(channels_last=False)},
    "checkpoint_vae": {"execution": Execution(checkpoint_vae=True)},
    "vae_slicing": {"execution": Execution(vae_slicing=True)},
    "offload model": {"execution": Execution(offload="model")},
    "offload layers": {"execution": Execution(offload="layers")},
}
_SD21 = {
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "attention_head_dim": (5, 10, 20, 20),  # numbers of heads
    "use_linear_projection": True,
    "sample_size": 64,
}


class Question:
    """One step's worth of asking a prior, ours and bare, about the same pictures."""

    def __init__(self, prior: Guidance, views: int = VIEWS, side: int = SIDE) -> None:
        self.prior: Any = prior
        generator = torch.Generator().manual_seed(0)
        self.image = torch.rand(views, 3, side, side, generator=generator).to(prior.device).requires_grad_()
        self.cameras = sample_cameras(views, CameraRange(), generator)
        self.t = torch.linspace(100, 800, views).long().to(prior.device)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            texts = prior.embed(["a red mushroom", ""])
        self.text, self.empty = texts[:1].expand(views), texts[1:].expand(views)
        with torch.no_grad():
            self.noise = torch.randn(prior.encode(self.image).shape, generator=generator).to(prior.device)
        self.vae = getattr(prior, "_vae", None)
        self.denoiser = denoiser_of(self.prior.pipeline)
        calls: list[tuple[Any, Any]] = []
        if prior.denoiser is not None:
            hook = self.denoiser.register_forward_pre_hook(lambda _, a, k: calls.append((a, k)), with_kwargs=True)
            self.ours()
            hook.remove()
            (self.call,) = calls

    def ours(self) -> None:
        """Ask as `optimize` does, through the contract of `Guidance`."""
        z = self.prior.encode(self.image)
        z_t = self.prior.add_noise(z.detach(), self.noise, self.t)
        eps = Asked(self.prior, self.text, self.empty, self.cameras, 8.0).guided(z_t, self.t)
        torch.autograd.grad(z, self.image, eps - self.noise)

    def bare(self) -> None:
        """Call the VAE and the denoiser alone, with the very arguments that ours gives the denoiser."""
        x = 2 * self.image - 1
        if self.vae is not None:
            z = self.vae.encode(x.to(self.vae.dtype)).latent_dist.mode()
        with torch.no_grad():
            self.denoiser(*self.call[0], **self.call[1])
        if self.vae is not None:
            torch.autograd.grad(z, self.image, torch.ones_like(z))


def _seconds(call: Callable[[], None], device: torch.device) -> float:
    if device.type == "cpu":
        begun = time.process_time()
        call()
        return time.process_time() - begun
    torch.cuda.synchronize(device)
    begun = time.perf_counter()
    call()
    torch.cuda.synchronize(device)
    return time.perf_counter() - begun


def _medians(calls: list[Callable[[], None]], device: torch.device, repetitions: int) -> list[float]:
    """Return the median seconds of each call; they take turns, so that whatever else the machine does slows all."""
    for call in calls:
        call()
    rounds = [[_seconds(call, device) for call in calls] for _ in range(repetitions)]
    return [statistics.median(times) for times in zip(*rounds, strict=True)]


def _peak_bytes(call: Callable[[], None], device: torch.device) -> float:
    """Return the most memory that PyTorch held during a call beyond what it held before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    events = profiler.profiler.kineto_results.events()  # in the order in which they happened
    held = peak = 0
    for event in sorted((event for event in events if event.name() == "[memory]"), key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def rows(quick: bool = False) -> Iterator[Row]:
    """Measure the embedded prior and small models of the latent families, and the switches on one of them."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    repetitions = 3 if quick else 5
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = {
            "embedded prior": EMBEDDED_PRIOR,
            "DeepFloyd IF": save_if(folder / "if", block_out_channels=(64, 128), sample_size=SIDE),
            "Stable Diffusion 1": save_sd(folder / "sd", **_UNET),
            "Stable Diffusion XL": save_sdxl(folder / "sdxl", **_UNET),
            "Stable Diffusion 3": save_sd3(folder / "sd3", **_TRANSFORMER),
            "Flux": save_flux(folder / "flux", **_TRANSFORMER, axes_dims_rope=(8, 12, 12)),
        }
        for family, model in models.items():
            question = Question(_opened(model, device))
            ours, bare = _medians([question.ours, question.bare], device, repetitions)
            yield Row(f"{family}: question, against bare diffusers", 1e3 * ours, "ms", 1e3 * bare, bare / ours)
            peaks = [_peak_bytes(call, device) / 1e6 for call in (question.ours, question.bare)]
            yield Row(f"{family}: memory of activations", peaks[0], "MB", peaks[1], peaks[1] / peaks[0])
        model = models["Stable Diffusion 1"]
        tiny = Execution(tiny_vae=str(_save_tiny_vae(folder / "tiny")))
        switches = _SWITCHES | {"tiny_vae": {"execution": tiny}}
        others = {name: Question(_opened(model, device, **options)) for name, options in switches.items()}
        if not quick:
            engine = compile_prior(model, folder / "engine", image_size=SIDE)
            others["ONNX engine"] = Question(_opened(engine, device))
        yield from _switches(Question(_opened(model, device)), others, repetitions)
        if not quick and (shutil.which("g++") or shutil.which("clang++")):
            model = models["Stable Diffusion 3"]  # a UNet takes minutes to compile on a CPU
            others = {"compile": Question(_opened(model, device, execution=Execution(compile=True)))}
            yield from _switches(Question(_opened(model, device)), others, repetitions)
        if device.type == "cuda":
            yield from _real_shape(folder, device, repetitions)
    torch.set_num_threads(threads)


def _save_tiny_vae(folder: Path) -> Path:
    """Save a TAESD that is as small as the small models' VAE, and halves the picture once as that does."""
    AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 3),
        num_decoder_blocks=(3, 1),
    ).save_pretrained(folder)
    return folder


def _opened(model: Path, device: torch.device, **options: Any) -> Guidance:
    size = None if model == EMBEDDED_PRIOR or model.name == "if" else SIDE  # these have a size of their own
    return open_prior(model, device=device, image_size=size, **options)


def _switches(plain: Question, others: dict[str, Question], repetitions: int) -> Iterator[Row]:
    """Compare the same prior with each of some switches, or compiled, and without."""
    device = plain.prior.device
    seconds = _medians([plain.ours, *(question.ours for question in others.values())], device, repetitions)
    baseline = _peak_bytes(plain.ours, device) / 1e6
    for (name, question), value in zip(others.items(), seconds[1:], strict=True):
        yield Row(f"{name}: question, against the plain prior", 1e3 * value, "ms", 1e3 * seconds[0], seconds[0] / value)
        if name != "ONNX engine":  # which has memory of its own
            peak = _peak_bytes(question.ours, device) / 1e6
            yield Row(f"{name}: memory of activations", peak, "MB", baseline, baseline / peak)


def _real_shape(folder: Path, device: torch.device, repetitions: int) -> Iterator[Row]:
    """Compare Stable Diffusion 2.1's shape in float16 with the time that its products alone would take."""
    model = save_sd(folder / "sd21", width=1024, **_SD21)
    prior: Any = open_prior(model, device=device, dtype=torch.float16)
    x = torch.randn(8192, 8192, device=device, dtype=torch.float16)
    (product,) = _medians([lambda: x @ x], device, repetitions)
    for views in (1, 4):
        question = Question(prior, views, prior.sample_size)
        with FlopCounterMode(display=False) as counter:
            question.ours()
        floor = counter.get_total_flops() / (2 * 8192**3 / product)
        ours, bare = _medians([question.ours, question.bare], device, repetitions)
        name = f"shape of Stable Diffusion 2.1, float16, {views} views"
        yield Row(f"{name}: question, against bare diffusers", 1e3 * ours, "ms", 1e3 * bare, bare / ours)
        # At the speed at which this machine multiplies large matrices.
        yield Row(f"{name}: question, against its products alone", 1e3 * ours, "ms", 1e3 * floor, floor / ours)
