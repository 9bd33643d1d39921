import copy
import errno
import gzip
import io
import os
import shutil
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from accelerate import init_empty_weights
from safetensors.torch import save_file
from torch import Tensor

from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.families import open_prior
from dreamfusion.guidance.latent import StableDiffusion
from dreamfusion.guidance.reading import ldm_text, nemo_archive, nemo_checkpoint
from dreamfusion.guidance.reading.ldm_text import PaddedCLIPTextModel
from dreamfusion.guidance.reading.ldm_unet import build_unet
from dreamfusion.guidance.reading.nemo_checkpoint import load_ldm_checkpoint, load_nemo
from support.nemo import (
    ENCODERS,
    NEMO,
    TOKENS,
    WIDTH,
    WORDS,
    Weights,
    compvis_config,
    compvis_weights,
    megatron_clip,
    member,
    nemo_config,
    nemo_weights,
    open_clip,
    pickled,
    save_tokenizer,
    tiny_models,
    write_archive,
    write_nemo,
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def models() -> SimpleNamespace:
    return tiny_models()


@pytest.fixture(scope="module")
def weights(models) -> Weights:
    return compvis_weights(models)


# --- the same weights in every layout ---------------------------------------------------------------------------------


def assert_same_modules(
    pipeline: Any, models: SimpleNamespace, names: tuple[str, ...] = ("unet", "vae", "text_encoder")
):
    for name in names:
        expected = getattr(models, name).state_dict()
        actual = getattr(pipeline, name).state_dict()
        assert actual.keys() == expected.keys()
        assert all(torch.equal(actual[key], expected[key]) for key in expected)


def token_ids(pipeline: Any, text: str = "a b c") -> Tensor:
    padding = {"padding": "max_length", "max_length": TOKENS, "truncation": True, "return_tensors": "pt"}
    return pipeline.tokenizer(text, **padding).input_ids


@torch.no_grad()
def assert_same_predictions(pipeline: Any, models: SimpleNamespace, padded: bool):
    ids = token_ids(pipeline)
    text = models.text_encoder(ids).last_hidden_state
    if padded:
        text = torch.cat([text, torch.zeros(1, 3, WIDTH)], dim=1)
    torch.testing.assert_close(pipeline.text_encoder(ids)[0], text, rtol=1e-5, atol=1e-6)

    generator = torch.Generator().manual_seed(1)
    z, image = torch.randn(1, 4, 8, 8, generator=generator), torch.rand(1, 3, 16, 16, generator=generator)
    expected = models.unet(z, 500, text).sample
    torch.testing.assert_close(pipeline.unet(z, 500, text).sample, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(pipeline.vae.encode(image).latent_dist.mean, models.vae.encode(image).latent_dist.mean)
    torch.testing.assert_close(pipeline.vae.decode(z).sample, models.vae.decode(z).sample)


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize(("newer", "compiled", "mode"), [(False, False, "w"), (True, False, "w:gz"), (True, True, "w")])
def test_nemo_archive_equals_the_modules(tmp_path, tokenizer, linear, newer, compiled, mode):
    models = tiny_models(linear)
    saved = nemo_weights(compvis_weights(models), newer, compiled)
    path = write_nemo(tmp_path / "sd.nemo", nemo_config(linear), saved, mode)
    pipeline = load_nemo(path, tokenizer=tokenizer)
    assert_same_modules(pipeline, models)
    assert_same_predictions(pipeline, models, padded=True)


@pytest.mark.parametrize("name", ["sd.nemo", "sd.ckpt"])
def test_the_guidance_of_such_a_file_predicts_what_the_modules_do(tmp_path, tokenizer, models, weights, name):
    """Through `open_prior`, as `--model FILE` does, with the tokenizer in the folder beside the file."""
    shutil.copytree(tokenizer, tmp_path / "tokenizer")
    if name == "sd.nemo":
        path = write_nemo(tmp_path / name, nemo_config(), nemo_weights(weights))
    else:
        path = tmp_path / name
        torch.save(weights, path)
        path.with_suffix(".yaml").write_text(yaml.safe_dump(compvis_config(nemo_config())))
    guidance = open_prior(str(path), image_size=32)
    assert isinstance(guidance, StableDiffusion)
    embeddings = guidance.embed(["a b c"])
    z, t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([300])
    expected = models.unet(z, t, embeddings.tokens).sample
    torch.testing.assert_close(guidance.predict_noise(z, t, embeddings), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("nested", [False, True])
def test_original_checkpoint_equals_the_modules(tmp_path, tokenizer, models, weights, nested):
    path = tmp_path / "sd.ckpt"
    torch.save({"state_dict": weights, "global_step": 1} if nested else weights, path)
    path.with_suffix(".yaml").write_text(yaml.safe_dump(compvis_config(nemo_config())))
    pipeline = load_ldm_checkpoint(path, tokenizer=tokenizer)
    assert_same_modules(pipeline, models)
    assert_same_predictions(pipeline, models, padded=False)
    assert not isinstance(pipeline.text_encoder, PaddedCLIPTextModel)


def test_safetensors_with_nemos_names_and_configuration(tmp_path, tokenizer, models, weights):
    path, config = tmp_path / "sd.safetensors", tmp_path / "model_config.yaml"
    save_file({name: tensor.contiguous() for name, tensor in nemo_weights(weights).items()}, path)
    config.write_text(yaml.safe_dump(nemo_config()))
    assert_same_modules(load_ldm_checkpoint(path, config, tokenizer=tokenizer), models)


@pytest.mark.parametrize("layer", ["last", "penultimate"])
@pytest.mark.parametrize("kind", ["open_clip", "megatron", "megatron_legacy"])
def test_other_text_encoders(tmp_path, tokenizer, kind, layer):
    models = tiny_models(activation="quick_gelu" if kind == "megatron_legacy" else "gelu")
    if kind == "open_clip":
        text, config = open_clip(models.text_encoder), {"_target_": ENCODERS + "FrozenOpenCLIPEmbedder"}
    else:
        legacy = kind == "megatron_legacy"
        text = megatron_clip(models.text_encoder, interleaved=not legacy)
        section = {"num_attention_heads": 2, "megatron_legacy": legacy, "hidden_size": "${..}"}
        section["activation"] = "approx-gelu" if legacy else "gelu"
        config = {"_target_": ENCODERS + "FrozenMegatronCLIPEmbedder", "cfg": {"text": section}}
    saved = nemo_weights(compvis_weights(models, text))
    path = write_nemo(tmp_path / "sd.nemo", nemo_config(**config, layer=layer), saved)
    pipeline = load_nemo(path, tokenizer=tokenizer)
    if layer == "penultimate":
        del models.text_encoder.encoder.layers[-1:]
    assert_same_modules(pipeline, models)
    assert_same_predictions(pipeline, models, padded=kind != "open_clip")
    # OpenCLIP pads with zeros, Megatron's CLIP with the end of the text.
    assert token_ids(pipeline)[0, -1] == (0 if kind == "open_clip" else WORDS.index("<|endoftext|>"))


def test_padding_changes_predictions_as_it_does_in_nemo(models):
    z, text = torch.ones(1, 4, 8, 8), torch.ones(1, TOKENS, WIDTH)
    padded = torch.cat([text, torch.zeros(1, 3, WIDTH)], dim=1)
    with torch.no_grad():
        assert (models.unet(z, 500, text).sample - models.unet(z, 500, padded).sample).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("parameterization", "prediction_type"), [("eps", "epsilon"), ("v", "v_prediction"), ("x0", "sample")]
)
def test_schedule_and_scale(tmp_path, tokenizer, weights, parameterization, prediction_type):
    config = {**nemo_config(), "parameterization": parameterization, "linear_start": 1e-3, "timesteps": 500}
    pipeline = load_nemo(write_nemo(tmp_path / "sd.nemo", config, nemo_weights(weights)), tokenizer=tokenizer)
    betas = torch.linspace(1e-3**0.5, 0.012**0.5, 500, dtype=torch.float64) ** 2
    torch.testing.assert_close(pipeline.scheduler.alphas_cumprod, (1 - betas).cumprod(0).float(), rtol=1e-4, atol=0)
    assert pipeline.scheduler.config.prediction_type == prediction_type
    assert pipeline.vae.config.scaling_factor == 0.18215
    assert pipeline.unet.config.sample_size == 8
    assert pipeline.tokenizer.model_max_length == TOKENS


def test_measured_scale_is_used(tmp_path, tokenizer, weights):
    saved = nemo_weights({**weights, "scale_factor": torch.tensor(0.5)})
    assert load_nemo(write_nemo(tmp_path / "sd.nemo", nemo_config(), saved), tokenizer=tokenizer).vae.config[
        "scaling_factor"
    ] == pytest.approx(0.5)


def test_dtype_and_mode(tmp_path, tokenizer, weights):
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    path = write_nemo(tmp_path / "sd.nemo", nemo_config(), nemo_weights(half))
    pipeline = load_nemo(path, torch.bfloat16, tokenizer)
    for module in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        assert {parameter.dtype for parameter in module.parameters()} == {torch.bfloat16}
        assert not module.training
    assert {p.dtype for p in load_nemo(path, tokenizer=tokenizer).unet.parameters()} == {torch.float32}


def test_pipeline_draws_an_image(tmp_path, tokenizer, weights):
    pipeline = load_nemo(write_nemo(tmp_path / "sd.nemo", nemo_config(), nemo_weights(weights)), tokenizer=tokenizer)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline("a b", num_inference_steps=2, output_type="np").images
    assert images.shape == (1, 16, 16, 3)


@pytest.mark.parametrize(
    ("unet", "parameters"),
    [
        ({"num_heads": 8, "context_dim": 768}, 859_520_964),
        ({"num_head_channels": 64, "use_linear_in_transformer": True, "context_dim": 1024}, 865_910_724),
    ],
)
def test_sizes_of_the_published_models(tmp_path, unet, parameters):
    """Stable Diffusion 1 and 2: the UNets' and the VAE's parameter counts are well known."""
    config = nemo_config()
    config["unet_config"] |= {"model_channels": 320, "channel_mult": [1, 2, 4, 4], "num_res_blocks": 2}
    config["unet_config"] |= {"num_heads": -1, "attention_resolutions": [4, 2, 1], **unet}
    config["first_stage_config"]["ddconfig"] |= {"ch": 128, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2}
    parsed = nemo_checkpoint.parse_sections(config, tmp_path)
    with init_empty_weights():
        modules = build_unet(parsed.unet_config, parsed.image_size), nemo_checkpoint._build_vae(parsed, None)
    assert [sum(p.numel() for p in module.parameters()) for module in modules] == [parameters, 83_653_863]
    assert modules[1].config.sample_size == 64


def test_a_full_disk(tmp_path, monkeypatch, weights):
    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(nemo_archive.shutil, "copyfileobj", full)
    path = write_nemo(tmp_path / "sd.nemo", nemo_config(), nemo_weights(weights), "w:gz")
    assert_refused(path, "No space left in .*TMPDIR")


# --- weights and configurations that do not fit -----------------------------------------------------------------------


def assert_refused(path: Path, pattern: str, tokenizer: Path | None = None):
    with pytest.raises(DreamFusionError, match=pattern) as info:
        load_nemo(path, tokenizer=tokenizer)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize(
    ("removed", "pattern"),
    [
        ("model.diffusion_model.out.2.bias", r"conv_out\.bias of its UNet2DConditionModel is missing"),
        ("first_stage_model.quant_conv.bias", r"quant_conv\.bias of its AutoencoderKL is missing"),
        (
            "cond_stage_model.transformer.text_model.final_layer_norm.bias",
            r"final_layer_norm\.bias of its PaddedCLIPTextModel is missing",
        ),
        (
            "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight",
            r"embeddings\.token_embedding\.weight of its text encoder is missing",
        ),
    ],
)
def test_missing_weights(tmp_path, tokenizer, weights, removed, pattern):
    kept = {name: tensor for name, tensor in weights.items() if name != removed}
    assert_refused(write_nemo(tmp_path / "sd.nemo", nemo_config(), nemo_weights(kept)), pattern, tokenizer)


@pytest.mark.parametrize(
    "added",
    [
        "model.diffusion_model.label_emb.0.weight",
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.extra.weight",
        "model.diffusion_model.input_blocks.9.0.in_layers.2.weight",
        "first_stage_model.encoder.down.0.attn.0.q.weight",
        "first_stage_model.quantize.weight",
        "cond_stage_model.transformer.text_model.adapter.weight",
        "control_model.zero.weight",
    ],
)
def test_left_over_weights(tmp_path, tokenizer, weights, added):
    saved = nemo_weights({**weights, added: torch.ones(3)})
    assert_refused(write_nemo(tmp_path / "sd.nemo", nemo_config(), saved), r"\.weight' is left over", tokenizer)


def test_shapes_and_types_are_checked(tmp_path, tokenizer, weights):
    name = "model.diffusion_model.out.2.bias"
    for tensor in (torch.ones(5), torch.ones(4, dtype=torch.int64)):
        path = write_nemo(tmp_path / "sd.nemo", nemo_config(), nemo_weights({**weights, name: tensor}))
        assert_refused(path, r"conv_out\.bias of its UNet2DConditionModel has another shape", tokenizer)


def test_one_weight_under_two_names(tmp_path, tokenizer, weights):
    saved = nemo_weights(weights) | {"model.model.diffusion_model.out.2.bias": torch.ones(4)}
    assert_refused(write_nemo(tmp_path / "sd.nemo", nemo_config(), saved), r"out\.2\.bias' twice", tokenizer)


@pytest.mark.parametrize(
    ("place", "value", "pattern"),
    [
        ("target", NEMO + "models.text_to_image.imagen.imagen.MegatronImagen", "its model is 'MegatronImagen'"),
        ("unet_config._target_", "x.UNetModelSDXL", "its unet_config is 'UNetModelSDXL', not UNetModel"),
        ("first_stage_config._target_", "x.VQModelInterface", "its first_stage_config is 'VQModelInterface'"),
        ("cond_stage_config._target_", "x.FrozenT5Embedder", "its cond_stage_config is 'FrozenT5Embedder'"),
        ("unet_config", None, "its unet_config is ''"),
        ("unet_config.num_classes", 10, r"unet_config\.num_classes"),
        ("unet_config.use_te_fp8", True, r"unet_config\.use_te_fp8"),
        ("unet_config.context_dim", "${model.width}", r"unet_config\.context_dim"),
        ("unet_config.channel_mult", [1] * 1000, r"unet_config\.channel_mult"),
        ("unet_config.num_res_blocks", 10**9, r"unet_config\.num_res_blocks"),
        ("unet_config.num_heads", -1, "cannot be divided among -1 heads"),
        ("unet_config.model_channels", 33, "cannot be divided"),
        ("first_stage_config.ddconfig.attn_resolutions", [32], "attn_resolutions"),
        ("cond_stage_config.layer", "pooled", r"cond_stage_config\.layer"),
        ("cond_stage_config._target_", ENCODERS + "FrozenMegatronCLIPEmbedder", r"cond_stage_config\.cfg"),
        ("conditioning_key", "concat", "conditioning_key"),
        ("beta_schedule", "cosine", "beta_schedule"),
        ("linear_start", None, "linear_start"),
        ("unet_config.in_channels", 8, "conv_in.weight of its UNet2DConditionModel has another shape"),
        ("channels", 3, "differ in channels"),
    ],
)
def test_other_families_and_unsupported_values(tmp_path, tokenizer, weights, place, value, pattern):
    config = copy.deepcopy(nemo_config())
    node = config
    *parents, last = place.split(".")
    for name in parents:
        node = node[name]
    node[last] = value
    assert_refused(write_nemo(tmp_path / "sd.nemo", config, nemo_weights(weights)), pattern, tokenizer)


# --- files that cannot be read, or must not be ------------------------------------------------------------------------


class Payload:
    """What an attacker would pickle."""

    def __init__(self, witness: Path):
        self.witness = witness

    def __reduce__(self):
        return os.system, (f"touch {self.witness}",)


CONFIG = yaml.safe_dump(nemo_config()).encode()


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize(
    ("name", "kind", "link", "pattern"),
    [
        ("../evil", tarfile.REGTYPE, "", "points outside the archive"),
        ("a/../../evil", tarfile.REGTYPE, "", "points outside the archive"),
        ("/evil", tarfile.REGTYPE, "", "points outside the archive"),
        ("..\\evil", tarfile.REGTYPE, "", "points outside the archive"),
        ("C:evil", tarfile.REGTYPE, "", "points outside the archive"),
        ("./model_weights.ckpt", tarfile.SYMTYPE, "/etc/passwd", "is a link, a device or sparse"),
        ("./model_weights.ckpt", tarfile.LNKTYPE, "model_config.yaml", "is a link, a device or sparse"),
        ("./model_config.yaml", tarfile.FIFOTYPE, "", "is a link, a device or sparse"),
        ("./model_config.yaml", tarfile.CHRTYPE, "", "is a link, a device or sparse"),
        ("./model_weights.ckpt", tarfile.DIRTYPE, "", "is a folder"),
        ("line\nbreak/../..", tarfile.REGTYPE, "", "points outside the archive"),
    ],
)
def test_members_that_reach_outside(tmp_path, in_tmp, name, kind, link, pattern, mode):
    folder = tmp_path / "inner"
    folder.mkdir()
    write_archive(folder / "sd.nemo", member(name, kind=kind, link=link), member("./other", CONFIG), mode=mode)
    assert_refused(folder / "sd.nemo", pattern)
    assert list(tmp_path.rglob("*")) == [folder, folder / "sd.nemo"]


@pytest.mark.parametrize("plain", [False, True])
def test_a_pickle_that_runs_code(tmp_path, plain):
    witness = tmp_path / "witness"
    content = pickled({"model.betas": torch.ones(3), "evil": Payload(witness)})
    if plain:
        path = tmp_path / "sd.ckpt"
        path.write_bytes(content)
        path.with_suffix(".yaml").write_bytes(CONFIG)
        with pytest.raises(DreamFusionError, match=r"pickles \w+\.system, which could run code"):
            load_ldm_checkpoint(path)
    else:
        path = write_archive(
            tmp_path / "sd.nemo", member("model_config.yaml", CONFIG), member("model_weights.ckpt", content)
        )
        assert_refused(path, r"pickles \w+\.system, which could run code")
    assert not witness.exists()


def test_weights_that_are_no_table_of_tensors(tmp_path):
    for content in ([torch.ones(3)], {"a": 1}, {"a": torch.eye(3).to_sparse()}, torch.ones(3), {1: torch.ones(3)}):
        assert_refused(
            write_nemo(tmp_path / "sd.nemo", nemo_config(), content), "not a table of names and plain tensors"
        )


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9])
def test_truncated_archives(tmp_path, weights, mode, share):
    path = write_nemo(tmp_path / "sd.nemo", nemo_config(), nemo_weights(weights), mode)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert_refused(path, "truncated")


