"""PixArt-Sigma (arXiv 2403.04692): a transformer on the latents of SDXL's VAE, with T5 alone for words."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dreamfusion.guidance.base import Embeddings
from dreamfusion.guidance.latent import LatentGuidance
from dreamfusion.guidance.pipeline import ONE_ENCODER


class PixArtSigma(LatentGuidance):
    """PixArt-Sigma: the denoiser leaves out the padding behind the words, and predicts a variance that is dropped."""

    family = "PixArtSigmaPipeline"
    parts = (*ONE_ENCODER, "transformer", "vae")

    def _clip(self) -> None:
        return None

    def _t5(self) -> tuple[Any, int]:
        return self.pipeline.tokenizer, 300  # as in training

    def _embed(self, texts: list[str], prompts: list[str]) -> Embeddings:
        tokens, mask, *_ = self.pipeline.encode_prompt(prompts, do_classifier_free_guidance=False, device=self.device)
        return Embeddings(tokens, mask=mask.bool())

    def _call(self, z_t: Tensor, t: Tensor, embeddings: Embeddings) -> Tensor:
        output = self._denoiser(
            z_t,
            encoder_hidden_states=embeddings.tokens,
            encoder_attention_mask=embeddings.mask,
            timestep=t,
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            return_dict=False,
        )[0]
        return output[:, : z_t.shape[1]]
