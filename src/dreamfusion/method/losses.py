"""Timesteps of score distillation (paper section 3.2), and their weight."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dreamfusion.config import Weighting


def timestep_weight(alphas_cumprod: Float[Tensor, "*shape"], weighting: Weighting) -> Float[Tensor, "*shape"]:
    """Return w(t) for abar of any shape.

    "sds" is sigma_t^2 = 1 - abar, the paper's choice; "uniform" is 1, which the paper found to work similarly;
    "fantasia3d" is sqrt(abar) (1 - abar), which also fades towards pure noise (arXiv 2303.13873); "ism" is
    sqrt((1 - abar) / abar), which grows without bound towards it (code of arXiv 2311.11284).
    """
    match weighting:
        case "sds":
            return 1 - alphas_cumprod
        case "uniform":
            return torch.ones_like(alphas_cumprod)
        case "fantasia3d":
            return alphas_cumprod.sqrt() * (1 - alphas_cumprod)
        case "ism":
            # Some schedules end in abar = 0 exactly, where the weight would be infinite.
            return ((1 - alphas_cumprod) / alphas_cumprod.clamp(min=1e-4)).sqrt()


def sample_timesteps(
    count: int, t_min: float, t_max: float, num_train_timesteps: int, generator: torch.Generator, each: int = 1
) -> Int[Tensor, " {count}"]:
    """Draw timesteps [count], uniform between two fractions of all timesteps, both ends included.

    The paper takes 0.02 and 0.98, to avoid very high and very low noise levels (section 3.2, step 3). Every ``each``
    of them, one after the other, are the same one.
    """
    low, high = (min(round(end * num_train_timesteps), num_train_timesteps - 1) for end in (t_min, t_max))
    return torch.randint(low, high + 1, (count // each,), generator=generator).repeat_interleave(each)
