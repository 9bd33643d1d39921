"""Latent rectified flows: Stable Diffusion 3 and Flux, whose denoiser is a transformer.

Here z_s = (1 - s) z + s eps, and the model predicts the velocity eps - z (arXiv 2403.03206). `predictions.noise_from`
turns that into noise, so that every loss works on them unchanged.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from dreamfusion.guidance.base import Embeddings
from dreamfusion.guidance.latent import LatentGuidance
from dreamfusion.guidance.pipeline import TWO_ENCODERS


class StableDiffusion3(LatentGuidance):
    """Stable Diffusion 3 and 3.5: two CLIP text encoders and, unless it was left out, T5."""

    family = "StableDiffusion3Pipeline"
    parts = (*TWO_ENCODERS, "transformer", "vae")  # its T5, the third, may be left out

    def _t5(self) -> tuple[Any, int] | None:
        # 256 is the pipeline's default, as in training.
        return None if self.pipeline.tokenizer_3 is None else (self.pipeline.tokenizer_3, 256)

    def _embed(self, texts: list[str], prompts: list[str]) -> Embeddings:
        tokens, _, pooled, _ = self.pipeline.encode_prompt(
            texts, texts, prompts, device=self.device, do_classifier_free_guidance=False, max_sequence_length=256
        )
        return Embeddings(tokens, pooled)

    def _call(self, z_t: Tensor, t: Tensor, embeddings: Embeddings) -> Tensor:
        return self._denoiser(
            z_t,
            timestep=self._schedule.sigmas[t] * len(self._schedule.sigmas),
            encoder_hidden_states=embeddings.tokens,
            pooled_projections=embeddings.pooled,
            return_dict=False,
        )[0]


class Flux(LatentGuidance):
    """Flux 1 dev and schnell: T5 for the tokens, CLIP for the pooled text; 2 x 2 latents are one token of the picture.

    Flux dev was distilled from guided predictions and takes their scale as an input. It gets 1, no guidance, because
    the loss guides by itself.
    """

    family = "FluxPipeline"
    parts = (*TWO_ENCODERS, "transformer", "vae")
    packing = 4
    clip_tokens = False

    def _t5(self) -> tuple[Any, int]:
        # Lengths as in training: 512 tokens for dev, 256 for schnell, which is the one without a guidance input.
        return self.pipeline.tokenizer_2, 512 if self._denoiser.config.guidance_embeds else 256

    def _embed(self, texts: list[str], prompts: list[str]) -> Embeddings:
        length = self._t5()[1]
        tokens, pooled, _ = self.pipeline.encode_prompt(texts, prompts, device=self.device, max_sequence_length=length)
        return Embeddings(tokens, pooled)

    def _call(self, z_t: Tensor, t: Tensor, embeddings: Embeddings) -> Tensor:
        height, width = z_t.shape[-2] // 2, z_t.shape[-1] // 2
        guidance = torch.ones(len(z_t), device=z_t.device) if self._denoiser.config.guidance_embeds else None
        output = self._denoiser(
            hidden_states=pixel_unshuffle(z_t, 2).flatten(2).transpose(1, 2),
            timestep=self._schedule.sigmas[t],
            guidance=guidance,
            encoder_hidden_states=embeddings.tokens,
            pooled_projections=embeddings.pooled,
            txt_ids=torch.zeros(embeddings.tokens.shape[1], 3, device=z_t.device, dtype=z_t.dtype),
            img_ids=_grid(height, width).to(z_t),
            return_dict=False,
        )[0]
        return pixel_shuffle(output.transpose(1, 2).unflatten(2, (height, width)), 2)


def _grid(height: int, width: int) -> Tensor:
    """Return (0, row, column) of every token of a picture, row by row, [height * width, 3]."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3)
