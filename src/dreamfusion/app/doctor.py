"""Doctor: what this machine has, what will be used, and what to do about what is missing.

Every check tries the thing itself, a kernel launch or a short video, rather than trusting a version number.
"""

from __future__ import annotations

import platform
import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import psutil
import torch
from rich.console import Console
from rich.table import Table

from dreamfusion.device import free_memory, pick_device
from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.execution import Precision
from dreamfusion.guidance.reading.counting import known_parameters
from dreamfusion.io.files import free_disk_bytes
from dreamfusion.standard import EMBEDDED_PRIOR

if TYPE_CHECKING:
    from dreamfusion.guidance.pipeline import PipelineGuidance

Status = Literal["ok", "warn", "fail"]

_GB = 1e9


@dataclass(frozen=True)
class Check:
    """One line of the report: "warn" is a limit to know of, "fail" stops `generate`; ``remedy`` says what to do."""

    name: str
    status: Status
    detail: str
    remedy: str = ""


def report(model: str | None = None, output: Path | str = "runs", precision: Precision = "fp32") -> list[Check]:
    """Examine this machine, and the diffusion model of that hub name or folder if one is given.

    ``output`` is where runs will be written; nothing is created there. ``precision`` is the one that the model's need
    of memory is told for.
    """
    checks: list[tuple[str, Callable[[], Check]]] = [
        ("Python", _python),
        ("PyTorch", _torch),
        ("Device", _device),
        ("Kernels", _kernels),
        ("Video", _video),
        ("Disk", lambda: _disk(output)),
        ("Memory", _memory),
        ("Embedded prior", _prior),
        ("Optional parts", _extras),
    ]
    if model is not None:
        checks.append((f"Memory for {model}", lambda: _model_memory(model, precision)))
        checks.append((f"Model {model}", lambda: _model(model)))
    return [_guarded(name, check) for name, check in checks]


def print_report(
    model: str | None = None,
    output: Path | str = "runs",
    console: Console | None = None,
    precision: Precision = "fp32",
) -> bool:
    """Print the report as a table, and below it what to do; return whether nothing failed."""
    console = console or Console()
    checks = report(model, output, precision)
    marks = {"ok": "[green]ok[/]", "warn": "[yellow]warn[/]", "fail": "[red]fail[/]"}
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("check", "", "found"):
        table.add_column(heading, overflow="fold")
    for check in checks:
        table.add_row(check.name, marks[check.status], _plain(check.detail))
    console.print(table)
    for check in checks:
        if check.remedy:
            console.print(f"{marks[check.status]} {_plain(check.name)}: {_plain(check.remedy)}")
    return all(check.status != "fail" for check in checks)


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    # A broken install can fail in any way whatever; the doctor must still report on the rest.
    try:
        return check()
    except Exception as error:
        return Check(name, "fail", _first_line(error), "reinstall: pip install --force-reinstall dreamfusion")


def _python() -> Check:
    version = platform.python_version()
    if (3, 10) <= sys.version_info[:2] <= (3, 13):
        return Check("Python", "ok", f"{version} on {platform.system()} {platform.machine()}")
    return Check("Python", "warn", version, "use Python 3.10 to 3.13, which are the versions that are tested")


def _torch() -> Check:
    return Check("PyTorch", "ok", f"{torch.__version__}, {torch.get_num_threads()} CPU threads")


def _device() -> Check:
    found = ["cpu"]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found.append(f"cuda:{index} ({properties.name}, {properties.total_memory / _GB:.0f} GB)")
    if torch.backends.mps.is_available():
        found.append("mps")
    device = pick_device()
    torch.ones(8, device=device).sum().item()
    return Check("Device", "ok", f"found {', '.join(found)}; uses {device}")


def _kernels() -> Check:
    """Run a small hash grid forward and backward on the device that a run would use."""
    import warp

    from dreamfusion.kernels.backend import uses_warp
    from dreamfusion.kernels.hashgrid import HashGridLayout, hash_encode

    device = pick_device()
    layout = HashGridLayout.geometric(levels=1, features=2, log2_size=8, base_resolution=2, max_resolution=2)
    table = torch.ones(layout.entries, layout.features, device=device, requires_grad=True)
    encoding = hash_encode(torch.full((1, 3), 0.3, device=device), table, layout)
    (gradient,) = torch.autograd.grad(encoding.sum(), table)
    # Interpolation weights sum to 1: ones stay ones, and the gradient of both features adds up to 2.
    if not torch.allclose(encoding, torch.ones_like(encoding)) or abs(gradient.sum().item() - 2.0) > 1e-4:
        remedy = "remove Warp's cache of compiled kernels, or run with --device cpu"
        return Check("Kernels", "fail", f"the hash grid gives wrong numbers on {device}", remedy)
    engine = f"Warp {warp.__version__}" if uses_warp(device) else "PyTorch (no Warp kernels there, so slower)"
    return Check("Kernels", "ok", f"{engine} on {device}: compiled, ran, right numbers")


