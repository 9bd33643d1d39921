"""Stable Diffusion as NeMo and the original latent-diffusion code save it, loaded into diffusers modules.

Architecture, noise schedule and scale of the latents come from the configuration; the weights are renamed twice:

    NeMo                                   CompVis                                diffusers
    model.model.diffusion_model.*     ->   model.diffusion_model.*           ->   unet
    model.first_stage_model.*         ->   first_stage_model.*               ->   vae
    model.cond_stage_model.*          ->   cond_stage_model.*                ->   text_encoder

NeMo's UNet fuses norms with their SiLU, and its later versions move the layer norms into the attention; both shift
numbers and names (`_NEMO_UNET`). Sources: NVIDIA/NeMo ``nemo/collections/multimodal`` (``openaimodel.py``,
``attention.py``, ``encoders/modules.py``, ``ddpm.py``) and CompVis/stable-diffusion.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from huggingface_hub import model_info, snapshot_download
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.nemo_archive import parse_config, read_nemo, read_weights

Weights = dict[str, Tensor]

_OPENAI_CLIP = "openai/clip-vit-large-patch14"
_TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")

# --- what is read from the configuration ------------------------------------------------------------------------------

# The limits keep a made-up configuration from building modules for hours; real ones stay below 2000 and 12.
Count = Annotated[int, Field(ge=1, le=1 << 16)]
Few = Annotated[int, Field(ge=1, le=64)]
Factors = Annotated[list[Few], Field(min_length=1, max_length=12)]


class _Section(BaseModel):
    """Fields that are not declared concern training, or do not change what the model computes."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class _UNetSection(_Section):
    in_channels: Count
    out_channels: Count
    model_channels: Count
    num_res_blocks: Few
    attention_resolutions: list[Count]
    channel_mult: Factors
    context_dim: Count
    num_heads: int = -1
    num_head_channels: int = -1
    transformer_depth: Few = 1
    use_linear_in_transformer: bool = False
    # Other values mean layers that Stable Diffusion 1 and 2 do not have.
    use_spatial_transformer: Literal[True]
    conv_resample: Literal[True] = True
    resblock_updown: Literal[False] = False
    resblock_gn_groups: Literal[32] = 32
    use_scale_shift_norm: Literal[False] = False
    use_te_fp8: Literal[False] = False
    num_classes: None = None
    num_attention_blocks: None = None
    disable_self_attentions: None = None


class _DDSection(_Section):
    z_channels: Count
    in_channels: Count
    out_ch: Count
    ch: Count
    ch_mult: Factors
    num_res_blocks: Few
    double_z: Literal[True] = True
    attn_resolutions: Annotated[list[int], Field(max_length=0)] = []


class _VAESection(_Section):
    embed_dim: Count
    ddconfig: _DDSection


class _MegatronTextSection(_Section):
    num_attention_heads: Count
    activation: Literal["gelu", "approx-gelu"] = "gelu"
    openai_gelu: Literal[False] = False
    megatron_legacy: bool = False


class _MegatronTokenizerSection(_Section):
    type: str = _OPENAI_CLIP


class _MegatronSection(_Section):
    text: _MegatronTextSection
    tokenizer: _MegatronTokenizerSection = _MegatronTokenizerSection()


class _TextSection(_Section):
    target: str = Field(alias="_target_")
    version: str = _OPENAI_CLIP
    layer: Literal["last", "penultimate"] = "last"
    cfg: _MegatronSection | None = None


class _Config(_Section):
    linear_start: Annotated[float, Field(gt=0, lt=1)]
    linear_end: Annotated[float, Field(gt=0, lt=1)]
    timesteps: Count = 1000
    image_size: Count = 64
    channels: Count = 4
    scale_factor: Annotated[float, Field(gt=0)] = 1.0
    parameterization: Literal["eps", "v", "x0"] = "eps"
    conditioning_key: Literal["crossattn"]
    beta_schedule: Literal["linear"] = "linear"
    given_betas: None = None
    unet_config: _UNetSection
    first_stage_config: _VAESection
    cond_stage_config: _TextSection


