"""What the wide world adds to a toy, by chance: company, a second part of another colour, a finish."""

from __future__ import annotations

import random
from dataclasses import replace

from dreamfusion.toybox.kinds import ALL_KINDS
from dreamfusion.toybox.world import (
    COLORS,
    ON,
    Toy,
    World,
    finish_held_out,
    held_out,
    together_held_out,
    trim_held_out,
)

TOGETHER, TRIMMED, FINISHED = 0.15, 0.25, 0.3
"""Shares of toys with company, with a second part of another colour, and with a finish."""
NATURAL = 0.4
"""Share of wooden toys in the colour of wood, which captions do not name."""


def accompanied(toy: Toy, world: World, choose: random.Random, *, seen: bool = True) -> Toy:
    """Return the toy, in some cases next to or on another without a colour; such pictures name no sizes and parts.

    In a world without relations that is the toy itself, and nothing is drawn. With ``seen``, no scene is one of those
    that are held out.
    """
    if not world.relations or choose.random() >= TOGETHER:
        return toy
    relation = choose.choice(world.relations)
    fitting = [name for name in world.kinds if relation != ON or ALL_KINDS[name].seat]
    others = [name for name in fitting if not (seen and together_held_out(toy.kind, relation, name))]
    other = Toy(choose.choice([name for name in others if name != toy.kind]))
    return replace(toy, size=None, part_color=None, trim_color=None, relation=relation, other=other)


def wider(toy: Toy, world: World, choose: random.Random, *, seen: bool = True) -> Toy:
    """Return a toy of the small world with what a wider one paints: second part, finish, and the colour of its company.

    In the small world that is the toy itself, and nothing is drawn. With ``seen``, no combination is one of those that
    are held out.
    """
    if toy.other is not None:
        colors = [color for color in COLORS if not (seen and held_out(toy.other.kind, color))]
        toy = replace(toy, part_color=None, other=replace(toy.other, color=choose.choice(colors)))
    elif world.trims and choose.random() < TRIMMED:
        colors = [color for color in COLORS if not (seen and trim_held_out(toy.kind, color))]
        toy = replace(toy, trim_color=choose.choice(colors))
    if world.finishes and choose.random() < FINISHED:
        finishes = [name for name in world.finishes if not (seen and finish_held_out(toy.kind, name))]
        toy = replace(toy, finish=choose.choice(finishes))
        if toy.finish == "wooden" and choose.random() < NATURAL:
            toy = replace(toy, color=None)
    return toy
