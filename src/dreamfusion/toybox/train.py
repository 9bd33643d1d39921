"""Training of the embedded prior: ``dreamfusion prior train``.

v-prediction (Salimans and Ho 2022) on a cosine schedule with 10 % caption dropout and an exponential moving average
of the weights. The learning rate warms up, stays, and falls to zero over the last ``decay_steps``: unlike a cosine,
that allows a run to be extended later with a larger ``steps``.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dreamfusion.toybox.data import Batch, ToyboxData
from dreamfusion.toybox.model import build_pipeline
from dreamfusion.toybox.muon import Muon, is_hidden_matrix


@dataclass(frozen=True)
class TrainSettings:
    """Everything that decides the weights."""

    steps: int = 8000
    batch_size: int = 16
    lr: float = 1e-3
    muon_lr: float = 5e-3
    warmup_steps: int = 200
    decay_steps: int = 2000
    ema: float = 0.999
    seed: int = 0
    optimizer: str = "muon"


class Prior(nn.Module):
    """The trained parts of the prior: text encoder and UNet."""

    def __init__(self) -> None:
        super().__init__()
        pipe = build_pipeline()
        self.text_encoder, self.unet = pipe.text_encoder, pipe.unet
        self.pipe = pipe

    def embed(self, captions: list[str], weights: Tensor) -> Tensor:
        """Return text embeddings [B, L, D] of 4 B captions, mixed by view weights [B, 4]."""
        tokens = self.pipe.tokenizer(
            captions, padding="max_length", max_length=self.pipe.tokenizer.model_max_length, return_tensors="pt"
        ).to(weights.device)
        hidden = self.text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        return torch.einsum("bv,bvld->bld", weights, hidden.unflatten(0, (-1, 4)))

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Return the v-prediction loss of a batch, per image [B]."""
        x = 2 * batch.images - 1
        count = len(x)
        alphas_cumprod = self.pipe.scheduler.alphas_cumprod.to(x.device)
        # Evenly spread timesteps in each batch (one random offset) make the loss less noisy than independent ones.
        u = (torch.arange(count) / count + torch.rand(1, generator=generator)) % 1.0
        t = (u * len(alphas_cumprod)).long().to(x.device)
        noise = torch.randn(x.shape, generator=generator).to(x.device)
        a, s = alphas_cumprod[t].sqrt()[:, None, None, None], (1 - alphas_cumprod[t]).sqrt()[:, None, None, None]
        z = (a * x + s * noise).contiguous(memory_format=torch.channels_last)
        v = self.unet(z, t, self.embed(batch.captions, batch.weights)).sample[:, :3]
        return (v - (a * noise - s * x)).square().mean(dim=(1, 2, 3))
