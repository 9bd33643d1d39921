"""From what a diffusion model puts out to the noise in its input, which is what the losses work on.

Symbols as in `dreamfusion.guidance.base`: z_t = alpha z + sigma eps.
"""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

Prediction = Literal["epsilon", "v_prediction", "sample", "flow"]
"""What a model puts out, in diffusers' words: eps; v = alpha eps - sigma z (arXiv 2202.00512, appendix D); z; and for
rectified flows the velocity d z_t / d s = eps - z (arXiv 2209.03003)."""

PREDICTIONS: tuple[str, ...] = get_args(Prediction)


def noise_from(output: Tensor, z_t: Tensor, alpha: Tensor, sigma: Tensor, prediction: Prediction) -> Tensor:
    """Return eps_hat for a model's output on z_t; ``alpha`` and ``sigma`` broadcast against it.

    v is defined for alpha^2 + sigma^2 = 1, where alpha v + sigma z_t = eps; the velocity for alpha + sigma = 1, where
    z_t + alpha velocity = eps.
    """
    match prediction:
        case "epsilon":
            return output
        case "v_prediction":
            return alpha * output + sigma * z_t
        case "sample":
            return (z_t - alpha * output) / sigma
        case "flow":
            return z_t + alpha * output
