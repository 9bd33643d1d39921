"""Sana (arXiv 2410.10629) and Lumina-Image 2.0 (arXiv 2503.21758): rectified flows whose words are read by Gemma 2.

Both read a prompt behind an instruction of their pipeline's own, and the empty prompt bare; the padding is masked.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from typing import Any

import torch
from diffusers import SanaPipeline
from torch import Tensor

from dreamfusion.guidance.base import Embeddings
from dreamfusion.guidance.latent import LatentGuidance
from dreamfusion.guidance.pipeline import ONE_ENCODER


class _ReadByGemma(LatentGuidance):
    parts = (*ONE_ENCODER, "transformer", "vae")
    compiles = False
    flow = True

    def _clip(self) -> None:
        return None

    def _embed(self, texts: list[str], prompts: list[str]) -> Embeddings:
        # The pipelines read what they call negative without their instruction.
        told, mask, bare, bare_mask = self._encode(prompts)
        given = torch.tensor([bool(prompt.strip()) for prompt in prompts], device=told.device)
        tokens = torch.where(given[:, None, None], told, bare)
        return Embeddings(tokens, mask=torch.where(given[:, None], mask, bare_mask).bool())

    @abstractmethod
    def _encode(self, prompts: list[str]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return tokens and mask of the prompts behind the instruction, and of the bare prompts."""


class Sana(_ReadByGemma):
    """Sana: linear attention on the latents of a deep-compression VAE, 32 pixels to one."""

    family = "SanaPipeline"
    checkpoints_vae = False

    def _t5(self) -> tuple[Any, int]:
        return self.pipeline.tokenizer, 300  # the pipeline's default, as in training

    def _encode(self, prompts: list[str]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        instruction = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
        return self.pipeline.encode_prompt(
            prompts, True, negative_prompt=prompts, device=self.device, complex_human_instruction=instruction
        )

    def _call(self, z_t: Tensor, t: Tensor, embeddings: Embeddings) -> Tensor:
        config = self._denoiser.config
        return self._denoiser(
            z_t,
            encoder_hidden_states=embeddings.tokens,
            encoder_attention_mask=embeddings.mask,
            timestep=self._schedule.sigmas[t] * len(self._schedule.sigmas) * config.timestep_scale,
            return_dict=False,
        )[0]


class Lumina2(_ReadByGemma):
    """Lumina-Image 2.0: its time runs from noise, 0, to the picture, 1, and so does the velocity that it predicts."""

    family = "Lumina2Pipeline"

    def _t5(self) -> tuple[Any, int]:
        return self.pipeline.tokenizer, 256  # the pipeline's default, as in training

    def _encode(self, prompts: list[str]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.pipeline.encode_prompt(prompts, True, negative_prompt=prompts, device=self.device)

    def _call(self, z_t: Tensor, t: Tensor, embeddings: Embeddings) -> Tensor:
        return -self._denoiser(
            hidden_states=z_t,
            timestep=1 - self._schedule.sigmas[t],
            encoder_hidden_states=embeddings.tokens,
            encoder_attention_mask=embeddings.mask,
            return_dict=False,
        )[0]
