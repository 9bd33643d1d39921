"""A configuration of several files, put together as Hydra does: defaults lists, groups, choices, `KEY=VALUE` behind it.

Hydra itself asks for an older OmegaConf than the one that many have, so what NeMo's files need of it is here; merging,
references and reading are OmegaConf's. Left out are packages (``@`` in an entry), other search paths, and sweeps.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from dreamfusion.errors import DreamFusionError

STOCK = Path(__file__).parent / "stock"
"""NeMo's own values, laid out as its example folder is."""

_OVERRIDE, _OPTIONAL, _SELF = "override ", "optional ", "_self_"
_SYNTAX = re.compile(r"(?P<sign>\+{0,2}|~)(?P<name>[\w.\-/]+)(?:=(?P<value>.*))?", re.DOTALL)


@dataclass(frozen=True)
class Override:
    """``KEY=VALUE`` behind the file: ``sign`` is +, ++ or ~ as in Hydra, or nothing."""

    sign: str
    name: str
    value: str


def parse_overrides(texts: Sequence[str]) -> list[Override]:
    """Return what Hydra's overrides say; DreamFusionError for one that is none."""
    found = []
    for text in texts:
        match = _SYNTAX.fullmatch(text)
        if match is None or (match["value"] is None) != (match["sign"] == "~"):
            raise DreamFusionError(f"{text!r} is no override of a NeMo configuration: give KEY=VALUE, such as seed=3.")
        found.append(Override(match["sign"], match["name"], match["value"] or ""))
    return found


def is_override(text: str) -> bool:
    """Tell whether a word of the command line is meant as an override."""
    match = _SYNTAX.fullmatch(text)
    return match is not None and (match["value"] is not None or match["sign"] == "~")


def compose(path: Path, overrides: Sequence[Override] = ()) -> DictConfig:
    """Return an experiment with its ``model``, whether ``path`` holds all of it or the model alone.

    Groups are looked for beside the file, then among NeMo's own. ``overrides`` that choose for a group win over all
    files; `set_values` is for the others. References (``${...}``) are left as they are.
    Raises DreamFusionError, with one line, for what cannot be read, found or put together.
    """
    choices = {_bare(o.name): o.value for o in overrides if _is_choice(o, path.parent)}
    composer = _Composer([path.parent, STOCK, STOCK / "model"], choices)
    whole = composer.merged(composer.layers("", path, choices))
    if "model" not in whole:
        whole = OmegaConf.create({"model": whole})
    model = whole.model
    if not isinstance(model, DictConfig):
        raise DreamFusionError(f"model in {path} must be a table of keys and values.")
    if "defaults" in model:  # a whole experiment in one file, with the model's own list inside
        inner = _Composer([path.parent / "model", path.parent, STOCK / "model"], choices)
        whole.model = inner.merged(inner.of_table("", model, path, choices, ()))
        composer.used |= inner.used
    unused = [name for name in choices if name not in composer.used]
    if unused:
        raise DreamFusionError(f"{unused[0]}={choices[unused[0]]}: {path.name} chooses nothing for {unused[0]}.")
    return whole


def set_values(whole: DictConfig, overrides: Sequence[Override], path: Path) -> None:
    """Set in the experiment of the file ``path`` what overrides say of values; choices are `compose`'s.

    Raises DreamFusionError for a key that is not there and is not marked as new by a +.
    """
    for override in overrides:
        if not _is_choice(override, path.parent):
            _set(whole, override)


