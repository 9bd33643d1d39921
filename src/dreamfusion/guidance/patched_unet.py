"""A UNet for pictures of twice its own size: it works on their wavelet bands; from outside it is a plain pixel UNet.

A picture [3, 2 S, 2 S] is turned into four bands [3, S, S] by the orthonormal Haar transform of its 2 x 2 patches:
their mean (twice it), and the differences across, down and along the diagonal. White noise stays white noise of the
same variance in every band, so the bands are diffused exactly as the picture is. A step costs what one on S x S pixels
costs.

Each band is scaled as Karras et al. (arXiv 2206.00364, section 5) scale a picture, to the form that v-prediction has
for it with a schedule: with a standard deviation d of the band's clean values, alpha and sigma at the step,

    c^2 = 1 / (alpha^2 d^2 + sigma^2),   v = alpha sigma (1 - d^2) c^2 z + d c F(c z),

F the network inside. For d = 1 that is F itself. For d = 2, as for the means, F sees and says what a network for
pictures of S x S pixels would at a ratio alpha / sigma twice as high: a small prior can grow in this way, with its own
weights inside and its schedule shifted (`shifted_cosine_betas`), and no step changes its meaning.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from diffusers import ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import Tensor

BANDS = (2.0, 0.14, 0.14, 0.065)
"""Standard deviations of the bands of the toybox's pictures in [-1, 1]: differences as measured; the first stands for 1
in the mean of a patch, which is what the schedule of a prior without bands assumes."""

_OFFSET = 0.008  # of the cosine schedule (arXiv 2102.09672)
_HAAR = ((1, 1, 1, 1), (1, -1, 1, -1), (1, 1, -1, -1), (1, -1, -1, 1))  # bands by pixels of a patch, row by row


def shifted_cosine(t: Tensor, steps: int, shift: float) -> tuple[Tensor, Tensor]:
    """Return alpha and sigma at timesteps ``t``: the cosine schedule's, with alpha / sigma divided by ``shift``."""
    begin = math.pi / 2 * _OFFSET / (1 + _OFFSET)
    angle = (math.pi / 2 * ((t + 1) / steps + _OFFSET) / (1 + _OFFSET)).clamp(max=math.pi / 2 - 5e-5)
    # cos^2(angle) / cos^2(begin) is the cosine schedule's alpha^2; the rest of 1, without rounding:
    signal, noise = angle.cos(), ((angle - begin).sin() * (angle + begin).sin()).sqrt() * shift
    length = (signal.square() + noise.square()).sqrt()
    return signal / length, noise / length


def shifted_cosine_betas(steps: int, shift: float) -> list[float]:
    """Return the same schedule as the betas of a diffusers scheduler."""
    alphas, _ = shifted_cosine(torch.arange(-1, steps, dtype=torch.float64), steps, shift)
    return (1 - (alphas[1:] / alphas[:-1]).square()).tolist()


def to_bands(picture: Tensor) -> Tensor:
    """Return the Haar bands [B, 12, H / 2, W / 2] of pictures [B, 3, H, W]: means, across, down, diagonal."""
    patches = torch.nn.functional.pixel_unshuffle(picture, 2).unflatten(1, (3, 4))
    haar = picture.new_tensor(_HAAR) / 2
    return torch.einsum("kp,bcphw->bkchw", haar, patches).flatten(1, 2)


def from_bands(bands: Tensor) -> Tensor:
    """Return the pictures whose `to_bands` are these."""
    haar = bands.new_tensor(_HAAR) / 2
    patches = torch.einsum("kp,bkchw->bcphw", haar, bands.unflatten(1, (4, 3))).flatten(1, 2)
    return torch.nn.functional.pixel_shuffle(patches, 2)


def enlarged(picture: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the 3 x 3 convolution of a picture [B, C, H, W] enlarged twice by repeating pixels, [B, D, 2 H, 2 W].

    Of the nine weights [D, C, 3, 3] that a pixel meets, those on copies of the same pixel add up. As one transposed
    convolution with these sums it takes less than half the time.
    """
    padded = torch.nn.functional.pad(weight, (1, 1, 1, 1))
    rows = padded[..., :-1, :] + padded[..., 1:, :]
    sums = (rows[..., :-1] + rows[..., 1:]).transpose(0, 1).flip(2, 3)
    return torch.nn.functional.conv_transpose2d(picture, sums, bias, stride=2, padding=1)


def _enlarge(layer: Any, hidden_states: Tensor, *_sizes: Any, **_options: Any) -> Tensor:
    """Stand in for the forward pass of a diffusers Upsample2D with a convolution."""
    return enlarged(hidden_states, layer.conv.weight, layer.conv.bias)


class PatchedUNet(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """A UNet2DConditionModel on Haar bands that is called, saved and loaded like one on pixels, and predicts v.

    ``inner`` is the configuration of the network inside, of 12 channels; ``bands`` are the standard deviations of the
    bands, ``steps`` and ``shift`` those of `shifted_cosine`. The schedule must be that of the scheduler beside it.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int,
        inner: dict[str, Any],
        bands: tuple[float, ...] = BANDS,
        steps: int = 1000,
        shift: float = 2.0,
        in_channels: int = 3,
        out_channels: int = 3,
    ) -> None:
        super().__init__()
        options = {name: value for name, value in dict(inner).items() if not name.startswith("_")}
        network: Any = UNet2DConditionModel(**options)
        for block in network.up_blocks:
            for upsampler in block.upsamplers or ():
                upsampler.forward = partial(_enlarge, upsampler)
        self.network = network

    @property
    def add_embedding(self) -> Any:
        """What pools the text, as in the network inside."""
        return self.network.add_embedding

    def scales(self, timestep: Tensor, images: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return c, and the factors of z and of F in v, at timesteps [B] or one for all, each [B, 12, 1, 1]."""
        t = timestep.float().reshape(-1, 1).expand(images, 1)
        config: Any = self.config
        alpha, sigma = shifted_cosine(t, config.steps, config.shift)
        d = t.new_tensor(config.bands).repeat_interleave(3)
        c = (alpha.square() * d.square() + sigma.square()).rsqrt()
        skip = alpha * sigma * (1 - d.square()) * c.square()
        return c[..., None, None], skip[..., None, None], (d * c)[..., None, None]

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        encoder_hidden_states: Tensor,
        return_dict: bool = True,
        **options: Any,
    ) -> UNet2DConditionOutput | tuple[Tensor]:
        """Return v [B, 3, S, S] for noisy pictures of the same shape; the options are those of the UNet inside."""
        t = torch.as_tensor(timestep, device=sample.device)
        c, skip, factor = (scale.to(sample.dtype) for scale in self.scales(t, len(sample)))
        z = to_bands(sample)
        inside = (c * z).contiguous(memory_format=torch.channels_last)
        said = self.network(inside, t, encoder_hidden_states, return_dict=False, **options)[0]
        v = from_bands(skip * z + factor * said)
        return UNet2DConditionOutput(sample=v) if return_dict else (v,)
