"""Markdown tables of figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def show(value: float | None, unit: str = "") -> str:
    """Return a figure as in a table: "93 %" with the unit "%", else three significant digits; a dash for None."""
    if value is None:
        return "–"
    return f"{100 * value:.0f} %" if unit == "%" else f"{value:#.3g}".rstrip(".")


def table(rows: Mapping[str, Mapping[str, float | None]], columns: Mapping[str, tuple[str, str]], first: str) -> str:
    """Return a table with a row per name; ``columns`` are titles and units by the names of figures.

    ``first`` is the title of the column of names.
    """
    titles = [title for title, _ in columns.values()]
    lines = [_line([first, *titles]), "|---" * (len(titles) + 1) + "|"]
    for name, figures in rows.items():
        lines.append(_line([name, *(show(figures.get(key), unit) for key, (_, unit) in columns.items())]))
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
