"""What is optimised, and how finely it is rendered: `scene`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from dreamfusion.config.fields import BackgroundConfig, MipConfig, NerfConfig, TetrahedraConfig
from dreamfusion.config.renderers import Backdrops, Material, ProposalConfig, Rasterizer
from dreamfusion.config.section import Count, Fraction, Positive, Section, wrong


class SceneConfig(Section):
    """What is optimised, and how finely it is rendered."""

    kind: Literal["volume", "mesh"] = "volume"
    """volume: a field that rays pass through (the NeRF); mesh: a surface in a grid of tetrahedra, with the field's
    colours (refine); if it is not given, mesh where there are tetrahedra"""
    architecture: Literal["hashgrid", "mip360"] = "hashgrid"
    """hashgrid: small networks on a hash grid, or on sines (scene.nerf); mip360: the paper's network (scene.mip)"""
    nerf: NerfConfig = NerfConfig()
    """encoding, networks, density and normals of hashgrid"""
    mip: MipConfig = MipConfig()
    """encoding, network, density and normals of mip360"""
    renderer: Literal["marching", "proposal", "nerfacc"] = "marching"
    """where along a ray the field is asked. marching: evenly, where the occupancy grid is not empty; proposal: where a
    small network expects matter, as in mip-NeRF 360; nerfacc: as marching, by that library's kernels (CUDA)"""
    proposal: ProposalConfig = ProposalConfig()
    """the proposal renderer's samples and network"""
    tetrahedra: TetrahedraConfig | None = None
    """meshes: the grid of tetrahedra (null: the default one)"""
    rasterizer: Rasterizer = "warp"
    """meshes: warp: our rasteriser; nvdiffrast: that library's, where it is installed (CUDA; not for commercial use)"""
    background: Literal["random", "learned", "static"] = "random"
    """random: another plain colour for every view, which forces a clean silhouette; learned: the paper's network"""
    background_color: tuple[Fraction, Fraction, Fraction] = (1.0, 1.0, 1.0)
    """colour of the static background, and of the views that background_random_ratio leaves out"""
    background_random_ratio: Fraction = 1.0
    """random background: share of the views that get a random colour (NeMo's 'random': 0.5)"""
    background_random_colors: Backdrops = "grey"
    """random background: which colours, grey (with a faint tint) or any"""
    background_network: BackgroundConfig = BackgroundConfig()
    """the learned background"""
    material: Material = Material()
    """highlights on Lambertian views"""
    scale: Positive | None = None
    """size of the finished object, as a factor on that at which it is distilled (null: as the prior reads the prompt;
    the embedded one draws small things at full size, and they are 0.65)"""
    step_length: Annotated[float, Field(ge=1e-4, le=0.5)] = 0.03
    """distance between samples along a ray, in world units, at least"""
    dt_gamma: Annotated[float, Field(ge=0, le=0.1)] = 0.0
    """marching, nerfacc: samples are at least dt_gamma times their distance from the camera apart"""
    max_steps: Count = 1024
    """marching: most samples on a ray"""
    occupancy_resolution: Annotated[int, Field(ge=2, le=512)] = 64
    """cells per side of the grid that lets rays skip empty space"""
    occupancy_interval: Count = 10
    """steps between refreshes of that grid"""
    occupancy_density: Positive | None = None
    """density from which a cell of that grid counts as occupied, if the mean is not lower (NeMo's density_thresh: 10;
    null: the density at which one step has opacity 0.001)"""
    surface_smoothing: Annotated[float, Field(ge=0, le=0.2)] = 0.03
    """meshes of a volume: deviation of the Gaussian, in world units, that its opacity is blurred with first"""

    @model_validator(mode="before")
    @classmethod
    def _kind(cls, values: Any) -> Any:
        """Earlier versions saved no kind: it followed from the tetrahedra."""
        if not isinstance(values, dict):
            return values
        kind = values.get("kind", "volume" if values.get("tetrahedra") is None else "mesh")
        grid = {"tetrahedra": TetrahedraConfig()} if kind == "mesh" and values.get("tetrahedra") is None else {}
        return {**values, **grid, "kind": kind}

    @model_validator(mode="after")
    def _check(self) -> SceneConfig:
        if self.kind != "mesh" and self.tetrahedra is not None:
            raise wrong(
                "tetrahedra", "tetrahedra belong to scene.kind 'mesh': leave them out (null), or give that kind"
            )
        if self.renderer == "proposal" and self.dt_gamma > 0:
            raise wrong("dt_gamma", "dt_gamma belongs to the renderers 'marching' and 'nerfacc', not to 'proposal'")
        return self
