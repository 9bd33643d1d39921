"""The volume: a field that is optimised, what is behind it, and the grid that lets rays skip empty space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dreamfusion.assets.mesh import Mesh, extract_mesh
from dreamfusion.config import LossConfig, OptimConfig, SceneConfig, Shading
from dreamfusion.fields.build import build_background, build_field
from dreamfusion.fields.field import Field
from dreamfusion.method.cameras import Cameras
from dreamfusion.method.shading import Lights, headlights
from dreamfusion.renderers.nerfacc import require_nerfacc
from dreamfusion.renderers.occupancy import OccupancyConfig, OccupancyGrid
from dreamfusion.renderers.proposal import ProposalNetwork
from dreamfusion.renderers.volume import RenderSettings, VolumeOutput, render, render_pictures
from dreamfusion.scenes.regularizers import depth_spread, picture_terms, surface_change
from dreamfusion.scenes.scene import FixedSize, Views


class VolumeScene(FixedSize, nn.Module):
    """Field, background and occupancy grid of one object."""

    def __init__(self, config: SceneConfig, seed: int = 0) -> None:
        """Initialise from a configuration; the random weights follow from ``seed``."""
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.config = config
        self.field = build_field(config, generator)
        self.background = build_background(config, generator)
        step, density = config.step_length, config.occupancy_density
        self.occupancy = OccupancyGrid(OccupancyConfig(config.occupancy_resolution, step_length=step, density=density))
        self.proposal: ProposalNetwork | None = None
        if config.renderer == "proposal":
            self.proposal = ProposalNetwork(config.proposal, generator)
        if config.renderer == "nerfacc":
            require_nerfacc()
        self.settings = RenderSettings(
            step_length=step,
            dt_gamma=config.dt_gamma,
            max_steps=config.max_steps,
            marcher="nerfacc" if config.renderer == "nerfacc" else "warp",
            material=config.material,
        )

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return self.field.progress.device

    @property
    def colors(self) -> Field:
        """The field itself."""
        return self.field

    @property
    def has_surface(self) -> bool:
        """A volume has none: it is found at some level of density."""
        return False

    def parameter_groups(self, optim: OptimConfig) -> list[dict[str, Any]]:
        """Return optimiser groups: hash grid, networks, and what learns of background and proposal network."""
        groups = self.field.parameter_groups(optim.grid_lr, optim.network_lr)
        behind = list(self.background.parameters())
        if behind:
            groups.append({"params": behind, "lr": optim.background_lr or optim.network_lr})
        if self.proposal is not None:
            groups.append({"params": list(self.proposal.parameters()), "lr": optim.network_lr})
        return groups

    def prepare(self, step: int, progress: float, generator: torch.Generator) -> None:
        """Bring up to date what rendering relies on, before a ``step`` of a run, ``progress`` of which is done.

        That is the field's annealing and, every ``occupancy_interval`` steps, which cells are occupied.
        """
        self.field.progress.fill_(progress)
        if self.proposal is None and step % self.config.occupancy_interval == 0:
            self.occupancy.update(self.field, generator)

    def render(self, views: Views, generator: torch.Generator) -> VolumeOutput:
        """Render training views, differentiably."""
        return render(
            self.field,
            self.background,
            self.occupancy,
            views.cameras.to(self.device).rays(views.height, views.size, 1.0),
            views.lights.to(self.device),
            views.shading,
            self.settings,
            generator=generator,
            backdrop=views.backdrop.to(self.device) if self.config.background == "random" else None,
            with_normals=views.with_normals,
            proposal=self.proposal,
        )

    def regularize(
        self, out: VolumeOutput, views: Views, loss: LossConfig, progress: float, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Return the weighted terms that keep a volume compact, solid, outward-facing and smooth (paper A.2)."""
        orientation = loss.orientation.at(progress)
        terms = picture_terms(out, loss, progress) | {"orientation_loss": orientation * out.orientation.mean()}
        if out.interlevel is not None and out.distortion is not None:
            terms["interlevel_loss"] = loss.interlevel * out.interlevel
            terms["distortion_loss"] = loss.distortion * out.distortion
        if loss.z_variance > 0:
            terms["z_variance_loss"] = loss.z_variance * depth_spread(out.opacity, out.depth_variance)
        if loss.normal_smooth_3d > 0:
            rays = views.cameras.to(self.device).rays(views.height, views.size, 1.0)
            terms["normal_smooth_3d_loss"] = loss.normal_smooth_3d * surface_change(self.field, rays, out, generator)
        return terms

    def mesh(self, resolution: int, max_faces: int | None = None) -> Mesh:
        """Return the object's surface, from ``resolution`` samples per side (see `extract_mesh`)."""
        smoothing = self.config.surface_smoothing
        return extract_mesh(self.field, resolution, smoothing=smoothing, max_faces=max_faces)

    def refresh(self) -> None:
        """Find anew which cells are occupied: the grid of a run lags behind its field."""
        if self.proposal is None:
            self.occupancy.refresh(self.field, torch.Generator().manual_seed(0))

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
        """Render finished pictures of (width, height) pixels in every shading, with opacity and, if asked, normals.

        On the black backdrop of the default, ``rgb`` is that of the object alone, times its opacity.
        """
        width, height = size
        return render_pictures(
            self.field,
            self.background,
            self.occupancy,
            cameras.to(self.device).rays(height, width),
            (lights or headlights(cameras)).to(self.device),
            shadings,
            self.settings,
            backdrop=torch.tensor(backdrop, device=self.device).expand(len(cameras), 3),
            with_normals=with_normals,
            proposal=self.proposal,
        )
