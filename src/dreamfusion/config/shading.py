"""Which renderings are shown to the prior: `shading`."""

from __future__ import annotations

from pydantic import model_validator

from dreamfusion.config.schedule import Schedule, ShareSchedule, constant
from dreamfusion.config.section import Section, wrong


class ShadingConfig(Section):
    """Which renderings are shown to the prior (paper A.2)."""

    latent: ShareSchedule = constant(0)
    """1: normals and opacity are the prior's latents themselves, without VAE (Latent-NeRF, arXiv 2211.07600; the first
    0.2 of a run of NVIDIA's NeMo), for latent priors of four channels; 0: they are not"""
    albedo_probability: ShareSchedule = Schedule(start=1.0, end=0.7, from_=0.2, curve="step")
    """share of plain albedo views (paper: A.2)"""
    textureless_probability: ShareSchedule = constant(0)
    """share of textureless views, where albedo leaves room; the rest is Lambertian (paper: A.2)"""

    @model_validator(mode="after")
    def _check(self) -> ShadingConfig:
        if self.albedo_probability.end + self.textureless_probability.end > 1 + 1e-9:  # 0.9 and 0.1 are a bit more
            raise wrong(
                "albedo_probability", "albedo_probability and textureless_probability must end with 1 or less together"
            )
        return self
