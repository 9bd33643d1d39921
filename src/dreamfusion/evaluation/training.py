"""Training of the toybox judge: ``dreamfusion judge train``.

A contrastive model (Radford et al. 2021) of toybox pictures and captions, apart from the prior: other seeds, other
pictures, no shared weights. The pictures are what evaluations look at: albedo, shaded and textureless views from all
sides before the backdrop of finished pictures, made rough at random, since renderings of a NeRF are not as crisp as the
toybox's own. Captions of textureless pictures name kind and size alone, so that geometry is judged without colour.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate
from transformers import (
    CLIPTextConfig,
    ConvNextConfig,
    PreTrainedTokenizerFast,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
)

from dreamfusion.errors import DreamFusionError
from dreamfusion.evaluation.judge import preprocess
from dreamfusion.io.files import replace_folder, write_text
from dreamfusion.method.cameras import CameraRange, sample_cameras
from dreamfusion.method.prompts import VIEWS, view_weights
from dreamfusion.method.shading import Lights, Shading, headlights
from dreamfusion.runs.results import SHADINGS
from dreamfusion.scenes.scene import PICTURE_BACKDROP
from dreamfusion.toybox.captions import ATTRIBUTES, PHRASINGS, attributes, caption
from dreamfusion.toybox.kinds import KINDS
from dreamfusion.toybox.model import MAX_WORDS, build_tokenizer, name_for_older_transformers
from dreamfusion.toybox.render import compose, paint_toys, trace
from dreamfusion.toybox.world import COLORS, PATTERNS, SIZES, Toy

IMAGE_SIZE = 48
_END = "</s>"
_CAMERAS = CameraRange(radius_min=2.55, radius_max=2.85, focal_min=1.3, focal_max=1.4, elevation_max_deg=60.0)
"""Around the cameras of finished pictures, of radius 2.7 and focal length 1.35."""


@dataclass(frozen=True)
class JudgeSettings:
    """Everything that decides the weights."""

    steps: int = 1500
    batch_size: int = 96
    lr: float = 2e-3
    warmup_steps: int = 60
    seed: int = 77_000


def build_judge_tokenizer() -> PreTrainedTokenizerFast:
    """Return the toybox tokenizer with a mark at the end of each text, where CLIP reads what the text says."""
    tokenizer = build_tokenizer()
    end = (_END, tokenizer.get_vocab()[_END])
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"$A {_END}", special_tokens=[end])
    return tokenizer


def build_judge(vocabulary_size: int, eos_token_id: int) -> VisionTextDualEncoderModel:
    """Return a randomly initialised judge: a ConvNeXt for pictures, CLIP's transformer for captions.

    Weights by torch's global generator. A vision transformer of the same cost had learned colours after 144,000
    pictures, but not shapes.
    """
    widths = [48, 96, 192]
    # The dual encoder asks for the size of the pooled picture under a name that ConvNeXt does not have.
    extra: Any = {"hidden_size": widths[-1], "layer_scale_init_value": 0.0}
    vision = ConvNextConfig(image_size=IMAGE_SIZE, hidden_sizes=widths, depths=[2, 2, 2], num_stages=3, **extra)
    text = CLIPTextConfig(
        vocab_size=vocabulary_size,
        hidden_size=128,
        intermediate_size=256,
        num_attention_heads=4,
        num_hidden_layers=2,
        max_position_embeddings=MAX_WORDS,
        eos_token_id=eos_token_id,
        bos_token_id=eos_token_id,
        pad_token_id=0,
    )
    config = VisionTextDualEncoderConfig.from_vision_text_configs(vision, text, projection_dim=96)
    return VisionTextDualEncoderModel(config)


class AttributeHeads(nn.Module):
    """Linear classifiers of everything a caption can say, on what an encoder pools; used in training only.

    Told kinds, colours, views and so on apart directly, both encoders learn several times faster than from the
    contrast between captions alone.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({name: nn.Linear(width, len(words) + 1) for name, words in ATTRIBUTES.items()})

    def loss(self, pooled: Tensor, toys: Sequence[Toy], views: Sequence[str | None]) -> Tensor:
        """Return the mean cross-entropy of all attributes; what is not said is a class of its own."""
        total = torch.zeros(())
        said = [attributes(toy, view) for toy, view in zip(toys, views, strict=True)]
        for name, words in ATTRIBUTES.items():
            found = [caption[name] for caption in said]
            target = torch.tensor([words.index(word) if word else len(words) for word in found])
            total = total + cross_entropy(self.heads[name](pooled), target)
        return total / len(ATTRIBUTES)


def is_true(said: Toy, said_view: str | None, toy: Toy, view: str) -> bool:
    """Tell whether a caption that says ``said`` is true of a picture of ``toy`` from ``view``.

    Only colour and view may be left open: no pattern means plain, no size the usual one.
    """
    return replace(said, color=said.color or toy.color) == toy and said_view in (None, view)


