"""Stable Diffusion, and MVDream, as NeMo and the original latent-diffusion code save them, in diffusers modules.

Architecture, noise schedule and scale of the latents come from the configuration; the weights are renamed twice:

    NeMo                                   CompVis                                diffusers
    model.model.diffusion_model.*     ->   model.diffusion_model.*           ->   unet
    model.first_stage_model.*         ->   first_stage_model.*               ->   vae
    model.cond_stage_model.*          ->   cond_stage_model.*                ->   text_encoder

NeMo's UNet fuses norms with their SiLU, and its later versions move the layer norms into the attention; both shift
numbers and names (`dreamfusion.guidance.reading.ldm_weights`). Sources: NVIDIA/NeMo ``nemo/collections/multimodal``
(``openaimodel.py``, ``attention.py``, ``encoders/modules.py``, ``ddpm.py``) and CompVis/stable-diffusion.
"""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from torch import Tensor
from transformers import CLIPTextModel

from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.reading.ldm_config import LdmConfig, parse_sections, unsupported
from dreamfusion.guidance.reading.ldm_text import load_text_encoder, load_tokenizer
from dreamfusion.guidance.reading.ldm_unet import UNET_PREFIX, build_unet, convert_unet
from dreamfusion.guidance.reading.ldm_weights import Weights, canonical_names, fill
from dreamfusion.guidance.reading.nemo_archive import read_archive, read_weights, yaml_mapping


def load_nemo(
    path: str | Path, dtype: torch.dtype = torch.float32, tokenizer: str | Path | None = None
) -> StableDiffusionPipeline:
    """Return Stable Diffusion 1 or 2 from a ``.nemo`` archive, on the CPU, as a diffusers pipeline.

    The archive holds no tokenizer: ``tokenizer`` names a folder that has one, else the name in the configuration is
    looked for on this machine, then on the hub. Raises DreamFusionError, in one line, for an archive that cannot be
    read or is unsafe (`read_archive`), a configuration of another model family, weights that are missing or left over,
    and a tokenizer that cannot be had.
    """
    path = Path(path).expanduser()
    config, weights = read_archive(path)
    return _build(parse_sections(config, path), weights, path, dtype, tokenizer)


def load_ldm_checkpoint(
    path: str | Path,
    config: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
    tokenizer: str | Path | None = None,
) -> StableDiffusionPipeline:
    """Return Stable Diffusion 1 or 2, or MVDream, from a file of tensors with the original names, or NeMo's.

    Such a file does not say what it is, so ``config`` names its configuration, such as ``v1-inference.yaml`` or
    NeMo's ``model_config.yaml``; by default the ``.yaml`` of the same name beside it. Else as `load_nemo`.
    """
    path = Path(path).expanduser()
    config = Path(config).expanduser() if config else path.with_suffix(".yaml")
    try:
        text = config.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DreamFusionError(
            f"The configuration {config} of {path} cannot be read ({type(error).__name__}): put the YAML that came "
            "with the model there."
        ) from None
    return _build(parse_sections(yaml_mapping(text, str(config)), config), read_weights(path), path, dtype, tokenizer)


def _build(
    config: LdmConfig, weights: Weights, path: Path, dtype: torch.dtype, tokenizer: str | Path | None
) -> StableDiffusionPipeline:
    weights = canonical_names(weights, path)
    scale = weights.pop("scale_factor", None)  # Saved where it was measured (scale_by_std), and then the truth.
    weights = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    with unsupported(path), init_empty_weights():
        unet, vae = build_unet(config.unet_config, _latent_side(config)), _build_vae(config, scale)
    fill(unet, UNET_PREFIX, convert_unet, weights, path)
    fill(vae, "first_stage_model.", convert_ldm_vae_checkpoint, weights, path)
    text_encoder = load_text_encoder(config.cond_stage_config, weights, path)
    _check_channels(config, text_encoder, path)
    if weights:
        raise DreamFusionError(f"{path} does not fit its configuration: {next(iter(weights))!r} is left over.")
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=load_tokenizer(config.cond_stage_config, tokenizer, text_encoder.config, path),
        unet=unet,
        scheduler=_build_scheduler(config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _latent_side(config: LdmConfig) -> int:
    return config.image_size if config.unet_config.camera_dim is None else config.unet_config.image_size


def _build_vae(config: LdmConfig, scale: Tensor | None) -> AutoencoderKL:
    dd = config.first_stage_config.ddconfig
    levels = len(dd.ch_mult)
    return AutoencoderKL(
        sample_size=_latent_side(config) * 2 ** (levels - 1),
        in_channels=dd.in_channels,
        out_channels=dd.out_ch,
        latent_channels=dd.z_channels,
        block_out_channels=[dd.ch * factor for factor in dd.ch_mult],
        layers_per_block=dd.num_res_blocks,
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        scaling_factor=config.scale_factor if scale is None else scale.item(),
    )


def _build_scheduler(config: LdmConfig) -> DDIMScheduler:
    return DDIMScheduler(
        num_train_timesteps=config.timesteps,
        beta_start=config.linear_start,
        beta_end=config.linear_end,
        # Latent diffusion calls linear what is linear in the square root of beta.
        beta_schedule="scaled_linear",
        prediction_type={"eps": "epsilon", "v": "v_prediction", "x0": "sample"}[config.parameterization],
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def _check_channels(config: LdmConfig, text_encoder: CLIPTextModel, path: Path) -> None:
    """Refuse parts that do not go together."""
    unet, vae = config.unet_config, config.first_stage_config
    latent = {config.channels, unet.in_channels, unet.out_channels, vae.embed_dim, vae.ddconfig.z_channels}
    if len(latent) > 1 or unet.context_dim != text_encoder.config.hidden_size:
        raise DreamFusionError(
            f"{path} is no text-to-image model: its UNet, VAE and text encoder differ in channels or width."
        )
