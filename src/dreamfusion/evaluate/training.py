"""Training of the toybox judge: ``dreamfusion judge train``.

A contrastive model (Radford et al. 2021) on toybox pictures and captions of other seeds than the prior's, all
combinations included. A quarter of the pictures are textureless and named by kind and size alone, so that geometry
can be judged without colour. Pictures are blurred, made noisy and recoloured at random: renderings of a NeRF are not
as crisp as the toybox's own.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from dreamfusion.errors import DreamFusionError
from dreamfusion.evaluate.judge import preprocess
from dreamfusion.files import replace_folder, write_text
from dreamfusion.toybox.data import Batch, ToyboxData
from dreamfusion.toybox.model import MAX_WORDS, build_tokenizer

IMAGE_SIZE = 48
_END = "</s>"


@dataclass(frozen=True)
class JudgeSettings:
    """Everything that decides the weights."""

    steps: int = 2500
    batch_size: int = 96
    lr: float = 1e-3
    warmup_steps: int = 150
    seed: int = 77_000


def build_judge_tokenizer() -> PreTrainedTokenizerFast:
    """Return the toybox tokenizer with a mark at the end of each text, where CLIP reads what the text says."""
    tokenizer = build_tokenizer()
    end = (_END, tokenizer.get_vocab()[_END])
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"$A {_END}", special_tokens=[end])
    return tokenizer


def build_judge(vocabulary_size: int, eos_token_id: int) -> CLIPModel:
    """Return a randomly initialised judge: two small transformers; weights by torch's global generator."""
    common = {"hidden_size": 128, "intermediate_size": 384, "num_attention_heads": 4}
    text = common | {
        "vocab_size": vocabulary_size,
        "num_hidden_layers": 2,
        "max_position_embeddings": MAX_WORDS,
        "eos_token_id": eos_token_id,
        "bos_token_id": eos_token_id,
        "pad_token_id": 0,
    }
    vision = common | {"num_hidden_layers": 4, "image_size": IMAGE_SIZE, "patch_size": 6}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=96))


def roughen(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return images [n, 3, S, S] at other resolutions, moved, recoloured and noisy, all at random."""
    size = images.shape[-1]
    seen = int(torch.randint(20, size + 1, (1,), generator=generator))
    if seen < size:
        small = interpolate(images, size=(seen, seen), mode="area")
        images = interpolate(small, size=(size, size), mode="bilinear", align_corners=False)
    dy, dx = (int(shift) for shift in torch.randint(-4, 5, (2,), generator=generator))
    images = images.roll((dy, dx), dims=(2, 3))
    count = len(images)
    gain = 1 + 0.1 * torch.randn(count, 3, 1, 1, generator=generator)
    noise = 0.04 * torch.rand(count, 1, 1, 1, generator=generator) * torch.randn(images.shape, generator=generator)
    return (images * gain + noise).clamp(0, 1)


class _Training:
    def __init__(self, settings: JudgeSettings) -> None:
        torch.manual_seed(settings.seed)
        self.settings = settings
        self.tokenizer = build_judge_tokenizer()
        self.model: Any = build_judge(len(self.tokenizer), self.tokenizer.get_vocab()[_END])
        self.data = ToyboxData(
            settings.seed,
            settings.batch_size,
            image_size=IMAGE_SIZE,
            caption_dropout=0.0,
            pairs="all",
            textureless=0.25,
            pool_size=1024,
            pool_steps=150,
        )

    def tokens(self, captions: list[str]) -> Any:
        return self.tokenizer(captions, padding=True, return_tensors="pt")

    def captions(self, batch: Batch, choose: random.Random) -> list[str]:
        """Return one caption per picture; half of them say the view."""
        nearest = batch.weights.argmax(dim=1).tolist()
        with_view = [batch.captions[4 * i + view] for i, view in enumerate(nearest)]
        return [text if choose.random() < 0.5 else text.rsplit(",", 1)[0] for text in with_view]

    def loss(self, step: int) -> tuple[Tensor, float]:
        """Return the contrastive loss of a step and the share of pictures whose own caption came first."""
        batch = self.data.batch(step)
        seed = self.settings.seed * 1_000_003 + step
        images = roughen(batch.images, torch.Generator().manual_seed(seed))
        tokens = self.tokens(self.captions(batch, random.Random(seed)))
        out = self.model(
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            pixel_values=preprocess(images, IMAGE_SIZE),
        )
        own = torch.arange(len(images))
        logits = out.logits_per_image
        loss = (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2
        return loss, (logits.argmax(dim=1) == own).float().mean().item()


def train_judge(
    folder: Path, settings: JudgeSettings, on_progress: Callable[[int, float, float], None] | None = None
) -> Path:
    """Train a judge and write it, whole, to ``folder``; ``on_progress(step, loss, share of captions ranked first)``."""
    training = _Training(settings)
    optimizer = torch.optim.AdamW(training.model.parameters(), lr=settings.lr, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.lr, total_steps=settings.steps, pct_start=min(0.3, settings.warmup_steps / settings.steps)
    )
    begun, rows = time.monotonic(), []
    for step in range(settings.steps):
        loss, first = training.loss(step)
        if not torch.isfinite(loss):
            raise DreamFusionError(f"The judge's loss is not finite at step {step}: lower --lr.")
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(training.model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        rows.append((loss.item(), first))
        if on_progress is not None and (step + 1) % 10 == 0:
            recent = rows[-50:]
            on_progress(step + 1, *(sum(column) / len(recent) for column in zip(*recent, strict=True)))
    training.model.to(torch.float16)
    with replace_folder(folder) as aside:
        training.model.save_pretrained(aside, safe_serialization=True)
        training.tokenizer.save_pretrained(aside)
        config = aside / "tokenizer_config.json"  # newer transformers write a class name that older ones lack
        config.write_text(config.read_text(encoding="utf-8").replace("TokenizersBackend", "PreTrainedTokenizerFast"))
        record = asdict(settings) | {"images": settings.steps * settings.batch_size}
        write_text(aside / "training.json", json.dumps(record | {"seconds": round(time.monotonic() - begun)}, indent=2))
    return folder
