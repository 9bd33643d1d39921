"""Latent diffusion priors: Stable Diffusion 1, 2 and XL, whose denoiser is a UNet.

z is what the VAE's encoder makes of an image, so the gradient of score distillation goes back through that encoder. The
four families, these and those of `dreamfusion.guidance.flow`, share `LatentGuidance` and differ in two functions: what
they understand of a prompt, and how the denoiser is called.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderTiny
from torch import Tensor, nn

from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.base import Embeddings, Guidance, per_image
from dreamfusion.guidance.engine import Engine
from dreamfusion.guidance.execution import Execution
from dreamfusion.guidance.loading import load_pipeline
from dreamfusion.guidance.pixel_space import image_to_z
from dreamfusion.guidance.predictions import noise_from
from dreamfusion.guidance.prepare import attention_kernel, denoiser_of, prepare, release_text_encoders, trainable
from dreamfusion.guidance.schedule import read_schedule
from dreamfusion.guidance.tokens import clip_chunks, shortened, warn_of_cuts
from dreamfusion.guidance.word_weights import check_compel, plain_text, weighted_tokens


class LatentGuidance(Guidance):
    """A frozen diffusers pipeline that works on the latents of a VAE.

    ``model`` is a folder, a single file or a hub name. ``image_size`` is the side of the pictures it is shown, by
    default the model's own; smaller ones need less memory. Weights are held and run in ``dtype``, while everything
    returned is float32; ``execution`` holds the switches for memory and speed. With ``prompt_weighting`` prompts hold
    weights, for families that ``weighs_words``. Raises DreamFusionError for anything
    that does not load, is of another family, or has no use for a switch that is given.
    """

    family: ClassVar[str]
    """the diffusers pipeline that a model must be"""
    packing: ClassVar[int] = 1
    """latent pixels that the denoiser takes as channels of one"""
    clip_tokens: ClassVar[bool] = True
    """whether the tokens begin with CLIP's"""
    weighs_words: ClassVar[bool] = False
    """whether prompts may hold weights (`dreamfusion.guidance.word_weights`)"""

    def __init__(
        self,
        model: str | Path,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        variant: str | None = None,
        image_size: int | None = None,
        execution: Execution | None = None,
        prompt_weighting: bool = False,
    ) -> None:
        if prompt_weighting:
            check_compel()
        self._prompt_weighting = prompt_weighting
        pipeline: Any = load_pipeline(model, dtype, variant, family=self.family)
        if prompt_weighting and isinstance(pipeline.text_encoder, Engine):
            raise DreamFusionError(f"{model} is a compiled engine: leave out guidance.prompt_weighting.")
        self.device = torch.device(device)
        self._pipeline = pipeline
        self._released = False
        self._vae = pipeline.vae
        self._denoiser = denoiser_of(pipeline)
        self.denoiser = trainable(self._denoiser)
        self._schedule = read_schedule(pipeline.scheduler, model, self.device)
        self.alphas_cumprod = self._schedule.alphas_cumprod
        self.sample_size = image_size or _native_size(pipeline, self._denoiser)
        self._check(model)
        side = self.sample_size // pipeline.vae_scale_factor
        self.latent_shape = (self._vae.config.latent_channels, side, side)
        execution = execution or Execution()
        self._attention = execution.attention
        prepare(pipeline, execution, self.device, model)
        self._vae = pipeline.vae  # it may be a tiny one now
        if dtype == torch.float16 and self._vae.config.force_upcast and isinstance(self._vae, nn.Module):
            # The activations of this VAE (Stable Diffusion XL's) are larger than a float16 can be.
            self._vae.float()

    def _check(self, model: str | Path) -> None:
        """Raise DreamFusionError if the size does not divide, or the denoiser takes more than latents."""
        multiple = 2 * self._pipeline.vae_scale_factor
        if self.sample_size % multiple:
            raise DreamFusionError(f"guidance.image_size must be a multiple of {multiple} for {model}.")
        channels, latents = self._denoiser.config.in_channels, self._vae.config.latent_channels
        if channels != latents * self.packing:
            raise DreamFusionError(
                f"{model} is not a base text-to-image model: its denoiser takes {channels} channels and its VAE has "
                f"{latents}."
            )

    @torch.no_grad()
    def embed(self, prompts: Sequence[str]) -> Embeddings:
        """Return what the model's text encoders make of the prompts, in float32.

        CLIP reads 77 tokens. Longer prompts are read in chunks (`clip_chunks`) whose tokens follow one another, so
        that L is 77 times the number of chunks; shorter prompts of the same call get empty chunks, as usual in the
        field. Pooled texts are averaged over a prompt's own chunks. T5 reads a prompt as a whole, which is shortened,
        with a warning, to what it reads. Weights in prompts are for the tokens alone.
        """
        if self._released:
            raise RuntimeError("embed was called after release_text_encoders")
        if not self._prompt_weighting:
            return self._embed_plain(prompts)
        plain = self._embed_plain([plain_text(prompt) for prompt in prompts])
        tokens = weighted_tokens(self._pipeline, prompts, str(self.device)).float().to(self.device)
        # What the model knows as zeros, the empty prompt of Stable Diffusion XL, is not to become words.
        known = plain.tokens.flatten(1).any(dim=1)
        return Embeddings(tokens * known[:, None, None], plain.pooled)

    def _embed_plain(self, prompts: Sequence[str]) -> Embeddings:
        whole = list(prompts)  # T5's
        if t5 := self._t5():
            whole = [shortened(t5[0], prompt, t5[1]) for prompt in prompts]
        clip = self._pipeline.tokenizer
        chunks = [clip_chunks(clip, prompt) for prompt in prompts]
        warn_of_cuts(clip, [text for texts in chunks for text in texts], clip.model_max_length)
        rounds = itertools.zip_longest(*chunks, fillvalue="")  # the first chunk of every prompt, the second, ...
        parts = [self._embed(list(texts), whole) for texts in rounds]
        of_clip = clip.model_max_length if self.clip_tokens else 0
        tokens = torch.cat([*(part.tokens[:, :of_clip] for part in parts), parts[0].tokens[:, of_clip:]], dim=1).float()
        # The mean, because the pooled text of one chunk alone would know of one part of the prompt alone.
        pooled = [part.pooled.float() for part in parts if part.pooled is not None]
        if not pooled:
            return Embeddings(tokens)
        counts = [len(texts) for texts in chunks]
        means = [torch.stack(pooled[:count])[:, row].mean(dim=0) for row, count in enumerate(counts)]
        return Embeddings(tokens, torch.stack(means))

    def release_text_encoders(self) -> None:
        """Free the memory of the text encoders, T5 being by far the largest; `embed` is over after this."""
        release_text_encoders(self._pipeline)
        self._released = True

    @abstractmethod
    def _embed(self, texts: list[str], prompts: list[str]) -> Embeddings:
        """Return what the pipeline makes of one chunk of each prompt, in any precision; T5 gets the whole prompts."""

    def _t5(self) -> tuple[Any, int] | None:
        """Return the tokenizer of the T5 encoder and how many tokens it reads, if there is one."""
        return None

    def encode(self, image: Tensor) -> Tensor:
        """Return the latents [B, C, S / 8, S / 8] of images resized to the model's sample size; differentiable.

        It is the mean of the VAE's distribution, which is narrow: a sample of it would only add noise to the noise.
        """
        pixels = image_to_z(image, self.sample_size).to(self._vae.dtype)
        output = self._vae.encode(pixels)
        # A tiny VAE gives latents as they are, scaled already: its own factor is 1.
        mean = (output.latents if isinstance(self._vae, AutoencoderTiny) else output.latent_dist.mode()).float()
        return (mean - (self._vae.config.shift_factor or 0.0)) * self._vae.config.scaling_factor

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha_t and sigma_t of the model's own schedule for timesteps [B], both [B]."""
        return self._schedule.alphas[t], self._schedule.sigmas[t]

    @torch.no_grad()
    def predict_noise(self, z_t: Tensor, t: Tensor, embeddings: Embeddings) -> Tensor:
        """Return eps_hat, of the shape of ``z_t``, whatever the model itself predicts."""
        return self.predict_noise_with_graph(z_t, t, embeddings)

    def predict_noise_with_graph(self, z_t: Tensor, t: Tensor, embeddings: Embeddings) -> Tensor:
        """Return the same, differentiable."""
        dtype = self._denoiser.dtype
        pooled = None if embeddings.pooled is None else embeddings.pooled.to(dtype)
        with attention_kernel(self._attention):
            output = self._model_output(z_t.to(dtype), t, Embeddings(embeddings.tokens.to(dtype), pooled)).float()
        alpha, sigma = (per_image(values, z_t) for values in self.coefficients(t))
        return noise_from(output, z_t, alpha, sigma, self._schedule.prediction)

    @abstractmethod
    def _model_output(self, z_t: Tensor, t: Tensor, embeddings: Embeddings) -> Tensor:
        """Call the denoiser; everything is in its precision already."""


