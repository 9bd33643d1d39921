"""What a tokenizer does to a prompt that is too long."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any


def warn_of_cuts(tokenizer: Any, prompts: Sequence[str], limit: int) -> None:
    """Warn of prompts with more than ``limit`` tokens: cutting them loses the view, which stands at the end."""
    for prompt, ids in zip(prompts, tokenizer(list(prompts)).input_ids, strict=True):
        if len(ids) > limit:
            warnings.warn(
                f"The prompt {prompt!r} has {len(ids)} tokens, of which only the first {limit} count.", stacklevel=4
            )
