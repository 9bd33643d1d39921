"""Ancestral sampling of an asked prior: from pure noise to a picture, step by step.

Symbols: t > s are consecutive timesteps, z_hat the clean picture that eps_hat implies at t. Variance-preserving priors.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from dreamfusion.guidance.asked import Asked
from dreamfusion.guidance.base import per_image

Sampler = Literal["ddpm", "ddim"]
SAMPLERS: tuple[Sampler, ...] = get_args(Sampler)


def sample(asked: Asked, shape: tuple[int, ...], sampler: Sampler, *, steps: int, seed: int, clip: bool) -> Tensor:
    """Return samples z of ``shape`` (B, ...) under the guidance of ``asked``.

    "ddpm" draws from the posterior q(z_s | z_t, z_hat) (arXiv 2006.11239, equations 6 and 7, between distant
    timesteps); "ddim" is deterministic (arXiv 2010.02502). ``clip`` keeps z_hat in [-1, 1] at every step ("static
    thresholding"), without which large guidance scales leave it.
    """
    generator = torch.Generator().manual_seed(seed)
    last = len(asked.prior.alphas_cumprod) - 1
    times = torch.linspace(last, 0, steps).round().long().tolist()
    z = torch.randn(shape, generator=generator).to(asked.prior.alphas_cumprod)
    for index, now in enumerate(times):
        t = torch.full((len(z),), now, device=z.device)
        eps_hat = asked.guided(z, t)
        z_hat = asked.prior.predicted_data(z, t, eps_hat)
        if clip:
            z_hat = z_hat.clamp(-1, 1)
            alpha, sigma = (per_image(values, z) for values in asked.prior.coefficients(t))
            eps_hat = (z - alpha * z_hat) / sigma
        if index == steps - 1:
            return z_hat
        s = torch.full_like(t, times[index + 1])
        if sampler == "ddim":
            z = asked.add_noise(z_hat, eps_hat, s)
        else:
            mean, deviation = posterior(asked, z, z_hat, t, s)
            z = mean + deviation * torch.randn(shape, generator=generator).to(z)
    return z


def posterior(asked: Asked, z_t: Tensor, z_hat: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of q(z_s | z_t, z = z_hat) for timesteps s < t [B]."""
    abar_t, abar_s = asked.abar(t, like=z_t), asked.abar(s, like=z_t)
    step = abar_t / abar_s
    mean = (abar_s.sqrt() * (1 - step) * z_hat + step.sqrt() * (1 - abar_s) * z_t) / (1 - abar_t)
    return mean, ((1 - step) * (1 - abar_s) / (1 - abar_t)).sqrt()
