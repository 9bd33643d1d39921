"""What is optimised: the fields, the background behind them, and the grid of a refined mesh."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from dreamfusion.config.schedule import Ends, Schedule, WeightSchedule
from dreamfusion.config.section import Count, Positive, Section, wrong

NormalMethod = Literal["forward", "backward", "central", "analytic"]
ColorActivation = Literal["sigmoid", "scaled"]
GridSide = Annotated[int, Field(ge=4, le=160)]


class FieldConfig(Section):
    """Density and normals of a field.

    The density is activation(network + bias + blob). The blob makes a fresh scene a soft ball, so that there is
    something to carve. The paper adds 5 with std 0.2 in a scene of half our size and no bias, which after exp is opaque
    in the middle (e^5) and fog everywhere else (e^0). Here a bias removes the fog, so that empty space is skipped from
    the first step on, and a wider blob leaves a ball of opacity 0.9 in the middle and 0.2 at radius 0.5, through which
    gradients reach all of its inside.
    """

    density_activation: Literal["exp", "softplus"] = "exp"
    """what makes the density positive (paper: 3.1)"""
    density_bias: float = -6.5
    """added before the activation, everywhere"""
    blob: Literal["gaussian", "linear"] = "gaussian"
    """gaussian: the paper's, blob_density * exp(-|x|^2 / (2 blob_std^2)); linear: Magic3D's,
    blob_density * (1 - |x| / blob_std) (paper: A.2)"""
    blob_density: float = 8.0
    """added before the activation, in the middle of the scene (paper: A.2)"""
    blob_std: Positive = 0.55
    """width of the blob in world units (paper: A.2)"""
    albedo_activation: ColorActivation = "sigmoid"
    """what brings colours to [0, 1] (scaled: network / 2 + 1/2, which may leave it; threestudio for DeepFloyd IF)"""
    normal_method: NormalMethod = "forward"
    """forward, backward: differences with three more evaluations; central: with six, NeMo's; analytic: the exact
    derivative, at the price of a second backward pass (paper: 3.1)"""
    normal_epsilon: Positive = 0.03
    """distance of the points that differences are taken between, in world units"""


class HashGridConfig(Section):
    """Shape of the hash grid; resolutions are cells along an edge of the cube [-1, 1]^3.

    The default ends at 48, as fine as pictures of 32 to 48 pixels can tell: finer levels fill with the noise of score
    distillation and make surfaces rough.
    """

    levels: Count = 6
    """grids, each finer than the one before"""
    features: Count = 4
    """numbers per corner of a cell"""
    log2_size: Annotated[int, Field(ge=1, le=24)] = 16
    """a level has at most 2 to the power of this many corners; finer ones share them"""
    base_resolution: Count = 8
    """cells of the coarsest level"""
    max_resolution: Count = 48
    """cells of the finest level"""
    interpolation: Literal["linear", "smoothstep"] = "smoothstep"
    """between the corners of a cell"""
    staggered: bool = False
    """levels shifted by half a cell and a table in tiny-cuda-nn's order: its grid"""
    levels_used: Annotated[Schedule, AfterValidator(Ends(ge=1, whole=True))] | None = None
    """levels that the networks read, which see 0 for the others (null: all); stairs let one after the other join"""

    @model_validator(mode="after")
    def _check(self) -> HashGridConfig:
        if self.base_resolution > self.max_resolution:
            raise wrong("base_resolution", "give 1 <= base_resolution <= max_resolution")
        used = self.levels_used
        if used is not None and (used.largest > self.levels or (used.changes and used.curve != "stairs")):
            raise wrong("levels_used", "give a number of 1 to levels, or stairs that end at no more, or null")
        return self


