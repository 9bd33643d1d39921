"""The Gaussian prior: data so simple that all of score distillation has a closed form.

The pictures of text y are N(mu_y, s_y^2 I). Then z_t is N(alpha mu_y, v I) with v = alpha^2 s_y^2 + sigma^2, and the
best possible noise prediction is eps_hat = sigma (z_t - alpha mu_y) / v. docs/method.md derives what follows from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.analytic import cosine_alphas_cumprod
from dreamfusion.guidance.base import Embeddings, Guidance, per_image
from dreamfusion.guidance.pixel_space import image_to_z


class GaussianGuidance(Guidance):
    """The exact noise prediction for pictures that are normally distributed around a mean for each text.

    ``means`` [3, S, S] in [0, 1] by text; the text "" stands for all pictures. ``spreads`` are the standard deviations
    of each element of z, by text; what has none has ``spread``. An embedding has one token, the mean in z and the
    spread.
    """

    def __init__(
        self,
        means: Mapping[str, Tensor],
        spread: float,
        *,
        spreads: Mapping[str, float] | None = None,
        alphas_cumprod: Tensor | None = None,
    ) -> None:
        first = next(iter(means.values()))
        self.device = first.device
        self.sample_size = first.shape[-1]
        self.alphas_cumprod = (cosine_alphas_cumprod() if alphas_cumprod is None else alphas_cumprod).to(first)
        self._tokens = {
            text: torch.cat([image_to_z(mean[None], self.sample_size).flatten(), first.new_tensor([width])])
            for text, mean in means.items()
            for width in [(spreads or {}).get(text, spread)]
        }

    def embed(self, prompts: Sequence[str]) -> Embeddings:
        """Return mean and spread of each text as tokens [n, 1, 3 S S + 1]; DreamFusionError for an unknown text."""
        unknown = [prompt for prompt in prompts if prompt not in self._tokens]
        if unknown:
            raise DreamFusionError(f"This prior has no pictures of {unknown[0]!r}; it has: {', '.join(self._tokens)}.")
        return Embeddings(torch.stack([self._tokens[prompt] for prompt in prompts])[:, None])

    def encode(self, image: Tensor) -> Tensor:
        """Return images resized to the prior's size, in [-1, 1]; differentiable."""
        return image_to_z(image, self.sample_size)

    @torch.no_grad()
    def predict_noise(self, z_t: Tensor, t: Tensor, embeddings: Embeddings) -> Tensor:
        """Return the exact E[eps | z_t], of the shape of ``z_t``."""
        return self.predict_noise_with_graph(z_t, t, embeddings)

    def predict_noise_with_graph(self, z_t: Tensor, t: Tensor, embeddings: Embeddings) -> Tensor:
        """Return the same, differentiable."""
        mean = embeddings.tokens[:, 0, :-1].reshape(z_t.shape)
        spread = per_image(embeddings.tokens[:, 0, -1], z_t)
        alpha, sigma = (per_image(values, z_t) for values in self.coefficients(t))
        return sigma * (z_t - alpha * mean) / (alpha.square() * spread.square() + sigma.square())
