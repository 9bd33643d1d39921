"""What one key of NeMo's can mean here: it sets keys of ours, must have one of a few values, or has no effect."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class LeftOut(Enum):
    """What becomes of a key that a configuration leaves out, if it is not a value."""

    REFUSED = "NeMo has no default for it"
    HARMLESS = "nothing"


@dataclass(frozen=True)
class Key:
    """What one key of NeMo's means: ``put`` maps its value to values of the keys ``ours``, in their order.

    ``put`` is also given all the values of the key's part, by name. ``allowed``, if not None, are the only values that
    it may have; ``left_out`` is what NeMo's code takes where the key is missing. ``told`` says that the user is told
    of a key without effect, since with NeMo it changes the result.
    """

    ours: tuple[str, ...] = ()
    put: Callable[[Any, Mapping[str, Any]], tuple[Any, ...]] = lambda value, part: (value,)
    allowed: tuple[Any, ...] | None = None
    left_out: Any = LeftOut.HARMLESS
    remark: str = ""
    told: bool = False


@dataclass(frozen=True)
class Part:
    """One choice for a part of the configuration: its keys, what choosing it sets here, and what the user is told."""

    keys: dict[str, Key]
    sets: dict[str, Any] = field(default_factory=dict)
    remark: str = ""
    note: str = ""


def to(
    *ours: str,
    by: Callable[[Any], Any] | None = None,
    beside: Callable[[Any, Mapping[str, Any]], Any] | None = None,
    among: Mapping[Any, Any] | None = None,
    left_out: Any = LeftOut.REFUSED,
    remark: str = "",
) -> Key:
    """Return a key that sets ours, with one value for each of ours if there are several.

    The value is theirs, or what ``by`` makes of it, or ``beside`` of it and the whole part, or what ``among`` has for
    it, which then holds all the values that there are.
    """

    def put(value: Any, part: Mapping[str, Any]) -> tuple[Any, ...]:
        if among is not None:
            value = among[value]
        elif beside is not None:
            value = beside(value, part)
        elif by is not None:
            value = by(value)
        return (value,) if len(ours) == 1 else tuple(value)

    return Key(ours, put, None if among is None else tuple(among), left_out, remark)


def only(*values: Any, why: str, left_out: Any = LeftOut.HARMLESS) -> Key:
    """Return a key that must have one of these values here."""
    return Key(allowed=values, left_out=left_out, remark=why)


def unused(why: str, *, told: bool = False, left_out: Any = LeftOut.HARMLESS) -> Key:
    """Return a key without effect here; ``told`` if the user is told so at the start of a run."""
    return Key(left_out=left_out, remark=why, told=told)
