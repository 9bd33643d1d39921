"""Words that count more or less than others, by the library compel: ``a (red)1.4 mushroom++``.

Weights as another program writes them, ``(red:1.4)``, are read as compel's. Its syntax is described at
https://github.com/damian0815/compel. It weighs the tokens that the denoiser reads; the pooled text of Stable Diffusion
XL stays that of the plain words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from dreamfusion.errors import DreamFusionError

_WEIGHT = re.compile(r"\(([^():]*[^():\d\s])\s*:\s*(\d*\.?\d+)\s*\)")
"""A weight as AUTOMATIC1111's web UI writes it; what ends in a digit before its colon is a ratio or a time."""
_FILE = re.compile(r"<(?:lora|lyco|hypernet)\s*:[^<>]*>", re.IGNORECASE)


def check_marks(prompt: str, *, weighed: bool) -> None:
    """Raise DreamFusionError for marks in a prompt that another program would act on and that would be read as words.

    Those are files to load, ``<lora:name:1>``, and weights, ``(word:1.2)``, unless prompts are ``weighed``.
    """
    if found := _FILE.search(prompt):
        raise DreamFusionError(f"Leave {found[0]} out of the prompt: files are not loaded by marks in it.")
    if not weighed and (found := _WEIGHT.search(prompt)):
        raise DreamFusionError(
            f"{found[0]} would be read as words: write {found[1].strip()}, or set guidance.prompt_weighting to true "
            "in a --config file."
        )


def in_compels_words(prompt: str) -> str:
    """Return a prompt with weights such as ``(red:1.4)`` as compel writes them, ``(red)1.4``."""
    return _WEIGHT.sub(r"(\1)\2", prompt)


def check_compel() -> None:
    """Raise DreamFusionError if the library is not installed."""
    try:
        import compel  # noqa: F401
    except ImportError:
        raise DreamFusionError(
            'guidance.prompt_weighting needs the library compel: pip install "dreamfusion[weights]".'
        ) from None


def weighted_tokens(pipeline: Any, prompts: Sequence[str], device: str) -> Tensor:
    """Return the token embeddings [n, L, D] of weighted prompts for a Stable Diffusion 1, 2 or XL pipeline.

    Long prompts are read in chunks, split by the library, and shorter ones are padded to the same length.
    Raises DreamFusionError for a prompt that it cannot read.
    """
    from compel import CompelForSD, CompelForSDXL

    reader = CompelForSDXL if hasattr(pipeline, "text_encoder_2") else CompelForSD
    with _readable(prompts[0]):
        return reader(pipeline, device=device)([in_compels_words(prompt) for prompt in prompts]).embeds


def plain_text(prompt: str) -> str:
    """Return a weighted prompt without its marks; DreamFusionError if there is more in it than weights."""
    from compel import Compel

    with _readable(prompt):
        parts = Compel.parse_prompt_string(in_compels_words(prompt)).prompts
        return " ".join(fragment.text for part in parts for fragment in part.children).strip()


@contextmanager
def _readable(prompt: str) -> Iterator[None]:
    """Turn what the library raises, of many types, into one line."""
    try:
        yield
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DreamFusionError(
            f"Cannot read the weights in {prompt!r} ({reason}): write (word)1.4 or word++, or leave out "
            "guidance.prompt_weighting."
        ) from None
