"""MVDream (arXiv 2308.16512): four views of one object at once, each with its camera, against objects with two faces.

It is Stable Diffusion 2.1 whose self-attention runs over all pixels of four views together, and which is told each
view's camera beside the timestep. Views are taken 90 degrees apart at one height (`cameras.set_size`); the words need
not name them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor
from torch.nn.functional import normalize, pad

from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.base import Embeddings
from dreamfusion.guidance.latent import StableDiffusion
from dreamfusion.guidance.reading.foreign import OwnPart, load_parts
from dreamfusion.guidance.reading.ldm_config import MULTI_VIEW
from dreamfusion.guidance.reading.ldm_unet import load_multi_view_unet
from dreamfusion.guidance.reading.loading import load_pipeline
from dreamfusion.guidance.reading.places import single_file
from dreamfusion.method.cameras import Cameras

VIEWS = 4
"""Views that MVDream was trained to judge at once."""

_OWN: dict[str, OwnPart] = {"unet": OwnPart(MULTI_VIEW, load_multi_view_unet)}


class MVDream(StableDiffusion):
    """MVDream, from its own checkpoint with the YAML beside it, or from the folder of its port to diffusers."""

    family = "MVDreamPipeline"
    pipeline_class = "StableDiffusionPipeline"
    single_file = False
    original = True
    weighs_words = False
    takes_additions = False
    compiles = False
    knows_cameras = True
    needs_cameras = True
    together = VIEWS

    @classmethod
    def load(cls, model: str | Path, dtype: torch.dtype = torch.float32, variant: str | None = None) -> Any:
        """Return Stable Diffusion's pipeline with MVDream's parts; DreamFusionError for anything else."""
        if single_file(model):
            pipeline: Any = load_pipeline(model, cls.family, cls.parts, dtype, variant)
        else:
            parts = load_parts(model, cls.family, cls.parts, _OWN, dtype, variant)
            pipeline = StableDiffusionPipeline(
                **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
            )
        if pipeline.unet.config.class_embed_type != "projection":
            raise DreamFusionError(f"{model} is an MVDream without cameras, which is Stable Diffusion: give that.")
        _look_across(pipeline.unet)
        return pipeline

    def told_cameras(self, texts: Embeddings, cameras: Cameras) -> Embeddings:
        """Return the texts with each view's camera in MVDream's numbers; the negative prompt is told them, too."""
        return replace(texts, camera=camera_numbers(cameras).to(texts.tokens))

    def _call(self, z_t: Tensor, t: Tensor, embeddings: Embeddings) -> Tensor:
        if embeddings.camera is None or len(z_t) % VIEWS:
            raise DreamFusionError(
                f"MVDream judges {VIEWS} views at once and must be told their cameras: leave guidance.tell_cameras "
                f"true, and set cameras.set_size to {VIEWS}."
            )
        return self._denoiser(
            z_t, t, encoder_hidden_states=embeddings.tokens, class_labels=embeddings.camera, return_dict=False
        )[0]


def camera_numbers(cameras: Cameras) -> Tensor:
    """Return the camera-to-world matrices [B, 16], row by row, as MVDream was trained with them.

    Axes are right, up and backward in a world whose z points up; the position is moved to distance 1.
    """
    right, down, forward, position = cameras.camera_to_world.unbind(dim=-1)
    matrix = torch.stack([right, -down, -forward, normalize(position, dim=-1)], dim=-1)
    matrix = pad(matrix, (0, 0, 0, 1))
    matrix[:, 3, 3] = 1
    return matrix.flatten(1)


def _look_across(unet: Any) -> None:
    """Let the self-attention of a UNet run over all pixels of each set of views."""
    # Processors hold no weights, so every block may share the two.
    across, alone = _AcrossViews(), AttnProcessor2_0()
    unet.set_attn_processor({name: across if ".attn1." in name else alone for name in unet.attn_processors})


class _AcrossViews(AttnProcessor2_0):
    """diffusers' attention for sets of views [B, L, C], B a multiple of `VIEWS`, each set as one row of 4 L pixels."""

    def __call__(self, attn: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        together = hidden_states.unflatten(0, (-1, VIEWS)).flatten(1, 2)
        answer = super().__call__(attn, together, *args, **kwargs)
        return answer.unflatten(1, (VIEWS, -1)).flatten(0, 1)
