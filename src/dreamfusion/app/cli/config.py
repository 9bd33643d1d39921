"""``dreamfusion config``."""

from __future__ import annotations

from textwrap import fill

from tyro.conf import Positional

from dreamfusion.config.reference import Entry, entries
from dreamfusion.config.wrong import nearest
from dreamfusion.errors import DreamFusionError


def config(key: Positional[str | None] = None, *, search: str | None = None) -> None:
    """Say what the keys of the configuration mean, which values they take, and their defaults.

    For example:
        dreamfusion config guidance.t_max
        dreamfusion config --search light

    Args:
        key: a key such as guidance.t_max, or a section such as optim; all keys if not given
        search: show the keys whose name or meaning has this word

    """
    found = list(entries())
    if key is not None:
        inside = [entry for entry in found if f"{entry.key}.".startswith(f"{key}.")]
        if not inside:
            raise DreamFusionError(f"There is no key {key}.{nearest(key, [entry.key for entry in found])}")
        found = inside
    if search is not None:
        found = [entry for entry in found if search.lower() in f"{entry.key} {entry.meaning}".lower()]
        if not found:
            raise DreamFusionError(f"No key has {search!r} in its name or meaning: search for a shorter word.")
    print("\n".join(map(described, found)))


def described(entry: Entry) -> str:
    """Return a key in a few lines."""
    allowed = f", {entry.allowed}" if entry.allowed else ""
    paper = f" (paper {entry.paper})" if entry.paper else ""
    meaning = fill(f"{entry.meaning}{paper}", 100, initial_indent="    ", subsequent_indent="    ")
    return f"{entry.key}: {entry.default}\n    {entry.kind}{allowed}\n{meaning}"
