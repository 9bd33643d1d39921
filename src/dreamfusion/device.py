"""Where a run computes."""

from __future__ import annotations

import torch

from dreamfusion.errors import DreamFusionError


def pick_device(name: str = "auto") -> torch.device:
    """Return the device called ``name``: "auto" takes a GPU if there is one.

    Raises DreamFusionError for a device that this machine or this build of PyTorch does not have.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise DreamFusionError(f"No device {name!r} here: use --device auto or cpu (see dreamfusion doctor).") from None
    return device
