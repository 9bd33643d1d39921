"""More words for a prior that is trained: rows of new words join, and all that it knew stays exactly the same.

The text encoder and its pooling are frozen in a trained prior (`text.py`), and the UNet has learned their answers. So
only the rows of new words are learned. What the pooling writes down for known words is measured first: one direction
for each of them. New words get directions that none of these use, and their rows are fitted until captions with them
are written down so. What an old caption is read as does not change by a bit.
"""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor

from dreamfusion.guidance.camera_token import with_camera
from dreamfusion.toybox.captions import attributes, attributes_of, parts_of
from dreamfusion.toybox.text import hidden_states, random_words
from dreamfusion.toybox.world import World

_BATCH = 64
_LR = 5e-2
_MEASURED = 768  # captions by which the directions of known words are found


@torch.no_grad()
def add_rows(text_encoder: Any, more: int, generator: torch.Generator) -> None:
    """Give a text encoder rows for more words: around the mean of those it has, spread as they are."""
    old = text_encoder.shared.weight.detach()
    drawn = torch.randn(more, old.shape[1], generator=generator).to(old)
    text_encoder.resize_token_embeddings(len(old) + more, mean_resizing=False)
    rows = text_encoder.shared.weight
    rows[: len(old)] = old
    rows[len(old) :] = old.mean(dim=0) + old.std(dim=0) * drawn


def said(text_of: tuple[Any, str, str], words: list[tuple[str, str]]) -> Tensor:
    """Return 1 for each (attribute, word) of ``words`` that a caption says and 0 for the others, [len(words)]."""
    toy, view, _ = text_of
    claims = attributes(toy, view)
    return torch.tensor([float(claims[name] == word) for name, word in words])


def learn_new_words(
    tokenizer: Any,
    text_encoder: Any,
    unet: Any,
    worlds: tuple[World, World],
    fresh_rows: range,
    *,
    steps: int = 200,
    seed: int = 0,
) -> float:
    """Fit the ``fresh_rows`` that `add_rows` has made, as the module says, from the first world to the second.

    Returns the error left, as a share of what is new in captions.
    """
    (old, new), embedding, rows = worlds, unet.add_embedding, text_encoder.shared.weight
    choose, generator = random.Random(seed), torch.Generator().manual_seed(seed)

    def pooled(texts: list[str]) -> Tensor:
        tokens = with_camera(hidden_states(tokenizer, text_encoder, texts))
        return embedding.proj(embedding.pool(embedding.norm1(tokens)))

    pairs = [(name, word) for name, words in attributes_of(new).items() for word in words]
    before = {(name, word) for name, words in attributes_of(old).items() for word in words}
    with torch.no_grad():
        measured = [random_words(choose, old) for _ in range(_MEASURED)]
        codes = torch.stack([torch.cat([said(one, pairs), torch.ones(1)]) for one in measured])
        answers = torch.cat([pooled([text for _, _, text in part]) for part in _parts(measured)])
        lift = torch.linalg.pinv(codes) @ answers.cpu()  # zero for what no old caption says
        directions = _unused(lift, embedding.proj.weight.detach().cpu(), generator)
        fresh = [index for index, pair in enumerate(pairs) if pair not in before]
        length = lift[: len(pairs)].norm(dim=1)[[i for i, pair in enumerate(pairs) if pair in before]].mean()
        for place, index in enumerate(fresh):
            lift[index] = length * directions[place % len(directions)]
    _begin_alike(tokenizer, rows, (old, new), fresh_rows)
    rows.requires_grad_(True)
    optimizer = torch.optim.Adam([rows], lr=_LR, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=_LR, total_steps=steps)
    errors: list[float] = []
    for _ in range(steps):
        batch = [random_words(choose, new) for _ in range(_BATCH)]
        code = torch.stack([torch.cat([said(one, pairs), torch.ones(1)]) for one in batch])
        target = (code @ lift).to(rows)
        difference = (pooled([text for _, _, text in batch]) - target).square().mean()
        rows.grad = torch.autograd.grad(difference, rows)[0]
        rows.grad[: fresh_rows.start] = 0  # Adam leaves a row alone that never had a gradient
        rows.grad[fresh_rows.stop :] = 0
        optimizer.step()
        schedule.step()
        share = difference / (code[:, fresh] @ lift[fresh]).square().mean().to(rows)
        errors = [*errors[-19:], share.item()]
    rows.requires_grad_(False)
    rows.grad = None
    return sum(errors) / max(1, len(errors))


@torch.no_grad()
def _begin_alike(tokenizer: Any, rows: Tensor, worlds: tuple[World, World], fresh_rows: range) -> None:
    """Put new kinds in the middle of known ones, and new parts in that of known parts: frozen heads look at those."""
    sorts = []
    for world in worlds:
        parts = {part for kind in world.kinds for part in parts_of(kind, world)}
        sorts.append(({*world.kinds}, parts - {*world.kinds}))
    numbers = tokenizer.get_vocab()
    for known, all_of_it in zip(*sorts, strict=True):
        middle = rows[[numbers[word] for word in known if numbers[word] < fresh_rows.start]].mean(dim=0)
        for word in all_of_it:
            if numbers[word] in fresh_rows:
                rows[numbers[word]] += middle - rows[: fresh_rows.start].mean(dim=0)


def _parts(captions: list[Any]) -> list[list[Any]]:
    return [captions[start : start + _BATCH] for start in range(0, len(captions), _BATCH)]


def _unused(lift: Tensor, projection: Tensor, generator: torch.Generator) -> Tensor:
    """Return orthonormal directions [n, W] that a projection [W, D] reaches and the rows of ``lift`` do not use."""
    reached = torch.linalg.svd(projection, full_matrices=False)[0]  # [W, D]
    used = torch.linalg.svd(lift @ reached, full_matrices=True)
    rank = int((1e-3 * used.S[0] < used.S).sum())
    free = used.Vh[rank:]
    mixed = torch.linalg.qr(torch.randn(len(free), len(free), generator=generator))[0] @ free
    return mixed @ reached.T
