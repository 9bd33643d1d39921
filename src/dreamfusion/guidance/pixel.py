"""Pixel-space diffusion priors: the embedded prior, DeepFloyd IF, and others that diffusers can load.

The paper's own prior, the 64 x 64 base model of Imagen, is of this kind: z is the image itself, in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from tokenizers.models import WordLevel
from torch import Tensor

from dreamfusion.cameras import Cameras
from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.base import Embeddings, Guidance, classifier_free_guidance, per_image
from dreamfusion.guidance.camera_token import CAMERA_WORD, camera_features, with_camera
from dreamfusion.guidance.engine import Engine
from dreamfusion.guidance.execution import Execution
from dreamfusion.guidance.loading import load_pipeline
from dreamfusion.guidance.patched_unet import PatchedUNet
from dreamfusion.guidance.pixel_space import image_to_z, z_to_image
from dreamfusion.guidance.predictions import noise_from
from dreamfusion.guidance.prepare import attention_kernel, prepare, release_text_encoders, trainable
from dreamfusion.guidance.schedule import read_schedule
from dreamfusion.guidance.tokens import shortened

_IF_MAX_TOKENS = 77
"""DeepFloyd IF was trained with this many tokens, though its T5 would take more."""


class PixelGuidance(Guidance):
    """A frozen diffusers pipeline that works on pixels.

    ``model`` is a folder or a hub name. Prompts are lower-cased, as IF's own pipeline does, and shortened with a
    warning to what the tokenizer's limit is; the view, which stands at the end, stays. Weights are held and run in
    ``dtype``, while everything returned is float32; ``execution`` holds the switches for memory and speed. Raises
    DreamFusionError for anything that does not load, and for the switches of a VAE, which it has not.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        variant: str | None = None,
        execution: Execution | None = None,
    ) -> None:
        pipeline: Any = load_pipeline(model, dtype, variant, family="IFPipeline")
        self.device = torch.device(device)
        self._pipeline = pipeline
        self._tokenizer = pipeline.tokenizer
        self._unet = pipeline.unet
        self.denoiser = trainable(pipeline.unet)
        self._scheduler = pipeline.scheduler
        self.sample_size = _pixel_unet_size(self._unet, model)
        schedule = read_schedule(self._scheduler, model, self.device)
        self.alphas_cumprod, self._prediction = schedule.alphas_cumprod, schedule.prediction
        execution = execution or Execution()
        self._attention = execution.attention
        prepare(pipeline, execution, self.device, model)
        self.knows_cameras = CAMERA_WORD in self._tokenizer.get_vocab()
        self._max_tokens = min(_IF_MAX_TOKENS, self._tokenizer.model_max_length)

    @torch.no_grad()
    def embed(self, prompts: Sequence[str]) -> Embeddings:
        """Return the hidden states of the text encoder in float32; L is the tokenizer's limit, at most 77.

        A prior that knows cameras gets one token more, which says that the camera is not known; `condition` says more.
        """
        text_encoder = self._pipeline.text_encoder
        if text_encoder is None:
            raise RuntimeError("embed was called after release_text_encoders")
        texts = [shortened(self._tokenizer, prompt.lower().strip(), self._max_tokens) for prompt in prompts]
        tokens = self._tokenizer(
            texts, padding="max_length", max_length=self._max_tokens, truncation=True, return_tensors="pt"
        ).to(self.device)
        hidden = text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        words = hidden.float()
        return Embeddings(with_camera(words) if self.knows_cameras else words)

    def condition(self, views: Embeddings, weights: Tensor, cameras: Cameras) -> Embeddings:
        """Return the mixture of the view texts for each camera, followed by its token if the prior knows cameras."""
        mixed = super().condition(views, weights, cameras)
        if not self.knows_cameras:
            return mixed
        words = mixed.tokens[:, :-1]
        return Embeddings(with_camera(words, camera_features(cameras).to(words)))

    def release_text_encoders(self) -> None:
        """Free the memory of the text encoder, for DeepFloyd by far the largest part; `embed` is over after this."""
        release_text_encoders(self._pipeline)

    def encode(self, image: Tensor) -> Tensor:
        """Return images resized to the model's sample size, in [-1, 1]; differentiable."""
        return image_to_z(image, self.sample_size)

    @torch.no_grad()
    def predict_noise(self, z_t: Tensor, t: Tensor, embeddings: Embeddings) -> Tensor:
        """Return eps_hat [B, 3, S, S], whatever the model itself predicts."""
        return self.predict_noise_with_graph(z_t, t, embeddings)

    def predict_noise_with_graph(self, z_t: Tensor, t: Tensor, embeddings: Embeddings) -> Tensor:
        """Return the same, differentiable."""
        with attention_kernel(self._attention):
            output = self._model_output(z_t, t, embeddings.tokens)
        alpha, sigma = (per_image(values, z_t) for values in self.coefficients(t))
        return noise_from(output, z_t, alpha, sigma, self._prediction)

    def _model_output(self, z_t: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        """Return the UNet's prediction in float32, without the learned variance of six-channel models."""
        dtype = self._unet.dtype
        output = self._unet(z_t.to(dtype), t, encoder_hidden_states=tokens.to(dtype), return_dict=False)[0]
        return output[:, :3].float().contiguous()

    def unknown_words(self, prompt: str) -> list[str]:
        """Return the words that the prior has never seen, in order; none unless its tokenizer has a fixed word list."""
        if not self._is_word_level:
            return []
        prompt = prompt.lower()
        encoding = self._tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)
        pairs = zip(encoding.input_ids, encoding.offset_mapping, strict=True)
        words = [prompt[start:end] for token, (start, end) in pairs if token == self._tokenizer.unk_token_id]
        return list(dict.fromkeys(words))

    def check_vocabulary(self, prompt: str) -> None:
        """Raise DreamFusionError if the prior does not know a word, naming it and the words that it knows."""
        unknown = self.unknown_words(prompt)
        if unknown:
            special = set(self._tokenizer.all_special_tokens)
            known = sorted(word for word in self._tokenizer.get_vocab() if word not in special and word[0].isalnum())
            raise DreamFusionError(
                f"This prior does not know: {', '.join(unknown)}. It knows: {', '.join(known)}. For other words use a "
                "larger model with --guidance diffusers --model NAME."
            )

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
        scheduler = DDIMScheduler.from_config(self._scheduler.config, timestep_spacing="trailing")
        scheduler.set_timesteps(steps, device=self.device)
        text = self.embed(prompts)
        if cameras is not None:
            text = self.condition(text, torch.eye(len(prompts)), cameras)
        both = self.embed([negative_prompt]).expand(len(prompts)).followed_by(text).tokens
        shape = (len(prompts), 3, self.sample_size, self.sample_size)
        z = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(self.device)
        for t in scheduler.timesteps:
            # Guidance is linear, so it may act on v or x as well as on eps; that spares a lossy conversion at abar ~ 0.
            uncond, cond = self._model_output(torch.cat([z, z]), t.expand(2 * len(z)), both).chunk(2)
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
