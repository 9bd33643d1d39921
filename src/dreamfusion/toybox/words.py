"""Words near to the toybox's own: a prompt is read as the caption that it plainly means.

"Crimson toadstools" becomes "a red mushroom". `understood` says what it read differently, so that a run can tell.
Words whose meaning is not plain stay as they are, and the prior then refuses them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from importlib import resources

from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.base import Reading
from dreamfusion.toybox.captions import PHRASINGS, caption, parse_toy, vocabulary
from dreamfusion.toybox.kinds import KINDS

_MEANS: dict[str, str] = {
    # colours
    "red": "crimson scarlet ruby cherry vermilion cardinal",
    "orange": "tangerine apricot",
    "yellow": "golden gold lemon mustard amber",
    "green": "emerald olive lime jade mint",
    "blue": "azure navy sapphire cobalt indigo turquoise cyan",
    "purple": "violet lilac lavender mauve plum magenta",
    "pink": "rose fuchsia salmon",
    "brown": "chestnut chocolate tan coffee hazel",
    "white": "ivory snowy pearl",
    "black": "ebony jet onyx",
    # kinds
    "mushroom": "toadstool fungus",
    "snowman": "snowwoman",
    "car": "automobile auto sedan taxi",
    "house": "cottage home hut bungalow",
    "chair": "seat",
    "tree": "fir pine spruce conifer",
    "mug": "cup teacup beaker",
    "robot": "android automaton droid",
    "duck": "duckling mallard",
    "rocket": "spaceship spacecraft rocketship missile",
    "boat": "ship vessel barge ferry tugboat",
    "bear": "teddy cub",
    "fish": "goldfish",
    "rabbit": "bunny hare",
    "train": "locomotive engine",
    "plane": "airplane aeroplane aircraft jetliner",
    "teapot": "kettle",
    "castle": "fortress fort palace citadel",
    "penguin": "",
    "turtle": "tortoise",
    # patterns and sizes
    "spotted": "dotted dot dots spotty speckled dotty",
    "striped": "stripy stripey stripes banded",
    "checkered": "chequered checked checkerboard plaid",
    "small": "little tiny mini miniature petite wee",
    "tall": "high lofty",
    "wide": "broad squat",
    # the words between
    "with": "having has featuring whose",
    "a": "the one my",
    "photo": "photograph",
    "picture": "image drawing painting",
}
"""What each word of the toybox is called, too."""

_SYNONYMS = {other: word for word, others in _MEANS.items() for other in others.split()}


def understood(prompt: str) -> Reading:
    """Return the prompt in words of the toybox as far as their meaning is plain.

    Synonyms, plurals and typing errors become the word that they mean. Known words in an unusual order become the
    plainest caption of the same toy. Whatever is left unknown stays in the prompt.
    """
    notes: list[str] = []

    def read(match: re.Match[str]) -> str:
        word = match.group()
        known = known_word(word)
        if known is None or known == word:
            return word
        if word not in ("the", "one", "my"):
            notes.append(f"{word}: {known}")
        return known

    text = re.sub(r"[^\W\d_]+", read, re.sub(r"\bpolka[ -]dot", "dot", prompt.lower()))
    try:
        toy = parse_toy(text)
    except DreamFusionError:
        return Reading(text if notes else prompt, tuple(notes))
    if not notes and _has_usual_order(text):
        return Reading(prompt)
    return Reading(caption(toy), tuple(notes or ["another order"]))


def known_word(word: str) -> str | None:
    """Return the word of the toybox that a lower-case word is or plainly means, else None."""
    for form in _singulars(word):
        if form in vocabulary():
            return form
        if form in _SYNONYMS:
            return _SYNONYMS[form]
    return _mistyped(word)


def nearest_words(word: str, count: int = 3) -> list[str]:
    """Return the kinds, colours and other words of the toybox that are spelt most like an unknown one."""
    near = get_close_matches(word.lower(), [*vocabulary(), *_SYNONYMS], n=3 * count, cutoff=0.5)
    return list(dict.fromkeys(_SYNONYMS.get(other, other) for other in near))[:count]


def _singulars(word: str) -> Iterator[str]:
    """Yield a word, and what it may be the plural of; a part that captions call by its plural is known as it is."""
    yield word
    if word.endswith("ies"):
        yield word[:-3] + "y"
    if word.endswith("es"):
        yield word[:-2]
    if word.endswith("s"):
        yield word[:-1]
    if word.endswith("men"):
        yield word[:-3] + "man"
    if word + "s" in _plural_parts():
        yield word + "s"


@cache
def _plural_parts() -> frozenset[str]:
    return frozenset(kind.part for kind in KINDS.values() if kind.part.endswith("s"))


def _mistyped(word: str) -> str | None:
    """Return the one word of four letters or more that is one slip of the keyboard away, unless it is a real word."""
    if len(word) < 4 or word in _real_words():
        return None
    near = {known for known in vocabulary() if len(known) >= 3 and one_slip(word, known)}
    near |= {_SYNONYMS[other] for other in _SYNONYMS if len(other) >= 3 and one_slip(word, other)}
    return near.pop() if len(near) == 1 else None


@cache
def _real_words() -> frozenset[str]:
    """English words that are one slip away from a word of the toybox, and mean something else."""
    return frozenset(resources.files(__package__).joinpath("near_words.txt").read_text(encoding="utf-8").split())


def one_slip(a: str, b: str) -> bool:
    """Tell whether one letter added, left out, changed, or swapped with its neighbour turns one word into the other."""
    if a == b or abs(len(a) - len(b)) > 1:
        return False
    start = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    if len(a) == len(b):
        changed = a[start + 1 :] == b[start + 1 :]
        swapped = a[start : start + 2] == b[start : start + 2][::-1] and a[start + 2 :] == b[start + 2 :]
        return changed or swapped
    longer, shorter = (a, b) if len(a) > len(b) else (b, a)
    return longer[start + 1 :] == shorter[start:]


def _has_usual_order(text: str) -> bool:
    """Tell whether a caption of the toybox says the same words in the same order, articles and marks apart."""

    def bare(words: str) -> list[str]:
        return [w for w in re.findall(r"\w+", words.lower()) if w not in ("a", "an")]

    toy = parse_toy(text)
    return any(bare(phrase(toy)) == bare(text) for phrase in PHRASINGS)
