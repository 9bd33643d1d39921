"""The UNet of a latent-diffusion checkpoint as diffusers' own: Stable Diffusion's, and MVDream's, which knows cameras.

MVDream's (arXiv 2308.16512) is the UNet of Stable Diffusion 2.1 with two changes. The self-attention of several views
is one (`dreamfusion.guidance.mvdream`), which adds no weights; and the numbers of a camera go through two linear layers
and are added to the embedding of the timestep, where diffusers has its class embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import init_empty_weights
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

from dreamfusion.guidance.reading.ldm_config import UNetSection, checked, unsupported
from dreamfusion.guidance.reading.ldm_weights import Weights, fill, rename

UNET_PREFIX = "model.diffusion_model."
"""What the names of the UNet's weights begin with in a whole checkpoint."""

_CAMERA = ((r"\.camera_embed\.([02])\.", r".label_emb.0.\1."),)
"""MVDream's camera layers, under the name that diffusers' converter knows for such layers."""


def build_unet(unet: UNetSection, side: int) -> UNet2DConditionModel:
    """Return an empty UNet of these sizes for latents of ``side``; ValueError for sizes that do not go together."""
    channels = [unet.model_channels * factor for factor in unet.channel_mult]
    attention = [2**level in unet.attention_resolutions for level in range(len(channels))]
    camera: dict[str, Any] = {}
    if unet.camera_dim is not None:
        camera = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": unet.camera_dim}
    return UNet2DConditionModel(
        sample_size=side,
        in_channels=unet.in_channels,
        out_channels=unet.out_channels,
        block_out_channels=channels,
        layers_per_block=unet.num_res_blocks,
        down_block_types=["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attention],
        up_block_types=["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attention)],
        # diffusers' name notwithstanding, this is the number of heads at each level.
        attention_head_dim=[_heads(unet, width) for width in channels],
        cross_attention_dim=unet.context_dim,
        transformer_layers_per_block=unet.transformer_depth,
        use_linear_projection=unet.use_linear_in_transformer,
        **camera,
    )


def convert_unet(weights: Weights, config: Mapping[str, Any]) -> Weights:
    """Return weights with the original names under diffusers' names, for `ldm_weights.fill`."""
    try:
        return convert_ldm_unet_checkpoint({rename(name, _CAMERA): x for name, x in weights.items()}, config)
    except KeyError:  # of layers that are looked up by name; what is missing is told when all are assigned
        return {}


def _heads(unet: UNetSection, width: int) -> int:
    heads = unet.num_heads if unet.num_head_channels == -1 else width // max(unet.num_head_channels, 1)
    if heads < 1 or width % heads:
        raise ValueError(f"unet_config: {width} channels cannot be divided among {heads} heads")
    return heads


def load_multi_view_unet(config: dict[str, Any], weights: Weights, place: Path) -> UNet2DConditionModel:
    """Return MVDream's UNet of the port to diffusers, whose configuration and weights keep their original names.

    Raises DreamFusionError for one of another kind, such as ImageDream's, and if weights are missing or left over.
    """
    # The port leaves these two out, for its class has no other.
    section = checked(UNetSection, config | {"use_spatial_transformer": True, "use_linear_in_transformer": True}, place)
    with unsupported(place), init_empty_weights():
        unet = build_unet(section, section.image_size)
    fill(unet, UNET_PREFIX, convert_unet, {UNET_PREFIX + name: tensor for name, tensor in weights.items()}, place)
    return unet
