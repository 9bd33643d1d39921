"""What every section of the configuration has in common: typed, frozen, without unknown keys, and clear about errors.

Each field stands with its type, its range and its default, and a string below it with its meaning. A meaning may end in
``(paper: ...)``, which says where the paper has the number.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from dreamfusion.config.wrong import explained

Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Side = Annotated[int, Field(ge=8, le=2048)]
"""Side of a square picture in pixels."""


class Section(BaseModel):
    """A part of the configuration. A wrong value is a `dreamfusion.config.WrongValueError` that names its key."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    is_value: ClassVar[bool] = False
    """Whether it stands for one value, as a schedule does."""

    if not TYPE_CHECKING:  # type checkers derive the arguments from the fields

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise explained(error, known_keys(type(self))) from None

        __init__.__pydantic_base_init__ = True  # sections inside of others are validated without it, as BaseModel's

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        """Let a schedule of which only some parts are given keep the other parts of its default."""
        if not isinstance(values, dict):
            return values
        parts = {name: field.default.parts() for name, field in cls.model_fields.items() if _is_value(field.default)}
        return values | {
            name: parts[name] | value for name, value in values.items() if name in parts and isinstance(value, dict)
        }


def _is_value(default: Any) -> bool:
    return isinstance(default, Section) and default.is_value


def wrong(key: str, message: str) -> PydanticCustomError:
    """Return the error of a section's validator for its field ``key``: several fields do not go together."""
    return PydanticCustomError("wrong_value", "{message}", {"message": message, "key": key})


def section_of(field: FieldInfo) -> type[Section] | None:
    """Return the section that a field holds, also if it may be none; None if it holds a value, such as a schedule."""
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, Section) and not kind.is_value:
            return kind
    return None


def walk(section: type[Section], prefix: str = "") -> Iterator[tuple[str, type[Section], FieldInfo]]:
    """Yield the dotted key of every field, the section that it stands in, and pydantic's knowledge of it.

    A section itself comes before its fields.
    """
    for name, field in section.model_fields.items():
        yield prefix + name, section, field
        inner = section_of(field)
        if inner is not None:
            yield from walk(inner, f"{prefix}{name}.")


def known_keys(section: type[Section]) -> list[str]:
    """Return the dotted names of all keys of a section, and of the parts of its schedules."""
    keys = []
    for name, _, field in walk(section):
        keys.append(name)
        if _is_value(field.default):
            keys += [f"{name}.{part}" for part in field.default.parts()]
    return keys
