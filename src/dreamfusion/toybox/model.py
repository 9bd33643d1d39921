"""The architecture of the embedded prior: a small pixel-space pipeline of the DeepFloyd / Imagen kind.

Everything is a stock diffusers or transformers class, so that the folder it is saved to loads like any other model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers import DDPMScheduler, IFPipeline, UNet2DConditionModel
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Punctuation, Sequence, Whitespace
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from dreamfusion.guidance.camera_token import CAMERA_WORD
from dreamfusion.toybox.captions import vocabulary

TEXT_WIDTH = 128
MAX_WORDS = 20
CHANNELS = (32, 64, 128)
"""Width of the UNet at each resolution, from the finest. At 32 x 32 pixels (16, 32, 64, 128) takes 1.4 times as many
images per second than (32, 64, 96) and still learned slower: it puts most of its weights where 4 x 4 positions are
left."""
SPECIAL = ("<pad>", "</s>", "<unk>", CAMERA_WORD)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token per word of the toybox vocabulary."""
    words = [*SPECIAL, *vocabulary()]
    tokenizer = Tokenizer(WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Sequence([Whitespace(), Punctuation()])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=[CAMERA_WORD],
        model_max_length=MAX_WORDS,
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


def build_unet(image_size: int) -> UNet2DConditionModel:
    """Return a randomly initialised UNet, with attention (to itself and to the words) in the middle only.

    The pooled text joins the time embedding and so scales and shifts every layer, as in DeepFloyd IF; it says all that
    a caption says (`text.py`), so attention in the other blocks cost a quarter of the time and was left out. The output
    has DeepFloyd's six channels, of which the last three (a learned variance there) are not trained.
    """
    return UNet2DConditionModel(
        sample_size=image_size,
        in_channels=3,
        out_channels=6,
        block_out_channels=CHANNELS,
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * len(CHANNELS),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("UpBlock2D",) * len(CHANNELS),
        norm_num_groups=8,
        cross_attention_dim=TEXT_WIDTH,
        # Trap: this class reads attention_head_dim as the number of heads.
        attention_head_dim=2,
        resnet_time_scale_shift="scale_shift",
        time_embedding_dim=192,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )


def build_pipeline(image_size: int) -> Any:
    """Return the untrained prior, an IFPipeline (whose parts have no types); weights by torch's global generator."""
    tokenizer = build_tokenizer()
    return IFPipeline(
        tokenizer=tokenizer,
        text_encoder=build_text_encoder(len(tokenizer)),
        unet=build_unet(image_size),
        scheduler=DDPMScheduler(
            num_train_timesteps=1000,
            beta_schedule="squaredcos_cap_v2",
            prediction_type="v_prediction",
            variance_type="fixed_small",
            clip_sample=True,
        ),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )
