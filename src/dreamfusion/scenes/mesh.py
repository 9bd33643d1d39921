"""The scene of a refined run: a mesh in place of the volume."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dreamfusion.assets.mesh import Mesh, decimate
from dreamfusion.config import LossConfig, OptimConfig, SceneConfig, Shading
from dreamfusion.errors import DreamFusionError
from dreamfusion.fields.build import build_background, build_field
from dreamfusion.fields.field import Field
from dreamfusion.fields.tetrahedra import Surface, TetrahedralField
from dreamfusion.kernels.distance import mesh_distance
from dreamfusion.method.cameras import Cameras
from dreamfusion.method.shading import Lights, headlights
from dreamfusion.renderers.mesh import SurfaceOutput, render_surface
from dreamfusion.renderers.nvdiffrast import require_nvdiffrast
from dreamfusion.scenes.regularizers import picture_terms
from dreamfusion.scenes.scene import FixedSize, Views


class SurfaceField:
    """Density and albedo of a mesh, so that whatever takes a field, such as the geometry scores, takes a mesh too."""

    def __init__(self, surface: Surface, colors: Field) -> None:
        """Take a closed surface and the field of its colours."""
        self.surface, self.colors = surface, colors

    def density(self, x: Tensor) -> Tensor:
        """Return a density [N] per world unit at points [N, 3]: high inside, 22 at the surface, outside soon nothing.

        With 22 a step of 1/32 is half opaque, which is how `assets.mesh.surface_level` finds the surface again.
        """
        distance = mesh_distance(x, self.surface.vertices, self.surface.faces, 0.08)
        return 22.0 * torch.exp(-distance / 0.008).clamp(max=50.0)

    def albedo(self, x: Tensor) -> Tensor:
        """Return the albedo [N, 3] at points [N, 3]."""
        return self.colors.albedo(x.to(self.colors.progress.device)).to(x.device)


class MeshScene(FixedSize, nn.Module):
    """A tetrahedral grid with the surface, a hash grid with its colours, and what is behind it."""

    def __init__(self, config: SceneConfig, seed: int = 0) -> None:
        """Begin with a ball whose random colours follow from ``seed``; ``config.tetrahedra`` is its grid."""
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.config = config
        if config.rasterizer == "nvdiffrast":
            require_nvdiffrast()
        self.tetrahedra = TetrahedralField(config.tetrahedra)
        self.colors: Field = build_field(config, generator)
        self.colors.density_network.requires_grad_(False)  # the surface says where matter is
        self.background = build_background(config, generator)

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return self.colors.progress.device

    @property
    def field(self) -> SurfaceField:
        """Density and albedo of the object as it is now."""
        with torch.no_grad():
            return SurfaceField(self.tetrahedra.surface(), self.colors)

    @property
    def has_surface(self) -> bool:
        """It is one."""
        return True

    def start_from(self, mesh: Mesh, colors: Field | None = None) -> None:
        """Take over the shape of a closed mesh, and the colours of a field.

        Raises DreamFusionError if the grid shows nothing of the mesh, or the field is built differently.
        """
        vertices, faces = torch.from_numpy(mesh.vertices), torch.from_numpy(mesh.faces)
        grid = self.tetrahedra.grid
        # Beyond a few cells distances say no more than the side.
        self.tetrahedra.fit(mesh_distance(grid, vertices.to(grid), faces.to(grid.device), 4 * self.tetrahedra.side))
        if colors is not None:
            try:
                self.colors.load_state_dict(colors.state_dict())
            except RuntimeError:
                raise DreamFusionError("Colours of a run go on in the same networks: leave scene.nerf alone.") from None

    def parameter_groups(self, optim: OptimConfig) -> list[dict[str, Any]]:
        """Return optimiser groups: surface, field of the colours, and the background if it learns."""
        shape = self.tetrahedra
        if optim.offset_lr is None:
            groups = [{"params": [shape.distance, shape.offset], "lr": optim.surface_lr}]
        else:
            groups = [{"params": [shape.distance], "lr": optim.surface_lr}]
            groups.append({"params": [shape.offset], "lr": optim.offset_lr})
        if shape.bulge is not None:
            groups.append({"params": [shape.bulge], "lr": optim.bulge_lr})
        for group in self.colors.parameter_groups(optim.grid_lr, optim.network_lr):
            groups.append({**group, "params": [p for p in group["params"] if p.requires_grad]})
        behind = list(self.background.parameters())
        return [*groups, {"params": behind, "lr": optim.background_lr or optim.network_lr}] if behind else groups

    def prepare(self, step: int, progress: float, generator: torch.Generator) -> None:
        """Tell the field of colours which share of the run is done, for encodings that are annealed."""
        self.colors.progress.fill_(progress)

    def refresh(self) -> None:
        """Do nothing: the surface is as it is."""

    def mesh(self, resolution: int, max_faces: int | None = None) -> Mesh:
        """Return the mesh with its colours; ``resolution`` is that of the tetrahedra, whatever is asked for."""
        with torch.no_grad():
            surface = self.tetrahedra.surface()
            if max_faces is not None:
                parts = decimate(surface.vertices.cpu().numpy(), surface.faces.long().cpu().numpy(), max_faces)
                vertices, faces = (torch.from_numpy(part).to(self.device) for part in parts)
                surface = Surface(vertices, faces.int())
            normals, colors = surface.vertex_normals(), self.colors.albedo(surface.vertices)
        arrays = [tensor.cpu().numpy() for tensor in (surface.vertices, surface.faces.long(), normals, colors)]
        return Mesh(*arrays)

    def render(self, views: Views, generator: torch.Generator) -> SurfaceOutput:
        """Render training views, differentiably; normals are part of it anyway, and nothing is random."""
        return render_surface(
            self.tetrahedra.surface(),
            self.colors.albedo,
            self.background,
            views.cameras.to(self.device),
            views.lights.to(self.device),
            views.shading,
            (views.size, views.height),
            material=self.config.material,
            backdrop=views.backdrop.to(self.device) if self.config.background == "random" else None,
            rasterizer=self.config.rasterizer,
            frame=1.0,
        )

    def regularize(
        self, out: SurfaceOutput, views: Views, loss: LossConfig, progress: float, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Return the weighted terms that keep a mesh compact and its surface smooth."""
        return picture_terms(out, loss, progress) | {
            "normal_consistency_loss": loss.normal_consistency * out.surface.normal_consistency(),
            "laplacian_loss": loss.laplacian / self.tetrahedra.side**2 * out.surface.laplacian(),
        }

    @torch.no_grad()
    def layers(
        self,
        cameras: Cameras,
        shadings: Sequence[Shading],
        size: tuple[int, int],
        *,
        lights: Lights | None = None,
        backdrop: Sequence[float] = (0.0, 0.0, 0.0),
        with_normals: bool = False,
    ) -> list[SurfaceOutput]:
        """Render finished pictures of (width, height) pixels in every shading, with opacity and normals.

        On the black backdrop of the default, ``rgb`` is that of the object alone, times its opacity. Pictures are
        rendered one by one at twice their size and halved, for memory and for details smaller than a pixel.
        """
        surface = self.tetrahedra.surface()
        lights = (lights or headlights(cameras)).to(self.device)
        cameras = cameras.to(self.device)
        behind = torch.tensor([backdrop], device=self.device, dtype=torch.float32)
        outputs = []
        for shading in shadings:
            images = [
                render_surface(
                    surface,
                    self.colors.albedo,
                    self.background,
                    cameras[i : i + 1],
                    lights[i : i + 1],
                    [shading],
                    (2 * size[0], 2 * size[1]),
                    material=self.config.material,
                    backdrop=behind,
                    rasterizer=self.config.rasterizer,
                )
                for i in range(len(cameras))
            ]
            outputs.append(_halved(images))
        return outputs


def _halved(images: list[SurfaceOutput]) -> SurfaceOutput:
    """Return single pictures as one batch at half their size, each pixel the mean of four."""

    def half(name: str) -> Tensor:
        return torch.cat([nn.functional.avg_pool2d(getattr(image, name), 2) for image in images])

    return SurfaceOutput(
        rgb=half("rgb"),
        opacity=half("opacity"),
        depth=half("depth"),
        normal=half("normal"),
        samples=sum(image.samples for image in images),
        surface=images[0].surface,
    )