def load(path: Path) -> DictConfig:
    """Read a YAML file; OmegaConf's loader also reads 1e-3 as a number, which YAML 1.1 does not."""
    try:
        loaded = OmegaConf.create(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        raise DreamFusionError(f"Cannot read the configuration {path}: {str(error).splitlines()[0]}.") from None
    if not isinstance(loaded, DictConfig):
        raise DreamFusionError(f"{path} is no NeMo configuration: it must be a YAML table of keys and values.")
    return loaded


Layer = tuple[str, DictConfig]
"""The dotted place of a table in the whole, and the table."""


@dataclass
class _Composer:
    """Finds files in ``roots``, the first of them first; ``used`` are the groups that an override chose for."""

    roots: list[Path]
    choices: dict[str, str]
    used: set[str] = field(default_factory=set)

    def layers(self, group: str, path: Path, choices: dict[str, str], inside: tuple[Path, ...] = ()) -> Iterator[Layer]:
        """Yield the tables of a file and of all that it names, each to be laid over those before it."""
        if path in inside:
            raise DreamFusionError(f"defaults in {inside[-1]}: {path.stem} leads back to itself.")
        yield from self.of_table(group, load(path), path, choices, (*inside, path))

    def of_table(
        self, group: str, own: DictConfig, path: Path, choices: dict[str, str], inside: tuple[Path, ...]
    ) -> Iterator[Layer]:
        """Yield the same for a table of the file ``path`` that has been read.

        ``choices`` are those of the files that name this one, and so win over its own ``override`` entries.
        """
        entries = _entries(own.pop("defaults", OmegaConf.create([])), path)
        mine = {_join(group, name.removeprefix(_OVERRIDE)): o for name, o in entries if name.startswith(_OVERRIDE)}
        choices = mine | choices
        for name, option in entries:
            if name == _SELF:
                yield group.replace("/", "."), own
            elif name == "":
                yield from self.layers(group, self._file(group, option, path), choices, inside)
            elif not name.startswith(_OVERRIDE):
                chosen = _join(group, name.removeprefix(_OPTIONAL))
                if _bare(chosen) in self.choices or chosen in choices:
                    self.used |= {_bare(chosen), chosen}
                    option = choices.get(chosen, choices.get(_bare(chosen), option))
                if option == "null" or (name.startswith(_OPTIONAL) and self._find(chosen, option) is None):
                    continue
                yield from self.layers(chosen, self._file(chosen, option, path), choices, inside)
        unused = [name for name in mine if name not in self.used]
        if unused:
            raise DreamFusionError(
                f"defaults in {path}: override {unused[0]} has nothing to override, {unused[0]} is not listed."
            )

    def merged(self, layers: Iterator[Layer]) -> DictConfig:
        """Return the layers as one table."""
        whole = OmegaConf.create()
        for place, table in layers:
            nested: Any = table
            for name in reversed(place.split(".") if place else []):
                nested = OmegaConf.create({name: nested})
            try:
                whole = OmegaConf.merge(whole, nested)
            except (TypeError, ValueError, OmegaConfBaseException) as error:
                where = f"{place or 'the file'} and what it names"
                raise DreamFusionError(f"{where} do not go together: {str(error).splitlines()[0]}.") from None
        assert isinstance(whole, DictConfig)
        return whole

    def _find(self, group: str, option: str) -> Path | None:
        places = (root / group / f"{option.removesuffix('.yaml')}.yaml" for root in self.roots)
        return next((place for place in places if place.is_file()), None)

    def _file(self, group: str, option: str, named_in: Path) -> Path:
        found = self._find(group, option)
        if found is not None:
            return found
        known = sorted({file.stem for root in self.roots for file in (root / group).glob("*.yaml")})
        if not group or not known:
            raise DreamFusionError(f"defaults in {named_in}: there is no {_join(group, option)}.yaml.")
        raise DreamFusionError(f"defaults in {named_in}: {group} has no choice {option!r}, only {', '.join(known)}.")


def _entries(listed: Any, path: Path) -> list[tuple[str, str]]:
    """Return a defaults list as groups with their choices; ``_self_`` has none, another configuration no group."""
    if not isinstance(listed, ListConfig):
        raise DreamFusionError(f"defaults in {path} must be a list, such as [nerf: torchngp, _self_].")
    plain = OmegaConf.to_container(listed)
    assert isinstance(plain, list)
    entries = []
    for entry in plain if _SELF in plain else [*plain, _SELF]:
        if isinstance(entry, str) and "@" not in entry:
            entries.append((_SELF, "") if entry == _SELF else ("", entry))
        elif isinstance(entry, dict) and len(entry) == 1 and "@" not in str(next(iter(entry))):
            (group, option), *_ = entry.items()
            entries.append((str(group), "null" if option is None else str(option)))
        else:
            raise DreamFusionError(f"defaults in {path}: {entry!r} is no group with a choice, such as nerf: torchngp.")
    return entries


def _join(group: str, name: str) -> str:
    """Return the path of a group named in a file of another; one that begins with a slash is counted from the top."""
    return name[1:] if name.startswith("/") else f"{group}/{name}".lstrip("/")


def _bare(group: str) -> str:
    """Return the path of a group within the model, which may be a file of its own."""
    return group.removeprefix("model/")


def _is_choice(override: Override, beside: Path) -> bool:
    """Whether an override chooses for a group, and does not set a value."""
    if override.sign == "~" or "." in override.name:
        return False
    places = [root / _bare(override.name) for root in (beside, beside / "model", STOCK, STOCK / "model")]
    return "/" in override.name or any(place.is_dir() for place in places)


def _set(whole: DictConfig, override: Override) -> None:
    """Set or drop one value of an experiment."""
    place, _, last = override.name.rpartition(".")
    there = OmegaConf.select(whole, override.name, throw_on_missing=False, default=_ABSENT) is not _ABSENT
    if not there and not override.sign.startswith("+"):
        in_model = OmegaConf.select(whole.model, override.name, default=_ABSENT) is not _ABSENT
        hint = f"model.{override.name}" if in_model else f"+{override.name}"
        raise DreamFusionError(f"{override.name} is no key of this configuration. Did you mean {hint}?")
    try:
        if override.sign == "~":
            del (OmegaConf.select(whole, place) if place else whole)[last]
        else:
            value = OmegaConf.create(f"value: {override.value}").value if override.value else ""
            OmegaConf.update(whole, override.name, value, force_add=True)
    except (YAMLError, TypeError, ValueError, AttributeError, OmegaConfBaseException) as error:
        raise DreamFusionError(f"{override.name}={override.value}: {str(error).splitlines()[0]}.") from None


_ABSENT = object()
