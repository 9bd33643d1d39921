"""A tiny pixel-space pipeline of DeepFloyd IF's kind, random, whose tokenizer knows a few words."""

from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from support.families import save_if_of

SIZE = 16
MAX_TOKENS = 8
WORDS = ["a", "blue", "red", "mushroom", ",", "front", "side", "back", "overhead", "view"]


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    words = ["<pad>", "</s>", "<unk>", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=MAX_TOKENS,
    )


def tiny_unet(in_channels: int = 3, out_channels: int = 6) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=SIZE,
        in_channels=in_channels,
        out_channels=out_channels,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=32,
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
    )


def save_pipeline(
    folder: Path,
    *,
    prediction_type: str = "epsilon",
    in_channels: int = 3,
    out_channels: int = 6,
    beta_schedule: str = "squaredcos_cap_v2",
) -> Path:
    """Save a randomly initialised pixel-space pipeline of the DeepFloyd IF kind."""
    torch.manual_seed(0)
    config = T5Config(vocab_size=len(WORDS) + 3, d_model=32, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    scheduler = DDPMScheduler(beta_schedule=beta_schedule, prediction_type=prediction_type, clip_sample=False)
    return save_if_of(
        folder,
        tokenizer=tiny_tokenizer(),
        text_encoder=T5EncoderModel(config),
        unet=tiny_unet(in_channels, out_channels),
        scheduler=scheduler,
    )
