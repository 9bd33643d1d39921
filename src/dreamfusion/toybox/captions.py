"""The words of the toybox: captions of toys in several phrasings, and toys from captions."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache

from dreamfusion.errors import DreamFusionError
from dreamfusion.method.prompts import VIEWS
from dreamfusion.toybox.kinds import ALL_KINDS
from dreamfusion.toybox.world import COLORS, ON, PATTERNS, SIZES, SMALL, Toy, World


def attributes_of(world: World) -> dict[str, tuple[str, ...]]:
    """Return all that a caption of a world can say, and the words it has for it, those of the small world first."""
    said = {
        "kind": world.kinds,
        "color": tuple(COLORS),
        "pattern": tuple(PATTERNS),
        "size": tuple(SIZES),
        "part_color": tuple(COLORS),
        "view": VIEWS,
    }
    if world.trims:
        said["trim_color"] = tuple(COLORS)
    if world.finishes:
        said["finish"] = world.finishes
    if world.relations:
        said |= {"relation": world.relations, "other_kind": world.kinds, "other_color": tuple(COLORS)}
    return said


ATTRIBUTES: dict[str, tuple[str, ...]] = attributes_of(SMALL)
"""All that a caption of the small world can say, and the words it has for it."""


def attributes(toy: Toy, view: str | None) -> dict[str, str | None]:
    """Return what the caption of a toy seen from ``view`` says, by the names of `attributes_of`; None: it is silent."""
    said = {name: value for name, value in vars(toy).items() if name != "other"}
    other = {"other_kind": toy.other.kind, "other_color": toy.other.color} if toy.other else {}
    return {"other_kind": None, "other_color": None, **said, **other, "view": view}


def article(word: str) -> str:
    """Return "an" before a vowel and "a" otherwise."""
    return "an" if word[0] in "aeiou" else "a"


def _named(toy: Toy, *adjectives: str | None, noun: str = "") -> str:
    """Return "a small red mushroom" for the adjectives that are not None, with the right article, if any."""
    words = " ".join([word for word in adjectives if word] + [noun or toy.kind])
    return words if ALL_KINDS[toy.kind].many else f"{article(words)} {words}"


def _part(toy: Toy, joined: str) -> str:
    """Return " with a blue roof" or " with blue wheels and a red door", or nothing if no part is named."""
    kind, phrases = ALL_KINDS[toy.kind], []
    for color, (part, _) in ((toy.part_color, kind.part), (toy.trim_color, kind.trim)):
        if color:
            phrases.append(f"{color} {part}" if _is_plural(part) else f"{article(color)} {color} {part}")
    return "".join(f" {word} {phrase}" for word, phrase in zip((joined, "and"), phrases, strict=False))


def _is_plural(part: str) -> bool:
    return part.endswith("s") or part == "feet"


def _plain(toy: Toy) -> str:
    return _named(toy, toy.size, toy.finish, toy.color, toy.pattern) + _part(toy, "with") + _company(toy)


def _turned(toy: Toy) -> str:
    return _named(toy, toy.size, toy.finish, toy.pattern, toy.color) + _part(toy, "and") + _company(toy)


def _bare(toy: Toy) -> str:
    plain = _plain(toy)
    return plain if ALL_KINDS[toy.kind].many else plain.split(" ", 1)[1]


def _colored(toy: Toy) -> str:
    color = f" in {toy.color}" if toy.color else ""
    noun = f"toy {toy.kind}"
    return _named(toy, toy.size, toy.finish, toy.pattern, noun=noun) + color + _part(toy, "with") + _company(toy)


def _company(toy: Toy) -> str:
    """Return " next to a blue car", or nothing for a toy alone."""
    return f" {toy.relation} {_plain(toy.other)}" if toy.other else ""


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


@cache
def vocabulary(world: World = SMALL) -> list[str]:
    """Return every word and mark that captions of a world use: those of the small world first, each half sorted."""
    words = set(re.findall(r"\w+", "a an photo of picture toy in with and view")) | {","}
    words |= set(VIEWS) | set(SMALL.kinds) | set(COLORS) | set(PATTERNS) | set(SIZES) | _parts(SMALL)
    more = {*world.kinds, *world.finishes, *_parts(world)} | {word for name in world.relations for word in name.split()}
    return sorted(words) + sorted(more - words)


def parts_of(kind: str, world: World) -> list[str]:
    """Return the parts of a kind that captions of a world name."""
    named = ALL_KINDS[kind]
    return [named.part[0], named.trim[0]] if world.trims else [named.part[0]]


@cache
def _parts(world: World) -> frozenset[str]:
    return frozenset(part for kind in world.kinds for part in parts_of(kind, world))


def parse_toy(text: str, world: World = SMALL) -> Toy:
    """Return the toy, or the two toys, that a caption or a name like "red mushroom" describes.

    A colour is that of a part if the part's name follows it, else of the toy. Raises DreamFusionError for words that
    are not of the world, for no kind or two kinds without a relation, and for two words of one sort.
    """
    words = re.findall(r"[^\W_]+", text.lower())
    unknown = [word for word in words if word not in vocabulary(world)]
    kinds = [word for word in words if word in world.kinds]
    for relation in world.relations:
        first, found, second = " ".join(words).partition(f" {relation} ")
        if found and not unknown and len(kinds) == 2:
            return _together(parse_toy(first, world), relation, parse_toy(second, world), text)
    if unknown or len(kinds) != 1:
        problem = f"it does not know: {', '.join(unknown)}" if unknown else "name one kind"
        raise DreamFusionError(f"No toy {text!r} in the toybox ({problem}). {_what_there_is(world)}")
    return _one_toy(words, kinds[0], text, world)


def _what_there_is(world: World) -> str:
    lists = {"Kinds": world.kinds, "Colours": COLORS, "Patterns": PATTERNS, "Sizes": SIZES, "Finishes": world.finishes}
    said = [f"{name}: {', '.join(words)}." for name, words in lists.items() if words]
    return " ".join([*said, *(["Two toys: one next to the other, or on it."] if world.relations else [])])


def _together(first: Toy, relation: str, second: Toy, text: str) -> Toy:
    """Return a toy in company; DreamFusionError for what pictures of two toys cannot show."""
    if any(toy.size or toy.part_color or toy.trim_color for toy in (first, second)):
        raise DreamFusionError(f"In {text!r}, leave out sizes and parts: two toys in one picture have none named.")
    if relation == ON and ALL_KINDS[second.kind].seat is None:
        carrying = ", ".join(name for name, kind in ALL_KINDS.items() if kind.seat)
        raise DreamFusionError(
            f"Nothing stands on {article(second.kind)} {second.kind} in the toybox; on these: {carrying}."
        )
    return replace(first, relation=relation, other=second)


def _one_toy(words: list[str], kind: str, text: str, world: World) -> Toy:
    parts = parts_of(kind, world)
    strange = [word for word in words if word in _parts(world) and word not in parts]
    if strange:
        named = "its part that can be named is" if len(parts) == 1 else "its parts that can be named are"
        raise DreamFusionError(f"A {kind} has no {strange[0]} in the toybox; {named}: {' and '.join(parts)}.")
    pairs = list(zip(words, [*words[1:], ""], strict=True))
    colors = {part: [word for word, after in pairs if word in COLORS and after == part] for part in parts}
    own = [word for word, after in pairs if word in COLORS and after not in parts]

    def one(found: list[str]) -> str | None:
        if len(found) > 1:
            raise DreamFusionError(f"In {text!r}, {' and '.join(found)} contradict each other: name one of them.")
        return found[0] if found else None

    return Toy(
        kind,
        color=one(own),
        pattern=one([word for word in words if word in PATTERNS]),
        size=one([word for word in words if word in SIZES]),
        part_color=one(colors[parts[0]]),
        trim_color=one(colors[parts[1]]) if len(parts) > 1 else None,
        finish=one([word for word in words if word in world.finishes]),
    )
