"""Where a run computes."""

from __future__ import annotations

import os

import psutil
import torch

from dreamfusion.errors import DreamFusionError


def pick_device(name: str = "auto") -> torch.device:
    """Return the device called ``name``: "auto" takes CUDA if there is one, else the CPU.

    Apple's MPS is used only when asked for, because the Warp kernels do not run on it.

    Raises DreamFusionError for a device that this machine or this build of PyTorch does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda", "mps"):
            raise NotImplementedError  # others, such as "meta", hold no numbers, or nobody has tried them
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise DreamFusionError(f"No device {name!r} here: use --device auto or cpu (see dreamfusion doctor).") from None
    return device


def free_memory(device: torch.device) -> int:
    """Return the bytes that are free: of a GPU, or of this machine."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available


def usable_cores() -> int:
    """Return how many CPU cores this process may use, which a container or a cluster's job may have fewer of."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1
