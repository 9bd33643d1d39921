"""What is read from the configuration of a latent-diffusion checkpoint, NeMo's or CompVis's: its sections, checked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dreamfusion.errors import DreamFusionError

MULTI_VIEW = "MultiViewUNetModel"
"""The class of MVDream's denoiser, in its own code and in the diffusers port."""

OPENAI_CLIP = "openai/clip-vit-large-patch14"

# The limits keep a made-up configuration from building modules for hours; real ones stay below 2000 and 12.
Count = Annotated[int, Field(ge=1, le=1 << 16)]
Few = Annotated[int, Field(ge=1, le=64)]
Factors = Annotated[list[Few], Field(min_length=1, max_length=12)]


class _Section(BaseModel):
    """Fields that are not declared concern training, or do not change what the model computes."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class UNetSection(_Section):
    """The denoiser: sizes, and what must hold of its layers."""

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
    # MVDream's: how many numbers describe a camera, and the side of its latents (elsewhere unused).
    camera_dim: Annotated[int, Field(ge=1, le=1024)] | None = None
    image_size: Count = 32
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
    ip_dim: Literal[0] = 0  # ImageDream's tokens of a picture


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
    type: str = OPENAI_CLIP


class _MegatronSection(_Section):
    text: _MegatronTextSection
    tokenizer: _MegatronTokenizerSection = _MegatronTokenizerSection()


class TextSection(_Section):
    """The text encoder: its class, and which of its layers is read."""

    target: str = Field(alias="_target_")
    version: str = OPENAI_CLIP
    layer: Literal["last", "penultimate"] = "last"
    cfg: _MegatronSection | None = None


class LdmConfig(_Section):
    """The whole model, with the schedule of its noise."""

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
    unet_config: UNetSection
    first_stage_config: _VAESection
    cond_stage_config: TextSection


_CLASSES = {
    "": ("MegatronLatentDiffusion", "LatentDiffusion", "LatentDiffusionInterface", ""),
    "unet_config": ("UNetModel", MULTI_VIEW),
    "first_stage_config": ("AutoencoderKL",),
    "cond_stage_config": ("FrozenCLIPEmbedder", "FrozenOpenCLIPEmbedder", "FrozenMegatronCLIPEmbedder"),
}


def parse_sections(config: dict[str, Any], path: Path) -> LdmConfig:
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
    if is_multi_view(config):
        config.setdefault("conditioning_key", "crossattn")  # MVDream's files do not repeat it
    return checked(LdmConfig, config, path)


def is_multi_view(config: Any) -> bool:
    """Tell whether a configuration is MVDream's, by the class of its denoiser."""
    model = _section(config.get("model", config) if isinstance(config, dict) else {})
    return str(_section(model.get("unet_config")).get("_target_", "")).rpartition(".")[2] == MULTI_VIEW


Checked = TypeVar("Checked", bound=BaseModel)


def checked(section: type[Checked], values: dict[str, Any], path: Path) -> Checked:
    """Return a section of ``values``; DreamFusionError, which names the key, for one that is not supported."""
    try:
        return section.model_validate(values)
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


@contextmanager
def unsupported(path: Path) -> Iterator[None]:
    """Turn the libraries' complaints about sizes that do not go together into one line."""
    try:
        yield
    except (ValueError, TypeError, RuntimeError) as error:
        reason = (str(error).splitlines() or [""])[0].rstrip(". ")
        raise DreamFusionError(f"{path} has a configuration that is not supported: {reason}.") from None
