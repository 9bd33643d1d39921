"""The contract of a diffusion prior: what every loss may ask of it, and nothing else.

Symbols: z is an image in the prior's own space, z_t = alpha_t z + sigma_t eps with eps ~ N(0, I) its noisy version,
eps_hat the prior's guess of eps, and abar_t = alpha_t^2 / (alpha_t^2 + sigma_t^2) the share of the signal in the
variance. A variance-preserving prior (DDPM) has alpha_t = sqrt(abar_t) and sigma_t = sqrt(1 - abar_t); a rectified flow
has alpha_t = 1 - s and sigma_t = s. Losses weigh timesteps by abar_t alone, which a mere change of scale leaves as it
is, so that the same weight means the same noise level for both.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from dreamfusion.config import ShapeShown
from dreamfusion.method.cameras import Cameras


@dataclass(frozen=True)
class Embeddings:
    """What a prior understands of n prompts.

    ``tokens`` [n, L, D] is one vector per token; ``pooled`` [n, P] is one per prompt, for the priors that take such a
    summary as well (Stable Diffusion XL and 3, Flux), and None for the others. ``mask`` [n, L] is true for the tokens
    that count, for the priors whose denoiser leaves out the padding (PixArt, Sana, Lumina), and None where all count.
    ``camera`` [n, P] holds the numbers of the camera that each picture is taken with, for the priors that are told them
    beside the words (`Guidance.told_cameras`), and is None before and for the others. ``picture`` [n, ...] is what of a
    picture is shown beside each prompt, for the priors that are shown one, and ``shape`` [n, 3, H, W] in [0, 1] a
    picture of the shape that is there (`Guidance.told_shape`).
    """

    tokens: Tensor
    pooled: Tensor | None = None
    mask: Tensor | None = None
    camera: Tensor | None = None
    picture: Tensor | None = None
    shape: Tensor | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: slice) -> Embeddings:
        """Return some of the embeddings, as a batch of its own."""
        return self._each(lambda x: x[rows])

    def mix(self, weights: Tensor) -> Embeddings:
        """Return the B mixtures of these n embeddings with weights [B, n] of at least 0.

        A token of a mixture counts if it counts in any of the texts that have a part in it.
        """
        return Embeddings(
            torch.einsum("bn,nld->bld", weights.to(self.tokens), self.tokens),
            None if self.pooled is None else weights.to(self.pooled) @ self.pooled,
            None if self.mask is None else weights.to(self.tokens) @ self.mask.to(self.tokens) > 0,
            picture=None
            if self.picture is None
            else torch.einsum("bn,n...->b...", weights.to(self.picture), self.picture),
        )

    def expand(self, count: int) -> Embeddings:
        """Return a single embedding repeated ``count`` times, without copies."""
        return self._each(lambda x: x.expand(count, *x.shape[1:]))

    def followed_by(self, other: Embeddings) -> Embeddings:
        """Return these embeddings and then the others of the same prior, as one batch."""
        return Embeddings(
            torch.cat([self.tokens, other.tokens]),
            *(_both(getattr(self, name), getattr(other, name)) for name in _BESIDE),
        )

    def to(self, dtype: torch.dtype) -> Embeddings:
        """Return everything in another number format but the mask, which has none."""
        return self._each(lambda x: x if x.dtype == torch.bool else x.to(dtype))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Embeddings:
        beside = (getattr(self, name) for name in _BESIDE)
        return Embeddings(change(self.tokens), *(None if x is None else change(x) for x in beside))


_BESIDE = ("pooled", "mask", "camera", "picture", "shape")
"""What embeddings may hold beside the tokens, one row for each of them."""


def _both(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    return None if first is None or second is None else torch.cat([first, second])


@dataclass(frozen=True)
class Reading:
    """A prompt as a prior reads it, and ``notes`` on every word that it reads as another: "crimson: red"."""

    prompt: str
    notes: tuple[str, ...] = ()


class Guidance(ABC):
    """A frozen text-to-image diffusion model.

    ``alphas_cumprod`` [T] is abar on ``device``; ``sample_size`` is the side, in pixels, of the images it knows.
    Only `encode` is differentiable: score distillation leaves out the Jacobian of the denoiser (paper equation 3).
    ``denoiser`` is the network behind `predict_noise`, to which variational score distillation adds adapters
    (`dreamfusion.method.critic`); it is None for a prior in closed form or a compiled engine. ``latent_shape`` is
    that of z for one image, (channels, S, S), and None for a prior whose z is the image itself. ``knows_cameras`` says
    whether it goes by where a view was taken from, and not by words alone, ``needs_cameras`` whether it cannot do
    without, and ``takes_picture`` whether it is shown a picture of the object. ``together`` is how many views, one
    after the other in a batch, it judges as one: the same object from cameras that are spread evenly around it.
    ``shape_shown`` says which picture of the shape `told_shape` wants.
    """

    alphas_cumprod: Tensor
    sample_size: int
    device: torch.device
    denoiser: nn.Module | None = None
    latent_shape: tuple[int, int, int] | None = None
    knows_cameras: bool = False
    needs_cameras: bool = False
    takes_picture: ClassVar[bool] = False
    together: int = 1
    shape_shown: ShapeShown | None = None

    @abstractmethod
    def embed(self, prompts: Sequence[str]) -> Embeddings:
        """Return what the prior understands of n prompts."""

    def understood(self, prompt: str) -> Reading:
        """Return the prompt in words that the prior knows, as far as their meaning is plain; most take any words."""
        return Reading(prompt)

    def check_vocabulary(self, prompt: str) -> None:  # noqa: B027 - most know every word
        """Raise DreamFusionError if the prior does not know a word, even as `understood`, with words that it knows."""

    def true_scale(self, prompt: str) -> float:
        """Return how large the prompt's object is, where the prior draws it at size 1: below 1 for a "small" one.

        Most priors draw a small thing small, if that word says anything to them, and return 1.
        """
        return 1.0

    def modules(self) -> dict[str, nn.Module]:
        """Return the networks that the prior consists of, by name; none for one in closed form."""
        return {}

    def release_text_encoders(self) -> None:  # noqa: B027 - most simply have none
        """Free the memory of what reads prompts; `embed` is over after this. A prior without any does nothing."""

    @abstractmethod
    def encode(self, image: Tensor) -> Tensor:
        """Return z for images [B, 3, H, W] in [0, 1] of any size; differentiable."""

    @abstractmethod
    def predict_noise(self, z_t: Tensor, t: Tensor, embeddings: Embeddings) -> Tensor:
        """Return eps_hat, of the shape of ``z_t``, for timesteps [B] and B embeddings; no gradient."""

    def predict_noise_with_graph(self, z_t: Tensor, t: Tensor, embeddings: Embeddings) -> Tensor:
        """Return what `predict_noise` does, differentiable; only a prior with a ``denoiser`` needs it."""
        raise NotImplementedError

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha_t and sigma_t for timesteps [B], both [B]; variance-preserving unless a prior overrides it."""
        abar = self.alphas_cumprod[t]
        return abar.sqrt(), (1 - abar).sqrt()

    def decode(self, z: Tensor) -> Tensor:
        """Return the images [B, 3, S, S] in [0, 1] of z, without a gradient; what `encode` is the way to."""
        raise NotImplementedError(f"{type(self).__name__} does not decode")

    def add_noise(self, z: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return z_t = alpha_t z + sigma_t noise for timesteps [B]."""
        alpha, sigma = (per_image(values, z) for values in self.coefficients(t))
        return alpha * z + sigma * noise

    def predicted_data(self, z_t: Tensor, t: Tensor, eps_hat: Tensor) -> Tensor:
        """Return the z that ``eps_hat`` implies, (z_t - sigma_t eps_hat) / alpha_t, for timesteps [B].

        Where alpha_t is near 0 it magnifies the error of ``eps_hat``; at pure noise it is not finite.
        """
        alpha, sigma = (per_image(values, z_t) for values in self.coefficients(t))
        return (z_t - sigma * eps_hat) / alpha

    def condition(self, views: Embeddings, weights: Tensor, cameras: Cameras) -> Embeddings:
        """Return one embedding per camera.

        ``views`` are the embeddings of the four view prompts, ``weights`` [B, 4] comes from
        `dreamfusion.method.prompts.view_weights`. A prior that is conditioned on words alone mixes the four (paper
        section 3.2) and has no use for ``cameras`` (B of them); a prior that knows poses overrides this.
        """
        return views.mix(weights)

    def told_picture(self, texts: Embeddings) -> Embeddings:
        """Return texts that also show the picture of the object, for a prior that is shown one.

        It is asked of every text that is about the object; the negative and the empty prompt are shown none.
        """
        return texts

    def told_cameras(self, texts: Embeddings, cameras: Cameras) -> Embeddings:
        """Return B embeddings that also hold the numbers of B cameras, for a prior that takes them beside the words.

        Unlike `condition` it is asked of every text, the negative prompt included. Most return them as they are.
        """
        return texts

    def told_shape(self, texts: Embeddings, shape: Tensor) -> Embeddings:
        """Return B embeddings with pictures [B, 3, H, W] of the shape there is, for a prior with a ``shape_shown``.

        It is told of every text, so that guidance goes by the words.
        """
        return texts

    def told_textureless(self, texts: Embeddings, textureless: Tensor) -> Embeddings:
        """Return B embeddings that also say which of the views [B] are textureless: white shapes under a light.

        A prior that has no way to be told, as most, returns them as they are.
        """
        return texts


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """Return values [B] with trailing axes of size 1, so that they broadcast against ``like`` [B, ...]."""
    return values.reshape(-1, *[1] * (like.ndim - 1)).to(like)
