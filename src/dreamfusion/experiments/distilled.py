"""Score distillation of pictures: the loop of `dreamfusion.method.optimize` without scene, cameras or regularisers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dreamfusion.guidance.asked import Asked
from dreamfusion.guidance.classifier_free import classifier_free_guidance
from dreamfusion.method.distillation import loss_with_gradient, sds
from dreamfusion.method.losses import sample_timesteps, timestep_weight

PictureLoss = Callable[[Asked, Tensor, Tensor, Tensor], Tensor]
"""From the asked prior, z, t and noise to a number whose gradient moves the picture."""

T_MIN, T_MAX = 0.02, 0.98
"""The paper's range of timesteps (section 3.2), as fractions of all."""


def sds_loss(asked: Asked, z: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Return a number with the gradient of score distillation, w (eps_hat - eps), w = 1 - abar."""
    difference = sds(asked, z.detach(), t, noise)
    return loss_with_gradient(z, timestep_weight(asked.abar(t, like=z), "sds") * difference)


def diffusion_loss(asked: Asked, z: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Return the weighted loss of diffusion training itself, w |eps_hat - eps|^2 / 2: its gradient has the Jacobian."""
    z_t = asked.add_noise(z, noise, t)
    texts = asked.negative.followed_by(asked.positive)
    answers = asked.prior.predict_noise_with_graph(torch.cat([z_t, z_t]), torch.cat([t, t]), texts)
    unconditional, conditional = answers.chunk(2)
    difference = classifier_free_guidance(unconditional, conditional, asked.scale) - noise
    return 0.5 * (timestep_weight(asked.abar(t, like=z), "sds") * difference.square()).sum() / len(z)


def draw(asked: Asked, z: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the timesteps [B] and the noise of a step."""
    t = sample_timesteps(len(z), T_MIN, T_MAX, len(asked.prior.alphas_cumprod), generator).to(z.device)
    return t, torch.randn(z.shape, generator=generator).to(z)


def distil(
    asked: Asked,
    picture: nn.Module,
    *,
    steps: int,
    lr: float,
    generator: torch.Generator,
    loss: PictureLoss = sds_loss,
) -> Tensor:
    """Optimise a picture by ``loss`` with Adam, and return its z [B, 3, S, S]; ``picture()`` gives z, differentiably.

    The learning rate falls to zero along a cosine.
    """
    optimizer = torch.optim.Adam(picture.parameters(), lr=lr, betas=(0.9, 0.99))
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        z = picture()
        t, noise = draw(asked, z, generator)
        optimizer.zero_grad(set_to_none=True)
        loss(asked, z, t, noise).backward()
        optimizer.step()
        falling.step()
    with torch.no_grad():
        result: Tensor = picture()
        return result.clone()