def roughen(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return images [n, 3, S, S] blurred, moved, recoloured and noisy, all at random."""
    size = images.shape[-1]
    seen = int(torch.randint(size // 2, size + 1, (1,), generator=generator))
    if seen < size:
        small = interpolate(images, size=(seen, seen), mode="area")
        images = interpolate(small, size=(size, size), mode="bilinear", align_corners=False)
    dy, dx = (int(shift) for shift in torch.randint(-2, 3, (2,), generator=generator))
    images = images.roll((dy, dx), dims=(2, 3))
    count = len(images)
    gain = 1 + 0.08 * torch.randn(count, 3, 1, 1, generator=generator)
    noise = 0.04 * torch.rand(count, 1, 1, 1, generator=generator) * torch.randn(images.shape, generator=generator)
    return (images * gain + noise).clamp(0, 1)


@dataclass(frozen=True)
class Examples:
    """``images`` [B, 3, S, S] in [0, 1] of ``toys`` from ``views``, and what one caption for each says."""

    images: Tensor
    toys: list[Toy]
    views: list[str]
    said: list[tuple[Toy, str | None]]
    captions: list[str]


def random_toy(choose: random.Random, textureless: bool) -> Toy:
    """Return any toy of the world; a textureless one has no colours."""

    def maybe(names: Iterable[str], probability: float) -> str | None:
        return choose.choice(list(names)) if choose.random() < probability else None

    kind, size = choose.choice(list(KINDS)), maybe(SIZES, 0.25)
    if textureless:
        return Toy(kind, size=size)
    return Toy(kind, choose.choice(list(COLORS)), maybe(PATTERNS, 0.3), size, maybe(COLORS, 0.4))


def examples(settings: JudgeSettings, step: int) -> Examples:
    """Return the examples of a training step, a function of seed and step."""
    seed = settings.seed * 1_000_003 + step
    choose, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    count = settings.batch_size
    shadings: list[Shading] = [SHADINGS[i % 3] for i in range(count)]
    toys = [random_toy(choose, shading == "textureless") for shading in shadings]
    cameras = sample_cameras(count, _CAMERAS, generator)
    lit = headlights(cameras, ambient=0.2 + 0.2 * choose.random(), side_deg=45 * choose.random())
    flat = torch.tensor([shading == "albedo" for shading in shadings])
    lights = Lights(lit.position, lit.diffuse.masked_fill(flat, 0.0), lit.ambient.masked_fill(flat, 1.0))
    paint = paint_toys(toys)
    paint.palette[[shading == "textureless" for shading in shadings]] = 1.0
    backdrop = torch.tensor(PICTURE_BACKDROP) + 0.03 * torch.randn(count, 3, generator=generator)
    rays = cameras.rays(IMAGE_SIZE, IMAGE_SIZE)
    images = roughen(compose(trace(toys, rays), rays, paint, lights, backdrop), generator)

    views = [VIEWS[i] for i in view_weights(cameras.azimuth_deg, cameras.elevation_deg).argmax(dim=1).tolist()]
    said: list[tuple[Toy, str | None]] = []
    captions = []
    for toy, view in zip(toys, views, strict=True):
        claim = replace(toy, color=None) if choose.random() < 0.05 else toy
        shown = view if choose.random() < 0.5 else None
        phrase = caption if choose.random() < 0.6 else choose.choice(PHRASINGS)
        said.append((claim, shown))
        captions.append(f"{phrase(claim)}, {shown} view" if shown else phrase(claim))
    return Examples(images, toys, views, said, captions)


class _Training:
    def __init__(self, settings: JudgeSettings) -> None:
        torch.manual_seed(settings.seed)
        self.settings = settings
        self.tokenizer = build_judge_tokenizer()
        self.model: Any = build_judge(len(self.tokenizer), self.tokenizer.get_vocab()[_END])
        config: Any = self.model.config
        self.image_heads = AttributeHeads(config.vision_config.hidden_size)
        self.text_heads = AttributeHeads(config.text_config.hidden_size)

    def parameters(self) -> list[nn.Parameter]:
        """Return everything that is trained."""
        return [p for part in (self.model, self.image_heads, self.text_heads) for p in part.parameters()]

    def loss(self, step: int) -> tuple[Tensor, float]:
        """Return the loss of a step and the share of pictures for which a true caption came first."""
        batch = examples(self.settings, step)
        pictures = list(zip(batch.toys, batch.views, strict=True))
        true = torch.tensor([[is_true(*claim, *picture) for claim in batch.said] for picture in pictures])
        tokens = self.tokenizer(batch.captions, padding=True, return_tensors="pt")
        out = self.model(
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            pixel_values=preprocess(batch.images, IMAGE_SIZE),
        )
        logits = out.logits_per_image
        # Several captions may be true of a picture, and a caption of several pictures: all of them count alike.
        by_image, by_text = (part.float() / part.sum(1, keepdim=True) for part in (true, true.T))
        loss = (cross_entropy(logits, by_image) + cross_entropy(logits.T, by_text)) / 2
        loss = loss + self.image_heads.loss(out.vision_model_output.pooler_output, batch.toys, batch.views)
        loss = loss + self.text_heads.loss(out.text_model_output.pooler_output, *zip(*batch.said, strict=True))
        return loss, true[torch.arange(len(true)), logits.argmax(dim=1)].float().mean().item()


def train_judge(
    folder: Path, settings: JudgeSettings, on_progress: Callable[[int, float, float], None] | None = None
) -> Path:
    """Train a judge and write it, whole, to ``folder``; ``on_progress(step, loss, share of captions ranked first)``."""
    training = _Training(settings)
    optimizer = torch.optim.AdamW(training.parameters(), lr=settings.lr, betas=(0.9, 0.98), weight_decay=0.05)
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
        torch.nn.utils.clip_grad_norm_(training.parameters(), 1.0)
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
        name_for_older_transformers(aside / "tokenizer_config.json")
        record = asdict(settings) | {"images": settings.steps * settings.batch_size}
        write_text(aside / "training.json", json.dumps(record | {"seconds": round(time.monotonic() - begun)}, indent=2))
    return folder
