"""From nested plain values to a configuration."""

from __future__ import annotations

from typing import Any

from dreamfusion.config.earlier import translated
from dreamfusion.config.run import Config
from dreamfusion.errors import DreamFusionError


def parse_config(values: dict[str, Any]) -> Config:
    """Return the configuration of nested plain values; DreamFusionError naming the first wrong key.

    It is a `WrongValueError` if one value alone is wrong. Keys of earlier versions are read, too.
    """
    try:
        return Config(**translated(values))
    except TypeError as error:
        raise DreamFusionError(f"The configuration must be a table of keys and values: {error}.") from None