def _video() -> Check:
    import imageio_ffmpeg

    from dreamfusion.assets.video import save_video

    try:
        with tempfile.TemporaryDirectory() as folder:
            save_video([torch.zeros(3, 16, 16)] * 2, Path(folder) / "trial.mp4")
    except DreamFusionError as error:
        return Check("Video", "fail", _first_line(error), "reinstall it: pip install --force-reinstall imageio-ffmpeg")
    return Check("Video", "ok", f"ffmpeg {imageio_ffmpeg.get_ffmpeg_version()} writes H.264")


def _disk(output: Path | str) -> Check:
    free = free_disk_bytes(output)
    detail = f"{free / _GB:.1f} GB free for {output}"
    if free < 0.2 * _GB:
        return Check("Disk", "fail", detail, "free some space, or choose another folder with --output")
    if free < 1.0 * _GB:
        return Check("Disk", "warn", detail, "a run takes up to 0.5 GB: free some space soon")
    return Check("Disk", "ok", detail)


def _memory() -> Check:
    memory = psutil.virtual_memory()
    detail = f"{memory.available / _GB:.1f} of {memory.total / _GB:.1f} GB free"
    if memory.available < 3.0 * _GB:
        return Check("Memory", "warn", detail, "a run takes up to 3 GB: close other programs or use --preset quick")
    return Check("Memory", "ok", detail)


def _prior() -> Check:
    remedy = "reinstall the package, or train a prior: dreamfusion prior train"
    if not EMBEDDED_PRIOR.is_dir():
        return Check("Embedded prior", "fail", f"there is no folder {EMBEDDED_PRIOR}", remedy)
    return _opens("Embedded prior", EMBEDDED_PRIOR, remedy)


def _model(model: str) -> Check:
    name = f"Model {model}"
    if 2 * sum(known_parameters(model).values()) > psutil.virtual_memory().available:
        return Check(name, "warn", "not loaded, because it is larger than the free memory", "close other programs")
    return _opens(name, model, "choose another --model, or use the embedded prior: --guidance toybox")


def _model_memory(model: str, precision: Precision) -> Check:
    """Say what the weights of a model's parts take, from the heads of its files alone, and whether that is free."""
    name = f"Memory for {model}"
    counts = known_parameters(model)
    if not counts:
        return Check(name, "ok", "not known before it is loaded: it is no whole folder of safetensors on this machine")
    width = 2 if precision in ("fp16", "bf16") else 4
    total = sum(counts.values()) * width
    encoders = sum(count for part, count in counts.items() if part.startswith("text_encoder")) * width
    device = pick_device()
    free = free_memory(device)
    parts = ", ".join(f"{part} {count * width / _GB:.2f}" for part, count in counts.items())
    detail = (
        f"{total / _GB:.2f} GB of weights in {precision} ({parts}), {(total - encoders) / _GB:.2f} GB once the prompt "
        f"is read; {free / _GB:.1f} GB free on {device}; a view's activations (below) and the scene come on top"
    )
    if total < free:
        return Check(name, "ok", detail)
    remedy = "set guidance.precision to bf16" if width == 4 else "use a smaller model"
    if device.type == "cuda":
        remedy += ", or guidance.execution.offload to model"
    return Check(name, "warn", detail, remedy)


def _opens(name: str, model: str | Path, remedy: str) -> Check:
    """Open a prior as a run does; on the CPU and in half precision, for the doctor only has to see that it opens."""
    from dreamfusion.guidance.families import open_prior

    try:
        prior = open_prior(model, dtype=torch.bfloat16)
    except DreamFusionError as error:
        return Check(name, "fail", str(error), remedy)
    return Check(name, "ok", f"{_loaded(prior)}{_activations(prior)}")


def _activations(prior: PipelineGuidance) -> str:
    """Say what one view takes beside the weights, in full and in half precision; nothing where that cannot be told."""
    from dreamfusion.guidance.activations import activation_bytes

    try:
        half = activation_bytes(prior)
    except Exception:  # of shapes that fake tensors cannot follow, such as an engine's, or of a prior that is told more
        return ""
    return f"; a view of {prior.sample_size} pixels takes {2 * half / _GB:.2f} GB beside them, {half / _GB:.2f} in half"


def _loaded(prior: PipelineGuidance) -> str:
    parameters = sum(weights.numel() for module in prior.modules().values() for weights in module.parameters())
    return f"{prior.family} with {parameters / 1e6:.1f} M parameters loads"


def _extras() -> Check:
    """Say which of the package's extras are installed, as its own metadata lists them."""
    try:
        lines = metadata.requires("dreamfusion") or []
    except metadata.PackageNotFoundError:
        return Check("Optional parts", "warn", "dreamfusion itself is not installed", "pip install .")
    missing: dict[str, set[str]] = {}
    for line in lines:
        if match := re.match(r"([\w.-]+).*extra == ['\"]([\w.-]+)['\"]", line):
            missing.setdefault(match[2], set())
            if not _installed(match[1]):
                missing[match[2]].add(match[1])
    states = [f"{extra} {'lacks ' + ', '.join(sorted(lack)) if lack else 'yes'}" for extra, lack in missing.items()]
    return Check("Optional parts", "ok", "; ".join(states) or "none are offered")


def _installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _plain(text: str) -> str:
    # Rich reads square brackets as markup, as in an install line for an extra.
    return text.replace("[", r"\[")
