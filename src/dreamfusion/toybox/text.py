"""How words reach the UNet of the prior: a text encoder trained beforehand to tell every attribute, then frozen.

Trained together with the UNet from random weights, the pooled text of different kinds differs by a few percent of its
norm, the UNet learns to ignore it, and the encoder then shrinks it further: after 50,000 images a wrong kind in the
caption raised the loss by 5 %. So the encoder learns first, from captions alone, to write down what they say: one
orthogonal direction for each kind, colour, view, pattern, size and part colour, of equal length, and one for each
number of the camera's token (`dreamfusion.guidance.camera_token`). With such a code, found in closed form for a smaller
world, a wrong kind raised the loss by 14 % after 15,000 images.
"""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor

from dreamfusion.config import CameraRange
from dreamfusion.guidance.camera_token import FEATURES, camera_features, with_camera
from dreamfusion.method.cameras import sample_cameras
from dreamfusion.method.prompts import VIEWS
from dreamfusion.toybox.captions import ATTRIBUTES, PHRASINGS, attributes, attributes_of
from dreamfusion.toybox.draw import accompanied, wider
from dreamfusion.toybox.world import COLORS, PATTERNS, SIZES, SMALL, Toy, World

CODE_LENGTH = sum(len(words) for words in ATTRIBUTES.values())
"""Of the small world."""
_CAMERA = 0.35  # length of a camera's features in the code, per feature, when an attribute has about 1
_UNKNOWN, _ABSENT = 0.2, 0.2  # shares of captions whose camera is not known, and of batches without its token ...
_ALL_KNOWN = 0.6  # ... after this share of the steps: the pooling finds the token late, and later if it is often empty
_LOOK = 2.6  # how much one head looks at the token from the start
_SPREAD = 0.35  # size of the pooled text, per unit of the time embedding's features
_BATCH = 128


def code(toy: Toy, view: str, world: World = SMALL) -> Tensor:
    """Return what a caption of a world says: one-hot less its mean per attribute, zero for what it leaves open.

    [n], where n is the number of words of `attributes_of`, `CODE_LENGTH` in the small world.
    """
    said, parts = attributes(toy, view), []
    for name, words in attributes_of(world).items():
        one_hot, word = torch.zeros(len(words)), said[name]
        if word:
            one_hot -= 1 / len(words)
            one_hot[words.index(word)] += 1
        parts.append(one_hot)
    return torch.cat(parts)


def random_caption(choose: random.Random, world: World = SMALL) -> tuple[str, Tensor]:
    """Return a caption with a view, and its code; held-out pairs are as frequent as others, for nothing is shown."""
    toy, view, text = random_words(choose, world)
    return text, code(toy, view, world)


def random_words(choose: random.Random, world: World) -> tuple[Toy, str, str]:
    """Return a toy of a world, a view, and a caption that says both."""

    def maybe(names: Any) -> str | None:
        return choose.choice(list(names)) if choose.random() < 0.5 else None

    color = choose.choice(list(COLORS)) if choose.random() < 0.9 else None
    toy = Toy(choose.choice(world.kinds), color, maybe(PATTERNS), maybe(SIZES), maybe(COLORS))
    toy = wider(accompanied(toy, world, choose, seen=False), world, choose, seen=False)
    view = choose.choice(VIEWS)
    return toy, view, f"{choose.choice(PHRASINGS)(toy)}, {view} view"


def hidden_states(tokenizer: Any, text_encoder: Any, texts: list[str]) -> Tensor:
    """Return the text encoder's output [n, L, D] for texts padded to the tokenizer's limit L."""
    tokens = tokenizer(texts, padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt").to(
        text_encoder.device
    )
    return text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state


def random_lift(width: int, length: int = CODE_LENGTH) -> Tensor:
    """Return a random orthonormal map from codes with a camera to the width of the time embedding.

    [width, length + FEATURES], by torch's global generator. Without the mean of each column, so that the layer
    norm behind the projection leaves the code's direction alone.
    """
    lift = torch.linalg.qr(torch.randn(width, length + FEATURES))[0]
    return (lift - lift.mean(dim=0, keepdim=True)) * width**0.5


def train_text(
    tokenizer: Any, text_encoder: Any, unet: Any, *, seed: int = 0, steps: int = 1000, world: World = SMALL
) -> float:
    """Train the text encoder and the UNet's pooling of it to write down captions and cameras, and freeze them.

    What is written is the `code` of the caption and the features of the camera, lifted by `random_lift`. Later on some
    cameras are not known, and some captions come without the camera's token. Weights start from and the map is drawn by
    torch's global generator. Returns the error left, as a share of the codes' variance (mean of the last 50 steps).
    """
    embedding = unet.add_embedding
    length = sum(len(words) for words in attributes_of(world).values())
    lift = random_lift(embedding.proj.out_features, length).to(embedding.proj.weight)
    with torch.no_grad():
        # The token's first number is 1: a head that is drawn to it finds the camera at once, others after 1,000 steps.
        embedding.pool.q_proj.bias[-1] += _LOOK
        embedding.pool.k_proj.weight[-1, 0] += _LOOK
    learned = [*text_encoder.parameters(), *embedding.norm1.parameters(), *embedding.pool.parameters()]
    learned += list(embedding.proj.parameters())
    optimizer = torch.optim.AdamW(learned, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    choose, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    errors: list[float] = []
    for step in range(steps):
        texts, codes = zip(*(random_caption(choose, world) for _ in range(_BATCH)), strict=True)
        tokens = hidden_states(tokenizer, text_encoder, list(texts))
        features = camera_features(sample_cameras(_BATCH, CameraRange(), generator)).to(lift)
        later = step >= _ALL_KNOWN * steps
        absent = later and choose.random() < _ABSENT
        share = 0.0 if absent else 1 - _UNKNOWN if later else 1.0
        known = torch.rand(_BATCH, generator=generator).to(lift) < share
        if not absent:
            tokens = with_camera(tokens, features, known)
        target = torch.cat([torch.stack(codes).to(lift), _CAMERA * features * known[:, None]], dim=1) @ lift.T
        pooled = embedding.pool(embedding.norm1(tokens))
        loss = (embedding.proj(pooled) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        errors = [*errors[-49:], (loss / target.var()).item()]
    optimizer.zero_grad()
    with torch.no_grad():
        embedding.norm2.weight.fill_(_SPREAD)
        embedding.norm2.bias.zero_()
    text_encoder.requires_grad_(False)
    embedding.requires_grad_(False)
    return sum(errors) / len(errors)