def _native_size(pipeline: Any, denoiser: Any) -> int:
    # Flux keeps no size in its model, only in its pipeline.
    latents = denoiser.config.get("sample_size") or pipeline.default_sample_size
    return latents * pipeline.vae_scale_factor


class StableDiffusion(LatentGuidance):
    """Stable Diffusion 1.x and 2.x: one CLIP text encoder, noise or v prediction as the scheduler's config says."""

    family = "StableDiffusionPipeline"
    weighs_words = True

    def _embed(self, texts: list[str], prompts: list[str]) -> Embeddings:
        tokens, _ = self._pipeline.encode_prompt(texts, self.device, 1, do_classifier_free_guidance=False)
        return Embeddings(tokens)

    def _model_output(self, z_t: Tensor, t: Tensor, embeddings: Embeddings) -> Tensor:
        return self._denoiser(z_t, t, encoder_hidden_states=embeddings.tokens, return_dict=False)[0]


class StableDiffusionXL(LatentGuidance):
    """Stable Diffusion XL: the tokens of two CLIP text encoders, the pooled text of the second, and the picture's size.

    The base model was trained with zeros for the empty prompt, where its configuration says so
    (``force_zeros_for_empty_prompt``), and gets them here too.
    """

    family = "StableDiffusionXLPipeline"
    weighs_words = True

    def _embed(self, texts: list[str], prompts: list[str]) -> Embeddings:
        tokens, _, pooled, _ = self._pipeline.encode_prompt(
            texts, device=self.device, do_classifier_free_guidance=False
        )
        if self._pipeline.config.force_zeros_for_empty_prompt:
            given = torch.tensor([bool(prompt.strip()) for prompt in prompts], device=self.device)
            tokens, pooled = tokens * given[:, None, None], pooled * given[:, None]
        return Embeddings(tokens, pooled)

    def _model_output(self, z_t: Tensor, t: Tensor, embeddings: Embeddings) -> Tensor:
        size = self.sample_size
        # Original size, upper left corner of the crop, target size (arXiv 2307.01952, section 2.2).
        time_ids = torch.tensor([[size, size, 0, 0, size, size]], device=z_t.device, dtype=z_t.dtype)
        added = {"text_embeds": embeddings.pooled, "time_ids": time_ids.expand(len(z_t), -1)}
        return self._denoiser(
            z_t, t, encoder_hidden_states=embeddings.tokens, added_cond_kwargs=added, return_dict=False
        )[0]
