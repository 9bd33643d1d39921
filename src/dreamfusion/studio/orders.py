"""What the studio can be asked to do: one model for each kind of order, with the limits of its values."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from dreamfusion.config import PictureShading
from dreamfusion.config.presets import Preset, RefinePreset
from dreamfusion.errors import DreamFusionError
from dreamfusion.standard import MESH_FACES, ORBIT_ELEVATION_DEG, TEXTURE_SIZE, Format, Pivot

Steps = Annotated[int, Field(ge=1, le=100_000)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Text = Annotated[str, Field(min_length=1, max_length=2000, pattern=r"\S")]
Backdrop = Annotated[str, Field(pattern=r"^(#[0-9a-fA-F]{6}|[a-z]{3,20})$")]
"""A colour, "transparent" or "environment": no path, for who asks need not own the files of this machine."""

Lane = Literal["runs", "files"]
"""Runs take minutes; pictures and files of finished ones do not wait behind them."""


class _Order(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @property
    def lane(self) -> Lane:
        """Where it waits."""
        return "runs"

    def options(self) -> dict[str, Any]:
        """Return what was asked, without what was left open."""
        return self.model_dump(exclude_none=True, exclude={"kind"})


class Generate(_Order):
    """An object from words; ``model`` is one of those that the studio was started with."""

    kind: Literal["generate"]
    prompt: Text
    preset: Preset = "default"
    seed: Seed | None = None
    steps: Steps | None = None
    model: Text = "toybox"
    negative_prompt: Text | None = None
    guidance_scale: Annotated[float, Field(ge=0, le=1000)] | None = None

    @property
    def title(self) -> str:
        """What the queue calls it."""
        return self.prompt


class _OfRun(_Order):
    run: Text


class Resume(_OfRun):
    """A stopped run, continued where it was."""

    kind: Literal["resume"]
    steps: Steps | None = None

    @property
    def title(self) -> str:
        """What the queue calls it."""
        return f"Continue {self.run}"


class Refine(_OfRun):
    """A finished run as a mesh that is optimised itself."""

    kind: Literal["refine"]
    preset: RefinePreset = "default"
    seed: Seed | None = None
    steps: Steps | None = None

    @property
    def title(self) -> str:
        """What the queue calls it."""
        return f"Refine {self.run}"


class Render(_OfRun):
    """A picture of a finished run, or a film once around it."""

    kind: Literal["render"]
    shading: PictureShading = "lambertian"
    azimuth: Annotated[float, Field(ge=-360, le=360)] = 30.0
    elevation: Annotated[float, Field(ge=-90, le=90)] = ORBIT_ELEVATION_DEG
    size: Annotated[int, Field(ge=16, le=2048)] = 512
    light_azimuth: Annotated[float, Field(ge=-360, le=360)] | None = None
    light_elevation: Annotated[float, Field(ge=-90, le=90)] = 45.0
    environment: Literal["studio", "sunset", "overcast"] | None = None
    background: Backdrop = "#cccfd6"
    turntable: Annotated[int, Field(ge=2, le=360)] | None = None

    @property
    def lane(self) -> Lane:
        """Where it waits."""
        return "files"

    @property
    def title(self) -> str:
        """What the queue calls it."""
        return f"{'Film' if self.turntable else 'Picture'} of {self.run}"


class Export(_OfRun):
    """Mesh files of a finished run for other programs."""

    kind: Literal["export"]
    format: Annotated[tuple[Format, ...], Field(min_length=1)] = ("glb",)
    faces: Annotated[int, Field(ge=100, le=1_000_000)] = MESH_FACES
    texture_size: Annotated[int, Field(ge=64, le=4096)] = TEXTURE_SIZE
    height: Annotated[float, Field(ge=0.001, le=1000)] | None = None
    pivot: Pivot | None = None
    lod: Annotated[int, Field(ge=0, le=6)] = 0
    normal_map: bool = False
    compress: bool = False

    @property
    def lane(self) -> Lane:
        """Where it waits."""
        return "files"

    @property
    def title(self) -> str:
        """What the queue calls it."""
        return f"{', '.join(self.format).upper()} of {self.run}"


Order = Generate | Resume | Refine | Render | Export
_ANY: TypeAdapter[Order] = TypeAdapter(Annotated[Order, Field(discriminator="kind")])
KINDS = ("generate", "resume", "refine", "render", "export")


def parse_order(values: Any) -> Order:
    """Return the order that a mapping describes; DreamFusionError, in one line, for what is wrong with it."""
    try:
        return _ANY.validate_python(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"] if part not in KINDS)
        if first["type"].startswith("union_tag"):
            where, first["msg"] = "kind", f"give one of {', '.join(KINDS)}"
        raise DreamFusionError(f"{where or 'The order'}: {first['msg']}.") from None