def test_damaged_gzip(tmp_path, weights):
    path = write_nemo(tmp_path / "sd.nemo", nemo_config(), nemo_weights(weights), "w:gz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    assert_refused(path, "is no NeMo archive, or is truncated")


def test_truncated_weights_in_a_whole_archive(tmp_path, weights):
    content = pickled(weights)
    for broken in (content[: len(content) // 2], b"\x80\x04N.", b""):
        members = member("model_config.yaml", CONFIG), member("model_weights.ckpt", broken)
        assert_refused(write_archive(tmp_path / "sd.nemo", *members), "truncated")


@pytest.mark.parametrize(
    "content", [b"", b"no tar at all" * 100, gzip.compress(b"no tar at all" * 100)], ids=["empty", "text", "gzip"]
)
def test_no_tar(tmp_path, content):
    (tmp_path / "sd.nemo").write_bytes(content)
    assert_refused(tmp_path / "sd.nemo", "is no NeMo archive, or is truncated|has no model_config.yaml")


def test_missing_files_and_members(tmp_path):
    assert_refused(tmp_path / "sd.nemo", "There is no file")
    assert_refused(tmp_path, "is no NeMo archive")
    path = tmp_path / "sd.nemo"
    assert_refused(write_archive(path, member("model_config.yaml", CONFIG)), "has no model_weights.ckpt")
    assert_refused(write_archive(path, member("model_weights.ckpt", b"x")), "has no model_config.yaml")
    assert_refused(write_archive(path, *[member("model_config.yaml", CONFIG)] * 2), "model_config.yaml twice")


@pytest.mark.parametrize(
    "text", [b"- a", b"a: [", b"\xff\xfe\x00", b"x: !!python/object/apply:os.system [ls]", b"[" * 2000]
)
def test_configurations_that_are_none(tmp_path, weights, text):
    members = member("model_config.yaml", text), member("model_weights.ckpt", pickled(weights))
    assert_refused(
        write_archive(tmp_path / "sd.nemo", *members), "is no YAML|holds no configuration|is no NeMo archive"
    )


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_size_limits(tmp_path, monkeypatch, weights, mode):
    path = write_nemo(tmp_path / "sd.nemo", nemo_config(), nemo_weights(weights), mode)
    limits = (
        ("_MAX_CONFIG_BYTES", "exceeds 2 bytes"),
        ("_MAX_BYTES", "or 2 bytes"),
        ("_MAX_MEMBERS", "than 2 members"),
    )
    for name, pattern in limits:
        with monkeypatch.context() as patch:
            patch.setattr(nemo_archive, name, 2)
            assert_refused(path, pattern)
    # Ten megabytes of zeros behind the end are ten kilobytes when gzipped.
    if mode == "w:gz":
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(10 << 20)))
        assert_refused(path, "more follows the end")


def test_compressed_pickles_are_refused(tmp_path, weights):
    """A zip inside the archive may claim any size, too."""
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(pickled(weights))) as old,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for entry in old.namelist():
            new.writestr(entry, old.read(entry))
    members = member("model_config.yaml", CONFIG), member("model_weights.ckpt", packed.getvalue())
    assert_refused(write_archive(tmp_path / "sd.nemo", *members), "not written by PyTorch")


