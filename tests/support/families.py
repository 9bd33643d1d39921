"""Tiny models of every family, and their weights as single files in the key layout of the original repositories."""

import re
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tiny.families import SIZE, save_flux, save_if, save_if_of, save_sd, save_sd3, save_sdxl

__all__ = [
    "SIZE",
    "save_flux",
    "save_if",
    "save_if_of",
    "save_sd",
    "save_sd3",
    "save_sdxl",
    "save_single_file",
]


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
