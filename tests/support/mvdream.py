"""A tiny MVDream in both of its layouts, and its network written out by hand on the original names."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import torch
import yaml
from diffusers import DDIMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import conv2d, gelu, group_norm, interpolate, layer_norm, linear, silu

from support.nemo import (
    WIDTH,
    Weights,
    compvis_config,
    compvis_weights,
    nemo_config,
    open_clip,
    save_tokenizer,
    tiny_models,
)

VIEWS = 4
SIDE = 8
"""Of the latents."""
HEAD = 16
UNET = {
    "image_size": SIDE,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "attention_resolutions": [1, 2],
    "num_res_blocks": 1,
    "channel_mult": [1, 2],
    "num_head_channels": HEAD,
    "transformer_depth": 1,
    "context_dim": WIDTH,
    "use_checkpoint": False,
    "camera_dim": 16,
}


def models() -> SimpleNamespace:
    """Return a random UNet, VAE and text encoder; the UNet's class embedding stands for the camera's layers."""
    made = tiny_models(linear=True, activation="gelu")
    torch.manual_seed(1)
    made.unet = UNet2DConditionModel(
        sample_size=SIDE,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        cross_attention_dim=WIDTH,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=16,
    ).eval()
    for parameter in made.unet.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return made


def original_weights(made: SimpleNamespace) -> Weights:
    names = {"class_embedding.linear_1": "camera_embed.0", "class_embedding.linear_2": "camera_embed.2"}
    weights = compvis_weights(made, open_clip(made.text_encoder))
    for theirs, ours in names.items():
        for kind in ("weight", "bias"):
            weights[f"model.diffusion_model.{ours}.{kind}"] = weights.pop(f"model.diffusion_model.{theirs}.{kind}")
    return weights


def save_original(folder: Path) -> Path:
    """Write a checkpoint as MVDream's own, the YAML of its code beside it; return its file."""
    save_tokenizer(folder / "tokenizer")
    made = models()
    torch.save(original_weights(made), folder / "mvdream.pt")
    config = compvis_config(nemo_config())
    params = config["model"]["params"]
    config["model"]["target"] = "mvdream.ldm.interface.LatentDiffusionInterface"
    for name in ("image_size", "channels", "conditioning_key", "given_betas", "beta_schedule"):
        del params[name]
    params["unet_config"] = {
        "target": "mvdream.ldm.modules.diffusionmodules.openaimodel.MultiViewUNetModel",
        "params": UNET | {"use_spatial_transformer": True, "use_linear_in_transformer": True, "legacy": False},
    }
    params["cond_stage_config"] = {
        "target": "mvdream.ldm.modules.encoders.modules.FrozenOpenCLIPEmbedder",
        "params": {"freeze": True, "layer": "last"},
    }
    (folder / "mvdream.yaml").write_text(yaml.safe_dump(config))
    return folder / "mvdream.pt"


