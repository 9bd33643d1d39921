"""A tiny Stable Diffusion in the original and in NeMo's layouts of weights, and archives of NeMo's kind."""

import io
import json
import re
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import yaml
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

Weights = dict[str, Tensor]

WIDTH = 128  # Two heads of 64 channels.
LAYERS = 2
TOKENS = 13  # NeMo pads them to 16.
WORDS = ["!", "a</w>", "b</w>", "c</w>", "a", "b", "c", "<|startoftext|>", "<|endoftext|>"]
NEMO = "nemo.collections.multimodal."
ENCODERS = NEMO + "modules.stable_diffusion.encoders.modules."


# --- tiny models ------------------------------------------------------------------------------------------------------


def tiny_unet(linear: bool) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=(2, 4, 4) if linear else 2,  # heads
        use_linear_projection=linear,
        cross_attention_dim=WIDTH,
    )


def tiny_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        scaling_factor=0.18215,
    )


def tiny_text_encoder(activation: str = "quick_gelu") -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(WORDS),
            hidden_size=WIDTH,
            intermediate_size=48,
            num_hidden_layers=LAYERS,
            num_attention_heads=2,
            max_position_embeddings=TOKENS,
            hidden_act=activation,
        )
    )


def tiny_models(linear: bool = False, activation: str = "quick_gelu") -> SimpleNamespace:
    torch.manual_seed(0)
    models = SimpleNamespace(unet=tiny_unet(linear), vae=tiny_vae(), text_encoder=tiny_text_encoder(activation))
    for module in vars(models).values():
        # Norms and biases that are not one and zero, so that an exchange shows.
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.1)
        module.eval()
    return models


# --- their weights in the original layout: the inverse mapping --------------------------------------------------------


def replace_all(name: str, *pairs: tuple[str, str]) -> str:
    for old, new in pairs:
        name = name.replace(old, new)
    return name


def compvis_unet(unet: UNet2DConditionModel) -> Weights:
    return {"model.diffusion_model." + compvis_unet_name(name, unet): t for name, t in unet.state_dict().items()}


def compvis_unet_name(name: str, unet: UNet2DConditionModel) -> str:
    per_level = unet.config.layers_per_block + 1
    name = replace_all(
        name,
        ("time_embedding.linear_1", "time_embed.0"),
        ("time_embedding.linear_2", "time_embed.2"),
        ("conv_norm_out", "out.0"),
        ("conv_out", "out.2"),
        ("time_emb_proj", "emb_layers.1"),
        ("conv_shortcut", "skip_connection"),
    )
    if name.startswith("conv_in"):
        return name.replace("conv_in", "input_blocks.0.0")
    if "resnets" in name:
        name = replace_all(
            name,
            ("norm1", "in_layers.0"),
            ("conv1", "in_layers.2"),
            ("norm2", "out_layers.0"),
            ("conv2", "out_layers.3"),
        )
    match = re.match(
        r"(down|up|mid)_blocks?\.(?:(\d+)\.)?(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", name
    )
    if not match:
        return name
    where, level, kind, index, rest = match[1], int(match[2] or 0), match[3], int(match[4]), match[5]
    if where == "mid":
        return f"middle_block.{1 if kind == 'attentions' else 2 * index}.{rest}"
    if kind == "downsamplers":
        return f"input_blocks.{(level + 1) * per_level}.0.{rest.replace('conv', 'op')}"
    if kind == "upsamplers":
        attends = "CrossAttn" in unet.config.up_block_types[level]
        return f"output_blocks.{level * (per_level) + per_level - 1}.{1 + attends}.{rest}"
    place = int(kind == "attentions")
    if where == "down":
        return f"input_blocks.{level * per_level + index + 1}.{place}.{rest}"
    return f"output_blocks.{level * per_level + index}.{place}.{rest}"


