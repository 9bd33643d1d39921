"""What the prior is asked about a step's views: the prompt's texts, as the cameras see them."""

from __future__ import annotations

import torch
from torch import Tensor

from dreamfusion.config import Config
from dreamfusion.guidance.asked import Asked, Negatives
from dreamfusion.guidance.base import Guidance
from dreamfusion.method.cameras import Cameras
from dreamfusion.method.prompts import perp_neg_weights, view_prompts, view_weights


class Question:
    """A prompt that a prior is asked about: the embeddings of its four views and of the negative prompt, made once."""

    def __init__(self, prior: Guidance, config: Config, prompt: str) -> None:
        self.prior, self.config = prior, config.guidance
        texts = view_prompts(prior.understood(prompt).prompt, self.config.view_texts)
        # In one call, because only then do a long and a short prompt come out equally long (see LatentGuidance.embed).
        embeddings = prior.embed([*texts, prior.understood(self.config.negative_prompt).prompt])
        self.views, self.negative = embeddings[: len(texts)], embeddings[len(texts) :]  # four and one

    def about(self, cameras: Cameras, textureless: Tensor) -> Asked:
        """Return the prior, asked about what B cameras see; ``textureless`` [B] says which views are shapes alone."""
        azimuth, elevation, texts = cameras.azimuth_deg, cameras.elevation_deg, self.config.view_texts
        weights = view_weights(azimuth, elevation, self.config.view_mode, texts)
        told = self.config.tell_cameras
        positive = self.prior.condition(self.views, weights, cameras) if told else self.views.mix(weights)
        # All texts are told, so that guidance goes by the words, and not towards white.
        return Asked(
            self.prior,
            self.prior.told_textureless(positive, textureless),
            self.prior.told_textureless(self.negative.expand(len(cameras)), textureless),
            cameras,
            self.config.guidance_scale,
            self.config.rescale,
            self._other_views(cameras, textureless) if self.config.perp_neg else None,
        )

    def _other_views(self, cameras: Cameras, textureless: Tensor) -> Negatives:
        # By words alone, even for a prior that knows poses: the front and the side are what other cameras see.
        front, side = (self.views.mix(row[None]).expand(len(cameras)) for row in torch.eye(4)[:2])
        weights = perp_neg_weights(cameras.azimuth_deg, cameras.elevation_deg, self.config.view_texts)
        texts = tuple(self.prior.told_textureless(text, textureless) for text in (front, side))
        return Negatives(texts, weights.to(self.prior.device))