def save_port(folder: Path) -> Path:
    """Write a folder as MVDream's port to diffusers does, whose UNet keeps its original names; return it."""
    made = models()
    made.vae.save_pretrained(folder / "vae")
    made.text_encoder.save_pretrained(folder / "text_encoder")
    save_tokenizer(folder / "tokenizer")
    DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    ).save_pretrained(folder / "scheduler")
    (folder / "unet").mkdir()
    prefix = "model.diffusion_model."
    unet = {name.removeprefix(prefix): x for name, x in original_weights(made).items() if name.startswith(prefix)}
    save_file({name: x.contiguous() for name, x in unet.items()}, folder / "unet/diffusion_pytorch_model.safetensors")
    (folder / "unet/config.json").write_text(json.dumps({"_class_name": "MultiViewUNetModel", **UNET}))
    index = {
        "_class_name": "MVDreamPipeline",
        "_diffusers_version": "0.26.0",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["mv_unet", "MultiViewUNetModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


# --- the network of MVDream, arXiv 2308.16512, on its original names --------------------------------------------------


def multi_view_unet(w: Weights, x: Tensor, t: Tensor, context: Tensor, camera: Tensor) -> Tensor:
    """Return what MVDream's denoiser puts out for views x [B, 4, S, S] in sets of four, in the sizes of `UNET`."""
    emb = _two_layers(w, "time_embed", _waves(t, UNET["model_channels"])) + _two_layers(w, "camera_embed", camera)
    h, kept = conv2d(x, w["input_blocks.0.0.weight"], w["input_blocks.0.0.bias"], padding=1), []
    kept.append(h)
    h = _attended(w, "input_blocks.1.1", _resnet(w, "input_blocks.1.0", h, emb), context)
    kept.append(h)
    h = conv2d(h, w["input_blocks.2.0.op.weight"], w["input_blocks.2.0.op.bias"], stride=2, padding=1)
    kept.append(h)
    h = _attended(w, "input_blocks.3.1", _resnet(w, "input_blocks.3.0", h, emb), context)
    kept.append(h)
    h = _resnet(w, "middle_block.0", h, emb)
    h = _resnet(w, "middle_block.2", _attended(w, "middle_block.1", h, context), emb)
    for number in range(4):
        name = f"output_blocks.{number}"
        h = _resnet(w, f"{name}.0", torch.cat([h, kept.pop()], dim=1), emb)
        h = _attended(w, f"{name}.1", h, context)
        if f"{name}.2.conv.weight" in w:
            h = interpolate(h, scale_factor=2, mode="nearest")
            h = conv2d(h, w[f"{name}.2.conv.weight"], w[f"{name}.2.conv.bias"], padding=1)
    h = silu(group_norm(h, 32, w["out.0.weight"], w["out.0.bias"]))
    return conv2d(h, w["out.2.weight"], w["out.2.bias"], padding=1)


def _waves(t: Tensor, width: int) -> Tensor:
    speeds = torch.exp(-math.log(10000) * torch.arange(width // 2) / (width // 2))
    angles = t[:, None].float() * speeds
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def _dense(w: Weights, name: str, x: Tensor) -> Tensor:
    return linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))


def _two_layers(w: Weights, name: str, x: Tensor) -> Tensor:
    return _dense(w, f"{name}.2", silu(_dense(w, f"{name}.0", x)))


def _resnet(w: Weights, name: str, x: Tensor, emb: Tensor) -> Tensor:
    def part(side: str, norm: int, conv: int, h: Tensor) -> Tensor:
        h = silu(group_norm(h, 32, w[f"{name}.{side}.{norm}.weight"], w[f"{name}.{side}.{norm}.bias"]))
        return conv2d(h, w[f"{name}.{side}.{conv}.weight"], w[f"{name}.{side}.{conv}.bias"], padding=1)

    h = part("in_layers", 0, 2, x) + _dense(w, f"{name}.emb_layers.1", silu(emb))[:, :, None, None]
    h = part("out_layers", 0, 3, h)
    if f"{name}.skip_connection.weight" in w:
        x = conv2d(x, w[f"{name}.skip_connection.weight"], w[f"{name}.skip_connection.bias"])
    return x + h


def _attended(w: Weights, name: str, x: Tensor, context: Tensor) -> Tensor:
    b, c, height, width = x.shape
    h = group_norm(x, 32, w[f"{name}.norm.weight"], w[f"{name}.norm.bias"], eps=1e-6)
    h = _dense(w, f"{name}.proj_in", h.flatten(2).transpose(1, 2))
    block = f"{name}.transformer_blocks.0"

    def normed(number: int) -> Tensor:
        return layer_norm(h, (c,), w[f"{block}.norm{number}.weight"], w[f"{block}.norm{number}.bias"])

    every = normed(1).reshape(b // VIEWS, -1, c)  # all pixels of four views
    h = h + _attention(w, f"{block}.attn1", every, every).reshape(b, -1, c)
    h = h + _attention(w, f"{block}.attn2", normed(2), context)
    value, gate = _dense(w, f"{block}.ff.net.0.proj", normed(3)).chunk(2, dim=-1)
    h = h + _dense(w, f"{block}.ff.net.2", value * gelu(gate))
    return x + _dense(w, f"{name}.proj_out", h).transpose(1, 2).reshape(b, c, height, width)


def _attention(w: Weights, name: str, x: Tensor, context: Tensor) -> Tensor:
    def heads(part: str, of: Tensor) -> Tensor:
        return _dense(w, f"{name}.to_{part}", of).unflatten(-1, (-1, HEAD)).transpose(1, 2)

    q, k, v = heads("q", x), heads("k", context), heads("v", context)
    shares = (q @ k.transpose(-1, -2) / math.sqrt(HEAD)).softmax(dim=-1)
    return _dense(w, f"{name}.to_out.0", (shares @ v).transpose(1, 2).flatten(2))


def unet_weights() -> Weights:
    """Return the weights of the tiny UNet under the names that `multi_view_unet` knows."""
    prefix = "model.diffusion_model."
    return {name.removeprefix(prefix): x for name, x in original_weights(models()).items() if name.startswith(prefix)}


__all__ = ["SIDE", "VIEWS", "multi_view_unet", "save_original", "save_port", "unet_weights"]
