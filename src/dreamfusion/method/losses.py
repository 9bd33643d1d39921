"""Losses: score distillation (paper section 3), its relatives and timesteps, and the regularisers of appendix A.2."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dreamfusion.config import Weighting
from dreamfusion.guidance.base import Embeddings, Guidance, per_image
from dreamfusion.guidance.guided import Negatives, guided_noise
from dreamfusion.method.cameras import Cameras
from dreamfusion.method.critic import Critic


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
    negatives: Negatives | None = None,
    clip: float | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Return a loss whose gradient is that of score distillation sampling, and figures to log.

    For renderings z [B, ...] = ``guidance.encode(image)``, timesteps [B] and noise eps of z's shape, the gradient of
    a view is g = w(t) (eps_hat - eps), and g dz/dtheta reaches the scene (paper equation 3): the denoiser's own
    Jacobian is left out.

    There are B embeddings of each kind; ``uncond_embeddings`` are those of the empty or of the negative prompt.
    ``guidance_scale``, ``rescale`` and ``negatives`` are those of `guided_noise`, ``clip`` that of
    `loss_with_gradient`.

    The figures are means over the views: "sds_gradient" is |g|, "noise_error" the root mean square of eps_hat - eps.
    """
    with torch.no_grad():
        t = t.to(guidance.device)
        eps_hat = guided_noise(
            guidance,
            guidance.add_noise(z, noise, t),
            t,
            text_embeddings,
            uncond_embeddings,
            guidance_scale=guidance_scale,
            rescale=rescale,
            negatives=negatives,
        )
    return loss_with_gradient(z, eps_hat - noise, guidance.alphas_cumprod[t], weighting, clip)


