"""The contract of a diffusion prior: what every loss may ask of it, and nothing else.

Symbols: z is an image in the prior's own space, abar_t the cumulative product of the noise schedule,
z_t = sqrt(abar_t) z + sqrt(1 - abar_t) eps with eps ~ N(0, I), and eps_hat the prior's guess of eps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from dreamfusion.cameras import Cameras


class Guidance(ABC):
    """A frozen text-to-image diffusion model.

    ``alphas_cumprod`` [T] is abar on ``device``; ``sample_size`` is the side, in pixels, of the images it knows.
    Only `encode` is differentiable: score distillation leaves out the Jacobian of the denoiser (paper equation 3).
    """

    alphas_cumprod: Tensor
    sample_size: int
    device: torch.device

    @abstractmethod
    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Return what the prior understands of n prompts, [n, L, D]."""

    @abstractmethod
    def encode(self, image: Tensor) -> Tensor:
        """Return z for images [B, 3, H, W] in [0, 1] of any size; differentiable."""

    @abstractmethod
    def predict_noise(self, z_t: Tensor, t: Tensor, embeddings: Tensor) -> Tensor:
        """Return eps_hat, of the shape of ``z_t``, for timesteps [B] and embeddings [B, L, D]; no gradient."""

    def condition(self, views: Tensor, weights: Tensor, cameras: Cameras) -> Tensor:
        """Return one embedding per camera, [B, L, D].

        ``views`` [4, L, D] are the embeddings of the four view prompts, ``weights`` [B, 4] comes from
        `dreamfusion.prompts.view_weights`. A prior that is conditioned on words alone mixes the four (paper section
        3.2) and has no use for ``cameras`` (B of them); a prior that knows poses overrides this.
        """
        return torch.einsum("bv,vld->bld", weights.to(views), views)


def classifier_free_guidance(eps_uncond: Tensor, eps_text: Tensor, scale: float) -> Tensor:
    """Return eps_uncond + scale * (eps_text - eps_uncond).

    The paper writes (1 + omega) eps_text - omega eps_uncond (section 2), so its omega is ``scale - 1``: the paper's
    omega of 100 is a scale of 101 here. Scale 1 is the plain conditional prediction.
    """
    return eps_uncond + scale * (eps_text - eps_uncond)


def add_noise(z: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """Return z_t = sqrt(abar) z + sqrt(1 - abar) noise; ``alphas_cumprod`` is abar of each image, [B]."""
    abar = per_image(alphas_cumprod, z)
    return abar.sqrt() * z + (1 - abar).sqrt() * noise


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """Return values [B] with trailing axes of size 1, so that they broadcast against ``like`` [B, ...]."""
    return values.reshape(-1, *[1] * (like.ndim - 1)).to(like)
