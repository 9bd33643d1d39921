"""How scenes become pictures: highlights, and the samples of the proposal renderer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dreamfusion.config.section import Count, NonNegative, Section

Shading = Literal["albedo", "lambertian", "textureless"]
PictureShading = Literal["albedo", "lambertian", "textureless", "normal"]
"""How finished pictures are shaded: as training views are, or by directions as colours."""
Backdrops = Literal["grey", "any"]
Rasterizer = Literal["warp", "nvdiffrast"]
"""What draws meshes: our kernels, or that library's."""


class Material(Section):
    """What light does at the surface beside being scattered: a Phong highlight on Lambertian views, off by default."""

    specular: NonNegative = 0.0
    """weight of the highlight: 0.2 to 0.5 looks like plastic"""
    shininess: Annotated[float, Field(ge=1)] = 32.0
    """its exponent: 10 is dull, 100 polished"""


class ProposalConfig(Section):
    """How many samples a ray has, and the network that proposes where (mip-NeRF 360, section 3)."""

    rounds: Count = 2
    """how often a ray is cut into intervals, they are weighed by the network, and new ones drawn in proportion"""
    proposal_samples: Annotated[int, Field(ge=2)] = 64
    """intervals of a ray in these rounds"""
    samples: Annotated[int, Field(ge=2)] = 32
    """where the field is asked afterwards"""
    frequencies: Count = 5
    """octaves of sines and cosines that the network reads"""
    hidden_width: Count = 32
    """width of the network"""
    hidden_layers: Count = 2
    """its hidden layers"""
