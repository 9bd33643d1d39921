"""From the prior's answers to several texts to the one prediction that the losses use.

Symbols: eps_uncond, eps_text and eps_i are the predictions for the empty (or the negative) prompt, for the prompt, and
for the i-th text that is pushed away from; e_i = eps_i - eps_uncond and e_pos = eps_text - eps_uncond are directions.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from dreamfusion.guidance.base import per_image


def classifier_free_guidance(
    eps_uncond: Float[Tensor, "*shape"], eps_text: Float[Tensor, "*shape"], scale: float
) -> Float[Tensor, "*shape"]:
    """Return eps_uncond + scale * (eps_text - eps_uncond).

    The paper writes (1 + omega) eps_text - omega eps_uncond (section 2), so its omega is ``scale - 1``: the paper's
    omega of 100 is a scale of 101 here. Scale 1 is the plain conditional prediction.
    """
    return eps_uncond + scale * (eps_text - eps_uncond)


def perp_neg_guidance(
    eps_uncond: Float[Tensor, " B *eps"],
    eps_text: Float[Tensor, " B *eps"],
    eps_negative: list[Float[Tensor, " B *eps"]],
    weights: Float[Tensor, "B n"],
    scale: float,
) -> Float[Tensor, " B *eps"]:
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


def perpendicular(x: Float[Tensor, " B *eps"], y: Float[Tensor, " B *eps"]) -> Float[Tensor, " B *eps"]:
    """Return what is left of x [B, ...] without its part along y, x - (x.y / y.y) y, per image; x where y is 0."""
    along = (x * y).flatten(1).sum(dim=1) / y.flatten(1).square().sum(dim=1).clamp(min=1e-20)
    return x - per_image(along, y) * y


def rescale_guidance(
    eps_hat: Float[Tensor, " B *eps"], eps_text: Float[Tensor, " B *eps"], strength: float
) -> Float[Tensor, " B *eps"]:
    """Return ``eps_hat`` moved by ``strength`` in [0, 1] towards its copy that has the deviation of ``eps_text``.

    A large guidance scale makes predictions too loud and images too bright; arXiv 2305.08891, section 3.4, gives them
    the standard deviation, per image [B, ...], of the prediction from text alone.
    """
    deviation = eps_text.flatten(1).std(dim=1) / eps_hat.flatten(1).std(dim=1)
    return eps_hat * per_image(1 + strength * (deviation - 1), eps_hat)
