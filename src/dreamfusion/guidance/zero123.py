"""Zero-1-to-3 (arXiv 2303.11328) and Stable Zero123: how an object in a picture looks from another side.

It is Stable Diffusion's UNet that takes, in place of words, the CLIP embedding of the picture with four numbers of the
view through one linear layer, and behind z_t the latents of the picture. Without a picture both are zeros.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn
from torch.nn.functional import interpolate

from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.base import Embeddings
from dreamfusion.guidance.latent import LatentGuidance
from dreamfusion.guidance.picture import Picture, cut_free
from dreamfusion.guidance.pixel_space import image_to_z
from dreamfusion.guidance.reading.foreign import OwnPart, load_parts
from dreamfusion.guidance.reading.places import model_index
from dreamfusion.method.cameras import Cameras

_POSE = 4
_PROJECTIONS = {"cc_projection": "CCProjection", "clip_camera_projection": "CLIPCameraProjection"}
"""The linear layer in the two folder layouts that are about: its part and its class."""

_CLIP_SIDE = 224
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class Zero123(LatentGuidance):
    """Zero-1-to-3 or Stable Zero123 in diffusers' layout: shown a picture and told the camera, it needs no words."""

    family = "Zero1to3StableDiffusionPipeline"
    also = ("Zero123Pipeline",)
    pipeline_class = "StableDiffusionImageVariationPipeline"
    parts = ("image_encoder", "scheduler", "unet", "vae")
    compiles = False
    takes_picture = True
    behind = 1
    knows_cameras = True
    needs_cameras = True

    def __init__(self, model: str | Path, *, picture: Picture | None = None, **options: Any) -> None:
        super().__init__(model, picture=picture, **options)
        self._picture = picture
        self._seen: tuple[Tensor, Tensor] | None = None
        fourth = "auto" if picture is None else picture.fourth
        # Both kinds have the same shapes, and nothing in their files tells them apart.
        self._tells_elevation = fourth == "elevation" or (fourth == "auto" and "stable" in Path(model).name.lower())

    @classmethod
    def load(cls, model: str | Path, dtype: torch.dtype = torch.float32, variant: str | None = None) -> Any:
        """Return the parts of a folder or hub name as a pipeline; DreamFusionError for anything else."""
        index = model_index(model)
        part = next((name for name in _PROJECTIONS if name in index), "cc_projection")
        own = {part: OwnPart(_PROJECTIONS[part], _read_projection)}
        parts = load_parts(model, str(index.get("_class_name")), (*cls.parts, part), own, dtype, variant)
        return _Parts(**{name: parts[name] for name in cls.parts}, projection=parts[part])

    def _clip(self) -> None:
        return None

    def _embed(self, texts: list[str], prompts: list[str]) -> Embeddings:
        """Return the zeros that mean no picture: what a prompt says is not understood."""
        width = self._denoiser.config.cross_attention_dim
        empty = torch.zeros(len(prompts), 1, width, device=self.device)
        return Embeddings(empty, picture=torch.zeros(len(prompts), *self.latent_shape or (), device=self.device))

    def told_picture(self, texts: Embeddings) -> Embeddings:
        """Return the texts with the picture's embedding in the place of tokens, and its latents."""
        embedding, latents = self._picture_seen()
        n = len(texts)
        return replace(texts, tokens=embedding.expand(n, 1, -1), picture=latents.expand(n, -1, -1, -1))

    def told_cameras(self, texts: Embeddings, cameras: Cameras) -> Embeddings:
        """Return the texts with each view's four numbers projected into the picture's embedding, if it is shown."""
        pose = self._pose(cameras).to(texts.tokens)
        layer = self.pipeline.projection
        with torch.no_grad():
            told = layer(torch.cat([texts.tokens, pose[:, None]], dim=-1).to(layer.weight)).to(texts.tokens)
        shown = texts.tokens.flatten(1).any(dim=1)
        return replace(texts, tokens=told * shown[:, None, None])

    def _pose(self, cameras: Cameras) -> Tensor:
        """Return the four numbers [B, 4] of each view; angles are in radians.

        They say how much lower its camera stands than the picture's, sine and cosine of how far it has turned, and how
        much farther away it is, or, for Stable Zero123, the polar angle of the picture's camera.
        """
        picture = self._picture or Picture(Path())
        lower = torch.deg2rad(picture.elevation_deg - cameras.elevation_deg)
        turn = torch.deg2rad(cameras.azimuth_deg)
        fourth = cameras.radius - picture.distance
        if self._tells_elevation:
            fourth = torch.deg2rad(torch.full_like(turn, 90 - picture.elevation_deg))
        return torch.stack([lower, turn.sin(), turn.cos(), fourth], dim=1)

    @torch.no_grad()
    def _picture_seen(self) -> tuple[Tensor, Tensor]:
        """Return the picture's embedding [1, 1, D] and latents [1, C, S / 8, S / 8]; CLIP leaves memory after that."""
        if self._seen is None:
            if self._picture is None:
                raise DreamFusionError(f"A {self.family} needs a picture of the object: give --image FILE.")
            self.settle()
            pixels = cut_free(self._picture.file)[None].to(self.device)
            encoder = self.pipeline.image_encoder
            embedding = encoder(_for_clip(pixels).to(encoder.dtype)).image_embeds.float()[:, None]
            # As trained: the mean, and unlike the renderings' latents without their factor.
            z = image_to_z(pixels, self.sample_size).to(self._vae.dtype)
            self._seen = embedding, self._vae.encode(z).latent_dist.mode().float()
            self.pipeline.image_encoder = None
        return self._seen

    def _call(self, z_t: Tensor, t: Tensor, embeddings: Embeddings) -> Tensor:
        assert embeddings.picture is not None, "all that `embed` makes has one"
        both = torch.cat([z_t, embeddings.picture], dim=1)
        return self._denoiser(both, t, encoder_hidden_states=embeddings.tokens, return_dict=False)[0]


class _Parts(DiffusionPipeline):
    """The parts of such a model, in the shape that all priors expect."""

    def __init__(self, vae: Any, image_encoder: Any, unet: Any, scheduler: Any, projection: Any) -> None:
        super().__init__()
        pipeline: Any = self  # diffusers' own methods have no types
        pipeline.register_modules(
            vae=vae, image_encoder=image_encoder, unet=unet, scheduler=scheduler, projection=projection
        )
        self.vae_scale_factor = 2 ** (len(vae.config.block_out_channels) - 1)


def _for_clip(pixels: Tensor) -> Tensor:
    """Return pictures [B, 3, S, S] in [0, 1] as CLIP reads them: 224 pixels wide, normalised."""
    small = interpolate(pixels, size=(_CLIP_SIDE, _CLIP_SIDE), mode="bicubic", align_corners=True).clamp(0, 1)
    mean, std = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (_CLIP_MEAN, _CLIP_STD))
    return (small - mean) / std


def _read_projection(config: dict[str, Any], weights: dict[str, Tensor], place: Path) -> nn.Module:
    named = {name.rpartition(".")[2]: tensor for name, tensor in weights.items()}
    weight = named.get("weight")
    if set(named) != {"weight", "bias"} or weight is None or weight.ndim != 2:
        raise DreamFusionError(f"{place} holds no linear layer for CLIP and {_POSE} numbers of a view.")
    layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
    layer.load_state_dict(named)
    return layer