_CLASSES = {
    "": ("MegatronLatentDiffusion", "LatentDiffusion", ""),
    "unet_config": ("UNetModel",),
    "first_stage_config": ("AutoencoderKL",),
    "cond_stage_config": ("FrozenCLIPEmbedder", "FrozenOpenCLIPEmbedder", "FrozenMegatronCLIPEmbedder"),
}

# --- loading ----------------------------------------------------------------------------------------------------------


def load_nemo(
    path: str | Path, dtype: torch.dtype = torch.float32, tokenizer: str | Path | None = None
) -> StableDiffusionPipeline:
    """Return Stable Diffusion 1 or 2 from a ``.nemo`` archive, on the CPU, as a diffusers pipeline.

    The archive holds no tokenizer: ``tokenizer`` names a folder that has one, else the name in the configuration is
    looked for on this machine, then on the hub. Raises DreamFusionError, in one line, for an archive that cannot be
    read or is unsafe (`read_nemo`), a configuration of another model family, weights that are missing or left over,
    and a tokenizer that cannot be had.
    """
    path = Path(path).expanduser()
    config, weights = read_nemo(path)
    return _build(_parse(config, path), weights, path, dtype, tokenizer)


def load_ldm_checkpoint(
    path: str | Path,
    config: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
    tokenizer: str | Path | None = None,
) -> StableDiffusionPipeline:
    """Return Stable Diffusion 1 or 2 from a ``.ckpt`` or ``.safetensors`` file with the original names, or NeMo's.

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
    return _build(_parse(parse_config(text, str(config)), config), read_weights(path), path, dtype, tokenizer)


def _build(
    config: _Config, weights: Weights, path: Path, dtype: torch.dtype, tokenizer: str | Path | None
) -> StableDiffusionPipeline:
    weights = canonical_names(weights, path)
    scale = weights.pop("scale_factor", None)  # Saved where it was measured (scale_by_std), and then the truth.
    weights = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    with _unsupported(path), init_empty_weights():
        unet, vae = _build_unet(config), _build_vae(config, scale)
    _fill(unet, "model.diffusion_model.", convert_ldm_unet_checkpoint, weights, path)
    _fill(vae, "first_stage_model.", convert_ldm_vae_checkpoint, weights, path)
    text_encoder = _load_text_encoder(config.cond_stage_config, weights, path)
    _check_channels(config, text_encoder, path)
    if weights:
        raise DreamFusionError(f"{path} does not fit its configuration: {next(iter(weights))!r} is left over.")
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=_load_tokenizer(config.cond_stage_config, tokenizer, text_encoder.config, path),
        unet=unet,
        scheduler=_build_scheduler(config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@contextmanager
def _unsupported(path: Path) -> Iterator[None]:
    """Turn the libraries' complaints about sizes that do not go together into one line."""
    try:
        yield
    except (ValueError, TypeError, RuntimeError) as error:
        reason = (str(error).splitlines() or [""])[0].rstrip(". ")
        raise DreamFusionError(f"{path} has a configuration that is not supported: {reason}.") from None


def _parse(config: dict[str, Any], path: Path) -> _Config:
    """Check the family and the values of a configuration in NeMo's or in CompVis's structure."""
    config = _section(config.get("model", config))
    for name, known in _CLASSES.items():
        if name:
            config[name] = _section(config.get(name))
        target = str((config[name] if name else config).get("_target_", "")).rpartition(".")[2]
        if target not in known:
            raise DreamFusionError(
                f"{path} is not Stable Diffusion 1 or 2: its {name or 'model'} is {target[:80]!r}, not {known[0]}."
            )
    try:
        return _Config.model_validate(config)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise DreamFusionError(f"{path} has a configuration that is not supported: {place}: {first['msg']}.") from None


