"""What each method of distillation brings along: its constants, its texts, its terms, by hand."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dreamfusion.config import build_config
from dreamfusion.errors import DreamFusionError
from dreamfusion.fields.background import BackgroundConfig, LearnedBackground
from dreamfusion.fields.field import activated
from dreamfusion.guidance.families import open_prior
from dreamfusion.guidance.latent import StableDiffusion
from dreamfusion.guidance.reading import prepare
from dreamfusion.method.asking import Question
from dreamfusion.method.cameras import CameraRange, fixed_cameras, sample_cameras
from dreamfusion.method.distillation import check_decodes, image_loss
from dreamfusion.renderers.occupancy import OccupancyGrid
from dreamfusion.renderers.volume import RenderSettings, render
from dreamfusion.runs import fitting
from dreamfusion.scenes.regularizers import depth_spread
from support.balls import BLACK, UniformBall, lights, one_ray
from support.families import SIZE, save_sd

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sd(tmp_path_factory.mktemp("sd"))


@pytest.mark.parametrize("preset", ["default", "paper", "threestudio-sd"])
def test_a_loss_brings_its_constants_to_any_preset(preset):
    made = build_config(preset, {"prompt": "a", "steps": 25000, "loss": {"kind": "vsd"}})
    g = made.guidance
    assert (g.guidance_scale, g.weighting, g.t_min.at(0.5)) == (7.5, "sds", 0.02)
    assert [g.t_max.at(step / made.steps) for step in (0, 4999, 5000, 24999)] == [0.98, 0.98, 0.5, 0.5]
    made = build_config(preset, {"prompt": "a", "steps": 5000, "loss": {"kind": "ism"}})
    g, delta = made.guidance, made.loss.ism_delta_t
    assert (g.guidance_scale, g.weighting, made.loss.ism_delta_s) == (7.5, "ism", 0.2)
    assert [g.t_max.at(step / 5000) for step in (0, 750, 1500)] == pytest.approx([0.98, 0.74, 0.5])
    assert [delta.at(step / 5000) for step in (0, 750, 1500)] == pytest.approx([0.1, 0.09, 0.08])


def test_what_is_asked_for_wins_over_a_methods_constants():
    asked = {"prompt": "a", "loss": {"kind": "ism"}, "guidance": {"guidance_scale": 3.0}}
    assert build_config("paper", asked).guidance.guidance_scale == 3
    again = build_config("luciddreamer", {"prompt": "a", "loss": {"kind": "ism"}})
    assert again == build_config("luciddreamer", {"prompt": "a"})


def test_presets_of_the_methods():
    c = build_config("prolificdreamer", {"prompt": "a"})
    assert (c.loss.kind, c.guidance.guidance_scale, c.steps, c.guidance.precision) == ("vsd", 7.5, 25000, "bf16")
    assert [c.resolution.at(step / c.steps) for step in (4999, 5000)] == [64, 512]
    assert (c.scene.nerf.blob_density, c.cameras.radius_max) == (10, 1.5)
    c = build_config("hifa", {"prompt": "a"})
    assert [c.guidance.t_max.at(step / c.steps) for step in (0, 2500, 9999)] == pytest.approx(
        [0.98, 0.5, 0.02], abs=1e-3
    )
    assert c.guidance.t_min == c.guidance.t_max
    assert (c.loss.image, c.loss.z_variance * 4) == (0.01, 300), "a variance of lengths half as long"
    assert build_config("luciddreamer", {"prompt": "a"}).loss.kind == "ism"


def test_the_papers_other_half_of_cameras_is_on_the_upper_hemisphere():
    half = build_config("paper", {"prompt": "a"}).cameras
    drawn = sample_cameras(20_000, half, torch.Generator().manual_seed(0)).elevation_deg
    assert (drawn < 0).float().mean().item() == pytest.approx(0.05, abs=0.005), "a tenth of one half"
    by_area = half.model_copy(update={"uniform_angle_probability": 0.0})
    drawn = sample_cameras(2000, by_area, torch.Generator().manual_seed(0)).elevation_deg
    assert drawn.min() >= 0
    with pytest.raises(DreamFusionError, match="area_elevation_min_deg"):
        CameraRange(area_elevation_min_deg=-20.0)


def test_the_critic_hears_no_views_and_the_inversion_no_words(folder):
    prior = open_prior(folder)
    guidance = {"negative_prompt": "blue", "perp_neg": True, "perp_neg_scale": 3.0, "guidance_scale": 9.0}

    def asked(kind: str):
        config = build_config("default", {"prompt": "a", "guidance": guidance, "loss": {"kind": kind}})
        return Question(prior, config, "a red mushroom").about(fixed_cameras(0.0, 0.0), torch.tensor([False]))

    words, empty = prior.embed(["a red mushroom"]).tokens, prior.embed([""]).tokens
    torch.testing.assert_close(asked("vsd").told.tokens, words)
    assert (asked("vsd").positive.tokens - words).abs().max() > 1e-3
    ism = asked("ism")
    z, t = torch.randn(1, *prior.latent_shape), torch.tensor([300])
    torch.testing.assert_close(ism.plain(z, t), prior.predict_noise(z, t, replace(ism.negative, tokens=empty)))
    assert (ism.negative.tokens - empty).abs().max() > 1e-3
    assert ism.scale == 3, "Perp-Neg's own"


def test_the_image_loss_by_hand():
    class Doubled(StableDiffusion):
        def __init__(self) -> None:
            pass

        def decode(self, z: torch.Tensor) -> torch.Tensor:
            return 2 * z

    image = torch.full((2, 3, 2, 2), 0.7, requires_grad=True)
    z, difference = torch.full((2, 3, 2, 2), 0.3), torch.full((2, 3, 2, 2), 0.1)
    abar, weight = torch.full((2, 1, 1, 1), 0.2), torch.full((2, 1, 1, 1), 0.8)
    # The guess is 2 (0.3 - sqrt(0.8 / 0.2) 0.1) = 0.2, the distance 0.5.
    loss = image_loss(Doubled(), image, z, difference, abar, weight)
    assert loss.item() == pytest.approx(0.5 * 0.8 * 12 * 0.25)
    loss.backward()
    torch.testing.assert_close(image.grad, torch.full_like(image, 0.8 * 0.5 / 2))
    with pytest.raises(DreamFusionError, match=r"loss\.image is for loss\.kind 'sds'"):
        check_decodes(build_config("hifa", {"prompt": "a", "loss": {"kind": "ism"}}), Doubled())


def test_decoding_is_the_way_back_of_encoding(folder):
    prior = open_prior(folder)
    z = torch.randn(1, *prior.latent_shape, generator=torch.Generator().manual_seed(0))
    shown = prior.decode(z)
    with torch.no_grad():
        scale = prior.pipeline.vae.config.scaling_factor
        raw = prior.pipeline.vae.decode(z / scale).sample
    assert shown.shape == (1, 3, SIZE, SIZE)
    torch.testing.assert_close(shown, ((raw + 1) / 2).clamp(0, 1))


def test_the_spread_of_the_depth_by_hand():
    settings = RenderSettings(step_length=0.005, min_weight=0.0, min_transmittance=0.0)
    out = render(UniformBall(1.5), BLACK, OccupancyGrid(), one_ray(), lights(1), ["albedo"], settings)
    # An exponential of rate 1.5 cut off at 2: its variance is 1 / a^2 - L^2 q / (1 - q)^2 with q = exp(-a L).
    q = math.exp(-3)
    expected = 1 / 1.5**2 - 4 * q / (1 - q) ** 2
    assert depth_spread(out.opacity, out.depth_variance).item() == pytest.approx(expected, rel=0.01)
    thin = render(UniformBall(0.1), BLACK, OccupancyGrid(), one_ray(), lights(1), ["albedo"], settings)
    assert depth_spread(thin.opacity, thin.depth_variance).item() == 0, "no ray hits"


def test_colours_and_backgrounds_of_threestudio():
    x = torch.tensor([-3.0, 0.0, 1.0])
    assert activated(x, "scaled").tolist() == [-1.0, 0.5, 1.0]
    assert activated(x, "sigmoid").tolist() == torch.sigmoid(x).tolist()
    background = LearnedBackground(BackgroundConfig(encoding="harmonics"), torch.Generator().manual_seed(0))
    assert background.network[0].in_features == 9
    assert background(torch.tensor([[0.0, 0.0, 1.0]])).shape == (1, 3)


def test_text_encoders_have_the_device_first_and_leave_it(folder, monkeypatch):
    prior = open_prior(folder)
    moved = []
    for name, module in prior.modules().items():
        monkeypatch.setattr(module, "to", lambda *a, name=name, **k: moved.append(name))
    prepare.prepare(prior.pipeline, prepare.Execution(channels_last=False), CPU, folder)
    assert moved == ["text_encoder"]
    prior.embed(["a"])
    prior.release_text_encoders()
    assert sorted(moved[1:]) == ["unet", "vae"]
    prior.settle()
    assert len(moved) == 3


@pytest.mark.parametrize(
    ("parts", "free", "kind", "expected"),
    [
        ({"text_encoder": 5e9, "unet": 4e9}, 12e9, "sds", "none"),  # 10 GB, then 8 GB, in fp16
        ({"text_encoder": 5e9, "unet": 8e9}, 12e9, "sds", "layers"),
        ({"text_encoder": 7e9, "unet": 4e9}, 12e9, "sds", "14.0 GB and 12.0 GB are free"),
        ({"text_encoder": 5e9, "unet": 8e9}, 12e9, "vsd", "16.0 GB and 12.0 GB are free"),
    ],
)
def test_what_does_not_fit_is_offloaded_or_refused_before_it_is_loaded(monkeypatch, parts, free, kind, expected):
    monkeypatch.setattr(fitting, "known_parameters", lambda model: parts)
    monkeypatch.setattr(fitting, "free_memory", lambda device: free)
    config = build_config("threestudio-sd", {"prompt": "a", "loss": {"kind": kind}})
    notes: list[str] = []
    if " " in expected:
        with pytest.raises(DreamFusionError, match=expected):
            fitting.fit_memory(config, torch.device("cuda"), notes.append)
        return
    fitted = fitting.fit_memory(config, torch.device("cuda"), notes.append)
    assert fitted.guidance.execution.offload == expected
    assert "10.0 GB for reading the prompt" in notes[0]
    assert len(notes) == 1 + (expected == "layers")
