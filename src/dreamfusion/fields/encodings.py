"""Sines and cosines of a position: the positional encoding of NeRF and the integrated one of mip-NeRF.

Symbols: x in R^D, L octaves l = 0 ... L - 1 of frequency 2^l: radians per unit of x, without a factor of pi.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def frequency_channels(frequencies: int, dimensions: int = 3) -> int:
    """Return the length of `frequency_encode`'s result: D (1 + 2 L)."""
    return dimensions * (1 + 2 * frequencies)


def frequency_encode(x: Float[Tensor, "*n D"], frequencies: int) -> Float[Tensor, "*n C"]:
    """Return x, then sin(2^l x) of all octaves, then cos(2^l x): [..., D (1 + 2 L)] for ``x`` [..., D]."""
    angles = _angles(x, frequencies)
    return torch.cat([x, angles.sin(), angles.cos()], dim=-1)


def integrated_encode(
    mean: Float[Tensor, "*n D"], variance: Float[Tensor, ""] | float, frequencies: int
) -> Float[Tensor, "*n C"]:
    """Return the expected sines and cosines of a Gaussian blob around ``mean`` [..., D]: [..., 2 D L].

    mip-NeRF (arXiv 2103.13415) equation 14, for the covariance ``variance`` * identity: E[sin(2^l x)] =
    sin(2^l mean) exp(-4^l variance / 2), and so for the cosine. Octaves whose period is small against the blob fade
    to 0 and are thereby hidden from the network.
    """
    angles = _angles(mean, frequencies)
    octave = 4.0 ** torch.arange(frequencies, device=mean.device)
    fade = torch.exp(-0.5 * octave * variance).repeat_interleave(mean.shape[-1])
    return torch.cat([angles.sin() * fade, angles.cos() * fade], dim=-1)


def _angles(x: Tensor, frequencies: int) -> Tensor:
    scale = 2.0 ** torch.arange(frequencies, device=x.device)
    return (x[..., None, :] * scale[:, None]).flatten(-2)
