"""Pixel-space diffusion priors: the embedded prior, DeepFloyd IF, and others that diffusers can load.

The paper's own prior, the 64 x 64 base model of Imagen, is of this kind: z is the image itself, in [-1, 1].
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from tokenizers.models import WordLevel
from torch import Tensor

from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.base import Embeddings, Reading
from dreamfusion.guidance.camera_token import CAMERA_WORD, PICTURES, camera_features, with_camera, with_textureless
from dreamfusion.guidance.classifier_free import classifier_free_guidance
from dreamfusion.guidance.compiled.engine import Engine
from dreamfusion.guidance.patched_unet import PatchedUNet
from dreamfusion.guidance.pipeline import ONE_ENCODER, PipelineGuidance
from dreamfusion.guidance.pixel_space import image_to_z, z_to_image
from dreamfusion.guidance.tokens import shortened
from dreamfusion.method.cameras import Cameras
from dreamfusion.toybox.captions import vocabulary
from dreamfusion.toybox.words import nearest_words, understood
from dreamfusion.toybox.world import SMALL, World, world_known

_IF_MAX_TOKENS = 77
"""DeepFloyd IF was trained with this many tokens, though its T5 would take more."""


class PixelGuidance(PipelineGuidance):
    """A frozen diffusers pipeline that works on pixels, at its own size.

    Prompts are lower-cased, as IF's own pipeline does, and shortened with a warning to what the tokenizer's limit is;
    the view, which stands at the end, stays. Otherwise as `PipelineGuidance`.
    """

    family = "IFPipeline"
    parts = (*ONE_ENCODER, "unet")

    def _measure(self, model: str | Path, image_size: int | None) -> None:
        if image_size is not None:
            raise DreamFusionError(f"{model} works on pixels at its own size: leave out guidance.image_size.")
        self._tokenizer = self.pipeline.tokenizer
        self.sample_size = _pixel_unet_size(self._denoiser, model)
        self.knows_cameras = CAMERA_WORD in self._tokenizer.get_vocab()
        self._pictures = getattr(self._tokenizer, "init_kwargs", {}).get(PICTURES, {})
        self._max_tokens = min(_IF_MAX_TOKENS, self._tokenizer.model_max_length)

    def _read(self, prompts: list[str]) -> Embeddings:
        """Return the hidden states of the text encoder in float32; L is the tokenizer's limit, at most 77.

        A prior that knows cameras gets one token more, which says that the camera is not known; `condition` says more.
        """
        texts = [shortened(self._tokenizer, prompt.lower().strip(), self._max_tokens) for prompt in prompts]
        tokens = self._tokenizer(
            texts, padding="max_length", max_length=self._max_tokens, truncation=True, return_tensors="pt"
        ).to(self.device)
        hidden = self.pipeline.text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        words = hidden.float()
        return Embeddings(with_camera(words) if self.knows_cameras else words)

    def condition(self, views: Embeddings, weights: Tensor, cameras: Cameras) -> Embeddings:
        """Return the mixture of the view texts for each camera, followed by its token if the prior knows cameras."""
        mixed = super().condition(views, weights, cameras)
        if not self.knows_cameras:
            return mixed
        words = mixed.tokens[:, :-1]
        return Embeddings(with_camera(words, camera_features(cameras).to(words)))

    def told_textureless(self, texts: Embeddings, textureless: Tensor) -> Embeddings:
        """Return the embeddings with what the camera's token says of textureless views, if the prior has seen some."""
        if not (self.knows_cameras and self._pictures.get("textureless")):
            return texts
        return Embeddings(with_textureless(texts.tokens, textureless.to(texts.tokens.device)))

    def encode(self, image: Tensor) -> Tensor:
        """Return images resized to the model's sample size, in [-1, 1]; differentiable."""
        return image_to_z(image, self.sample_size)

    def decode(self, z: Tensor) -> Tensor:
        """Return z as images in [0, 1]."""
        return z_to_image(z)

    def _call(self, z_t: Tensor, t: Tensor, embeddings: Embeddings) -> Tensor:
        output = self._denoiser(z_t, t, encoder_hidden_states=embeddings.tokens, return_dict=False)[0]
        return output[:, :3].contiguous()  # without the learned variance of six-channel models

    def unknown_words(self, prompt: str) -> list[str]:
        """Return the words that the prior has never seen, in order; none unless its tokenizer has a fixed word list."""
        if not self._is_word_level:
            return []
        prompt = self.understood(prompt).prompt.lower()
        encoding = self._tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)
        pairs = zip(encoding.input_ids, encoding.offset_mapping, strict=True)
        words = [prompt[start:end] for token, (start, end) in pairs if token == self._tokenizer.unk_token_id]
        return list(dict.fromkeys(words))

    def understood(self, prompt: str) -> Reading:
        """Return the prompt in the words of the toybox that the prior knows, if any, as the embedded one does."""
        return understood(prompt, self._known) if self._known and not self._in_its_words(prompt) else Reading(prompt)

    def true_scale(self, prompt: str) -> float:
        """Return the product of the scales of the prompt's words for things that were shown at full size."""
        words = re.findall(r"\w+", self.understood(prompt).prompt.lower())
        return math.prod(scale for word, scale in self._pictures.get("full_size", {}).items() if word in words)

    def check_vocabulary(self, prompt: str) -> None:
        """Raise DreamFusionError if the prior does not know a word, naming it and the words that it knows."""
        unknown = self.unknown_words(prompt)
        if unknown:
            world = self._known
            near = dict.fromkeys(word for one in unknown for word in nearest_words(one, world=world)) if world else ()
            proposed = f" (nearest: {', '.join(near)})" if near else ""
            special = set(self._tokenizer.all_special_tokens)
            known = sorted(word for word in self._tokenizer.get_vocab() if word not in special and word[0].isalnum())
            raise DreamFusionError(
                f"This prior does not know: {', '.join(unknown)}{proposed}. It knows: {', '.join(known)}. For other "
                "words use a larger model with --guidance diffusers --model NAME."
            )

    @property
    def world(self) -> World:
        """What of the toybox the prior knows by its words; the small world if it knows nothing of it."""
        return self._known or SMALL

    @cached_property
    def _known(self) -> World | None:
        return world_known(self._tokenizer.get_vocab().keys()) if self._is_word_level else None

    def _in_its_words(self, prompt: str) -> bool:
        """Tell whether a prior with words beyond the toybox knows all of a prompt, some of it by these."""
        words, known = re.findall(r"[^\W_]+", prompt.lower()), self._tokenizer.get_vocab()
        more = [word for word in words if word not in vocabulary(self.world)]
        return bool(more) and all(word in known for word in words)

    @property
    def _is_word_level(self) -> bool:
        return isinstance(getattr(getattr(self._tokenizer, "backend_tokenizer", None), "model", None), WordLevel)

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[str],
        *,
        steps: int = 50,
        guidance_scale: float = 7.0,
        seed: int = 0,
        negative_prompt: str = "",
        cameras: Cameras | None = None,
    ) -> Tensor:
        """Return one image per prompt by DDIM (arXiv 2010.02502), [n, 3, S, S] in [0, 1].

        The noise is drawn on the CPU, so that a seed gives the same images on every device. A prior that knows cameras
        may be given one for each prompt.
        """
        scheduler = DDIMScheduler.from_config(self.pipeline.scheduler.config, timestep_spacing="trailing")
        scheduler.set_timesteps(steps, device=self.device)
        text = self.embed(prompts)
        if cameras is not None:
            text = self.condition(text, torch.eye(len(prompts)), cameras)
        both = self.embed([negative_prompt]).expand(len(prompts)).followed_by(text)
        shape = (len(prompts), 3, self.sample_size, self.sample_size)
        z = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(self.device)
        for t in scheduler.timesteps:
            # Guidance is linear, so it may act on v or x as well as on eps; that spares a lossy conversion at abar ~ 0.
            uncond, cond = self._output(torch.cat([z, z]), t.expand(2 * len(z)), both).chunk(2)
            z = scheduler.step(classifier_free_guidance(uncond, cond, guidance_scale), t, z).prev_sample
        return z_to_image(z)


def _pixel_unet_size(unet: Any, model: str | Path) -> int:
    """Return the UNet's sample size; DreamFusionError unless it turns noisy RGB images into predictions for them."""
    config = unet.config
    if not isinstance(unet, (UNet2DConditionModel, PatchedUNet, Engine)):
        raise DreamFusionError(f"{model} has a {type(unet).__name__}; only UNet2DConditionModel is supported.")
    if config.in_channels != 3 or config.out_channels not in (3, 6) or not isinstance(config.sample_size, int):
        raise DreamFusionError(
            f"{model} is not a base text-to-image model in pixel space: its UNet takes {config.in_channels} channels "
            f"and returns {config.out_channels}, instead of 3 and 3 or 6."
        )
    return config.sample_size