class NerfConfig(FieldConfig):
    """Encoding, networks, density and normals of `fields.nerf.NerfField`.

    NeMo's variant on tiny-cuda-nn's fused networks has a softplus, and a linear blob of 10 and 0.5. Without biases, on
    a staggered grid, that library computes both on a GPU if it is installed, in half precision; but for analytic
    normals, since it cannot be differentiated twice.
    """

    normal_epsilon: Positive = 0.06
    """distance of the points that differences are taken between, in world units"""
    encoding: Literal["hashgrid", "frequency"] = "hashgrid"
    """hashgrid: a hash grid; frequency: sines and cosines of the position, which want wider and deeper networks"""
    grid: HashGridConfig = HashGridConfig()
    """the hash grid"""
    frequencies: Count = 8
    """encoding frequency: octaves, the first with a period of two pi world units"""
    hidden_width: Count = 32
    """width of the two networks, for density and for albedo"""
    hidden_layers: Count = 1
    """their hidden layers"""
    albedo_width: Count | None = None
    """width of the network for albedo (null: hidden_width)"""
    albedo_layers: Count | None = None
    """its hidden layers (null: hidden_layers)"""
    network_bias: bool = True
    """whether they have biases; tiny-cuda-nn's fused networks have none"""


class MipConfig(FieldConfig):
    """Encoding, network, density and normals of `fields.mip_nerf.MipField`; the defaults are the paper's.

    Encoding and variance (the paper's lambda) are in the paper's lengths, blob_std is in world units.
    """

    density_bias: float = 0.0
    """added before the activation, everywhere"""
    blob_density: float = 5.0
    """added before the activation, in the middle of the scene (paper: A.2)"""
    blob_std: Positive = 0.4
    """width of the blob in world units (paper: A.2)"""
    normal_method: NormalMethod = "analytic"
    """forward, backward: differences with three more evaluations; central: with six, NeMo's; analytic: the exact
    derivative, at the price of a second backward pass (paper: 3.1)"""
    frequencies: Count = 8
    """octaves of the encoding, 2^0 to 2^7 (paper: A.2)"""
    scale: Positive = 0.5
    """the paper's length of one world unit: its scene is half as large as ours (paper: A.2)"""
    variance: WeightSchedule = Schedule(start=5e-2, end=2e-3, until=1 / 3)
    """variance of the integrated encoding, linear; over 5000 of 15,000 steps there (paper: A.2)"""
    hidden_width: Count = 128
    """width of the residual network (paper: A.2)"""
    blocks: Count = 5
    """its residual blocks (paper: A.2)"""

    @model_validator(mode="after")
    def _check(self) -> MipConfig:
        if self.variance.curve != "linear" or self.variance.until == self.variance.from_:
            raise wrong("variance", "the curve of the variance is linear, and until is above from")
        return self


class BackgroundConfig(Section):
    """Size of the learned background's network (NeMo, for its tetrahedra: 6 octaves, one hidden layer of 32)."""

    encoding: Literal["frequency", "harmonics"] = "frequency"
    """of the direction: sines and cosines, or the nine spherical harmonics up to degree 2 (threestudio)"""
    activation: ColorActivation = "sigmoid"
    """what brings colours to [0, 1], as albedo_activation of the fields"""
    frequencies: Annotated[int, Field(ge=0)] = 4
    """octaves of sines and cosines of the direction"""
    hidden_width: Count = 16
    """width of the network"""
    hidden_layers: Count = 1
    """its hidden layers"""


class TetrahedraConfig(Section):
    """Grid of a refined mesh."""

    resolution: GridSide = 48
    """cubes along the side of [-1, 1]^3; the grid has about resolution^3 vertices, so 64 is as fine as the grids named
    128 of other implementations"""
    extent: Annotated[float, Field(gt=0, le=1)] = 1.0
    """radius of the ball that the grid fills, in world units: a smaller one is finer, and nothing leaves it"""
    fitted: bool = False
    """whether refine makes extent 0.1 more than the radius of the object that it begins with (NeMo)"""
    bulge_resolution: Annotated[int, Field(ge=2, le=160)] | None = None
    """distances also move with a second, coarser grid of so many samples a side (null: they do not)"""
