"""Words near to the toybox's own: a prompt is read as the caption that it plainly means.

"Crimson toadstools" becomes "a red mushroom". `understood` says what it read differently, so that a run can tell.
Words whose meaning is not plain stay as they are, and the prior then refuses them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache, partial
from importlib import resources

from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.base import Reading
from dreamfusion.toybox.captions import PHRASINGS, caption, parse_toy, parts_of, vocabulary
from dreamfusion.toybox.world import SMALL, World

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
    # kinds of the wide world
    "table": "desk",
    "lamp": "lampshade",
    "bed": "cot",
    "shelf": "bookshelf bookcase shelves",
    "clock": "timepiece",
    "bicycle": "bike",
    "truck": "lorry",
    "helicopter": "chopper copter",
    "cat": "kitten kitty tomcat",
    "dog": "puppy doggy hound pooch",
    "elephant": "",
    "owl": "owlet",
    "snail": "",
    "flower": "daisy sunflower",
    "cactus": "cacti succulent",
    "apple": "",
    "cake": "gateau torte",
    "pumpkin": "",
    "lighthouse": "beacon pharos",
    "windmill": "",
    "tent": "marquee wigwam tepee",
    "bridge": "footbridge viaduct",
    "hammer": "mallet",
    "umbrella": "parasol sunshade brolly",
    "basket": "hamper",
    "glasses": "spectacles eyeglasses specs",
    "ladder": "stepladder",
    "bucket": "pail",
    # patterns and sizes
    "spotted": "dotted dot dots spotty speckled dotty",
    "striped": "stripy stripey stripes banded",
    "checkered": "chequered checked checkerboard plaid",
    "small": "little tiny mini miniature petite wee",
    "tall": "high lofty",
    "wide": "broad squat",
    # finishes
    "shiny": "glossy gleaming polished glittering lustrous",
    "wooden": "wood timber",
    "matte": "matt mat dull",
    # the words between
    "with": "having has featuring whose",
    "a": "the one my",
    "photo": "photograph",
    "picture": "image drawing painting",
}
"""What each word of the toybox is called, too."""

_SYNONYMS = {other: word for word, others in _MEANS.items() for other in others.split()}

_PHRASES: dict[str, str] = {
    r"(beside|near|by|alongside)": "next to",
    r"((sitting|standing|lying) )?(on top of|upon|atop|on)": "on",
}
"""Patterns of words for the relations of two toys, and what they are called."""


@cache
def _synonyms(world: World) -> dict[str, str]:
    """Return the words that mean one of a world, by that word."""
    known = set(vocabulary(world))
    return {other: word for other, word in _SYNONYMS.items() if word in known and other not in known}


def understood(prompt: str, world: World = SMALL) -> Reading:
    """Return the prompt in words of a world of the toybox as far as their meaning is plain.

    Synonyms, plurals and typing errors become the word that they mean. Known words in an unusual order become the
    plainest caption of the same toy. Whatever is left unknown stays in the prompt.
    """
    notes: list[str] = []

    def read(match: re.Match[str]) -> str:
        word = match.group()
        known = known_word(word, world)
        if known is None or known == word:
            return word
        if word not in ("the", "one", "my"):
            notes.append(f"{word}: {known}")
        return known

    text = re.sub(r"\bpolka[ -]dot", "dot", prompt.lower())
    if world.relations:
        for pattern, relation in _PHRASES.items():
            text = re.sub(rf"\b{pattern}\b", partial(_as_relation, relation, notes), text)
    text = re.sub(r"[^\W\d_]+", read, text)
    try:
        toy = parse_toy(text, world)
    except DreamFusionError:
        return Reading(text if notes else prompt, tuple(notes))
    if not notes and _has_usual_order(text, world):
        return Reading(prompt)
    return Reading(caption(toy), tuple(notes or ["another order"]))


def _as_relation(relation: str, notes: list[str], match: re.Match[str]) -> str:
    if match.group() != relation:
        notes.append(f"{match.group()}: {relation}")
    return relation


def known_word(word: str, world: World = SMALL) -> str | None:
    """Return the word of the toybox that a lower-case word is or plainly means, else None."""
    for form in _singulars(word, world):
        if form in vocabulary(world):
            return form
        if form in _synonyms(world):
            return _synonyms(world)[form]
    return _mistyped(word, world)


def nearest_words(word: str, count: int = 3, world: World = SMALL) -> list[str]:
    """Return the kinds, colours and other words of a world that are spelt, or else sound, most like an unknown one."""
    synonyms, word = _synonyms(world), word.lower()
    known = [*vocabulary(world), *synonyms]
    near = get_close_matches(word, known, n=3 * count, cutoff=0.5)
    alike = [other for other in known if len(other) > 3 and _sound(other) == _sound(word)]
    return list(dict.fromkeys(synonyms.get(other, other) for other in [*alike, *near]))[:count]


def _sound(word: str) -> str:
    """Return the consonants that are heard in a word, after its first letter: "pngn" for penguin and for pengwine."""
    heard = re.sub(r"ck|[kq]|c(?![eiy])", "k", re.sub(r"ph", "f", word))
    heard = re.sub(r"gu(?=[aeiou])|gw", "g", heard)
    return heard[0] + re.sub(r"(.)\1+", r"\1", re.sub(r"[aeiouyhw]", "", heard[1:]))


def _singulars(word: str, world: World) -> Iterator[str]:
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
    if word + "s" in _plural_parts(world):
        yield word + "s"


@cache
def _plural_parts(world: World) -> frozenset[str]:
    return frozenset(part for kind in world.kinds for part in parts_of(kind, world) if part.endswith("s"))


def _mistyped(word: str, world: World) -> str | None:
    """Return the one word of four letters or more that is one slip of the keyboard away, unless it is a real word."""
    if len(word) < 4 or word in _real_words():
        return None
    near = {known for known in vocabulary(world) if len(known) >= 3 and one_slip(word, known)}
    near |= {known for other, known in _synonyms(world).items() if len(other) >= 3 and one_slip(word, other)}
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


def _has_usual_order(text: str, world: World) -> bool:
    """Tell whether a caption of the toybox says the same words in the same order, articles and marks apart."""

    def bare(words: str) -> list[str]:
        return [w for w in re.findall(r"\w+", words.lower()) if w not in ("a", "an")]

    toy = parse_toy(text, world)
    return any(bare(phrase(toy)) == bare(text) for phrase in PHRASINGS)
