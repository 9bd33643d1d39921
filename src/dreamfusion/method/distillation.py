"""Score distillation (paper section 3) and its relatives: which way the prior says that the renderings should change.

A loss is one function of the asked prior, of renderings z [B, ...], timesteps t [B] and noise eps of z's shape. It
returns the difference of two predictions of the noise in z_t, of z's shape and without a gradient. `distill` picks the
configured one, and `optimize` makes the paper's gradient g = w(t) (eps_hat - eps) of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dreamfusion.config import Config, Weighting
from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.asked import Asked
from dreamfusion.guidance.base import Guidance
from dreamfusion.guidance.pixel_space import image_to_z
from dreamfusion.method.critic import Critic
from dreamfusion.method.state import State

Loss = Callable[[Asked, Tensor, Tensor, Tensor], Tensor]
"""A loss of one's own: a function of the asked prior, z, t and noise, as `sds` is."""


@dataclass(frozen=True)
class Distilled:
    """What a loss says: ``difference`` [B, ...], the weight w(t) that it is made for, and figures to log."""

    difference: Tensor
    weighting: Weighting = "sds"
    figures: dict[str, float] = field(default_factory=dict)


@torch.no_grad()
def distill(config: Config, state: State, asked: Asked, z: Tensor, t: Tensor, noise: Tensor) -> Distilled:
    """Return what the configured loss says of renderings z [B, ...] at timesteps t [B]; it trains the critic of VSD."""
    loss = config.loss
    match loss.kind:
        case "sds":
            return Distilled(sds(asked, z, t, noise))
        case "vsd":
            critic = state.open_critic(config, asked.prior, asked.positive.tokens.shape[-1])
            difference = vsd(asked, critic, z, t, noise)
            return Distilled(difference, figures={"critic_loss": critic.learn(z, asked.told, asked.cameras)})
        case "ism":
            steps = len(asked.prior.alphas_cumprod)
            shares = (loss.ism_delta_t.at(state.step / config.steps), loss.ism_delta_s)
            delta_t, delta_s = (max(1, round(share * steps)) for share in shares)
            return Distilled(ism(asked, z, t, noise, delta_t=delta_t, delta_s=delta_s), "ism")


def sds(
    asked: Asked, z: Float[Tensor, " B *z"], t: Int[Tensor, " B"], noise: Float[Tensor, " B *z"]
) -> Float[Tensor, " B *z"]:
    """Return eps_hat - eps of score distillation sampling (paper equation 3).

    w(t) times it, times dz/dtheta, reaches the scene: the denoiser's own Jacobian is left out.
    """
    return asked.guided(asked.add_noise(z, noise, t), t) - noise


def vsd(
    asked: Asked, critic: Critic, z: Float[Tensor, " B *z"], t: Int[Tensor, " B"], noise: Float[Tensor, " B *z"]
) -> Float[Tensor, " B *z"]:
    """Return eps_hat - eps_phi of variational score distillation (ProlificDreamer, arXiv 2305.16213).

    eps_phi(z_t, t, text, camera) is the unguided prediction of ``critic``, the model of what the scene looks like now.
    Its text is the prompt without words for views: it is told the camera itself, as in the authors' code.
    It takes the place of the noise of `sds`, so that a scene is a sample of the prior and not the mean of its samples,
    and an ordinary guidance scale is enough: the paper's is 7.5. The paper also optimises several scenes at once
    ("particles"); this is the case of one.

    The caller trains the critic, a step of `Critic.learn` per step of the scene.
    """
    z_t = asked.add_noise(z, noise, t)
    return asked.guided(z_t, t) - critic.predict_noise(z_t, t, asked.told, asked.cameras)


def ism(
    asked: Asked,
    z: Float[Tensor, " B *z"],
    t: Int[Tensor, " B"],
    noise: Float[Tensor, " B *z"],
    *,
    delta_t: int = 50,
    delta_s: int = 200,
) -> Float[Tensor, " B *z"]:
    """Return eps_hat(z_t, t, text) - eps(z_s, s, empty) of interval score matching (LucidDreamer, arXiv 2311.11284).

    s is t - ``delta_t``, at least 0. Both z_s and z_t lie on one path, found by `ddim_inversion` of z without words in
    steps of at most ``delta_s``, so that they still hold the picture. Random noise only enters at timestep 0, where
    there is next to none. The difference of two predictions takes the place of the difference from fresh noise, and
    with it goes most of the variance.

    Defaults are the paper's, in timesteps of 1000 (its code shortens ``delta_t`` from 100 to 80 while it warms up);
    the weight of its code is "ism", its guidance scale 7.5. It asks the prior ceil(max s / ``delta_s``) + 1 times for
    one text and once under guidance.
    """
    s = (t - delta_t).clamp(min=0)
    z_s = ddim_inversion(asked, z, s, noise, delta_s)
    eps_s = asked.plain(z_s, s)
    return asked.guided(asked.ddim_step(z_s, s, t, eps_s), t) - eps_s