def test_plain_checkpoints_need_a_configuration(tmp_path, weights):
    torch.save(weights, tmp_path / "sd.ckpt")
    with pytest.raises(DreamFusionError, match=r"configuration .*sd\.yaml"):
        load_ldm_checkpoint(tmp_path / "sd.ckpt")
    (tmp_path / "sd.yaml").write_bytes(CONFIG)
    for name in ("none.ckpt", "none.safetensors"):
        with pytest.raises(DreamFusionError, match="cannot be read"):
            load_ldm_checkpoint(tmp_path / name, tmp_path / "sd.yaml")


# --- tokenizers -------------------------------------------------------------------------------------------------------


def test_tokenizer_of_the_configuration(tmp_path, tokenizer, weights):
    path = write_nemo(tmp_path / "sd.nemo", nemo_config(version=str(tokenizer)), nemo_weights(weights))
    assert token_ids(load_nemo(path), "c").tolist()[0][:3] == [7, 3, 8]


def test_tokenizer_that_cannot_be_had(tmp_path, tokenizer, weights, monkeypatch):
    def offline(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(ldm_text, "model_info", offline)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(ldm_text, "snapshot_download", offline)
    path = write_nemo(tmp_path / "sd.nemo", nemo_config(), nemo_weights(weights))
    assert_refused(path, r"openai/clip-vit-large-patch14 cannot be used \(it is not on this machine\)")
    assert_refused(path, "the folder has no vocab.json", tmp_path)
    assert_refused(path, "is not on this machine", tmp_path / "nowhere")


def test_tokenizer_of_another_text_encoder(tmp_path, tokenizer, weights):
    name = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
    path = write_nemo(tmp_path / "sd.nemo", nemo_config(), nemo_weights({**weights, name: weights[name][:4].clone()}))
    assert_refused(path, "has 9 words, more than the 4", tokenizer)
