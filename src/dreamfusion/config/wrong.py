"""What is wrong with a configuration, in one line that names the full key."""

from __future__ import annotations

from difflib import get_close_matches

from pydantic import ValidationError

from dreamfusion.errors import DreamFusionError


class WrongValueError(DreamFusionError):
    """A value of a configuration that is not possible; ``key`` is its dotted name, ``unknown`` if there is none."""

    def __init__(self, key: str, line: str, *, unknown: bool = False) -> None:
        super().__init__(line)
        self.key, self.unknown = key, unknown


def explained(error: ValidationError, known: list[str]) -> DreamFusionError:
    """Return the one line for the first thing that is wrong with the values of a section, whose keys are ``known``."""
    first = error.errors(include_url=False)[0]
    path = [str(part) for part in first["loc"]]
    given = first["input"]
    own = first.get("ctx", {}).get("key")  # of a section's own validator, whose input is the section
    if own is not None:
        path.append(own)
        given = given.get(own) if isinstance(given, dict) else getattr(given, own, None)
    key = ".".join(path)
    if key == "prompt" and first["type"] == "missing":
        return DreamFusionError('Nothing to make: give a prompt, for example "a red mushroom".')
    unknown = first["type"] == "extra_forbidden"
    hint = nearest(key, known) if unknown else ""
    told = "" if own is not None and given is None else f" (given: {given!r:.80})"
    return WrongValueError(key, f"{key}: {first['msg']}{told}.{hint}", unknown=unknown)


def nearest(key: str, known: list[str]) -> str:
    """Return a question with the known key that is most like an unknown one, or nothing."""
    place, _, last = key.rpartition(".")
    beside = [name.rpartition(".")[2] for name in known if name.rpartition(".")[0] == place]
    elsewhere = [name for name in known if name.rpartition(".")[2] == last]
    alike = get_close_matches(last, beside, n=1)
    here = [f"{place}.{name}".lstrip(".") for name in alike]
    # A key that only lacks its section is meant as it stands; a wrong one in a section is like its neighbours.
    close = (here + elsewhere if place else elsewhere + here) or get_close_matches(key, known, n=1)
    return f" Did you mean {close[0]}?" if close else ""