def ddim_inversion(
    asked: Asked, z: Float[Tensor, " B *z"], end: Int[Tensor, " B"], noise: Float[Tensor, " B *z"], delta: int
) -> Float[Tensor, " B *z"]:
    """Return z_s at the timesteps ``end`` [B] of the deterministic path from z [B, ...] into noise (arXiv 2010.02502).

    It begins at timestep 0, with the little ``noise`` there is, as LucidDreamer's code does. All views take the same
    number of steps, of at most ``delta`` timesteps each.
    """
    now = torch.zeros_like(end)
    z_now = asked.add_noise(z, noise, now)
    count = math.ceil(end.max().item() / delta)
    for index in range(1, count + 1):
        following = end * index // count
        z_now, now = asked.ddim_step(z_now, now, following, asked.plain(z_now, now)), following
    return z_now


def loss_with_gradient(z: Float[Tensor, " B *z"], gradient: Float[Tensor, " B *z"]) -> Float[Tensor, ""]:
    """Return a loss whose gradient is ``gradient`` for views z, both [B, ...]: the mean over the B views.

    It is 1/2 |z - stop_gradient(z - g)|^2, summed over a view and averaged over the views. Its value is only |g|^2 / 2
    and says nothing about progress.
    """
    target = (z - gradient).detach()
    return 0.5 * (z - target).square().sum() / len(z)


def clipped(gradient: Float[Tensor, "*shape"], limit: float | None) -> Float[Tensor, "*shape"]:
    """Return the gradient with each element limited to [-limit, limit]; as it is without a limit.

    That is debiased score distillation (arXiv 2303.15413), which raises the limit linearly: from 0.5 to 2 for
    DeepFloyd IF and from 2 to 8 for Stable Diffusion, in threestudio.
    """
    return gradient if limit is None else gradient.clamp(-limit, limit)


def distillation_figures(difference: Float[Tensor, " B *z"], gradient: Float[Tensor, " B *z"]) -> dict[str, float]:
    """Return means over the B views: "sds_gradient" is |g|, "noise_error" the root mean square of the difference."""
    return {
        "sds_gradient": gradient.flatten(1).norm(dim=1).mean().item(),
        "noise_error": difference.flatten(1).square().mean(dim=1).sqrt().mean().item(),
    }


def image_terms(
    config: Config, guidance: Guidance, image: Tensor, z: Tensor, said: Distilled, abar: Tensor, weight: Tensor
) -> dict[str, Tensor]:
    """Return the weighted `image_loss` by its name in the log, if it is asked for and the prior has latents."""
    if config.loss.image == 0 or guidance.latent_shape is None:
        return {}
    return {"image_loss": config.loss.image * image_loss(guidance, image, z, said.difference, abar, weight)}


def image_loss(
    guidance: Guidance, image: Tensor, z: Tensor, difference: Tensor, abar: Tensor, weight: Tensor
) -> Tensor:
    """Return HiFA's distance on pixels (arXiv 2305.18766): of pictures [B, 3, H, W] to those that the prior makes.

    The prior's clean guess is z - sqrt((1 - abar) / abar) times the ``difference`` of `sds`, decoded by the VAE. The
    squared distance is summed over a picture, weighted like the distilled gradient, and averaged over the B pictures.
    """
    with torch.no_grad():
        guess = guidance.decode(z - ((1 - abar) / abar.clamp(min=1e-4)).sqrt() * difference)
    shown = (image_to_z(image, guess.shape[-1]) + 1) / 2
    return 0.5 * (weight * (shown - guess).square()).sum() / len(image)


def check_decodes(config: Config, guidance: Guidance) -> None:
    """Raise DreamFusionError if loss.image is asked for with another loss than sds, or of a VAE without a decoder."""
    if config.loss.kind != "sds":
        raise DreamFusionError(f"loss.image is for loss.kind 'sds', not {config.loss.kind!r}: set it to 0.")
    if config.shading.latent.largest > 0:
        raise DreamFusionError("loss.image compares pictures, and shading.latent shows none at first: set one to 0.")
    if guidance.latent_shape is not None and not hasattr(guidance.modules().get("vae"), "decoder"):
        raise DreamFusionError("loss.image needs a VAE that decodes, which this prior lacks: set it to 0.")