def compvis_vae(vae: AutoencoderKL) -> Weights:
    levels = len(vae.config.block_out_channels)
    weights = {}
    for name, tensor in vae.state_dict().items():
        name = re.sub(r"up_blocks\.(\d+)", lambda m: f"up.{levels - 1 - int(m[1])}", name)
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        name = replace_all(
            name,
            ("down_blocks", "down"),
            ("resnets", "block"),
            ("downsamplers.0", "downsample"),
            ("upsamplers.0", "upsample"),
            ("conv_shortcut", "nin_shortcut"),
            ("conv_norm_out", "norm_out"),
            ("mid_block.attentions.0", "mid.attn_1"),
            ("group_norm", "norm"),
            ("to_out.0", "proj_out"),
            ("to_q", "q"),
            ("to_k", "k"),
            ("to_v", "v"),
        )
        if "attn_1" in name and "norm" not in name and name.endswith("weight"):
            tensor = tensor[:, :, None, None]
        weights["first_stage_model." + name] = tensor
    return weights


def clip_state(text_encoder: CLIPTextModel) -> Weights:
    return {name.removeprefix("text_model."): tensor for name, tensor in text_encoder.state_dict().items()}


def compvis_clip(text_encoder: CLIPTextModel) -> Weights:
    prefix = "cond_stage_model.transformer.text_model."
    weights = {prefix + name: tensor for name, tensor in clip_state(text_encoder).items()}
    return {**weights, prefix + "embeddings.position_ids": torch.arange(TOKENS)[None]}


