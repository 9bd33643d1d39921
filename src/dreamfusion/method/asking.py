"""What the prior is asked about a step's views: the prompt's texts, as the cameras see them."""

from __future__ import annotations

import torch
from torch import Tensor

from dreamfusion.config import Config, LossKind
from dreamfusion.guidance.asked import Asked, Negatives
from dreamfusion.guidance.base import Embeddings, Guidance
from dreamfusion.method.cameras import Cameras
from dreamfusion.method.prompts import perp_neg_weights, view_prompts, view_weights

_MORE_TEXTS: dict[LossKind, tuple[str, ...]] = {"sds": (), "vsd": ("bare",), "ism": ("empty",)}
"""What a loss asks about beside the view texts and the negative prompt."""


class Question:
    """A prompt that a prior is asked about: the embeddings of its four views and of the negative prompt, made once."""

    def __init__(self, prior: Guidance, config: Config, prompt: str) -> None:
        self.prior, self.config = prior, config.guidance
        words = prior.understood(prompt).prompt
        texts = view_prompts(words, self.config.view_texts)
        negative = prior.understood(self.config.negative_prompt).prompt
        more = _MORE_TEXTS[config.loss.kind]
        # In one call, because only then do a long and a short prompt come out equally long (see LatentGuidance.embed).
        embeddings = prior.embed([*texts, negative, *({"bare": words, "empty": ""}[name] for name in more)])
        self.views, self.negative = embeddings[:4], embeddings[4:5]
        self.more = {name: embeddings[5 + index : 6 + index] for index, name in enumerate(more)}

    def about(self, cameras: Cameras, textureless: Tensor, shape: Tensor | None = None) -> Asked:
        """Return the prior, asked about what B cameras see; ``textureless`` [B] says which views are shapes alone.

        ``shape`` [B, 3, H, W] are pictures of the shape for a prior that is shown them (`normals.shape_picture`).
        """
        asked = self._about(cameras, textureless)
        return asked if shape is None else asked.with_texts(lambda texts: self.prior.told_shape(texts, shape))

    def _about(self, cameras: Cameras, textureless: Tensor) -> Asked:
        azimuth, elevation, texts = cameras.azimuth_deg, cameras.elevation_deg, self.config.view_texts
        weights = view_weights(azimuth, elevation, self.config.view_mode, texts)
        told = self.config.tell_cameras
        positive = self.prior.condition(self.views, weights, cameras) if told else self.views.mix(weights)
        return Asked(
            self.prior,
            self._told(positive, cameras, textureless),
            self._told(self.negative, cameras, textureless, shown=False),
            cameras,
            self._scale,
            self.config.rescale,
            self._other_views(cameras, textureless) if self.config.perp_neg else None,
            **{name: self._told(text, cameras, textureless, name != "empty") for name, text in self.more.items()},
        )

    def _told(self, texts: Embeddings, cameras: Cameras, textureless: Tensor, shown: bool = True) -> Embeddings:
        """Return B of the texts, or the one text B times, with all else that the prior is told of the views.

        All texts are told, so that guidance goes by the words, and not towards white; those about the object are
        ``shown`` the picture, if there is one.
        """
        texts = texts.expand(len(cameras))
        texts = self.prior.told_textureless(self.prior.told_picture(texts) if shown else texts, textureless)
        return self.prior.told_cameras(texts, cameras) if self.config.tell_cameras else texts

    @property
    def _scale(self) -> float:
        own = self.config.perp_neg_scale if self.config.perp_neg else None
        return self.config.guidance_scale if own is None else own

    def _other_views(self, cameras: Cameras, textureless: Tensor) -> Negatives:
        # By words alone, even for a prior that knows poses: the front and the side are what other cameras see.
        front, side = (self.views.mix(row[None]) for row in torch.eye(4)[:2])
        weights = perp_neg_weights(cameras.azimuth_deg, cameras.elevation_deg, self.config.view_texts)
        texts = tuple(self._told(text, cameras, textureless) for text in (front, side))
        return Negatives(texts, weights.to(self.prior.device))
