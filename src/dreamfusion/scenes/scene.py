"""What a scene is: all that the loop, results, pictures and evaluation ask of what is optimised.

A kind of scene is a `torch.nn.Module` with the methods of `Scene`; `scenes.build` makes the configured one. Nothing
outside of this folder asks which kind it has. docs/extending.md lists the files that a new kind touches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import Self

from dreamfusion.assets.mesh import ColoredDensity, Mesh
from dreamfusion.config import LossConfig, OptimConfig, SceneConfig, Shading
from dreamfusion.fields.field import Field
from dreamfusion.method.cameras import Cameras
from dreamfusion.method.shading import Lights
from dreamfusion.renderers.output import RenderOutput
from dreamfusion.scenes.resized import Resized

PICTURE_BACKDROP = (0.80, 0.81, 0.84)
"""Colour behind the object in finished pictures."""


@dataclass(frozen=True)
class Views:
    """What a step wants to see: B square views, ``size`` pixels wide, with a light and a shading each.

    They have as many rows as columns unless ``rows`` says another number, of oblong pixels then.
    ``backdrop`` [B, 3] is a random colour per view, for scenes that are configured to have one behind them.
    """

    cameras: Cameras
    lights: Lights
    shading: Sequence[Shading]
    size: int
    backdrop: Tensor
    with_normals: bool = False
    rows: int | None = None

    @property
    def height(self) -> int:
        """The number of rows."""
        return self.rows or self.size

    @property
    def textureless(self) -> Tensor:
        """Which views [B] show shapes alone."""
        return torch.tensor([shading == "textureless" for shading in self.shading])

    def __getitem__(self, part: slice) -> Views:
        return replace(
            self,
            cameras=self.cameras[part],
            lights=self.lights[part],
            shading=self.shading[part],
            backdrop=self.backdrop[part],
        )


class Scene(Protocol):
    """What is optimised, as everybody else sees it.

    A scene may change the number of its parameters during a run, in `adapt` and nowhere else. Its ``state_dict`` is
    what a checkpoint holds of it: all that rendering and later steps follow from, buffers included.
    """

    config: SceneConfig

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""

    @property
    def field(self) -> ColoredDensity:
        """Density and albedo of the object as it is now, for textures and for scores of its shape."""

    @property
    def colors(self) -> Field | None:
        """The field with the object's colours, in which a refinement goes on; None if it has none."""

    @property
    def has_surface(self) -> bool:
        """Whether the scene is a surface itself, so that `mesh` finds none at a ``resolution``."""

    # A run

    def parameter_groups(self, optim: OptimConfig) -> list[dict[str, Any]]:
        """Return groups of "params" with their peak "lr"; always as many, in the same order."""

    def prepare(self, step: int, progress: float, generator: torch.Generator) -> None:
        """Bring up to date what rendering relies on, before a ``step`` of a run, ``progress`` of which is done."""

    def render(self, views: Views, generator: torch.Generator) -> RenderOutput:
        """Render training views, differentiably; ``generator`` (a CPU one) jitters what is sampled."""

    def regularize(
        self, out: Any, views: Views, loss: LossConfig, progress: float, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Return the weighted terms beside the distilled one, by their names in the log.

        ``out`` is what this scene's `render` returned of ``views`` in this step. `scenes.regularizers` has those that
        any scene's pictures can be held to.
        """

    def adapt(self, step: int, progress: float, generator: torch.Generator) -> Sequence[Resized]:
        """Add and remove parameters if the scene does so, and return them; called when ``step`` steps are done.

        The parameters have moved by then and still have the step's gradients. What is gathered of these for later
        steps belongs into buffers, so that a checkpoint holds it. ``generator`` is the one that `prepare` gets.
        """

    # Checkpoints

    def shape_like(self, saved: Mapping[str, Tensor]) -> Sequence[Resized]:
        """Take on the number of parameters of a saved ``state_dict``, before it is loaded, and return those changed."""

    def state_dict(self) -> dict[str, Any]:
        """Return all that a checkpoint holds of the scene."""

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any:
        """Take over a saved ``state_dict``; RuntimeError if it is one of another architecture."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return all parameters."""

    def to(self, device: torch.device) -> Self:
        """Move the scene to a device."""

    # Finished pictures

    def refresh(self) -> None:
        """Bring up to date what finished pictures rely on: `prepare` may lag behind during a run."""

    def layers(
        self,
        cameras: Cameras,
        shadings: Sequence[Shading],
        size: tuple[int, int],
        *,
        lights: Lights | None = None,
        backdrop: Sequence[float] = (0.0, 0.0, 0.0),
        with_normals: bool = False,
    ) -> Sequence[RenderOutput]:
        """Render finished pictures of (width, height) pixels in every shading, with opacity and, if asked, normals.

        Without ``lights``, a light goes with the camera. On the black backdrop of the default, ``rgb`` is that of the
        object alone, times its opacity. No gradient.
        """

    def mesh(self, resolution: int, max_faces: int | None = None) -> Mesh:
        """Return the object's closed surface, found with ``resolution`` samples per side unless `has_surface`.

        Raises DreamFusionError if the scene is empty or full.
        """


class Finished:
    """A scene as results show it: at its true size, ``scale`` times that at which it was distilled.

    Pictures of it are those of the scene with everything else, cameras and lights, ``1 / scale`` times as far away.
    """

    def __init__(self, scene: Scene, scale: float = 1.0) -> None:
        self.scene, self.scale = scene, scale

    @property
    def config(self) -> SceneConfig:
        """The configuration of the scene."""
        return self.scene.config

    @property
    def device(self) -> torch.device:
        """The device of the scene's parameters."""
        return self.scene.device

    @property
    def field(self) -> ColoredDensity:
        """Density and albedo of the object; the density is that of the scene, so that its surface stays what it is."""
        return _ScaledField(self.scene.field, self.scale)

    def layers(
        self,
        cameras: Cameras,
        shadings: Sequence[Shading],
        size: tuple[int, int],
        *,
        lights: Lights | None = None,
        backdrop: Sequence[float] = (0.0, 0.0, 0.0),
        with_normals: bool = False,
    ) -> list[RenderOutput]:
        """Render finished pictures; see `Scene.layers`."""
        turn, place = cameras.camera_to_world.split([3, 1], dim=2)
        away = torch.cat([turn, place / self.scale], dim=2)
        cameras = replace(cameras, camera_to_world=away, radius=cameras.radius / self.scale)
        lights = None if lights is None else replace(lights, position=lights.position / self.scale)
        outputs = self.scene.layers(
            cameras, shadings, size, lights=lights, backdrop=backdrop, with_normals=with_normals
        )
        return [replace(output, depth=output.depth * self.scale) for output in outputs]

    def mesh(self, resolution: int, max_faces: int | None = None) -> Mesh:
        """Return the object's closed surface; see `Scene.mesh`."""
        mesh = self.scene.mesh(resolution, max_faces)
        return replace(mesh, vertices=mesh.vertices * np.float32(self.scale))


@dataclass(frozen=True)
class _ScaledField:
    inner: ColoredDensity
    scale: float

    def density(self, x: Tensor) -> Tensor:
        return self.inner.density(x / self.scale)

    def albedo(self, x: Tensor) -> Tensor:
        return self.inner.albedo(x / self.scale)


class FixedSize:
    """A scene whose parameters stay as many as they are: what `Scene` asks of one that changes, answered once."""

    def adapt(self, step: int, progress: float, generator: torch.Generator) -> Sequence[Resized]:
        """Change nothing."""
        return ()

    def shape_like(self, saved: Mapping[str, Tensor]) -> Sequence[Resized]:
        """Change nothing: loading refuses what has another shape."""
        return ()


def finished_views(
    scene: Scene | Finished,
    cameras: Cameras,
    shadings: Sequence[Shading],
    size: int,
    *,
    lights: Lights | None = None,
    backdrop: Sequence[float] = PICTURE_BACKDROP,
) -> dict[Shading, Tensor]:
    """Render finished square pictures [B, 3, size, size] in every shading, without gradients.

    The backdrop is plain; without ``lights``, a light goes with the camera.
    """
    outputs = scene.layers(cameras, shadings, (size, size), lights=lights, backdrop=backdrop)
    return {shading: output.rgb for shading, output in zip(shadings, outputs, strict=True)}
