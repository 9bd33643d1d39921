"""Which renderings are shown to the prior: `shading`."""

from __future__ import annotations

from pydantic import model_validator

from dreamfusion.config.section import Fraction, Section, wrong


class ShadingConfig(Section):
    """Which renderings are shown to the prior (paper A.2)."""

    latent_until: Fraction = 0.0
    """share of the run in which normals and opacity are the prior's latents themselves, without VAE (Latent-NeRF,
    arXiv 2211.07600; the first 0.2 in NVIDIA's NeMo); for latent priors of four channels"""
    albedo_until: Fraction = 0.2
    """share of the run with plain albedo only"""
    albedo_probability: Fraction = 0.7
    """afterwards: share of plain albedo views"""
    textureless_probability: Fraction = 0.0
    """afterwards: share of textureless views; the rest is Lambertian (the paper: 0.25 and 0.375)"""

    @model_validator(mode="after")
    def _check(self) -> ShadingConfig:
        if self.albedo_probability + self.textureless_probability > 1 + 1e-9:  # 0.9 and 0.1 add up to a bit more
            raise wrong("albedo_probability", "albedo_probability and textureless_probability must add up to 1 or less")
        return self
