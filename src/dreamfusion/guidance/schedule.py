"""A model's noise schedule, read from the scheduler that diffusers saved beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.predictions import PREDICTIONS, Prediction


@dataclass(frozen=True)
class Schedule:
    """What the model puts out, and abar, alpha and sigma [T] of its T timesteps, from little noise to much."""

    prediction: Prediction
    alphas_cumprod: Tensor
    alphas: Tensor
    sigmas: Tensor


def read_schedule(scheduler: Any, model: str | Path, device: torch.device) -> Schedule:
    """Return the schedule of a diffusers scheduler in float32; DreamFusionError for one that is not known here.

    A rectified flow has the noise levels s that its scheduler lists, with its ``shift`` already in them, so that
    timesteps are drawn as densely as the model's own are spaced. A shift that depends on the size of the picture
    ("dynamic", Flux dev) is decided while sampling and does not apply: s is then evenly spaced.
    """
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        return _flow(scheduler, device)
    prediction = scheduler.config.get("prediction_type", "epsilon")
    if prediction == "flow_prediction" and scheduler.config.get("use_flow_sigmas"):
        return _shifted_flow(scheduler.config, device)
    if prediction not in PREDICTIONS or not hasattr(scheduler, "alphas_cumprod"):
        raise DreamFusionError(
            f"{model} has a {type(scheduler).__name__} and predicts {prediction}, which is not supported."
        )
    abar = scheduler.alphas_cumprod.to(device, torch.float32)
    return Schedule(cast(Prediction, prediction), abar, abar.sqrt(), (1 - abar).sqrt())


def _flow(scheduler: Any, device: torch.device) -> Schedule:
    return _of_levels(scheduler.sigmas.flip(0).to(device, torch.float32))


def _shifted_flow(config: Any, device: torch.device) -> Schedule:
    """Return the flow of a solver made for diffusion, as Sana's: evenly spaced levels, moved by its ``flow_shift``."""
    steps, shift = config["num_train_timesteps"], config["flow_shift"]
    s = torch.arange(1, steps + 1, device=device) / steps
    return _of_levels(shift * s / (1 + (shift - 1) * s))


def _of_levels(s: torch.Tensor) -> Schedule:
    return Schedule("flow", (1 - s) ** 2 / ((1 - s) ** 2 + s**2), 1 - s, s)
