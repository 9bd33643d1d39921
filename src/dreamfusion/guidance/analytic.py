"""The analytic prior: the exact denoiser of a finite set of images, for tests and demonstrations.

If the data are the images x_1 .. x_N with probabilities p_i, then z_t is a mixture of Gaussians
N(sqrt(abar) x_i, (1 - abar) I), and the best possible noise prediction has the closed form
eps_hat = (z_t - sqrt(abar) E[x | z_t]) / sqrt(1 - abar). Score distillation against it must reach a known answer,
with no trained weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dreamfusion.config import ViewTexts
from dreamfusion.guidance.base import Embeddings, Guidance, per_image
from dreamfusion.guidance.pixel_space import image_to_z
from dreamfusion.method.cameras import Cameras
from dreamfusion.method.prompts import VIEWS


def cosine_alphas_cumprod(num_train_timesteps: int = 1000) -> Tensor:
    """Return abar [T] of the cosine schedule (arXiv 2102.09672, equation 17; betas are capped at 0.999)."""
    time = torch.arange(num_train_timesteps + 1, dtype=torch.float64) / num_train_timesteps
    f = torch.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2
    betas = (1 - f[1:] / f[:-1]).clamp(max=0.999)
    return torch.cumprod(1 - betas, dim=0).float()


class AnalyticGuidance(Guidance):
    """The exact noise prediction for images [N, 3, S, S] in [0, 1].

    An embedding has one token [N], a probability for each image, so that embeddings mixed by view weights are again
    probabilities. ``view_weights`` [N, 4] says how much each image belongs to each of
    `dreamfusion.method.prompts.VIEWS`. `embed` reads only the view from a prompt, by the ending that ``texts`` gives
    it; a prompt without a view, such as the empty one, means all images alike, and so does a view
    that no image belongs to.

    With ``cameras``, the N cameras the images were taken by, `condition` goes by the camera instead of by the four
    views: an image counts exp(-angle^2 / (2 pose_width_deg^2)), where angle lies between the two viewing directions.
    """

    def __init__(
        self,
        images: Tensor,
        view_weights: Tensor,
        *,
        cameras: Cameras | None = None,
        pose_width_deg: float = 5.0,
        alphas_cumprod: Tensor | None = None,
        texts: ViewTexts | None = None,
    ) -> None:
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
            raise ValueError(f"images must be [N, 3, S, S], not {list(images.shape)}")
        if view_weights.shape != (len(images), len(VIEWS)):
            raise ValueError(f"view_weights must be [{len(images)}, {len(VIEWS)}], not {list(view_weights.shape)}")
        if cameras is not None and len(cameras) != len(images):
            raise ValueError(f"{len(images)} images need as many cameras, not {len(cameras)}")
        self.device = images.device
        self.sample_size = images.shape[-1]
        self.alphas_cumprod = (cosine_alphas_cumprod() if alphas_cumprod is None else alphas_cumprod).to(images)
        self._data = image_to_z(images, self.sample_size).flatten(1)
        self._view_weights = view_weights.to(images)
        self.knows_cameras = cameras is not None
        self._directions = None if cameras is None else normalize(cameras.position, dim=-1).to(images)
        self._pose_width = math.radians(pose_width_deg)
        self._texts = texts or ViewTexts()

    def embed(self, prompts: Sequence[str]) -> Embeddings:
        """Return a probability for each image as tokens [n, 1, N]."""
        return Embeddings(torch.stack([self._probabilities(prompt) for prompt in prompts])[:, None])

    def _probabilities(self, prompt: str) -> Tensor:
        uniform = torch.full_like(self._view_weights[:, 0], 1 / len(self._data))
        for index, view in enumerate(VIEWS):
            weights = self._view_weights[:, index]
            if prompt.endswith(getattr(self._texts, view)) and weights.sum() > 0:
                return weights / weights.sum()
        return uniform

    def condition(self, views: Embeddings, weights: Tensor, cameras: Cameras) -> Embeddings:
        """Return a probability for each image as tokens [B, 1, N]: by camera if there are cameras, else by view."""
        if self._directions is None:
            return super().condition(views, weights, cameras)
        cosine = normalize(cameras.position, dim=-1).to(self._directions) @ self._directions.T
        angle = torch.acos(cosine.clamp(-1, 1))
        return Embeddings(torch.softmax(-0.5 * (angle / self._pose_width) ** 2, dim=-1)[:, None])

    def encode(self, image: Tensor) -> Tensor:
        """Return images resized to the prior's size, in [-1, 1]; differentiable."""
        return image_to_z(image, self.sample_size)

    @torch.no_grad()
    def predict_noise(self, z_t: Tensor, t: Tensor, embeddings: Embeddings) -> Tensor:
        """Return the exact E[eps | z_t], [B, 3, S, S]."""
        abar = self.alphas_cumprod[t][:, None]
        flat = z_t.flatten(1)
        # log p_i - |z_t - sqrt(abar) x_i|^2 / (2 (1 - abar)), less what does not depend on i.
        match = abar.sqrt() * (flat @ self._data.T) - 0.5 * abar * (self._data**2).sum(dim=1)
        posterior = torch.softmax(embeddings.tokens[:, 0].log() + match / (1 - abar), dim=-1)
        mean = (posterior @ self._data).reshape(z_t.shape)
        abar = per_image(self.alphas_cumprod[t], z_t)
        return (z_t - abar.sqrt() * mean) / (1 - abar).sqrt()
