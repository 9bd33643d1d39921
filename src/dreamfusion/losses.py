"""Losses: score distillation sampling (paper section 3), its timesteps, and the regularisers of appendix A.2."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from dreamfusion.guidance.base import Embeddings, Guidance, classifier_free_guidance, per_image

Weighting = Literal["sds", "uniform", "fantasia3d"]
Anneal = Literal["none", "linear", "sqrt"]


def sds_loss(
    guidance: Guidance,
    z: Tensor,
    text_embeddings: Embeddings,
    uncond_embeddings: Embeddings,
    t: Tensor,
    noise: Tensor,
    *,
    guidance_scale: float,
    weighting: Weighting = "sds",
    rescale: float = 0.0,
    clip: float | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Return a loss whose gradient is that of score distillation sampling, and figures to log.

    For renderings z [B, ...] = ``guidance.encode(image)``, timesteps [B] and noise eps of z's shape, the gradient of
    a view is g = w(t) (eps_hat - eps), and g dz/dtheta reaches the scene (paper equation 3): the denoiser's own
    Jacobian is left out. The loss is 1/2 |z - stop_gradient(z - g)|^2, which has just that gradient, summed over a
    view and averaged over the B views. Its value is only |g|^2 / 2 and says nothing about progress.

    There are B embeddings of each kind; ``uncond_embeddings`` are those of the empty or of the negative prompt.
    ``rescale`` in [0, 1] is `rescale_guidance`'s; ``clip`` limits each element of g to [-clip, clip] (arXiv
    2303.15413).

    The figures are means over the views: "sds_gradient" is |g|, "noise_error" the root mean square of eps_hat - eps.
    """
    with torch.no_grad():
        t = t.to(guidance.device)
        abar = per_image(guidance.alphas_cumprod[t], z)
        z_t = guidance.add_noise(z, noise, t)
        both = uncond_embeddings.followed_by(text_embeddings)
        eps_uncond, eps_text = guidance.predict_noise(torch.cat([z_t, z_t]), torch.cat([t, t]), both).chunk(2)
        eps_hat = classifier_free_guidance(eps_uncond, eps_text, guidance_scale)
        if rescale > 0:
            eps_hat = rescale_guidance(eps_hat, eps_text, rescale)
        gradient = timestep_weight(abar, weighting) * (eps_hat - noise)
        if clip is not None:
            gradient = gradient.clamp(-clip, clip)
        target = z - gradient
        info = {
            "sds_gradient": gradient.flatten(1).norm(dim=1).mean().item(),
            "noise_error": (eps_hat - noise).flatten(1).square().mean(dim=1).sqrt().mean().item(),
        }
    return 0.5 * (z - target).square().sum() / len(z), info


def timestep_weight(alphas_cumprod: Tensor, weighting: Weighting) -> Tensor:
    """Return w(t) for abar of any shape.

    "sds" is sigma_t^2 = 1 - abar, the paper's choice; "uniform" is 1, which the paper found to work similarly;
    "fantasia3d" is sqrt(abar) (1 - abar), which also fades towards pure noise (arXiv 2303.13873).
    """
    match weighting:
        case "sds":
            return 1 - alphas_cumprod
        case "uniform":
            return torch.ones_like(alphas_cumprod)
        case "fantasia3d":
            return alphas_cumprod.sqrt() * (1 - alphas_cumprod)


def rescale_guidance(eps_hat: Tensor, eps_text: Tensor, strength: float) -> Tensor:
    """Return ``eps_hat`` moved by ``strength`` in [0, 1] towards its copy that has the deviation of ``eps_text``.

    A large guidance scale makes predictions too loud and images too bright; arXiv 2305.08891, section 3.4, gives them
    the standard deviation, per image [B, ...], of the prediction from text alone.
    """
    deviation = eps_text.flatten(1).std(dim=1) / eps_hat.flatten(1).std(dim=1)
    return eps_hat * per_image(1 + strength * (deviation - 1), eps_hat)


def sample_timesteps(
    count: int, t_min: float, t_max: float, num_train_timesteps: int, generator: torch.Generator
) -> Tensor:
    """Draw timesteps [count], uniform between two fractions of all timesteps, both ends included.

    The paper takes 0.02 and 0.98, to avoid very high and very low noise levels (section 3.2, step 3).
    """
    low, high = (min(round(end * num_train_timesteps), num_train_timesteps - 1) for end in (t_min, t_max))
    return torch.randint(low, high + 1, (count,), generator=generator)


def annealed_t_max(progress: float, t_max: float, t_max_end: float, anneal: Anneal) -> float:
    """Return the upper end of the timesteps at ``progress`` in [0, 1]: from ``t_max`` to ``t_max_end``.

    High noise levels settle the shape, low ones the detail, so the range may shrink over a run. "linear" shrinks it
    evenly, "sqrt" fast at first as the timestep of HiFA does (arXiv 2305.18766), "none" not at all.
    """
    match anneal:
        case "none":
            return t_max
        case "linear":
            return t_max + (t_max_end - t_max) * progress
        case "sqrt":
            return t_max + (t_max_end - t_max) * math.sqrt(progress)


def opacity_loss(opacity: Tensor) -> Tensor:
    """Return the mean of sqrt(opacity^2 + 0.01), which keeps empty space empty (appendix A.2).

    ``opacity`` in [0, 1] has any shape. It pulls on empty rays only gently: the slope at 0 is 0.
    """
    return (opacity.square() + 0.01).sqrt().mean()


def entropy_loss(opacity: Tensor) -> Tensor:
    """Return the mean binary entropy of the opacity in bits, -o log2 o - (1 - o) log2 (1 - o), in [0, 1].

    It pushes each ray to hit or to miss, as NVIDIA's NeMo and stable-dreamfusion do. ``opacity`` in [0, 1] has any
    shape; its ends are kept 1e-5 away, beyond which the gradient is 0.
    """
    o = opacity.clamp(1e-5, 1 - 1e-5)
    return -(o * o.log2() + (1 - o) * (1 - o).log2()).mean()
