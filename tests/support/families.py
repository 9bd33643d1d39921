"""Tiny randomly initialised models of every family, in the format that diffusers saves them in."""

import re
import shutil
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
from safetensors.torch import load_file, save_file
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


# --- single files, in the key layout of the original repositories -----------------------------------------------------


def original_layout(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a `save_sd` or `save_sdxl` folder under the names of the original code (CompVis, SGM)."""
    two = (folder / "text_encoder_2").exists()
    weights = {
        f"model.diffusion_model.{_unet_name(name)}": value for name, value in _weights(folder / "unet", _DIFFUSERS)
    }
    for name, value in _weights(folder / "vae", _DIFFUSERS):
        # The original attention of the VAE is made of 1 x 1 convolutions.
        convolution = ".attentions." in name and value.ndim == 2
        weights[f"first_stage_model.{_vae_name(name)}"] = value[..., None, None] if convolution else value
    clip = "conditioner.embedders.0.transformer." if two else "cond_stage_model.transformer."
    for name, value in _weights(folder / "text_encoder", "model.safetensors"):
        weights[f"{clip}text_model.{name.removeprefix('text_model.')}"] = value
    if two:
        second = dict(_weights(folder / "text_encoder_2", "model.safetensors"))
        weights |= {f"conditioner.embedders.1.model.{name}": value for name, value in _open_clip(second).items()}
    return {name: value.clone().contiguous() for name, value in weights.items()}


_DIFFUSERS = "diffusion_pytorch_model.safetensors"


def _weights(folder: Path, file: str) -> list[tuple[str, torch.Tensor]]:
    return list(load_file(folder / file).items())


def _renamed(name: str, rules: dict[str, str]) -> str:
    for pattern, replacement in rules.items():
        name = re.sub(pattern, replacement, name)
    return name


def _unet_name(name: str) -> str:
    """One layer per block: a down block is two input blocks and an up block two output blocks."""
    if match := re.match(r"(down|up)_blocks\.(\d)\.(resnets|attentions)\.(\d)\.(.*)", name):
        side, block, kind, layer, rest = match.groups()
        number = int(block) * 2 + int(layer) + (side == "down")
        name = f"{'input' if side == 'down' else 'output'}_blocks.{number}.{int(kind == 'attentions')}.{rest}"
    rules = {
        r"^conv_in": "input_blocks.0.0",
        r"^time_embedding\.linear_1": "time_embed.0",
        r"^time_embedding\.linear_2": "time_embed.2",
        r"^add_embedding\.linear_1": "label_emb.0.0",
        r"^add_embedding\.linear_2": "label_emb.0.2",
        r"^conv_norm_out": "out.0",
        r"^conv_out": "out.2",
        r"^down_blocks\.0\.downsamplers\.0\.conv": "input_blocks.2.0.op",
        r"^up_blocks\.0\.upsamplers\.0": "output_blocks.1.1",
        r"^mid_block\.resnets\.0": "middle_block.0",
        r"^mid_block\.attentions\.0": "middle_block.1",
        r"^mid_block\.resnets\.1": "middle_block.2",
    }
    if "transformer_blocks" not in name:
        rules |= {
            r"norm1": "in_layers.0",
            r"conv1": "in_layers.2",
            r"time_emb_proj": "emb_layers.1",
            r"norm2": "out_layers.0",
            r"conv2": "out_layers.3",
            r"conv_shortcut": "skip_connection",
        }
    return _renamed(name, rules)


def _vae_name(name: str) -> str:
    """Two levels: the decoder counts them from the other end."""
    return _renamed(
        name,
        {
            r"up_blocks\.0\.": "up.one.",
            r"up_blocks\.1\.": "up.0.",
            r"up\.one\.": "up.1.",
            r"down_blocks": "down",
            r"mid_block\.resnets\.0": "mid.block_1",
            r"mid_block\.resnets\.1": "mid.block_2",
            r"mid_block\.attentions\.0": "mid.attn_1",
            r"resnets": "block",
            r"downsamplers\.0": "downsample",
            r"upsamplers\.0": "upsample",
            r"conv_shortcut": "nin_shortcut",
            r"conv_norm_out": "norm_out",
            r"group_norm": "norm",
            r"to_([qkv])": r"\1",
            r"to_out\.0": "proj_out",
        },
    )


def _open_clip(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """OpenCLIP keeps queries, keys and values in one matrix, and transposes the projection."""
    rules = {
        r"^text_model\.": "",
        r"^embeddings\.position_embedding\.weight": "positional_embedding",
        r"^embeddings\.token_embedding": "token_embedding",
        r"^final_layer_norm": "ln_final",
        r"^encoder\.layers": "transformer.resblocks",
        r"layer_norm1": "ln_1",
        r"layer_norm2": "ln_2",
        r"mlp\.fc1": "mlp.c_fc",
        r"mlp\.fc2": "mlp.c_proj",
        r"self_attn": "attn",
    }
    result = {}
    for name, value in weights.items():
        if ".q_proj." in name:
            parts = [weights[name.replace(".q_proj.", f".{part}_proj.")] for part in "qkv"]
            result[_renamed(name.replace(".q_proj.", ".in_proj_"), rules)] = torch.cat(parts)
        elif name == "text_projection.weight":
            result["text_projection"] = value.T
        elif not re.search(r"\.[kv]_proj\.", name):
            result[_renamed(name, rules)] = value
    return result


def save_single_file(folder: Path, file: Path) -> Path:
    """Write ``file`` with all weights of a `save_sd` or `save_sdxl` folder, and their configuration beside it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    for config in folder.rglob("*.json"):
        target = file.parent / config.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(config, target)
    weights = original_layout(folder)
    if file.suffix == ".ckpt":
        torch.save({"state_dict": weights, "global_step": 7}, file)
    else:
        save_file(weights, file)
    return file