def vsd_loss(
    guidance: Guidance,
    critic: Critic,
    z: Tensor,
    text_embeddings: Embeddings,
    uncond_embeddings: Embeddings,
    cameras: Cameras,
    t: Tensor,
    noise: Tensor,
    *,
    guidance_scale: float,
    weighting: Weighting = "sds",
    rescale: float = 0.0,
    negatives: Negatives | None = None,
    clip: float | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of variational score distillation (ProlificDreamer, arXiv 2305.16213), and figures to log.

    The gradient is g = w(t) (eps_hat - eps_phi), where eps_hat is the prior's guided prediction and
    eps_phi(z_t, t, text, camera) the unguided one of ``critic``, the model of what the scene looks like now. It takes
    the place of the noise of `sds_loss`, so that a scene is a sample of the prior and not the mean of its samples, and
    an ordinary guidance scale is enough: the paper's is 7.5. The paper also optimises several scenes at once
    ("particles"); this is the case of one.

    The caller trains the critic, a step of `Critic.learn` per step of the scene. ``cameras`` are those of the B views;
    other arguments, shapes and figures are those of `sds_loss`.
    """
    with torch.no_grad():
        t = t.to(guidance.device)
        z_t = guidance.add_noise(z, noise, t)
        eps_hat = guided_noise(
            guidance,
            z_t,
            t,
            text_embeddings,
            uncond_embeddings,
            guidance_scale=guidance_scale,
            rescale=rescale,
            negatives=negatives,
        )
        eps_phi = critic.predict_noise(z_t, t, text_embeddings, cameras)
    return loss_with_gradient(z, eps_hat - eps_phi, guidance.alphas_cumprod[t], weighting, clip)


def ism_loss(
    guidance: Guidance,
    z: Tensor,
    text_embeddings: Embeddings,
    uncond_embeddings: Embeddings,
    t: Tensor,
    noise: Tensor,
    *,
    guidance_scale: float,
    delta_t: int = 50,
    delta_s: int = 200,
    weighting: Weighting = "ism",
    rescale: float = 0.0,
    negatives: Negatives | None = None,
    clip: float | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of interval score matching (LucidDreamer, arXiv 2311.11284), and figures to log.

    The gradient is g = w(t) (eps_hat(z_t, t, text) - eps(z_s, s, empty)) with s = t - ``delta_t``, at least 0. Both
    z_s and z_t lie on one path, found by `ddim_inversion` of z without words in steps of at most ``delta_s``, so that
    they still hold the picture. Random noise only enters at timestep 0, where there is next to none. The difference
    of two predictions takes the place of the difference from fresh noise, and with it goes most of the variance.

    Defaults are the paper's, in timesteps of 1000 (its code shortens ``delta_t`` from 100 to 80 while it warms up),
    w(t) is that of its code, guidance scale 7.5. Arguments, shapes and figures are otherwise those of `sds_loss`. It
    asks the prior ceil(max s / ``delta_s``) + 1 times for one text and once under guidance.
    """
    with torch.no_grad():
        t = t.to(guidance.device)
        s = (t - delta_t).clamp(min=0)
        z_s = ddim_inversion(guidance, z, uncond_embeddings, s, noise, delta_s)
        eps_s = guidance.predict_noise(z_s, s, uncond_embeddings)
        eps_t = guided_noise(
            guidance,
            ddim_step(guidance, z_s, s, t, eps_s),
            t,
            text_embeddings,
            uncond_embeddings,
            guidance_scale=guidance_scale,
            rescale=rescale,
            negatives=negatives,
        )
    return loss_with_gradient(z, eps_t - eps_s, guidance.alphas_cumprod[t], weighting, clip)


def ddim_inversion(
    guidance: Guidance, z: Tensor, embeddings: Embeddings, end: Tensor, noise: Tensor, delta: int
) -> Tensor:
    """Return z_s at the timesteps ``end`` [B] of the deterministic path from z [B, ...] into noise (arXiv 2010.02502).

    It begins at timestep 0, with the little ``noise`` there is, as LucidDreamer's code does. All views take the same
    number of steps, of at most ``delta`` timesteps each.
    """
    now = torch.zeros_like(end)
    z_now = guidance.add_noise(z, noise, now)
    count = math.ceil(end.max().item() / delta)
    for index in range(1, count + 1):
        following = end * index // count
        eps = guidance.predict_noise(z_now, now, embeddings)
        z_now, now = ddim_step(guidance, z_now, now, following, eps), following
    return z_now


def ddim_step(guidance: Guidance, z_t: Tensor, t: Tensor, to: Tensor, eps_hat: Tensor) -> Tensor:
    """Return z_t moved from timesteps ``t`` to ``to``, both [B], by alpha_to z_hat + sigma_to eps_hat.

    That is DDIM without noise (arXiv 2010.02502, equation 12), in either direction; for a rectified flow it is Euler's
    method.
    """
    return guidance.add_noise(guidance.predicted_data(z_t, t, eps_hat), eps_hat, to)


def loss_with_gradient(
    z: Tensor, difference: Tensor, alphas_cumprod: Tensor, weighting: Weighting, clip: float | None = None
) -> tuple[Tensor, dict[str, float]]:
    """Return a loss whose gradient is g = w(t) ``difference`` for views z [B, ...] of abar [B], and figures to log.

    The loss is 1/2 |z - stop_gradient(z - g)|^2, summed over a view and averaged over the B views. Its value is only
    |g|^2 / 2 and says nothing about progress. ``clip`` limits each element of g to [-clip, clip] (debiased score
    distillation, arXiv 2303.15413, which raises it linearly: from 0.5 to 2 for DeepFloyd IF and from 2 to 8 for
    Stable Diffusion, in threestudio).

    The figures are means over the views: "sds_gradient" is |g|, "noise_error" the root mean square of the difference.
    """
    with torch.no_grad():
        gradient = timestep_weight(per_image(alphas_cumprod, z), weighting) * difference
        if clip is not None:
            gradient = gradient.clamp(-clip, clip)
        target = z - gradient
        info = {
            "sds_gradient": gradient.flatten(1).norm(dim=1).mean().item(),
            "noise_error": difference.flatten(1).square().mean(dim=1).sqrt().mean().item(),
        }
    return 0.5 * (z - target).square().sum() / len(z), info


def timestep_weight(alphas_cumprod: Tensor, weighting: Weighting) -> Tensor:
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
    count: int, t_min: float, t_max: float, num_train_timesteps: int, generator: torch.Generator
) -> Tensor:
    """Draw timesteps [count], uniform between two fractions of all timesteps, both ends included.

    The paper takes 0.02 and 0.98, to avoid very high and very low noise levels (section 3.2, step 3).
    """
    low, high = (min(round(end * num_train_timesteps), num_train_timesteps - 1) for end in (t_min, t_max))
    return torch.randint(low, high + 1, (count,), generator=generator)


def opacity_loss(opacity: Tensor) -> Tensor:
    """Return the mean of sqrt(opacity^2 + 0.01), which keeps empty space empty (appendix A.2).

    ``opacity`` in [0, 1] has any shape. It pulls on empty rays only gently: the slope at 0 is 0.
    """
    return (opacity.square() + 0.01).sqrt().mean()


def squared_opacity_loss(opacity: Tensor) -> Tensor:
    """Return the mean of opacity^2, what NVIDIA's NeMo has in place of `opacity_loss`; any shape."""
    return opacity.square().mean()


def normal_difference_loss(normals: Tensor) -> Tensor:
    """Return how rough pictures of normals [B, 3, H, W] are: squared differences of neighbours, as in NVIDIA's NeMo.

    The means over vertical and over horizontal neighbours are added. ``normals`` are coded to [0, 1].
    """
    down = normals[:, :, 1:] - normals[:, :, :-1]
    right = normals[..., 1:] - normals[..., :-1]
    return down.square().mean() + right.square().mean()


def entropy_loss(opacity: Tensor) -> Tensor:
    """Return the mean binary entropy of the opacity in bits, -o log2 o - (1 - o) log2 (1 - o), in [0, 1].

    It pushes each ray to hit or to miss, as NVIDIA's NeMo and stable-dreamfusion do. ``opacity`` in [0, 1] has any
    shape; its ends are kept 1e-5 away, beyond which the gradient is 0.
    """
    o = opacity.clamp(1e-5, 1 - 1e-5)
    return -(o * o.log2() + (1 - o) * (1 - o).log2()).mean()
