"""The text encoder and the tokenizer of a latent-diffusion checkpoint: CLIP as OpenAI, OpenCLIP or Megatron save it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import init_empty_weights
from huggingface_hub import model_info, snapshot_download
from torch import Tensor
from torch.nn.functional import pad
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.reading.ldm_config import OPENAI_CLIP, TextSection, unsupported
from dreamfusion.guidance.reading.ldm_weights import Weights, assign, rename, take

_TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")

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


def _text_layout(config: TextSection) -> _TextLayout:
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


def load_text_encoder(config: TextSection, weights: Weights, path: Path) -> CLIPTextModel:
    """Move the text encoder's weights from ``weights`` into a new module of their sizes.

    diffusers' convert_open_clip_checkpoint drops layer 23 whatever the configuration says, so it is not used.
    """
    with unsupported(path):
        layout = _text_layout(config)
    taken = take(weights, layout.prefix)
    source = {rename(name.removeprefix(layout.prefix), layout.table): tensor for name, tensor in taken.items()}
    clip_config = _clip_config(source, layout, path)
    source = _split_qkv(source, clip_config.num_attention_heads if layout.interleaved else None)
    if config.layer == "penultimate":
        clip_config.num_hidden_layers -= 1
        last = f"encoder.layers.{clip_config.num_hidden_layers}."
        source = {name: tensor for name, tensor in source.items() if not name.startswith(last)}
    with unsupported(path), init_empty_weights():
        model = (PaddedCLIPTextModel if layout.padded else CLIPTextModel)(clip_config)
    # transformers 5.6 dropped a level from the names.
    level = "text_model." if hasattr(model, "text_model") else ""
    assign(model, {level + name: tensor for name, tensor in source.items()}, path, [])
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


def load_tokenizer(
    config: TextSection, folder: str | Path | None, text_config: CLIPTextConfig, path: Path
) -> CLIPTokenizer:
    """Return the tokenizer of a folder, or the one that the configuration names; DreamFusionError if it is unfit."""
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


def _tokenizer_name(config: TextSection) -> str:
    if config.target.endswith("FrozenCLIPEmbedder"):
        return config.version
    # OpenCLIP's versions name no tokenizer: it has OpenAI's words.
    return config.cfg.tokenizer.type if config.cfg else OPENAI_CLIP


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
