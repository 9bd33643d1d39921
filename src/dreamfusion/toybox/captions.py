"""The words of the toybox: captions of toys in several phrasings, and toys from captions."""

from __future__ import annotations

import re
from collections.abc import Callable

from dreamfusion.errors import DreamFusionError
from dreamfusion.method.prompts import VIEWS
from dreamfusion.toybox.kinds import KINDS
from dreamfusion.toybox.world import COLORS, PATTERNS, SIZES, Toy

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "kind": tuple(KINDS),
    "color": tuple(COLORS),
    "pattern": tuple(PATTERNS),
    "size": tuple(SIZES),
    "part_color": tuple(COLORS),
    "view": VIEWS,
}
"""All that a caption can say, and the words it has for it."""

_PARTS = {kind.part for kind in KINDS.values()}


def attributes(toy: Toy, view: str | None) -> dict[str, str | None]:
    """Return what the caption of a toy seen from ``view`` says, by the names of `ATTRIBUTES`; None for the unsaid."""
    return {**vars(toy), "view": view}


def article(word: str) -> str:
    """Return "an" before a vowel and "a" otherwise."""
    return "an" if word[0] in "aeiou" else "a"


def _named(toy: Toy, *adjectives: str | None, noun: str = "") -> str:
    """Return "a small red mushroom" for the adjectives that are not None, with the right article."""
    words = " ".join([word for word in adjectives if word] + [noun or toy.kind])
    return f"{article(words)} {words}"


def _part(toy: Toy, joined: str) -> str:
    """Return " with a blue roof" or " with blue wheels", or nothing for a toy whose part is not named."""
    if not toy.part_color:
        return ""
    part = KINDS[toy.kind].part
    many = part.endswith("s")
    return (
        f" {joined} {toy.part_color} {part}" if many else f" {joined} {article(toy.part_color)} {toy.part_color} {part}"
    )


def _plain(toy: Toy) -> str:
    return _named(toy, toy.size, toy.color, toy.pattern) + _part(toy, "with")


def _turned(toy: Toy) -> str:
    return _named(toy, toy.size, toy.pattern, toy.color) + _part(toy, "and")


def _bare(toy: Toy) -> str:
    return _plain(toy).split(" ", 1)[1]


def _colored(toy: Toy) -> str:
    color = f" in {toy.color}" if toy.color else ""
    return _named(toy, toy.size, toy.pattern, "toy") + color + _part(toy, "with")


PHRASINGS: tuple[Callable[[Toy], str], ...] = (
    _plain,
    _turned,
    _bare,
    _colored,
    lambda toy: "a photo of " + _plain(toy),
    lambda toy: "a picture of " + _turned(toy),
)
"""Ways to say what a toy is, the plainest first."""


def caption(toy: Toy) -> str:
    """Return the plainest caption, such as "a small red striped house with a blue roof"."""
    return PHRASINGS[0](toy)


def vocabulary() -> list[str]:
    """Return every word and mark that captions of this world use, sorted."""
    words = set(re.findall(r"\w+", "a an photo of picture toy in with and view")) | {","}
    return sorted(words | set(VIEWS) | set(KINDS) | set(COLORS) | set(PATTERNS) | set(SIZES) | _PARTS)


def parse_toy(text: str) -> Toy:
    """Return the toy that a caption or a name like "red mushroom" describes.

    A colour is that of the part if the part's name follows it, else of the toy. Raises DreamFusionError for unknown
    words, for no kind or two kinds, and for two words of one sort.
    """
    words = re.findall(r"[^\W_]+", text.lower())
    unknown = [word for word in words if word not in vocabulary()]
    kinds = [word for word in words if word in KINDS]
    if unknown or len(kinds) != 1:
        problem = f"it does not know: {', '.join(unknown)}" if unknown else "name one kind"
        raise DreamFusionError(
            f"No toy {text!r} in the toybox ({problem}). Kinds: {', '.join(KINDS)}. Colours: {', '.join(COLORS)}. "
            f"Patterns: {', '.join(PATTERNS)}. Sizes: {', '.join(SIZES)}."
        )
    part = KINDS[kinds[0]].part
    strange = [word for word in words if word in _PARTS and word != part]
    if strange:
        raise DreamFusionError(
            f"A {kinds[0]} has no {strange[0]} in the toybox; its part that can be named is: {part}."
        )
    followed = [*words[1:], ""]
    part_colors = [word for word, after in zip(words, followed, strict=True) if word in COLORS and after == part]
    colors = [word for word, after in zip(words, followed, strict=True) if word in COLORS and after != part]

    def one(found: list[str]) -> str | None:
        if len(found) > 1:
            raise DreamFusionError(f"In {text!r}, {' and '.join(found)} contradict each other: name one of them.")
        return found[0] if found else None

    return Toy(
        kinds[0],
        color=one(colors),
        pattern=one([word for word in words if word in PATTERNS]),
        size=one([word for word in words if word in SIZES]),
        part_color=one(part_colors),
    )
