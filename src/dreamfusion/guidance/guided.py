"""From the prior's answers to several texts to the one prediction that the losses use: guidance by words.

Symbols: eps_uncond, eps_text and eps_i are the predictions for the empty (or the negative) prompt, for the prompt, and
for the i-th text that is pushed away from; e_i = eps_i - eps_uncond and e_pos = eps_text - eps_uncond are directions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dreamfusion.guidance.base import Embeddings, Guidance, classifier_free_guidance, per_image


@dataclass(frozen=True)
class Negatives:
    """Texts that B views are pushed away from by Perp-Neg: each of ``texts`` holds B embeddings.

    ``weights`` [B, len(texts)] are at most 0; `dreamfusion.method.prompts.perp_neg_weights` gives them.
    """

    texts: tuple[Embeddings, ...]
    weights: Tensor


def guided_noise(
    guidance: Guidance,
    z_t: Tensor,
    t: Tensor,
    text_embeddings: Embeddings,
    uncond_embeddings: Embeddings,
    *,
    guidance_scale: float,
    rescale: float = 0.0,
    negatives: Negatives | None = None,
) -> Tensor:
    """Return eps_hat [B, ...] of the prior under guidance, with one call for all texts and no gradient.

    That is classifier-free guidance; with ``negatives`` it is `perp_neg_guidance`; ``rescale`` in [0, 1] is the
    strength of `rescale_guidance`.
    """
    texts = (uncond_embeddings, text_embeddings, *(negatives.texts if negatives else ()))
    batch = texts[0]
    for other in texts[1:]:
        batch = batch.followed_by(other)
    n = len(texts)
    eps_uncond, eps_text, *eps_negative = guidance.predict_noise(torch.cat([z_t] * n), torch.cat([t] * n), batch).chunk(
        n
    )
    if negatives is None:
        eps_hat = classifier_free_guidance(eps_uncond, eps_text, guidance_scale)
    else:
        eps_hat = perp_neg_guidance(eps_uncond, eps_text, eps_negative, negatives.weights, guidance_scale)
    return rescale_guidance(eps_hat, eps_text, rescale) if rescale > 0 else eps_hat


def perp_neg_guidance(
    eps_uncond: Tensor, eps_text: Tensor, eps_negative: list[Tensor], weights: Tensor, scale: float
) -> Tensor:
    """Return eps_uncond + scale * (e_pos + sum_i w_i perpendicular(e_i, e_pos)), with weights w [B, n] of at most 0.

    A negative text shares most of its words with the prompt, so that subtracting all of e_i takes away from the object
    itself. Its part at right angles to e_pos is what it says beyond the prompt, such as another view (Perp-Neg, arXiv
    2304.04968). Without negatives it is classifier-free guidance, with the same meaning of ``scale``.
    """
    e_pos = eps_text - eps_uncond
    direction = e_pos
    for eps, weight in zip(eps_negative, weights.T, strict=True):
        direction = direction + per_image(weight, e_pos) * perpendicular(eps - eps_uncond, e_pos)
    return eps_uncond + scale * direction


def perpendicular(x: Tensor, y: Tensor) -> Tensor:
    """Return what is left of x [B, ...] without its part along y, x - (x.y / y.y) y, per image; x where y is 0."""
    along = (x * y).flatten(1).sum(dim=1) / y.flatten(1).square().sum(dim=1).clamp(min=1e-20)
    return x - per_image(along, y) * y


def rescale_guidance(eps_hat: Tensor, eps_text: Tensor, strength: float) -> Tensor:
    """Return ``eps_hat`` moved by ``strength`` in [0, 1] towards its copy that has the deviation of ``eps_text``.

    A large guidance scale makes predictions too loud and images too bright; arXiv 2305.08891, section 3.4, gives them
    the standard deviation, per image [B, ...], of the prediction from text alone.
    """
    deviation = eps_text.flatten(1).std(dim=1) / eps_hat.flatten(1).std(dim=1)
    return eps_hat * per_image(1 + strength * (deviation - 1), eps_hat)
