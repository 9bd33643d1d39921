"""What every section of the configuration has in common: typed, frozen, without unknown keys, and clear about errors.

Each field stands with its type, its range and its default, and a string below it with its meaning. A meaning may end in
``(paper: ...)``, which says where the paper has the number.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Side = Annotated[int, Field(ge=8, le=2048)]
"""Side of a square picture in pixels."""


class Section(BaseModel):
    """A part of the configuration. A wrong value is a `dreamfusion.config.WrongValueError` that names its key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    if not TYPE_CHECKING:  # type checkers derive the arguments from the fields

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                from dreamfusion.config.wrong import explained

                raise explained(error, type(self)) from None

        __init__.__pydantic_base_init__ = True  # sections inside of others are validated without it, as BaseModel's


def wrong(key: str, message: str) -> PydanticCustomError:
    """Return the error of a section's validator for its field ``key``: several fields do not go together."""
    return PydanticCustomError("wrong_value", "{message}", {"message": message, "key": key})


def section_of(field: FieldInfo) -> type[Section] | None:
    """Return the section that a field holds, also if it may be none; None if it holds a value."""
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, Section):
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
