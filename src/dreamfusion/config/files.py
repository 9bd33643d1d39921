"""Configurations as YAML files."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import yaml

from dreamfusion.config.meanings import meanings
from dreamfusion.config.parse import parse_config
from dreamfusion.config.run import Config
from dreamfusion.config.section import Section
from dreamfusion.config.wrong import WrongValueError
from dreamfusion.errors import DreamFusionError
from dreamfusion.io.files import write_text


def save_config(config: Config, path: Path) -> None:
    """Write the whole configuration as YAML, with the meaning of every key above it."""
    write_text(path, "\n".join(_lines(config)) + "\n")


def _lines(section: Section) -> list[str]:
    """Return the lines of a section, a comment before every key."""
    lines = []
    for name, meaning in meanings(type(section)).items():
        value = getattr(section, name)
        lines += textwrap.wrap(meaning, 110, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)
        if isinstance(value, Section) and not value.is_value:
            lines += [f"{name}:", *(f"  {line}" for line in _lines(value))]
        else:
            lines += _plain(name, section.model_dump(mode="json", include={name})[name])
    return lines


def _plain(name: str, value: Any) -> list[str]:
    """Return the lines of a key without keys of its own; a list or a schedule takes one."""
    if isinstance(value, dict | list):
        return [f"{name}: {yaml.safe_dump(value, default_flow_style=True, sort_keys=False, **_STYLE).strip()}"]
    return yaml.safe_dump({name: value}, **_STYLE).splitlines()


_STYLE: dict[str, Any] = {"allow_unicode": True, "width": 10**6}


def load_config(path: Path) -> Config:
    """Read a configuration written by `save_config`; DreamFusionError if that is not possible."""
    try:
        return parse_config(read_yaml(path))
    except WrongValueError as error:
        if not error.unknown:
            raise
        raise DreamFusionError(
            f"{path} has a key that this version does not know: {error} If a newer one wrote it, upgrade dreamfusion."
        ) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the table in a YAML file; DreamFusionError if it cannot be read or holds something else."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise DreamFusionError(f"Cannot read the configuration {path}: {reason}.") from None
    if not isinstance(values, dict):
        raise DreamFusionError(f"{path} is not a configuration: it must be a YAML table of keys and values.")
    return values
