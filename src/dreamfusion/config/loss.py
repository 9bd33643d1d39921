"""What is distilled, and the weights of the terms beside it: `loss`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dreamfusion.config.section import Count, Fraction, NonNegative, Positive, Section, wrong

LossKind = Literal["sds", "vsd", "ism"]


class LossConfig(Section):
    """What is distilled from the prior, and the weights of the terms beside it (paper A.2)."""

    kind: LossKind = "sds"
    """sds: score distillation, the paper's; vsd: variational, with a critic trained alongside; ism: interval score
    matching"""
    distillation: NonNegative = 1.0
    """weight of what is distilled"""
    clip: Positive | None = None
    """each element of the distillation gradient is limited to +-clip (null: not at all)"""
    clip_end: Positive | None = None
    """limit at the last step, reached linearly (null: clip stays)"""
    vsd_rank: Count = 4
    """vsd: rank of the critic's LoRA adapters"""
    vsd_lr: Positive = 1e-4
    """vsd: learning rate of the critic"""
    ism_delta_t: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """ism: the interval, as a fraction of all timesteps"""
    ism_delta_s: Annotated[float, Field(gt=0, le=1)] = 0.2
    """ism: longest step of the inversion, as a fraction of all timesteps"""
    opacity: NonNegative = 200.0
    """keeps the scene from filling space: mean sqrt(opacity^2 + 0.01)"""
    opacity_squared: NonNegative = 0.0
    """the same purpose, NVIDIA's NeMo: mean opacity^2"""
    entropy: NonNegative = 500.0
    """pushes opacity to 0 or 1; grows linearly to this over the first part of the run"""
    entropy_ramp: Fraction = 1.0
    """share of the run over which entropy grows"""
    orientation: NonNegative = 1e-2
    """forbids normals that face away from the camera; grows linearly to this over the first part of the run"""
    orientation_ramp: Fraction = 0.5
    """share of the run over which orientation grows"""
    orientation_start: Fraction = 0.01
    """least factor on orientation meanwhile"""
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

    @model_validator(mode="after")
    def _check(self) -> LossConfig:
        if self.clip_end is not None and self.clip is None:
            raise wrong("clip_end", "clip_end needs clip, the limit at the first step")
        return self
