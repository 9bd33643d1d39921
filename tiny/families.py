"""Tiny randomly initialised models of every family, in the format that diffusers saves them in."""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    IFPipeline,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

WORDS = ["a", "blue", "red", "mushroom", ",", "front", "side", "back", "overhead", "view"]
SIZE = 16
"""Side of the pictures; two levels of the VAE make latents of 8 x 8."""
MAX_TOKENS = 24


def clip_tokenizer() -> CLIPTokenizer:
    """Byte-pair encoding without any merge: every letter is a token."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    merges = [(left, right) for left, right in [("r", "e"), ("re", "d</w>"), ("b", "l"), ("v", "i"), ("e", "w</w>")]]
    tokens += [left + right for left, right in merges]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)


def word_tokenizer() -> PreTrainedTokenizerFast:
    words = ["<pad>", "</s>", "<unk>", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


def clip_config(width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(clip_tokenizer()),
        hidden_size=width,
        intermediate_size=16,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )


def vae(latents: int = 4, **config) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=latents,
        norm_num_groups=4,
        sample_size=SIZE,
        **config,
    )


def unet(width: int, **config) -> UNet2DConditionModel:
    # attention_head_dim is the number of heads in this class, whatever its name says.
    values = {
        "sample_size": SIZE // 2,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "norm_num_groups": 4,
        "attention_head_dim": 2,
        "cross_attention_dim": width,
    }
    return UNet2DConditionModel(**(values | config))


BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def save_sd(folder: Path, prediction_type: str = "epsilon", width: int = 16, **unet_config) -> Path:
    torch.manual_seed(0)
    StableDiffusionPipeline(
        vae=vae(),
        text_encoder=CLIPTextModel(clip_config(width)),
        tokenizer=clip_tokenizer(),
        unet=unet(width, **unet_config),
        scheduler=DDIMScheduler(
            **BETAS, prediction_type=prediction_type, clip_sample=False, set_alpha_to_one=False, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def save_sdxl(folder: Path, prediction_type: str = "epsilon", **unet_config) -> Path:
    torch.manual_seed(0)
    added = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 12,
    }
    StableDiffusionXLPipeline(
        vae=vae(scaling_factor=0.13025),
        text_encoder=CLIPTextModel(clip_config(16)),
        text_encoder_2=CLIPTextModelWithProjection(clip_config(12)),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=unet(28, **added, **unet_config),
        scheduler=EulerDiscreteScheduler(**BETAS, prediction_type=prediction_type),
        add_watermarker=False,
    ).save_pretrained(folder)
    return folder


def t5() -> T5EncoderModel:
    return T5EncoderModel(T5Config(vocab_size=len(WORDS) + 3, d_model=32, d_kv=8, d_ff=16, num_layers=1, num_heads=2))


def save_sd3(folder: Path, with_t5: bool = True, **transformer_config) -> Path:
    torch.manual_seed(0)
    heads = {"attention_head_dim": 8, "num_attention_heads": 2} | transformer_config  # here the width of a head
    values = {
        "sample_size": SIZE // 2,
        "patch_size": 2,
        "in_channels": 8,
        "out_channels": 8,
        "num_layers": 1,
        "joint_attention_dim": 32,
        "caption_projection_dim": heads["attention_head_dim"] * heads["num_attention_heads"],
        "pooled_projection_dim": 20,
        "pos_embed_max_size": 16,
    }
    StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(**(values | heads)),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(8, scaling_factor=1.5305, shift_factor=0.0609),
        text_encoder=CLIPTextModelWithProjection(clip_config(8)),
        tokenizer=clip_tokenizer(),
        text_encoder_2=CLIPTextModelWithProjection(clip_config(12)),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5() if with_t5 else None,
        tokenizer_3=word_tokenizer() if with_t5 else None,
    ).save_pretrained(folder)
    return folder


def save_flux(folder: Path, guidance_embeds: bool = True, **transformer_config) -> Path:
    torch.manual_seed(0)
    values = {
        "patch_size": 1,
        "in_channels": 16,
        "num_layers": 1,
        "num_single_layers": 1,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": 32,
        "pooled_projection_dim": 16,
        "guidance_embeds": guidance_embeds,
        "axes_dims_rope": (2, 2, 4),
    }
    FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=guidance_embeds),
        vae=vae(4, scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=CLIPTextModel(clip_config(16)),
        tokenizer=clip_tokenizer(),
        text_encoder_2=t5(),
        tokenizer_2=word_tokenizer(),
        transformer=FluxTransformer2DModel(**(values | transformer_config)),
    ).save_pretrained(folder)
    return folder


def save_if(folder: Path, **unet_config) -> Path:
    """Save a pixel-space pipeline with the kinds of blocks that DeepFloyd IF's first stage has."""
    torch.manual_seed(0)
    values = {
        "sample_size": SIZE,
        "in_channels": 3,
        "out_channels": 6,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "act_fn": "gelu",
        "time_embedding_act_fn": "gelu",
        "resnet_time_scale_shift": "scale_shift",
        "norm_num_groups": 4,
        "attention_head_dim": 8,  # in these blocks the width of a head
        "encoder_hid_dim": 32,
        "cross_attention_dim": 64,
        "addition_embed_type": "text",
        "addition_embed_type_num_heads": 4,
    }
    return save_if_of(
        folder,
        tokenizer=word_tokenizer(),
        text_encoder=t5(),
        unet=UNet2DConditionModel(**(values | unet_config)),
        scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2", variance_type="learned_range", clip_sample=False),
    )


def save_if_of(folder: Path, **parts) -> Path:
    """Save a pipeline of DeepFloyd IF's kind without the parts that look at finished pictures."""
    absent = dict.fromkeys(("safety_checker", "feature_extractor", "watermarker"))
    IFPipeline(**parts, **absent, requires_safety_checker=False).save_pretrained(folder)
    return folder
