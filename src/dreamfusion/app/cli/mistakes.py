"""Slips in a command's options, told in one line with what was probably meant."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from inspect import signature
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from tyro.conf import Positional

_POSITIONAL = get_args(Positional[str])[1:]
Command = tuple[str, Callable[..., Any]]
_NUMBERS = {int: "a whole number", float: "a number"}


@dataclass(frozen=True)
class Option:
    """What an option takes: one of ``choices`` if there are any, a kind of number, or any text.

    ``count`` is how many values stand behind it: 0, 1, or many (None).
    """

    choices: tuple[str, ...] = ()
    number: type[int] | type[float] | None = None
    count: int | None = 1

    def mistake(self, flag: str, value: str) -> str | None:
        """Return what is wrong with a value, None if nothing can be said."""
        if self.choices and value not in self.choices:
            return f"{flag} cannot be {value!r}: give {', '.join(self.choices)}.{_meant(value, self.choices)}"
        if self.number is not None:
            try:
                self.number(value)
            except ValueError:
                return f"{flag} takes {_NUMBERS[self.number]}, not {value!r}."
        return None


def mistake(name: str, function: Callable[..., Any], arguments: Sequence[str], others: Iterable[Command]) -> str | None:
    """Return what is wrong with the options of a command in one line, None if they are left to the parser.

    ``others`` are all commands, looked at only if need be: an option of another one is told to be that.
    """
    known, alone = options_of(function)
    if {"-h", "--help"} & set(arguments):
        return None
    flag, left = "", 0.0
    for word in arguments:
        if re.match(r"--?[A-Za-z]", word):
            flag, _, value = word.partition("=")
            if flag.startswith("--tyro-"):
                return None
            flag = flag.replace("_", "-")
            if flag not in known:
                return f"{name} has no option {flag}.{_advice(name, flag, known, alone, others)}"
            count = known[flag].count
            left = float("inf") if count is None else count - bool(value)
            values = [value] if value else []
        else:
            values = [word] if left > 0 else []
            left -= 1
        for value in values:
            if (wrong := known[flag].mistake(flag, value)) is not None:
                return wrong
    return None


def options_of(function: Callable[..., Any]) -> tuple[dict[str, Option], list[str]]:
    """Return the options of a command by their flags, and the names of what stands without one."""
    flags: dict[str, Option] = {}
    alone = []
    whole = get_type_hints(function, include_extras=True)
    for parameter, kind in get_type_hints(function).items():
        if parameter not in signature(function).parameters:
            continue
        notes = getattr(whole[parameter], "__metadata__", ())
        name = next((note.name for note in notes if getattr(note, "name", None)), parameter.replace("_", "-"))
        if any(note in _POSITIONAL for note in notes):
            alone.append(name)
            continue
        option = _option(kind)
        flags[f"--{name}"] = option
        if option.count == 0:
            flags[f"--no-{name}"] = option
    return flags, alone


def _option(kind: Any) -> Option:
    kinds = list(_plain(kind))
    choices = tuple(str(value) for one in kinds if get_origin(one) is Literal for value in get_args(one))
    number = kinds[0] if len(kinds) == 1 and kinds[0] in _NUMBERS else None
    count = 0 if kinds == [bool] else None if _is_list(kind) else 1
    return Option(choices if all(get_origin(one) is Literal for one in kinds) else (), number, count)


def _is_list(kind: Any) -> bool:
    return any(get_origin(one) in (tuple, list) for one in (kind, *get_args(kind)))


def _plain(kind: Any) -> Iterator[Any]:
    """Yield what a value may be, without the unions and tuples around it."""
    if kind in (NoneType, Ellipsis):
        return
    inner = () if get_origin(kind) in (None, Literal) else get_args(kind)
    if not inner:
        yield kind
    for one in inner:
        yield from _plain(one)


def _advice(name: str, flag: str, known: Mapping[str, Option], alone: Sequence[str], others: Iterable[Command]) -> str:
    """Return what was probably meant by an unknown option."""
    word = flag.lstrip("-")
    if word in alone:
        return f" Give the {word} without it: dreamfusion {name} {word.upper()}."
    if len(word) == 1:
        near = [one for one in known if one.startswith(f"--{word}")]
        return f" Did you mean {' or '.join(near)}?" if near else f" See dreamfusion {name} --help."
    if hint := _meant(word, [one.lstrip("-") for one in known], "--"):
        return hint
    having = [other for other, function in others if flag in options_of(function)[0]]
    if having:
        return f" It belongs to {', '.join(having[:3])}{' and others' * (len(having) > 3)}."
    return f" See dreamfusion {name} --help."


def _meant(word: str, known: Sequence[str], prefix: str = "") -> str:
    close = get_close_matches(word, known, cutoff=0.65) or [one for one in known if one.startswith(word)]
    close.sort(key=lambda one: one[:1] != word[:1])  # slips seldom change the first letter
    return f" Did you mean {prefix}{close[0]}?" if close else ""
