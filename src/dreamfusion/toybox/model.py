"""The architecture of the embedded prior: a small pixel-space pipeline of the DeepFloyd / Imagen kind.

Everything is a stock diffusers or transformers class, so that the folder it is saved to loads like any other model.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, IFPipeline, UNet2DConditionModel
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Punctuation, Sequence, Whitespace
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from dreamfusion.guidance.camera_token import CAMERA_WORD, PICTURES
from dreamfusion.guidance.patched_unet import PatchedUNet, shifted_cosine_betas
from dreamfusion.toybox.captions import vocabulary
from dreamfusion.toybox.world import AT_FULL_SIZE, SIZES

TEXT_WIDTH = 128
MAX_WORDS = 20
CHANNELS = (32, 64, 128)
"""Width of the UNet at each resolution, from the finest. At 32 x 32 pixels (16, 32, 64, 128) takes 1.4 times as many
images per second than (32, 64, 96) and still learned slower: it puts most of its weights where 4 x 4 positions are
left."""
BANDED_FROM = 64
"""Side of pictures in pixels from which on the UNet works on their bands, at half the side (`PatchedUNet`)."""
STEPS = 1000
SHIFT = 2.0
"""By which alpha / sigma is lower for pictures of twice the side, whose 2 x 2 means then are as noisy as before."""
SPECIAL = ("<pad>", "</s>", "<unk>", CAMERA_WORD)


def build_tokenizer(words: Iterable[str] | None = None) -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token per word, in that order; those of the small world if none are given."""
    numbered = [*SPECIAL, *(vocabulary() if words is None else words)]
    tokenizer = Tokenizer(WordLevel({w: i for i, w in enumerate(numbered)}, unk_token="<unk>"))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Sequence([Whitespace(), Punctuation()])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=[CAMERA_WORD],
        model_max_length=MAX_WORDS,
        **{PICTURES: {"textureless": True, "full_size": {name: SIZES[name][0] for name in AT_FULL_SIZE}}},
    )


def name_for_older_transformers(file: Path) -> None:
    """Put a class that all allowed versions of transformers have in place of the tokenizer's newer name in a file."""
    text = file.read_text(encoding="utf-8").replace("TokenizersBackend", "PreTrainedTokenizerFast")
    file.write_text(text, encoding="utf-8")


def build_text_encoder(vocabulary_size: int) -> T5EncoderModel:
    """Return a randomly initialised two-layer T5 encoder."""
    config = T5Config(
        vocab_size=vocabulary_size,
        d_model=TEXT_WIDTH,
        d_kv=32,
        d_ff=256,
        num_layers=2,
        num_heads=4,
        relative_attention_num_buckets=16,
        relative_attention_max_distance=16,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        pad_token_id=0,
        eos_token_id=1,
        is_encoder_decoder=False,
        use_cache=False,
    )
    return T5EncoderModel(config)


def build_unet(image_size: int) -> Any:
    """Return a randomly initialised UNet for pictures of a side; from `BANDED_FROM` on, a `PatchedUNet`."""
    if image_size < BANDED_FROM:
        return UNet2DConditionModel(**_unet_options(image_size, channels=3))
    return PatchedUNet(image_size, _unet_options(image_size // 2, channels=12), steps=STEPS, shift=SHIFT)


def _unet_options(image_size: int, channels: int) -> dict[str, Any]:
    """Return the options of a UNet with attention (to itself and to the words) in the middle only.

    The pooled text joins the time embedding and so scales and shifts every layer, as in DeepFloyd IF; it says all that
    a caption says (`text.py`), so attention in the other blocks cost a quarter of the time and was left out. Of three
    channels it puts out DeepFloyd's six, of which the last three (a learned variance there) are not trained.
    """
    return {
        "sample_size": image_size,
        "in_channels": channels,
        "out_channels": 6 if channels == 3 else channels,
        "block_out_channels": CHANNELS,
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D",) * len(CHANNELS),
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "up_block_types": ("UpBlock2D",) * len(CHANNELS),
        "norm_num_groups": 8,
        "cross_attention_dim": TEXT_WIDTH,
        # Trap: this class reads attention_head_dim as the number of heads.
        "attention_head_dim": 2,
        "resnet_time_scale_shift": "scale_shift",
        "time_embedding_dim": 192,
        "addition_embed_type": "text",
        "addition_embed_type_num_heads": 4,
    }


def build_scheduler(image_size: int) -> DDPMScheduler:
    """Return the noise schedule for pictures of a side: the cosine's, shifted for those from `BANDED_FROM` on."""
    schedule: dict[str, Any] = {"beta_schedule": "squaredcos_cap_v2"}
    if image_size >= BANDED_FROM:
        schedule = {"trained_betas": shifted_cosine_betas(STEPS, SHIFT)}
    return DDPMScheduler(
        num_train_timesteps=STEPS,
        prediction_type="v_prediction",
        variance_type="fixed_small",
        clip_sample=True,
        **schedule,
    )


@torch.no_grad()
def grow(small: Any, large: Any) -> None:
    """Give a `PatchedUNet` the weights of one for pictures of half the side, whose knowledge of the means it has.

    Its first layer then looks at the means alone, and its last says zero for the other bands.
    """
    weights = {name: p.clone() for name, p in small.state_dict().items()}
    for name in ("conv_in.weight", "conv_out.weight", "conv_out.bias"):
        grown = torch.zeros_like(large.network.state_dict()[name])
        if name == "conv_in.weight":
            grown[:, :3] = weights[name]
        else:
            grown[:3] = weights[name][:3]
        weights[name] = grown
    large.network.load_state_dict(weights)


def words_in_order(tokenizer: Any) -> list[str]:
    """Return the words of a tokenizer of `build_tokenizer` by their numbers, without those in `SPECIAL`."""
    numbers = tokenizer.get_vocab()
    return [word for word in sorted(numbers, key=numbers.__getitem__) if word not in SPECIAL]


def build_pipeline(image_size: int, words: Iterable[str] | None = None) -> Any:
    """Return the untrained prior, an IFPipeline (whose parts have no types); weights by torch's global generator.

    ``words`` as in `build_tokenizer`.
    """
    tokenizer = build_tokenizer(words)
    return IFPipeline(
        tokenizer=tokenizer,
        text_encoder=build_text_encoder(len(tokenizer)),
        unet=build_unet(image_size),
        scheduler=build_scheduler(image_size),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )
