"""What is distilled, and the weights of the terms beside it: `loss`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from dreamfusion.config.schedule import Ends, PositiveSchedule, Schedule, WeightSchedule, constant
from dreamfusion.config.section import Count, NonNegative, Positive, Section

LossKind = Literal["sds", "vsd", "ism"]


class LossConfig(Section):
    """What is distilled from the prior, and the weights of the terms beside it (paper A.2)."""

    kind: LossKind = "sds"
    """sds: score distillation, the paper's; vsd: variational, with a critic trained alongside; ism: interval score
    matching"""
    distillation: NonNegative = 1.0
    """weight of what is distilled"""
    clip: PositiveSchedule | None = None
    """each element of the distillation gradient is limited to +-clip (null: not at all)"""
    vsd_rank: Count = 4
    """vsd: rank of the critic's LoRA adapters"""
    vsd_lr: Positive = 1e-4
    """vsd: learning rate of the critic"""
    ism_delta_t: Annotated[Schedule, AfterValidator(Ends(gt=0, le=1))] = constant(0.05)
    """ism: the interval, as a fraction of all timesteps"""
    ism_delta_s: Annotated[float, Field(gt=0, le=1)] = 0.2
    """ism: longest step of the inversion, as a fraction of all timesteps"""
    image: NonNegative = 0.0
    """sds: the same on pixels: squared difference of a picture to that which the prior makes of it, decoded by the VAE
    (HiFA, arXiv 2305.18766); it decodes at every step. For a prior on pixels it is what is distilled, and left out"""
    z_variance: NonNegative = 0.0
    """volumes: what a ray meets lies in one depth: variance of the depth along rays that hit (HiFA)"""
    opacity: NonNegative = 200.0
    """keeps the scene from filling space: mean sqrt(opacity^2 + 0.01)"""
    opacity_squared: NonNegative = 0.0
    """the same purpose, NVIDIA's NeMo: mean opacity^2"""
    entropy: WeightSchedule = Schedule(start=0.0, end=500.0)
    """pushes opacity to 0 or 1"""
    orientation: WeightSchedule = Schedule(start=1e-4, end=1e-2, until=0.5, curve="ramp")
    """forbids normals that face away from the camera (paper: A.2)"""
    orientation_of_albedo: bool = False
    """whether views without light have that term, too, for which they need normals (threestudio)"""
    normal_smooth_2d: NonNegative = 0.0
    """smooth pictures of normals: mean squared difference of neighbouring pixels, normals coded to [0, 1]"""
    normal_smooth_3d: NonNegative = 100.0
    """smooth surfaces: mean difference of the normal to that of a point moved by N(0, 0.01)"""
    distortion: NonNegative = 0.0
    """renderer proposal: keeps what a ray meets in one place (mip-NeRF 360, whose weight is 0.01)"""
    interlevel: NonNegative = 1.0
    """renderer proposal: trains the proposal network to cover what the field shows"""
    normal_consistency: NonNegative = 0.5
    """meshes: neighbouring faces look the same way; mean of 1 - cos of the angle between them"""
    laplacian: NonNegative = 0.5
    """meshes: vertices lie amid their neighbours; mean squared distance in sides of the grid's cubes"""