def _section(node: Any) -> dict[str, Any]:
    """Return CompVis's ``{target, params: {...}}`` as NeMo's ``{_target_, ...}``; what is no mapping as empty."""
    node = dict(node) if isinstance(node, dict) else {}
    params = node.pop("params", None)
    if "target" in node:
        node["_target_"] = node.pop("target")
    return {**node, **params} if isinstance(params, dict) else node


# --- names ------------------------------------------------------------------------------------------------------------

# NeMo's UNet against CompVis's; what stands left has no weights in CompVis's, so a CompVis file passes unchanged.
_NEMO_UNET = (
    (r"\.in_layers\.1\.", ".in_layers.2."),
    (r"\.out_layers\.2\.", ".out_layers.3."),
    (r"\.out\.1\.", ".out.2."),
    (r"\.attn([12])\.norm\.", r".norm\1."),
    (r"\.ff\.net\.0\.(weight|bias)$", r".norm3.\1"),
    (r"\.ff\.net\.1\.proj\.", ".ff.net.0.proj."),
    (r"\.ff\.net\.3\.", ".ff.net.2."),
)

# Noise schedules follow from the configuration; the rest serves training, averaging or comparing texts with images.
_NOT_NEEDED = re.compile(
    r"(log_one_minus_|sqrt_recipm?1?_|sqrt_one_minus_|sqrt_)?alphas_cumprod(_prev)?|betas|logvar|lvlb_weights|posterior_\w+"
    r"|model_ema\..*|first_stage_model\.loss\..*|cond_stage_model\.transformer\.text_model\.embeddings\.position_ids"
    r"|cond_stage_model\.model\.(logit_scale|text_projection|attn_mask|head\.weight)"
)

_OPEN_CLIP = (
    (r"^transformer\.resblocks\.", "encoder.layers."),
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"\.attn\.in_proj_", ".self_attn.qkv."),
    (r"\.attn\.", ".self_attn."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"^ln_final\.", "final_layer_norm."),
    (r"^token_embedding\.", "embeddings.token_embedding."),
    (r"^positional_embedding$", "embeddings.position_embedding.weight"),
)

_MEGATRON_CLIP = (
    (r"^language_model\.", ""),
    (r"\.input_layernorm\.", ".layer_norm1."),
    (r"\.post_attention_layernorm\.", ".layer_norm2."),
    (r"\.self_attention\.query_key_value\.", ".self_attn.qkv."),
    (r"\.self_attention\.dense\.", ".self_attn.out_proj."),
    (r"\.dense_h_to_4h\.", ".fc1."),
    (r"\.dense_4h_to_h\.", ".fc2."),
    (r"^encoder\.final_layernorm\.", "final_layer_norm."),
    (r"^embedding\.word_embeddings\.", "embeddings.token_embedding."),
    (r"^embedding\.position_embeddings(\.weight)?$", "embeddings.position_embedding.weight"),
)


def canonical_names(weights: Mapping[str, Tensor], path: Path) -> Weights:
    """Return weights under the original latent-diffusion names, whatever wraps them, without what is not needed.

    NeMo's wrapper ``model.`` and the ``_orig_mod`` of torch.compile go, and the layers of NeMo's UNet get CompVis's
    numbers. Raises DreamFusionError, naming ``path``, if two weights would get one name.
    """
    names = {name: ".".join(part for part in name.split(".") if part != "_orig_mod") for name in weights}
    for wrapper in ("model.", "module."):
        if all(new.startswith(wrapper) for new in names.values()):
            names = {name: new.removeprefix(wrapper) for name, new in names.items()}
    result: Weights = {}
    for name, new in names.items():
        if new.startswith("model.diffusion_model."):
            new = _rename(new, _NEMO_UNET)
        if new in result:
            raise DreamFusionError(f"{path} has the weights {new!r} twice, under CompVis's and NeMo's names.")
        if not _NOT_NEEDED.fullmatch(new):
            result[new] = weights[name]
    return result


