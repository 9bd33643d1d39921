"""What becomes of a prompt that is longer than a text encoder reads."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any


def warn_of_cuts(tokenizer: Any, prompts: Sequence[str], limit: int) -> None:
    """Warn of prompts with more than ``limit`` tokens, of which an encoder reads the first."""
    for prompt, ids in zip(prompts, tokenizer(list(prompts)).input_ids, strict=True):
        if len(ids) > limit:
            warnings.warn(
                f"The prompt {prompt!r} has {len(ids)} tokens, of which only the first {limit} count.", stacklevel=4
            )


def shortened(tokenizer: Any, prompt: str, limit: int) -> str:
    """Return a prompt of at most ``limit`` tokens for an encoder that reads prompts as a whole, with a warning.

    Words go from the end of what stands before the last comma, so that the last clause stays, which names the view. A
    prompt without such a clause, or with one of more than 20 tokens, is returned as it is, to be cut at its end.
    """

    def tokens(text: str) -> int:
        return len(tokenizer(text).input_ids)

    before, comma, clause = prompt.rpartition(",")
    words = before.split()
    if tokens(prompt) <= limit or not comma or tokens(comma + clause) > min(limit, _CLAUSE):
        warn_of_cuts(tokenizer, [prompt], limit)
        return prompt
    while words and tokens(" ".join(words) + comma + clause) > limit:
        words.pop()
    short = " ".join(words).rstrip(",") + comma + clause
    warnings.warn(
        f"The prompt {prompt!r} has {tokens(prompt)} tokens, of which {limit} are read: it became {short!r}.",
        stacklevel=4,
    )
    return short


_CLAUSE = 20
"""Most tokens that a chunk leaves to the next one in order to end at a comma; the field's usual number."""


def clip_chunks(tokenizer: Any, prompt: str) -> list[str]:
    """Split a prompt into texts that a CLIP tokenizer does not cut: 75 tokens and the marks of start and end.

    Words stay whole, because CLIP's tokens never reach across white space; a chunk ends at a comma if one is near, so
    that clauses, and the view at the prompt's end, stay together. A prompt that fits is returned as it is. A single
    word of more than 75 tokens becomes a chunk that is still too long.
    """
    words = prompt.split()
    room = tokenizer.model_max_length - 2
    lengths = [len(ids) for ids in tokenizer(words, add_special_tokens=False).input_ids] if words else []
    if sum(lengths) <= room:
        return [prompt]
    chunks: list[str] = []
    chunk: list[tuple[str, int]] = []
    for word, length in zip(words, lengths, strict=True):
        while chunk and sum(used for _, used in chunk) + length > room:
            end = _end_of_clause(chunk)
            chunks.append(" ".join(text for text, _ in chunk[:end]))
            chunk = chunk[end:]
        chunk.append((word, length))
    return [*chunks, " ".join(text for text, _ in chunk)]


def _end_of_clause(chunk: list[tuple[str, int]]) -> int:
    """Return how many of the words to keep: up to the last comma if little follows it, else all."""
    after = 0
    for count in range(len(chunk), 0, -1):
        word, length = chunk[count - 1]
        if word.endswith(","):
            return count
        after += length
        if after > _CLAUSE:
            break
    return len(chunk)
