"""What the package's speed and memory are, measured against a baseline in the same run."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One measurement: ``value`` in ``unit``; ``baseline`` in the same unit; ``ratio`` = baseline / value, or None."""

    name: str
    value: float
    unit: str
    baseline: float | None = None
    ratio: float | None = None
