"""A prior that has been asked about a step's views: what the losses see of prompts, guidance and cameras."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dreamfusion.guidance.base import Embeddings, Guidance, per_image
from dreamfusion.guidance.classifier_free import classifier_free_guidance, perp_neg_guidance, rescale_guidance
from dreamfusion.method.cameras import Cameras


@dataclass(frozen=True)
class Negatives:
    """Texts that B views are pushed away from by Perp-Neg: each of ``texts`` holds B embeddings.

    ``weights`` [B, len(texts)] are at most 0; `dreamfusion.method.prompts.perp_neg_weights` gives them.
    """

    texts: tuple[Embeddings, ...]
    weights: Tensor


@dataclass(frozen=True)
class Asked:
    """A frozen prior, asked about B views: it says which noise it sees in their noisy versions z_t.

    ``positive`` holds the prompt as each of the B ``cameras`` sees it, ``negative`` the empty or the negative prompt,
    B embeddings each. ``scale`` is that of classifier-free guidance, ``rescale`` in [0, 1] the strength of
    `rescale_guidance`; with ``negatives`` the guidance is `perp_neg_guidance`. No answer has a gradient. ``bare`` is
    the prompt without words for views (None: ``positive``), ``empty`` the empty prompt (None: ``negative``).
    """

    prior: Guidance
    positive: Embeddings
    negative: Embeddings
    cameras: Cameras
    scale: float
    rescale: float = 0.0
    negatives: Negatives | None = None
    bare: Embeddings | None = None
    empty: Embeddings | None = None

    def guided(self, z_t: Float[Tensor, " B *z"], t: Int[Tensor, " B"]) -> Float[Tensor, " B *z"]:
        """Return eps_hat(z_t, t, text) [B, ...] under guidance, with one call of the prior for all texts."""
        texts = (self.negative, self.positive, *(self.negatives.texts if self.negatives else ()))
        batch = texts[0]
        for other in texts[1:]:
            batch = batch.followed_by(other)
        n = len(texts)
        answers = self.prior.predict_noise(torch.cat([z_t] * n), torch.cat([t] * n), batch)
        eps_uncond, eps_text, *eps_negative = answers.chunk(n)
        if self.negatives is None:
            eps_hat = classifier_free_guidance(eps_uncond, eps_text, self.scale)
        else:
            eps_hat = perp_neg_guidance(eps_uncond, eps_text, eps_negative, self.negatives.weights, self.scale)
        return rescale_guidance(eps_hat, eps_text, self.rescale) if self.rescale > 0 else eps_hat

    def plain(self, z_t: Float[Tensor, " B *z"], t: Int[Tensor, " B"]) -> Float[Tensor, " B *z"]:
        """Return eps_hat(z_t, t, empty) [B, ...]: what the prior says without any words and without guidance."""
        return self.prior.predict_noise(z_t, t, self.negative if self.empty is None else self.empty)

    def with_texts(self, change: Callable[[Embeddings], Embeddings]) -> Asked:
        """Return the same with every text changed."""
        negatives = self.negatives
        if negatives is not None:
            negatives = replace(negatives, texts=tuple(map(change, negatives.texts)))
        bare, empty = (None if text is None else change(text) for text in (self.bare, self.empty))
        return replace(
            self,
            positive=change(self.positive),
            negative=change(self.negative),
            negatives=negatives,
            bare=bare,
            empty=empty,
        )

    @property
    def told(self) -> Embeddings:
        """The prompt [B] for whoever is told the camera in another way, such as the critic: without words for views."""
        return self.positive if self.bare is None else self.bare

    def add_noise(
        self, z: Float[Tensor, " B *z"], noise: Float[Tensor, " B *z"], t: Int[Tensor, " B"]
    ) -> Float[Tensor, " B *z"]:
        """Return z_t = alpha_t z + sigma_t noise for timesteps [B]."""
        return self.prior.add_noise(z, noise, t)

    def ddim_step(
        self, z_t: Float[Tensor, " B *z"], t: Int[Tensor, " B"], to: Int[Tensor, " B"], eps_hat: Float[Tensor, " B *z"]
    ) -> Float[Tensor, " B *z"]:
        """Return z_t moved from timesteps ``t`` to ``to``, both [B], by alpha_to z_hat + sigma_to eps_hat.

        That is DDIM without noise (arXiv 2010.02502, equation 12), in either direction; for a rectified flow it is
        Euler's method.
        """
        return self.prior.add_noise(self.prior.predicted_data(z_t, t, eps_hat), eps_hat, to)

    def abar(self, t: Int[Tensor, " B"], like: Float[Tensor, " B *z"]) -> Float[Tensor, " B ..."]:
        """Return abar_t for timesteps [B], shaped to broadcast against ``like`` [B, ...]."""
        return per_image(self.prior.alphas_cumprod[t], like)
