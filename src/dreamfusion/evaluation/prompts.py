"""What is evaluated: a file with one prompt per line, or prompts that nobody picked."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dreamfusion.errors import DreamFusionError
from dreamfusion.evaluation.reading import shown
from dreamfusion.toybox.captions import caption, parse_toy
from dreamfusion.toybox.draw import accompanied, wider
from dreamfusion.toybox.words import understood
from dreamfusion.toybox.world import COLORS, PATTERNS, SIZES, SMALL, Toy, World, held_out, part_held_out

_SEED = 2022

DEFAULT_COUNT = 80
"""How many prompts are drawn if nobody says otherwise."""


@dataclass(frozen=True)
class PromptList:
    """Distinct prompts with the toys they describe, and what was noticed while reading them."""

    toys: dict[str, Toy]
    notes: tuple[str, ...] = ()


def default_prompts(count: int = DEFAULT_COUNT, world: World = SMALL) -> PromptList:
    """Return prompts drawn by chance with a fixed seed, in turn of all kinds; every second one is a held-out pair.

    The held-out combination is in turn that of kind and colour and that of kind and part colour. Two fifths of the
    toys have a pattern, three tenths a size, and a half a part of another colour, where the held-out pair does not
    decide it. In a wider world some have a finish, a second part of another colour, or company. No two look alike.
    Raises DreamFusionError for less than two.
    """
    if count < 2:
        raise DreamFusionError(
            "--prompts: give at least 2, so that seen and held-out pairs can be compared, or a file."
        )
    choose, kinds = random.Random(_SEED), world.kinds
    toys: dict[str, Toy] = {}
    for index in range(count):
        turn, place = divmod(index, len(kinds))
        new = (turn + place) % 2 == 1
        by_part = new and index % 4 > 1
        toy = _random_toy(choose, world, kinds[place], new=new, by_part=by_part)
        while any(shown(toy, world=world) == shown(other, world=world) for other in toys.values()):
            toy = _random_toy(choose, world, kinds[place], new=new, by_part=by_part)
        toys[caption(toy)] = toy
    return PromptList(toys)


def _random_toy(choose: random.Random, world: World, kind: str, *, new: bool, by_part: bool) -> Toy:
    """Return a toy of a kind, if ``new`` with a held-out pair of kind and colour, or of kind and part colour."""
    seen = [c for c in COLORS if not held_out(kind, c)]
    part_seen = [c for c in COLORS if not part_held_out(kind, c)]
    color = choose.choice([c for c in COLORS if held_out(kind, c)] if new and not by_part else seen)
    part_color = choose.choice(part_seen) if choose.random() < 0.5 else None
    if by_part:
        part_color = next(c for c in COLORS if part_held_out(kind, c))
        color = choose.choice([c for c in seen if c != part_color])
    pattern = choose.choice(PATTERNS) if choose.random() < 0.4 else None
    size = choose.choice(list(SIZES)) if choose.random() < 0.3 else None
    toy = Toy(kind, color, pattern, size, part_color if part_color != color else None)
    if not new:  # what is held out stays in the picture
        toy = accompanied(toy, world, choose)
    return wider(toy, world, choose)


def chosen_prompts(asked: str | None, world: World = SMALL) -> PromptList:
    """Return the prompts of a file, or as many drawn ones as a number says, of what a prior's world holds."""
    if asked is None or asked.isdecimal():
        return default_prompts(int(asked or DEFAULT_COUNT), world)
    return read_prompts(Path(asked), world)


def read_prompts(path: Path, world: World = SMALL) -> PromptList:
    """Read one prompt per line; empty lines and repetitions are left out and noted, as are words read as others.

    Raises DreamFusionError, naming the lines, for a file that cannot be read, is not UTF-8, holds no prompt, or has
    prompts that describe no toy: without a toy there is no truth to compare with.
    """
    toys: dict[str, Toy] = {}
    notes, wrong = [], []
    for number, line in read_lines(path):
        reading = understood(" ".join(line.split()), world)
        prompt = reading.prompt
        if reading.notes:
            notes.append(f"line {number} is read as {prompt!r} ({', '.join(reading.notes)})")
        if not prompt:
            notes.append(f"line {number} is empty; left out")
        elif prompt in toys:
            notes.append(f"line {number} repeats {prompt!r}; left out")
        else:
            try:
                toys[prompt] = parse_toy(prompt, world)
            except DreamFusionError as error:
                wrong.append(f"line {number}: {error}")
    if wrong:
        more = f" ({len(wrong) - 1} more such lines)" if len(wrong) > 1 else ""
        raise DreamFusionError(f"{path}, {wrong[0]}{more}")
    if not toys:
        raise DreamFusionError(f"{path} holds no prompt: write one per line, for example: a red mushroom.")
    return PromptList(toys, tuple(notes))


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Return the lines of a text file with their numbers; DreamFusionError if it cannot be read or is not UTF-8."""
    try:
        return list(enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1))
    except UnicodeDecodeError as error:
        raise DreamFusionError(f"{path} is not UTF-8 (byte {error.start}): save it in that encoding.") from None
    except OSError as error:
        raise DreamFusionError(f"Cannot read the prompts {path}: {error.strerror}.") from None


def distinct_shapes(toys: Sequence[Toy]) -> list[str]:
    """Return the captions of the distinct shapes among toys, by kind and size alone, sorted."""
    return sorted({caption(shape(toy)) for toy in toys})


def shape(toy: Toy) -> Toy:
    """Return the toy without its colours, pattern and finish: what a textureless rendering can show."""
    return Toy(toy.kind, size=toy.size, relation=toy.relation, other=shape(toy.other) if toy.other else None)
