"""Latent diffusion priors: Stable Diffusion 1, 2 and XL, whose denoiser is a UNet.

z is what the VAE's encoder makes of an image, so the gradient of score distillation goes back through that encoder. All
latent families share `LatentGuidance` and differ in two functions: what they understand of a prompt, and how the
denoiser is called.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.base import Embeddings
from dreamfusion.guidance.compiled.engine import Engine
from dreamfusion.guidance.pipeline import ONE_ENCODER, TWO_ENCODERS, PipelineGuidance
from dreamfusion.guidance.pixel_space import image_to_z, z_to_image
from dreamfusion.guidance.tokens import clip_chunks, shortened, warn_of_cuts
from dreamfusion.guidance.word_weights import plain_text, weighted_tokens


class LatentGuidance(PipelineGuidance):
    """A frozen diffusers pipeline that works on the latents of a VAE; `PipelineGuidance` says what it is given.

    Pictures smaller than the model's own (``image_size``) need less memory.
    """

    packing: ClassVar[int] = 1
    """latent pixels that the denoiser takes as channels of one"""
    behind: ClassVar[int] = 0
    """pictures whose latents the denoiser takes behind z_t, as further channels"""
    clip_tokens: ClassVar[bool] = True
    """whether the tokens begin with CLIP's"""

    @property
    def _vae(self) -> Any:
        return self.pipeline.vae

    @property
    def _shift(self) -> float:
        return self._vae.config.get("shift_factor") or 0.0

    def _measure(self, model: str | Path, image_size: int | None) -> None:
        scale, channels = self.pipeline.vae_scale_factor, self._vae.config.latent_channels
        self.sample_size = image_size or _native_size(self.pipeline, self._denoiser)
        if self.sample_size % (2 * scale):
            raise DreamFusionError(f"guidance.image_size must be a multiple of {2 * scale} for {model}.")
        if self._denoiser.config.in_channels != channels * (self.packing + self.behind):
            raise DreamFusionError(
                f"{model} is not a base text-to-image model: its denoiser takes {self._denoiser.config.in_channels} "
                f"channels and its VAE has {channels}."
            )
        self.latent_shape = (channels, self.sample_size // scale, self.sample_size // scale)

    def _read(self, prompts: list[str]) -> Embeddings:
        """Return what the model's text encoders make of the prompts, in float32.

        CLIP reads 77 tokens. Longer prompts are read in chunks (`clip_chunks`) whose tokens follow one another, so
        that L is 77 times the number of chunks; shorter prompts of the same call get empty chunks, as usual in the
        field. Pooled texts are averaged over a prompt's own chunks. T5 reads a prompt as a whole, which is shortened,
        with a warning, to what it reads. Weights in prompts are for the tokens alone.
        """
        if not self._prompt_weighting:
            return self._read_plain(prompts)
        plain = self._read_plain([plain_text(prompt) for prompt in prompts])
        tokens = weighted_tokens(self.pipeline, prompts, str(self.device)).float().to(self.device)
        # What the model knows as zeros, the empty prompt of Stable Diffusion XL, is not to become words.
        known = plain.tokens.flatten(1).any(dim=1)
        return replace(plain, tokens=tokens * known[:, None, None])

    def _read_plain(self, prompts: list[str]) -> Embeddings:
        whole = prompts  # T5's
        if t5 := self._t5():
            whole = [shortened(t5[0], prompt, t5[1]) for prompt in prompts]
        clip = self._clip()
        if clip is None:
            return self._embed(whole, whole).to(torch.float32)
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

    @abstractmethod
    def _embed(self, texts: list[str], prompts: list[str]) -> Embeddings:
        """Return what the pipeline makes of one chunk of each prompt, in any precision; T5 gets the whole prompts."""

    def _clip(self) -> Any | None:
        """Return CLIP's tokenizer; None for a family without CLIP, whose prompts are read as a whole."""
        return self.pipeline.tokenizer

    def _t5(self) -> tuple[Any, int] | None:
        """Return the tokenizer of the T5 encoder and how many tokens it reads, if there is one."""
        return None

    def embed(self, prompts: Sequence[str]) -> Embeddings:
        """Return what the model's text encoders make of n prompts, with what an IP-Adapter sees in nothing."""
        texts = super().embed(prompts)
        return texts if self._shown is None else self._with(texts, self._shown[0])

    def told_picture(self, texts: Embeddings) -> Embeddings:
        """Return the texts with what an IP-Adapter sees in the picture, if there is one."""
        return texts if self._shown is None else self._with(texts, self._shown[1])

    @staticmethod
    def _with(texts: Embeddings, seen: Tensor) -> Embeddings:
        return replace(texts, picture=seen.to(texts.tokens).expand(len(texts), -1, -1))

    def told_shape(self, texts: Embeddings, shape: Tensor) -> Embeddings:
        """Return the texts with pictures of the shape, if there is a ControlNet to be shown them."""
        return texts if self._control is None else replace(texts, shape=shape.to(texts.tokens))

    def _ask_unet(self, z_t: Tensor, t: Tensor, embeddings: Embeddings, **added: Tensor) -> Tensor:
        """Call a UNet of Stable Diffusion with what a ControlNet and an IP-Adapter say; ``added`` is XL's."""
        extra: dict[str, Any] = {}
        conditions: dict[str, Any] = dict(added)
        if self._control is not None and embeddings.shape is not None:
            control = {"added_cond_kwargs": added} if added else {}
            shape = embeddings.shape
            extra |= self._control(z_t, t, embeddings.tokens, shape, self.sample_size, **control)
        if self._shown is not None:
            conditions["image_embeds"] = [embeddings.picture]
        if conditions:
            extra["added_cond_kwargs"] = conditions
        return self._denoiser(z_t, t, encoder_hidden_states=embeddings.tokens, return_dict=False, **extra)[0]

    def encode(self, image: Tensor) -> Tensor:
        """Return the latents [B, C, S / 8, S / 8] of images resized to the model's sample size; differentiable.

        It is the mean of the VAE's distribution, which is narrow: a sample of it would only add noise to the noise.
        """
        self.settle()
        pixels = image_to_z(image, self.sample_size).to(self._vae.dtype)
        output = self._vae.encode(pixels)
        return (_mean(output).float() - self._shift) * self._vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Return the images [B, 3, S, S] in [0, 1] that the VAE makes of latents [B, C, S / 8, S / 8]."""
        if isinstance(self._vae, Engine):
            raise DreamFusionError("A compiled engine holds no decoder: give the model that it was made of.")
        self.settle()
        config = self._vae.config
        latents = z / config.scaling_factor + self._shift
        return z_to_image(self._vae.decode(latents.to(self._vae.dtype)).sample.float())


def _mean(output: Any) -> Tensor:
    """Return the latents that an encoder puts out, of a distribution its mean."""
    for name in ("latents", "latent"):  # a tiny VAE's, which are scaled already, its own factor being 1, and Sana's
        if hasattr(output, name):
            return getattr(output, name)
    return output.latent_dist.mode()


def _native_size(pipeline: Any, denoiser: Any) -> int:
    # Flux keeps no size in its model, only in its pipeline.
    latents = denoiser.config.get("sample_size") or pipeline.default_sample_size
    return latents * pipeline.vae_scale_factor


class StableDiffusion(LatentGuidance):
    """Stable Diffusion 1.x and 2.x: one CLIP text encoder, noise or v prediction as the scheduler's config says."""

    family = "StableDiffusionPipeline"
    parts = (*ONE_ENCODER, "unet", "vae")
    single_file = True
    weighs_words = True
    original = True
    takes_additions = True

    def _embed(self, texts: list[str], prompts: list[str]) -> Embeddings:
        tokens, _ = self.pipeline.encode_prompt(texts, self.device, 1, do_classifier_free_guidance=False)
        return Embeddings(tokens)

    def _call(self, z_t: Tensor, t: Tensor, embeddings: Embeddings) -> Tensor:
        return self._ask_unet(z_t, t, embeddings)


class StableDiffusionXL(LatentGuidance):
    """Stable Diffusion XL: the tokens of two CLIP text encoders, the pooled text of the second, and the picture's size.

    The base model was trained with zeros for the empty prompt, where its configuration says so
    (``force_zeros_for_empty_prompt``), and gets them here too.
    """

    family = "StableDiffusionXLPipeline"
    parts = (*TWO_ENCODERS, "unet", "vae")
    single_file = True
    weighs_words = True
    takes_additions = True

    def _embed(self, texts: list[str], prompts: list[str]) -> Embeddings:
        tokens, _, pooled, _ = self.pipeline.encode_prompt(texts, device=self.device, do_classifier_free_guidance=False)
        if self.pipeline.config.force_zeros_for_empty_prompt:
            given = torch.tensor([bool(prompt.strip()) for prompt in prompts], device=self.device)
            tokens, pooled = tokens * given[:, None, None], pooled * given[:, None]
        return Embeddings(tokens, pooled)

    def _call(self, z_t: Tensor, t: Tensor, embeddings: Embeddings) -> Tensor:
        size = self.sample_size
        # Original size, upper left corner of the crop, target size (arXiv 2307.01952, section 2.2).
        time_ids = torch.tensor([[size, size, 0, 0, size, size]], device=z_t.device, dtype=z_t.dtype)
        assert embeddings.pooled is not None, "all that `embed` makes has them"
        return self._ask_unet(z_t, t, embeddings, text_embeds=embeddings.pooled, time_ids=time_ids.expand(len(z_t), -1))
