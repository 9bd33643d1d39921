"""What is evaluated: a file with one prompt per line, or forty prompts that nobody picked."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dreamfusion.errors import DreamFusionError
from dreamfusion.toybox.captions import caption, parse_toy
from dreamfusion.toybox.kinds import KINDS
from dreamfusion.toybox.words import understood
from dreamfusion.toybox.world import COLORS, PATTERNS, SIZES, Toy, held_out, part_held_out

_SEED = 2022


@dataclass(frozen=True)
class PromptList:
    """Distinct prompts with the toys they describe, and what was noticed while reading them."""

    toys: dict[str, Toy]
    notes: tuple[str, ...] = ()


def default_prompts() -> PromptList:
    """Return two prompts per kind, drawn by chance with a fixed seed: one seen in training, one held out.

    The held-out combination is in turn that of kind and colour and that of kind and part colour. A third of the toys
    has a pattern, a fifth a size, and a half a part of another colour, where the held-out pair does not decide it.
    """
    choose = random.Random(_SEED)
    toys: dict[str, Toy] = {}
    for index, kind in enumerate(KINDS):
        seen = [c for c in COLORS if not held_out(kind, c)]
        part_seen = [c for c in COLORS if not part_held_out(kind, c)]
        for new in (False, True):
            part_new = new and index % 2 == 1
            color = choose.choice([c for c in COLORS if held_out(kind, c)] if new and not part_new else seen)
            part_color = choose.choice(part_seen) if choose.random() < 0.5 else None
            if part_new:
                part_color = next(c for c in COLORS if part_held_out(kind, c))
                color = choose.choice([c for c in seen if c != part_color])
            pattern = choose.choice(PATTERNS) if choose.random() < 1 / 3 else None
            size = choose.choice(list(SIZES)) if choose.random() < 0.2 else None
            toy = Toy(kind, color, pattern, size, part_color if part_color != color else None)
            toys[caption(toy)] = toy
    return PromptList(toys)


def read_prompts(path: Path) -> PromptList:
    """Read one prompt per line; empty lines and repetitions are left out and noted, as are words read as others.

    Raises DreamFusionError, naming the lines, for a file that cannot be read, is not UTF-8, holds no prompt, or has
    prompts that describe no toy: without a toy there is no truth to compare with.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DreamFusionError(f"{path} is not UTF-8 (byte {error.start}): save it in that encoding.") from None
    except OSError as error:
        raise DreamFusionError(f"Cannot read the prompts {path}: {error.strerror}.") from None
    toys: dict[str, Toy] = {}
    notes, wrong = [], []
    for number, line in enumerate(lines, 1):
        reading = understood(" ".join(line.split()))
        prompt = reading.prompt
        if reading.notes:
            notes.append(f"line {number} is read as {prompt!r} ({', '.join(reading.notes)})")
        if not prompt:
            notes.append(f"line {number} is empty; left out")
        elif prompt in toys:
            notes.append(f"line {number} repeats {prompt!r}; left out")
        else:
            try:
                toys[prompt] = parse_toy(prompt)
            except DreamFusionError as error:
                wrong.append(f"line {number}: {error}")
    if wrong:
        more = f" ({len(wrong) - 1} more such lines)" if len(wrong) > 1 else ""
        raise DreamFusionError(f"{path}, {wrong[0]}{more}")
    if not toys:
        raise DreamFusionError(f"{path} holds no prompt: write one per line, for example: a red mushroom.")
    return PromptList(toys, tuple(notes))


def distinct_shapes(toys: Sequence[Toy]) -> list[str]:
    """Return the captions of the distinct shapes among toys, by kind and size alone, sorted."""
    return sorted({caption(shape(toy)) for toy in toys})


def shape(toy: Toy) -> Toy:
    """Return the toy without its colours and pattern: what a textureless rendering can show."""
    return Toy(toy.kind, size=toy.size)
