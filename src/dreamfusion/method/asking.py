"""What the prior is asked about a step's views: the prompt's texts, as the cameras see them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dreamfusion.config import Config
from dreamfusion.guidance.base import Embeddings, Guidance
from dreamfusion.guidance.guided import Negatives
from dreamfusion.method.cameras import Cameras
from dreamfusion.method.prompts import perp_neg_weights, view_prompts, view_weights


@dataclass(frozen=True)
class Texts:
    """What the prior is asked about B views: B embeddings of each kind."""

    positive: Embeddings
    negative: Embeddings
    perp_neg: Negatives | None


class ViewPrompts:
    """Text embeddings of a prompt's four views and of the negative prompt, made once."""

    def __init__(self, guidance: Guidance, config: Config, prompt: str) -> None:
        self.guidance, self.config = guidance, config.guidance
        texts = view_prompts(prompt, self.config.view_texts)
        # In one call, because only then do a long and a short prompt come out equally long (see LatentGuidance.embed).
        embeddings = guidance.embed([*texts, self.config.negative_prompt])
        self.views, self.negative = embeddings[: len(texts)], embeddings[len(texts) :]  # four and one

    def __call__(self, cameras: Cameras) -> Texts:
        """Return the embeddings for each camera: prompt, negative prompt, and the views that it does not show."""
        azimuth, elevation, texts = cameras.azimuth_deg, cameras.elevation_deg, self.config.view_texts
        weights = view_weights(azimuth, elevation, self.config.view_mode, texts)
        told = self.config.tell_cameras
        positive = self.guidance.condition(self.views, weights, cameras) if told else self.views.mix(weights)
        return Texts(positive, self.negative.expand(len(positive)), self._perp_neg(cameras))

    def _perp_neg(self, cameras: Cameras) -> Negatives | None:
        if not self.config.perp_neg:
            return None
        # By words alone, even for a prior that knows poses: the front and the side are what other cameras see.
        front, side = (self.views.mix(row[None]).expand(len(cameras)) for row in torch.eye(4)[:2])
        weights = perp_neg_weights(cameras.azimuth_deg, cameras.elevation_deg, self.config.view_texts)
        return Negatives((front, side), weights.to(self.guidance.device))