def _rename(name: str, table: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in table:
        name = re.sub(pattern, replacement, name)
    return name


def _take(weights: Weights, prefix: str) -> Weights:
    """Remove the weights that begin with ``prefix`` and return them."""
    return {name: weights.pop(name) for name in [name for name in weights if name.startswith(prefix)]}


# --- modules ----------------------------------------------------------------------------------------------------------


def _fill(module: Any, prefix: str, convert: Callable[..., Weights], weights: Weights, path: Path) -> None:
    """Move the weights that begin with ``prefix`` from ``weights`` into an empty diffusers module.

    ``convert`` is diffusers' own function for the module, ``(weights, config) -> weights`` (checked with 0.42.1).
    """
    source = _take(weights, prefix)
    converted = convert(dict(source), module.config)
    # The converters pass over what they do not know. Reshaped weights are views, so the address tells what was used.
    used = {tensor.data_ptr() for tensor in converted.values()}
    _assign(module, converted, path, [name for name, tensor in source.items() if tensor.data_ptr() not in used])


def _assign(module: nn.Module, weights: Weights, path: Path, left_over: list[str]) -> None:
    """Make ``weights`` the parameters of an empty module, one for one, or name the first that does not fit."""
    expected = module.state_dict()
    left_over = left_over + [name for name in weights if name not in expected]
    wrong = [name for name, tensor in weights.items() if name in expected and not _fits(tensor, expected[name])]
    problems = [
        *(f"{name} of its {type(module).__name__} is missing" for name in expected if name not in weights),
        *(f"{name!r} is left over" for name in left_over),
        *(f"{name} of its {type(module).__name__} has another shape or is no float" for name in wrong),
    ]
    if problems:
        raise DreamFusionError(f"{path} does not fit its configuration: {problems[0]}.")
    module.load_state_dict(weights, assign=True)
    module.eval()


def _fits(tensor: Tensor, expected: Tensor) -> bool:
    return tensor.shape == expected.shape and tensor.is_floating_point()


def _build_unet(config: _Config) -> UNet2DConditionModel:
    unet = config.unet_config
    channels = [unet.model_channels * factor for factor in unet.channel_mult]
    attention = [2**level in unet.attention_resolutions for level in range(len(channels))]
    return UNet2DConditionModel(
        sample_size=config.image_size,
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
    )


def _heads(unet: _UNetSection, width: int) -> int:
    heads = unet.num_heads if unet.num_head_channels == -1 else width // max(unet.num_head_channels, 1)
    if heads < 1 or width % heads:
        raise ValueError(f"unet_config: {width} channels cannot be divided among {heads} heads")
    return heads


def _build_vae(config: _Config, scale: Tensor | None) -> AutoencoderKL:
    dd = config.first_stage_config.ddconfig
    levels = len(dd.ch_mult)
    return AutoencoderKL(
        sample_size=config.image_size * 2 ** (levels - 1),
        in_channels=dd.in_channels,
        out_channels=dd.out_ch,
        latent_channels=dd.z_channels,
        block_out_channels=[dd.ch * factor for factor in dd.ch_mult],
        layers_per_block=dd.num_res_blocks,
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        scaling_factor=config.scale_factor if scale is None else scale.item(),
    )


def _build_scheduler(config: _Config) -> DDIMScheduler:
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


# --- text -------------------------------------------------------------------------------------------------------------


class PaddedCLIPTextModel(CLIPTextModel):
    """CLIP's text encoder, whose last hidden state NeMo pads with zeros to a multiple of 8 tokens: 77 become 80.

    NeMo does not mask them, so they take their share of the UNet's attention (their keys and values are zero, their
    weight exp(0) is not), and predictions differ from those for 77 tokens.
    """

    def forward(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return CLIPTextModel's output for tokens [B, L], with last_hidden_state [B, 8 * ceil(L / 8), D].

        Tokens past the last position are dropped: diffusers' pipelines fill the negative prompt to the length of the
        first result, which is 80.
        """
        output = super().forward(input_ids[:, : self.config.max_position_embeddings], *args, **kwargs)
        hidden = output.last_hidden_state
        output.last_hidden_state = pad(hidden, (0, 0, 0, -hidden.shape[1] % 8))
        return output


@dataclass(frozen=True)
class _TextLayout:
    """How one of the text encoders is saved, and what its weights do not tell."""

    prefix: str
    table: tuple[tuple[str, str], ...]
    activation: str
    padded: bool = False
    heads: int | None = None
    interleaved: bool = False


def _text_layout(config: _TextSection) -> _TextLayout:
    by_nemo = config.target.startswith("nemo.")
    match config.target.rpartition(".")[2]:
        case "FrozenCLIPEmbedder":
            if config.layer != "last":
                raise ValueError("cond_stage_config.layer: CLIP gives its last layer only")
            return _TextLayout("cond_stage_model.transformer.text_model.", (), "quick_gelu", padded=by_nemo)
        case "FrozenOpenCLIPEmbedder":
            return _TextLayout("cond_stage_model.model.", _OPEN_CLIP, "gelu")
        case _ if config.cfg:
            text = config.cfg.text
            # NeMo's approx-gelu is x sigmoid(1.702 x), which OpenAI's CLIP was trained with.
            activation = "quick_gelu" if text.activation == "approx-gelu" else "gelu"
            return _TextLayout(
                "cond_stage_model.model.",
                _MEGATRON_CLIP,
                activation,
                padded=True,
                heads=text.num_attention_heads,
                interleaved=not text.megatron_legacy,
            )
        case _:
            raise ValueError("cond_stage_config.cfg, which describes the text encoder, is missing")


def _load_text_encoder(config: _TextSection, weights: Weights, path: Path) -> CLIPTextModel:
    """Move the text encoder's weights from ``weights`` into a new module of their sizes.

    diffusers' convert_open_clip_checkpoint drops layer 23 whatever the configuration says, so it is not used.
    """
    with _unsupported(path):
        layout = _text_layout(config)
    taken = _take(weights, layout.prefix)
    source = {_rename(name.removeprefix(layout.prefix), layout.table): tensor for name, tensor in taken.items()}
    clip_config = _clip_config(source, layout, path)
    source = _split_qkv(source, clip_config.num_attention_heads if layout.interleaved else None)
    if config.layer == "penultimate":
        clip_config.num_hidden_layers -= 1
        last = f"encoder.layers.{clip_config.num_hidden_layers}."
        source = {name: tensor for name, tensor in source.items() if not name.startswith(last)}
    with _unsupported(path), init_empty_weights():
        model = (PaddedCLIPTextModel if layout.padded else CLIPTextModel)(clip_config)
    # transformers 5.6 dropped a level from the names.
    level = "text_model." if hasattr(model, "text_model") else ""
    _assign(model, {level + name: tensor for name, tensor in source.items()}, path, [])
    return model


def _clip_config(weights: Weights, layout: _TextLayout, path: Path) -> CLIPTextConfig:
    """Return the sizes that the weights have; they do not tell the heads, which have 64 channels in every CLIP."""
    try:
        vocabulary, width = weights["embeddings.token_embedding.weight"].shape
        return CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=len(weights["encoder.layers.0.mlp.fc1.weight"]),
            max_position_embeddings=len(weights["embeddings.position_embedding.weight"]),
            num_hidden_layers=len(_layers(weights)),
            num_attention_heads=layout.heads or max(width // 64, 1),
            hidden_act=layout.activation,
        )
    except KeyError as error:
        raise DreamFusionError(
            f"{path} does not fit its configuration: {error.args[0]} of its text encoder is missing."
        ) from None
    except (ValueError, TypeError):
        raise DreamFusionError(f"{path} does not fit its configuration: its text encoder is no CLIP.") from None


def _layers(weights: Weights) -> set[int]:
    matches = (re.match(r"encoder\.layers\.(\d+)\.", name) for name in weights)
    return {int(match[1]) for match in matches if match}


def _split_qkv(weights: Weights, interleaved_heads: int | None) -> Weights:
    """Split the joint projection [3 D, ...] into queries, keys and values.

    They lie one after the other, or, in Megatron's newer layout, head by head: [heads, 3, D / heads, ...].
    """
    result: Weights = {}
    for name, tensor in weights.items():
        if ".qkv." not in name or tensor.ndim == 0:
            result[name] = tensor
            continue
        if interleaved_heads and len(tensor) % (3 * interleaved_heads) == 0:
            tensor = tensor.unflatten(0, (interleaved_heads, 3, -1)).transpose(0, 1).flatten(0, 2)
        for letter, part in zip("qkv", tensor.chunk(3), strict=False):
            result[name.replace(".qkv.", f".{letter}_proj.")] = part.clone()
    return result


def _check_channels(config: _Config, text_encoder: CLIPTextModel, path: Path) -> None:
    """Refuse parts that do not go together."""
    unet, vae = config.unet_config, config.first_stage_config
    latent = {config.channels, unet.in_channels, unet.out_channels, vae.embed_dim, vae.ddconfig.z_channels}
    if len(latent) > 1 or unet.context_dim != text_encoder.config.hidden_size:
        raise DreamFusionError(
            f"{path} is no text-to-image model: its UNet, VAE and text encoder differ in channels or width."
        )


# --- tokenizer --------------------------------------------------------------------------------------------------------


def _load_tokenizer(
    config: _TextSection, folder: str | Path | None, text_config: CLIPTextConfig, path: Path
) -> CLIPTokenizer:
    name = str(folder or _tokenizer_name(config))
    found = _tokenizer_folder(name, path, local_only=folder is not None)
    try:
        tokenizer = CLIPTokenizer.from_pretrained(str(found), local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DreamFusionError(f"The tokenizer {name} cannot be read ({type(error).__name__}).") from None
    if len(tokenizer) > text_config.vocab_size:
        raise DreamFusionError(
            f"The tokenizer {name} has {len(tokenizer)} words, more than the {text_config.vocab_size} of {path}."
        )
    tokenizer.model_max_length = text_config.max_position_embeddings
    if config.target.endswith("FrozenOpenCLIPEmbedder"):
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)  # OpenCLIP pads with zeros, "!".
    return tokenizer


def _tokenizer_name(config: _TextSection) -> str:
    if config.target.endswith("FrozenCLIPEmbedder"):
        return config.version
    # OpenCLIP's versions name no tokenizer: it has OpenAI's words.
    return config.cfg.tokenizer.type if config.cfg else _OPENAI_CLIP


def _tokenizer_folder(name: str, path: Path, local_only: bool) -> Path:
    """Return the folder of a tokenizer: the folder itself, its "tokenizer" folder, or the hub's, cached files first."""
    folder = Path(name).expanduser()
    for candidate in (folder, folder / "tokenizer"):
        if _has_tokenizer(candidate):
            return candidate
    if not local_only and (cached := _from_hub(name)):
        return cached
    wanted = "the folder has no vocab.json and merges.txt" if folder.is_dir() else "it is not on this machine"
    raise DreamFusionError(
        f"{path} comes without a tokenizer and {name} cannot be used ({wanted}): give the folder of a CLIP tokenizer."
    )


def _from_hub(name: str) -> Path | None:
    # A lost connection raises what the hub's HTTP library raises, and that library changes between versions.
    for local in (True, False):
        try:
            if not local:
                model_info(name, timeout=10)  # Fails at once without a connection; downloads are tried for minutes.
            folder = Path(snapshot_download(name, allow_patterns=list(_TOKENIZER_FILES), local_files_only=local))
        except Exception:
            continue
        if _has_tokenizer(folder):
            return folder
    return None


def _has_tokenizer(folder: Path) -> bool:
    # Asked first, because from_pretrained makes an empty tokenizer of a folder that has none.
    return (folder / "tokenizer.json").is_file() or all((folder / name).is_file() for name in _TOKENIZER_FILES[:2])
