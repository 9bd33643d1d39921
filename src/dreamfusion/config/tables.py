"""Nested tables of plain values, as YAML has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_UNCHANGING = {"from": 0.0, "until": 1.0, "curve": "linear"}


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return nested tables with the values of ``changes`` in place of those of ``base``; schedules are tables, too."""
    result = dict(base)
    for key, value in changes.items():
        before = result.get(key)
        if isinstance(value, dict) and isinstance(before, int | float):
            before = _UNCHANGING | {"start": before, "end": before}  # such a schedule is written as a number
        result[key] = merged(before, value) if isinstance(value, dict) and isinstance(before, dict) else value
    return result


def leaves(tree: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the value of everything in a tree of tables."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
