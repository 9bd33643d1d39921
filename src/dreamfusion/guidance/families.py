"""From a model to the guidance that can ask it: the one place where families are told apart."""

from __future__ import annotations

from pathlib import Path

import torch

from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.base import Guidance
from dreamfusion.guidance.execution import Execution
from dreamfusion.guidance.flow import Flux, StableDiffusion3
from dreamfusion.guidance.latent import LatentGuidance, StableDiffusion, StableDiffusionXL
from dreamfusion.guidance.loading import model_family
from dreamfusion.guidance.pixel import PixelGuidance


def open_prior(
    model: str | Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    image_size: int | None = None,
    execution: Execution | None = None,
    prompt_weighting: bool = False,
) -> Guidance:
    """Load the diffusion prior of a folder, a single file or a hub name, as what its own index says it is.

    ``image_size`` is the side of the pictures that a latent prior is shown, by default the model's own;
    ``execution`` holds the switches for memory and speed; with ``prompt_weighting`` prompts hold weights.
    Raises DreamFusionError for anything that does not load, and for families that are not known.
    """
    latent: type[LatentGuidance]
    family = model_family(model)
    if prompt_weighting and family not in (StableDiffusion.family, StableDiffusionXL.family):
        raise DreamFusionError(
            f"guidance.prompt_weighting is for Stable Diffusion 1, 2 and XL, and {model} is neither: leave it out."
        )
    match family:
        case "StableDiffusionPipeline":
            latent = StableDiffusion
        case "StableDiffusionXLPipeline":
            latent = StableDiffusionXL
        case "StableDiffusion3Pipeline":
            latent = StableDiffusion3
        case "FluxPipeline":
            latent = Flux
        case _:  # an IFPipeline, for model_family refuses all others
            if image_size is not None:
                raise DreamFusionError(f"{model} works on pixels at its own size: leave out guidance.image_size.")
            return PixelGuidance(model, device=device, dtype=dtype, execution=execution)
    return latent(
        model,
        device=device,
        dtype=dtype,
        image_size=image_size,
        execution=execution,
        prompt_weighting=prompt_weighting,
    )
