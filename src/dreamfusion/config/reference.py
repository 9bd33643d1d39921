"""What every key of the configuration means: for docs/configuration.md, `dreamfusion config` and each config.yaml.

``python -m dreamfusion.config.reference`` writes the table of the document again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from dreamfusion.config.meanings import meanings
from dreamfusion.config.run import Config
from dreamfusion.config.section import Section, section_of, walk
from dreamfusion.io.files import write_table

_PAPER = re.compile(r"\s*\(paper: ([^()]*)\)$")


@dataclass(frozen=True)
class Entry:
    """One key in words: its type, what it may be, its default, its meaning, and where the paper has it."""

    key: str
    kind: str
    allowed: str
    default: str
    meaning: str
    paper: str


def entries() -> Iterator[Entry]:
    """Yield every key that holds a value, in the order of a config.yaml."""
    for key, section, field in walk(Config):
        inner = section_of(field)
        if inner is not None and not field.is_required() and field.default is not None:
            continue  # a section: its keys follow
        text = meanings(section)[key.rpartition(".")[2]]
        paper = _PAPER.search(text)
        yield Entry(
            key,
            _kind(field.annotation),
            _allowed(field),
            "required" if field.is_required() else _plain(field.default),
            _PAPER.sub("", text),
            paper[1] if paper else "",
        )


def table() -> str:
    """Return the Markdown tables of docs/configuration.md, one for each section."""
    sections: dict[str, list[Entry]] = {}
    for entry in entries():
        sections.setdefault(entry.key.rpartition(".")[0], []).append(entry)
    return "\n\n".join(_section_table(name, content) for name, content in sections.items()) + "\n"


def _section_table(name: str, content: list[Entry]) -> str:
    lines = [f"### {f'`{name}`' if name else 'the run'}", ""]
    lines += ["| key | type | range | default | meaning | paper |", "|---|---|---|---|---|---|"]
    for entry in content:
        cells = (f"`{entry.key}`", entry.kind, entry.allowed, f"`{entry.default}`", entry.meaning, entry.paper)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)


def _kind(annotation: Any) -> str:
    """Return a type in words."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(inside[0])
    if origin in (Union, UnionType):
        return " or ".join("null" if kind is NoneType else _kind(kind) for kind in inside)
    if origin is Literal:
        return "choice"
    if origin is tuple:
        return f"list of {_kind(inside[0])}s"
    if origin is dict:
        return f"table of {_kind(inside[0])}s and {_kind(inside[1])}s"
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return "schedule" if annotation.is_value else "section"
    return {int: "whole number", float: "number", bool: "true or false", str: "text"}[annotation]


def _allowed(field: FieldInfo) -> str:
    """Return what a field may be in words: choices, or bounds."""
    choices = [value for kind in _flat(field.annotation) if get_origin(kind) is Literal for value in get_args(kind)]
    if choices:
        return ", ".join(map(str, choices))
    bounds = [*field.metadata, *_bounds(field.annotation)]
    words = []
    for bound in (getattr(bound, "func", bound) for bound in bounds):  # those of a schedule are a function
        for name, sign in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"), ("min_length", "length >=")):
            value = getattr(bound, name, None)
            if value is not None and f"{sign} {_plain(value)}" not in words:
                words.append(f"{sign} {_plain(value)}")
    return ", ".join(words)


def _flat(annotation: Any) -> list[Any]:
    """Return a type and all types within it."""
    if get_origin(annotation) is Literal:
        return [annotation]
    return [annotation, *(part for inner in get_args(annotation) for part in _flat(inner))]


def _bounds(annotation: Any) -> list[Any]:
    """Return the bounds that stand inside a type, such as those of a tuple's items."""
    found = []
    for kind in _flat(annotation):
        for data in getattr(kind, "__metadata__", ()):
            found += [data, *getattr(data, "metadata", ())]
    return found


def _plain(value: Any) -> str:
    """Return a value as YAML has it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_plain, value))}]"
    return '""' if value == "" else str(value)


if __name__ == "__main__":
    write_table(Path("docs/configuration.md"), table())
