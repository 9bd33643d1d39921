"""Words that count more or less than others, by the library compel: ``a (red)1.4 mushroom++``.

Its syntax is described at https://github.com/damian0815/compel. It weighs the tokens that the denoiser reads; the
pooled text of Stable Diffusion XL stays that of the plain words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from dreamfusion.errors import DreamFusionError


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
        return reader(pipeline, device=device)(list(prompts)).embeds


def plain_text(prompt: str) -> str:
    """Return a weighted prompt without its marks; DreamFusionError if there is more in it than weights."""
    from compel import Compel

    with _readable(prompt):
        parts = Compel.parse_prompt_string(prompt).prompts
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