def joint_projections(state: Weights, interleaved_heads: int | None = None) -> Weights:
    joint = {}
    for name, tensor in state.items():
        if ".q_proj." in name:
            parts = [state[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
            if interleaved_heads:
                parts = [part.unflatten(0, (interleaved_heads, -1)) for part in parts]
                joint[name.replace("q_proj", "qkv")] = torch.cat(parts, dim=1).flatten(0, 1)
            else:
                joint[name.replace("q_proj", "qkv")] = torch.cat(parts)
        elif not re.search(r"\.[kv]_proj\.", name):
            joint[name] = tensor
    return joint


def open_clip(text_encoder: CLIPTextModel) -> Weights:
    pairs = (
        ("encoder.layers.", "transformer.resblocks."),
        ("layer_norm", "ln_"),
        ("self_attn.qkv.", "attn.in_proj_"),
        ("self_attn.", "attn."),
        ("fc1", "c_fc"),
        ("fc2", "c_proj"),
        ("final_ln_.", "ln_final."),
        ("final_layer_norm", "ln_final"),
        ("embeddings.token_embedding", "token_embedding"),
        ("embeddings.position_embedding.weight", "positional_embedding"),
    )
    state = joint_projections(clip_state(text_encoder))
    weights = {replace_all(name.replace("final_layer_norm", "ln_final"), *pairs): t for name, t in state.items()}
    weights |= {"logit_scale": torch.tensor(4.6), "text_projection": torch.eye(WIDTH)}
    return {"cond_stage_model.model." + name: tensor for name, tensor in weights.items()}


def megatron_clip(text_encoder: CLIPTextModel, interleaved: bool) -> Weights:
    pairs = (
        ("final_layer_norm", "encoder.final_layernorm"),
        ("layer_norm1", "input_layernorm"),
        ("layer_norm2", "post_attention_layernorm"),
        ("self_attn.qkv", "self_attention.query_key_value"),
        ("self_attn.out_proj", "self_attention.dense"),
        ("fc1", "dense_h_to_4h"),
        ("fc2", "dense_4h_to_h"),
        ("embeddings.token_embedding", "embedding.word_embeddings"),
        ("embeddings.position_embedding.weight", "embedding.position_embeddings"),
    )
    state = joint_projections(clip_state(text_encoder), 2 if interleaved else None)
    weights = {"language_model." + replace_all(name, *pairs): tensor for name, tensor in state.items()}
    return {"cond_stage_model.model." + n: t for n, t in {**weights, "head.weight": torch.eye(WIDTH)}.items()}


def compvis_weights(models: SimpleNamespace, text: Weights | None = None) -> Weights:
    buffers = {
        "betas": torch.zeros(1000),
        "alphas_cumprod": torch.zeros(1000),
        "sqrt_recipm1_alphas_cumprod": torch.ones(9),
    }
    text = compvis_clip(models.text_encoder) if text is None else text
    return {**compvis_unet(models.unet), **compvis_vae(models.vae), **text, **buffers}


# --- NeMo's layout ----------------------------------------------------------------------------------------------------


def nemo_name(name: str, newer: bool) -> str:
    """NeMo's name for CompVis's: fused norm and SiLU; newer versions also move the layer norms and fuse the last."""
    if name.startswith("model.diffusion_model."):
        name = replace_all(name, ("in_layers.2", "in_layers.1"), ("out_layers.3", "out_layers.2"))
        if newer:
            name = replace_all(
                name,
                ("diffusion_model.out.2.", "diffusion_model.out.1."),
                ("ff.net.2.", "ff.net.3."),
                ("ff.net.0.proj", "ff.net.1.proj"),
                (".norm1.", ".attn1.norm."),
                (".norm2.", ".attn2.norm."),
                (".norm3.", ".ff.net.0."),
            )
    return "model." + name


def nemo_weights(weights: Weights, newer: bool = True, compiled: bool = False) -> Weights:
    result = {nemo_name(name, newer): tensor for name, tensor in weights.items()}
    if compiled:
        result = {n.replace(".diffusion_model.", ".diffusion_model._orig_mod."): t for n, t in result.items()}
    return result


def nemo_config(linear: bool = False, **text: Any) -> dict[str, Any]:
    heads = {"num_head_channels": 16, "use_linear_in_transformer": True} if linear else {"num_heads": 2}
    return {
        "target": NEMO + "models.text_to_image.stable_diffusion.ldm.ddpm.MegatronLatentDiffusion",
        "precision": "${trainer.precision}",
        "linear_start": 0.00085,
        "linear_end": 0.012,
        "timesteps": 1000,
        "image_size": 8,
        "channels": 4,
        "conditioning_key": "crossattn",
        "scale_factor": 0.18215,
        "parameterization": "eps",
        "beta_schedule": "linear",
        "given_betas": None,
        "inductor": False,
        "unet_config": {
            "_target_": NEMO + "modules.stable_diffusion.diffusionmodules.openaimodel.UNetModel",
            "from_pretrained": None,
            "image_size": 32,
            "in_channels": 4,
            "out_channels": 4,
            "model_channels": 32,
            "attention_resolutions": [1, 2],
            "num_res_blocks": 1,
            "channel_mult": [1, 2, 2],
            "use_spatial_transformer": True,
            "transformer_depth": 1,
            "context_dim": WIDTH,
            "legacy": False,
            **heads,
        },
        "first_stage_config": {
            "_target_": NEMO + "models.text_to_image.stable_diffusion.ldm.autoencoder.AutoencoderKL",
            "embed_dim": 4,
            "ddconfig": {
                "double_z": True,
                "z_channels": 4,
                "resolution": 256,
                "in_channels": 3,
                "out_ch": 3,
                "ch": 32,
                "ch_mult": [1, 2],
                "num_res_blocks": 1,
                "attn_resolutions": [],
                "dropout": 0.0,
            },
            "lossconfig": {"target": "torch.nn.Identity"},
        },
        "cond_stage_config": {
            "_target_": ENCODERS + "FrozenCLIPEmbedder",
            "version": "openai/clip-vit-large-patch14",
            "max_length": 77,
            **text,
        },
    }


def compvis_config(config: dict[str, Any]) -> dict[str, Any]:
    """The same configuration in the structure of the original code's YAML files."""
    params = {name: value for name, value in config.items() if name != "target"}
    for name in ("unet_config", "first_stage_config", "cond_stage_config"):
        section = dict(params[name])
        target = "ldm.modules." + section.pop("_target_").rpartition(".")[2]
        params[name] = {"target": target, "params": section}
    return {
        "model": {"base_learning_rate": 1e-4, "target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": params}
    }


def pickled(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def member(
    name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(content)
    return info, content


def write_archive(path: Path, *members: tuple[tarfile.TarInfo, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content) if content else None)
    return path


def write_nemo(path: Path, config: dict[str, Any], weights: Any, mode: str = "w") -> Path:
    """Write an archive as NeMo does: the folder itself, then its files."""
    folder = member(".", kind=tarfile.DIRTYPE)
    text = member("./model_config.yaml", yaml.safe_dump(config).encode())
    return write_archive(path, folder, text, member("./model_weights.ckpt", pickled(weights)), mode=mode)


def save_tokenizer(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(WORDS)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "CLIPTokenizer"}')
    return folder
