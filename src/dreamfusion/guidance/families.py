"""The table of families, and from a model to the prior that can ask it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.control import Control
from dreamfusion.guidance.execution import Execution
from dreamfusion.guidance.flow import Flux, StableDiffusion3
from dreamfusion.guidance.gemma import Lumina2, Sana
from dreamfusion.guidance.ip_adapter import Adapter
from dreamfusion.guidance.latent import StableDiffusion, StableDiffusionXL
from dreamfusion.guidance.mvdream import MVDream
from dreamfusion.guidance.picture import Picture
from dreamfusion.guidance.pipeline import PipelineGuidance
from dreamfusion.guidance.pixart import PixArtSigma
from dreamfusion.guidance.pixel import PixelGuidance
from dreamfusion.guidance.reading.places import pipeline_kind
from dreamfusion.guidance.reading.problems import ONE_AT_A_TIME
from dreamfusion.guidance.zero123 import Zero123

FAMILIES: tuple[type[PipelineGuidance], ...] = (
    PixelGuidance,
    StableDiffusion,
    StableDiffusionXL,
    StableDiffusion3,
    Flux,
    PixArtSigma,
    Sana,
    Lumina2,
    MVDream,
    Zero123,
)
"""All families that can be loaded; each class says which pipeline it asks, what parts that has, and what it can do."""


def family_of(model: str | Path) -> type[PipelineGuidance]:
    """Return the family of a folder, a single file or a hub name, by what its own index says it is.

    Raises DreamFusionError for a model that has no index, and for families that are not in `FAMILIES`.
    """
    kind = pipeline_kind(model)
    for family in FAMILIES:
        if kind in (family.family, *family.also):
            return family
    known = ", ".join(family.family for family in FAMILIES)
    raise DreamFusionError(f"{model} is of the kind {kind}, which is not supported; {known} are.")


def open_prior(
    model: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    image_size: int | None = None,
    execution: Execution | None = None,
    prompt_weighting: bool = False,
    loras: Sequence[str] = (),
    embeddings: Sequence[str] = (),
    picture: Picture | None = None,
    adapter: Adapter | None = None,
    control: Control | None = None,
) -> PipelineGuidance:
    """Load the diffusion prior of a folder, a single file or a hub name; `PipelineGuidance` says what is given."""
    with ONE_AT_A_TIME:
        return family_of(model)(
            model,
            device=device,
            dtype=dtype,
            image_size=image_size,
            execution=execution,
            prompt_weighting=prompt_weighting,
            loras=loras,
            embeddings=embeddings,
            picture=picture,
            adapter=adapter,
            control=control,
        )
