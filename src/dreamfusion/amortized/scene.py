"""The network as a scene: the ordinary loop trains it, and sees another of its scenes at every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dreamfusion.amortized.network import SceneNetwork, seed_noise
from dreamfusion.assets.mesh import ColoredDensity, Mesh
from dreamfusion.config import LossConfig, OptimConfig, SceneConfig, Shading
from dreamfusion.fields.field import Field
from dreamfusion.method.cameras import Cameras
from dreamfusion.method.shading import Lights
from dreamfusion.renderers.volume import VolumeOutput
from dreamfusion.scenes.scene import FixedSize, Views
from dreamfusion.scenes.volume import VolumeScene


def put(scene: VolumeScene, values: dict[str, Tensor]) -> None:
    """Put tensors in the place of the field's parameters of the same names; gradients flow through them."""
    for name, value in values.items():
        *path, leaf = name.split(".")
        owner = scene.field.get_submodule(".".join(path))
        if hasattr(owner, leaf):
            delattr(owner, leaf)
        setattr(owner, leaf, value)


class AmortizedScene(FixedSize, nn.Module):
    """A `SceneNetwork` with the text of every step: ``texts`` [steps, D] and ``seeds`` [steps].

    Its parameters are those of the network. `prepare` makes the scene of a step, which the other methods show. Space is
    not skipped: what was empty in the scene of the step before says nothing of this one.
    """

    def __init__(self, config: SceneConfig, network: SceneNetwork, texts: Tensor, seeds: Sequence[int]) -> None:
        super().__init__()
        self.config, self.network = config, network
        self._texts, self._seeds = texts, seeds
        # In a list, so that its parameters, which the network makes, are none of this module's.
        self._shown = [VolumeScene(config)]
        self.prepare(0, 0.0, torch.Generator())

    @property
    def shown(self) -> VolumeScene:
        """The scene of the step."""
        return self._shown[0]

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return self.network.mean.device

    @property
    def field(self) -> ColoredDensity:
        """The field of the scene of the step."""
        return self.shown.field

    @property
    def colors(self) -> Field:
        """The same."""
        return self.shown.field

    @property
    def has_surface(self) -> bool:
        """A volume has none."""
        return False

    def parameter_groups(self, optim: OptimConfig) -> list[dict[str, Any]]:
        """Return two groups: the tables with the grid's rate, all else with that of networks."""
        tables = [self.network.mean, self.network.basis]
        rest = [p for p in self.network.parameters() if all(p is not table for table in tables)]
        return [{"params": tables, "lr": optim.grid_lr}, {"params": rest, "lr": optim.network_lr}]

    def prepare(self, step: int, progress: float, generator: torch.Generator) -> None:
        """Make the scene of a ``step``, ``progress`` of the training being done."""
        at = min(step, len(self._seeds) - 1)
        device = self.device
        values = self.network(self._texts[at].to(device), seed_noise(self._seeds[at]).to(device))
        self.shown.to(device)
        put(self.shown, values)
        self.shown.field.progress.fill_(progress)

    def render(self, views: Views, generator: torch.Generator) -> VolumeOutput:
        """Render training views of the scene of the step; the gradient reaches the network."""
        return self.shown.render(views, generator)

    def regularize(
        self, out: VolumeOutput, views: Views, loss: LossConfig, progress: float, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Return the weighted terms of a volume."""
        return self.shown.regularize(out, views, loss, progress, generator)

    def refresh(self) -> None:
        """Nothing lags behind: no space is skipped."""

    def layers(
        self,
        cameras: Cameras,
        shadings: Sequence[Shading],
        size: tuple[int, int],
        *,
        lights: Lights | None = None,
        backdrop: Sequence[float] = (0.0, 0.0, 0.0),
        with_normals: bool = False,
    ) -> list[VolumeOutput]:
        """Render finished pictures of the scene of the step."""
        return self.shown.layers(cameras, shadings, size, lights=lights, backdrop=backdrop, with_normals=with_normals)

    def mesh(self, resolution: int, max_faces: int | None = None) -> Mesh:
        """Return the surface of the scene of the step."""
        return self.shown.mesh(resolution, max_faces)
