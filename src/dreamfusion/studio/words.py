"""The words of the embedded prior, offered while a prompt is typed, and how it would read that prompt."""

from __future__ import annotations

import re
from typing import Any

from dreamfusion.errors import DreamFusionError


def vocabulary() -> dict[str, Any]:
    """Return the words that the embedded prior knows, by what they say, and the part that each kind may name."""
    from dreamfusion.toybox.captions import ATTRIBUTES
    from dreamfusion.toybox.kinds import KINDS

    words: dict[str, Any] = {name: list(ATTRIBUTES[name]) for name in ("kind", "color", "pattern", "size")}
    words["part"] = {name: kind.part[0] for name, kind in KINDS.items()}
    return words


def reading(prompt: str) -> dict[str, Any]:
    """Return the prompt as the embedded prior reads it, what is different, and what is wrong with it, if anything."""
    from dreamfusion.toybox.captions import parse_toy
    from dreamfusion.toybox.captions import vocabulary as known
    from dreamfusion.toybox.words import nearest_words, understood

    read = understood(prompt)
    unknown = [word for word in re.findall(r"[^\W_]+", read.prompt.lower()) if word not in known()]
    problem = None
    if unknown:
        near = nearest_words(unknown[0])
        problem = f"The embedded prior does not know: {', '.join(unknown)}."
        problem += f" Near to {unknown[0]}: {', '.join(near)}." if near else ""
    else:
        try:
            parse_toy(read.prompt)
        except DreamFusionError as error:
            problem = str(error)
    return {"prompt": read.prompt, "notes": list(read.notes), "problem": problem}
