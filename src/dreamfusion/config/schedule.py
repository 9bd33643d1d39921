"""What changes over a run, said in one way: from a start to an end, between two shares of the run, along a curve."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AliasChoices, Field, model_serializer, model_validator
from pydantic_core import PydanticCustomError

from dreamfusion.config.section import Section, wrong

Curve = Literal["linear", "sqrt", "cosine", "ramp", "stairs", "step"]


class Schedule(Section):
    """A number that may change over the run. In YAML a plain number stands for one that does not.

    Up to the share ``from`` of the run it is ``start``, from ``until`` on ``end``. So all of it follows the number of
    steps. In between m grows evenly from 0 to 1, and the curve is a function of it.
    """

    is_value = True

    start: float
    """value up to the share from"""
    end: float
    """value from the share until on"""
    from_: float = Field(default=0.0, ge=0, le=1, validation_alias=AliasChoices("from", "from_"))
    """share of the run at which it begins to change"""
    until: Annotated[float, Field(ge=0)] = 1.0
    """share of the run at which it has arrived; above 1 it does not get there"""
    curve: Curve = "linear"
    """linear: start + (end - start) m; sqrt: the same with sqrt(m), fast at first; cosine: half a wave, slow at both
    ends; ramp: end m, but never below start; stairs: one more at once, then at even intervals, the last at until;
    step: end at once, whatever until is"""

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, value: Any) -> Any:
        """Take a number as a schedule, and give all schedules that do not change the same form."""
        if isinstance(value, int | float) and not isinstance(value, bool):
            return {"start": value, "end": value}
        if isinstance(value, dict) and "start" in value and value["start"] == value.get("end"):
            return {name: value[name] for name in value if name not in ("from", "from_", "until", "curve")}
        return value

    @model_validator(mode="after")
    def _check(self) -> Schedule:
        if self.until < self.from_:
            raise wrong("until", "give from <= until")
        return self

    @model_serializer
    def _as_yaml(self) -> Any:
        start, end = (int(value) if value.is_integer() else value for value in (self.start, self.end))
        if start == end:
            return start
        return self.parts() | {"start": start, "end": end}

    def parts(self) -> dict[str, Any]:
        """Return all parts, as YAML has them."""
        return {"start": self.start, "end": self.end, "from": self.from_, "until": self.until, "curve": self.curve}

    def __str__(self) -> str:
        value = self._as_yaml()
        if not isinstance(value, dict):
            return f"{value:g}"
        written = (f"{part:.6g}" if isinstance(part, float) else part for part in value.values())
        return f"{{{', '.join(f'{name}: {part}' for name, part in zip(value, written, strict=True))}}}"

    @property
    def changes(self) -> bool:
        """Whether it is not the same number all the time."""
        return self.start != self.end

    @property
    def largest(self) -> float:
        """The larger one of both ends."""
        return max(self.start, self.end)

    def at(self, progress: float) -> float:
        """Return the value when the share ``progress`` of a run is done."""
        if not self.changes or progress < self.from_:
            return self.start
        span = self.until - self.from_
        return self._between(min(1.0, (progress - self.from_) / span) if span > 0 else 1.0)

    def at_step(self, step: int, steps: int) -> float:
        """Return the value at one of a run's ``steps``, with both shares rounded to whole steps."""
        first, last = round(self.from_ * steps), round(self.until * steps)
        if not self.changes or step < first:
            return self.start
        return self._between(min(1.0, (step - first) / max(1, last - first)))

    def _between(self, moved: float) -> float:
        """Return the value from ``from`` on, ``moved`` in [0, 1] being the part of the way to ``until``."""
        match self.curve:
            case "linear":
                return self.start + (self.end - self.start) * moved
            case "sqrt":
                return self.start + (self.end - self.start) * math.sqrt(moved)
            case "cosine":
                return self.end + (self.start - self.end) * 0.5 * (1 + math.cos(math.pi * moved))
            case "ramp":
                return max(self.start, self.end * moved)
            case "stairs":
                count = self.end - self.start
                return self.start + min(count, 1 + math.floor((count - 1) * moved + 1e-4))
            case "step":
                return self.end


@dataclass(frozen=True)
class Ends:
    """Bounds of both ends of a schedule, of those that are not None; ``whole`` numbers only, if so."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    whole: bool = False

    def __call__(self, schedule: Schedule) -> Schedule:
        """Return the schedule; pydantic's error if it leaves the bounds."""
        for value in (schedule.start, schedule.end):
            if self.ge is not None and value < self.ge:
                raise PydanticCustomError("range", "Input should be greater than or equal to {ge}", {"ge": self.ge})
            if self.gt is not None and value <= self.gt:
                raise PydanticCustomError("range", "Input should be greater than {gt}", {"gt": self.gt})
            if self.le is not None and value > self.le:
                raise PydanticCustomError("range", "Input should be less than or equal to {le}", {"le": self.le})
            if self.whole and not value.is_integer():
                raise PydanticCustomError("range", "Input should be a whole number")
        return schedule


ShareSchedule = Annotated[Schedule, AfterValidator(Ends(ge=0, le=1))]
WeightSchedule = Annotated[Schedule, AfterValidator(Ends(ge=0))]
PositiveSchedule = Annotated[Schedule, AfterValidator(Ends(gt=0))]
SideSchedule = Annotated[Schedule, AfterValidator(Ends(ge=8, le=2048, whole=True))]


def constant(value: float) -> Schedule:
    """Return the schedule that is always this value."""
    return Schedule(start=value, end=value)
