"""Zero-1-to-3: a picture in place of words, and each view's four numbers, as the published model is given them."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from dreamfusion.config import build_config, parse_config
from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.families import open_prior
from dreamfusion.guidance.picture import Picture, cut_free
from dreamfusion.guidance.zero123 import Zero123
from dreamfusion.method.asking import Question
from dreamfusion.method.cameras import fixed_cameras
from dreamfusion.method.optimize import optimize
from dreamfusion.method.state import State
from dreamfusion.runs.generate import generate, load_guidance
from support.families import SIZE, save_sd
from support.worlds import SMALLEST
from tiny.families import BETAS, unet, vae

WIDTH = 16
CPU = torch.device("cpu")
SMALL = SMALLEST | {"prompt": "a mug"}


def save_zero123(folder: Path, pipeline: str = "Zero1to3StableDiffusionPipeline") -> Path:
    """Write a tiny random model in one of the two layouts that are about."""
    torch.manual_seed(0)
    unet(WIDTH, in_channels=8).save_pretrained(folder / "unet")
    vae(scaling_factor=0.18215).save_pretrained(folder / "vae")
    DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1).save_pretrained(
        folder / "scheduler"
    )
    clip = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, projection_dim=WIDTH, num_hidden_layers=1, num_attention_heads=2,
        image_size=224, patch_size=112,
    )  # fmt: skip
    CLIPVisionModelWithProjection(clip).save_pretrained(folder / "image_encoder")
    part, name, layer = ("cc_projection", "CCProjection", "projection")
    if pipeline == "Zero123Pipeline":
        part, name, layer = ("clip_camera_projection", "CLIPCameraProjection", "proj")
    (folder / part).mkdir()
    linear = torch.nn.Linear(WIDTH + 4, WIDTH)
    weights = {f"{layer}.{key}": value.contiguous() for key, value in linear.state_dict().items()}
    save_file(weights, folder / part / "diffusion_pytorch_model.safetensors")
    (folder / part / "config.json").write_text(json.dumps({"_class_name": name}))
    index = {
        "_class_name": pipeline,
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        part: ["zero123", name],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="module")
def picture(tmp_path_factory) -> Path:
    """A red square of 20 pixels, off the middle, on nothing."""
    pixels = np.zeros((40, 60, 4), dtype=np.uint8)
    pixels[5:25, 30:50] = (255, 0, 0, 255)
    file = tmp_path_factory.mktemp("pictures") / "a_red-mug.png"
    Image.fromarray(pixels).save(file)
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    torch.set_num_threads(1)
    return save_zero123(tmp_path_factory.mktemp("zero123"))


@pytest.fixture(scope="module")
def prior(folder, picture) -> Zero123:
    opened = open_prior(folder, picture=Picture(picture, elevation_deg=10.0, distance=2.0))
    assert isinstance(opened, Zero123)
    assert (opened.sample_size, opened.latent_shape) == (SIZE, (4, SIZE // 2, SIZE // 2))
    return opened


def test_an_object_cut_free_by_hand(picture):
    cut = cut_free(picture)
    assert cut.shape == (3, 25, 25), "20 pixels are 0.8 of it"
    red = torch.tensor([1.0, 0.0, 0.0])
    torch.testing.assert_close(cut[:, 2:22, 2:22], red[:, None, None].expand(3, 20, 20))
    cut[:, 2:22, 2:22] = 1
    assert (cut == 1).all(), "white around it"


@pytest.mark.parametrize("layout", ["Zero1to3StableDiffusionPipeline", "Zero123Pipeline"])
def test_it_is_given_what_the_published_model_is(layout, tmp_path, picture):
    folder = save_zero123(tmp_path / "model", layout)
    prior = open_prior(folder, picture=Picture(picture, elevation_deg=10.0, distance=2.0))
    cameras = fixed_cameras(torch.tensor([0.0, 90.0]), torch.tensor([10.0, 40.0]), radius=2.5)
    asked = Question(prior, parse_config(SMALL), "a mug").about(cameras, torch.zeros(2, dtype=torch.bool))

    parts = prior.pipeline
    clip = CLIPVisionModelWithProjection.from_pretrained(folder / "image_encoder")
    layer = next(load_file(file) for file in folder.glob("c*projection/*.safetensors"))
    weight, bias = (next(x for name, x in layer.items() if name.endswith(end)) for end in ("weight", "bias"))
    pixels = cut_free(picture)[None]
    small = torch.nn.functional.interpolate(pixels, (224, 224), mode="bicubic", align_corners=True).clamp(0, 1)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    with torch.no_grad():
        seen = clip((small - mean) / std).image_embeds.expand(2, -1)
        # As high and 90 degrees to the left, 30 degrees higher; both half a unit farther away.
        pose = torch.tensor([[0.0, 0.0, 1.0, 0.5], [-torch.pi / 6, 1.0, 0.0, 0.5]])
        tokens = (torch.cat([seen, pose], dim=1) @ weight.T + bias)[:, None]
        resized = torch.nn.functional.interpolate(pixels, (SIZE, SIZE), mode="area")
        latents = parts.vae.encode(2 * resized - 1).latent_dist.mode().expand(2, -1, -1, -1)
        z = torch.randn(2, 4, SIZE // 2, SIZE // 2, generator=torch.Generator().manual_seed(1))
        t = torch.tensor([300, 300])
        expected = parts.unet(torch.cat([z, latents], 1), t, tokens).sample
        nothing = parts.unet(torch.cat([z, torch.zeros_like(latents)], 1), t, torch.zeros_like(tokens)).sample
    torch.testing.assert_close(prior.predict_noise(z, t, asked.positive), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(prior.predict_noise(z, t, asked.negative), nothing, rtol=1e-4, atol=1e-5)
    assert (expected - nothing).abs().max() > 1e-3
    assert parts.image_encoder is None, "CLIP has left memory"


def test_stable_zero123_is_told_the_height_of_the_picture(prior, folder, picture, tmp_path):
    cameras = fixed_cameras(0.0, 30.0, radius=2.5)
    assert prior._pose(cameras)[0, 3].item() == pytest.approx(0.5)
    stable = open_prior(folder, picture=Picture(picture, 10.0, 2.0, "elevation"))
    assert stable._pose(cameras)[0, 3].item() == pytest.approx(np.deg2rad(80))
    named = tmp_path / "stable-zero123"
    named.symlink_to(folder)
    assert open_prior(named)._tells_elevation


def test_a_run_with_a_picture_alone(folder, picture, tmp_path):
    steps = []
    settings = {name: value for name, value in SMALL.items() if name != "prompt"}
    guidance = {"kind": "diffusers", "model": str(folder), "image": str(picture)}
    result = generate(**settings, guidance=guidance, output=tmp_path / "run", assets=False, on_step=steps.append)
    assert result.config.prompt == "a red mug"
    assert [step.number for step in steps] == list(range(1, 21))
    assert all(step.metrics["sds_gradient"] > 0 and step.metrics["grad_norm"] > 0 for step in steps)


@pytest.mark.parametrize("kind", ["vsd", "ism"])
def test_the_other_losses_run_on_it(prior, kind):
    config = parse_config(SMALL | {"steps": 2, "guidance": {"perp_neg": True}, "loss": {"kind": kind}})
    steps = [step.metrics for step in optimize(config, prior, State.fresh(config, CPU))]
    assert all(row["sds_gradient"] > 0 for row in steps)
    assert prior.sample(["a", "b"], steps=2, cameras=fixed_cameras(torch.tensor([0.0, 90.0]), 0.0)).shape[0] == 2


def test_what_is_wrong_with_a_picture_is_one_line(folder, picture, tmp_path, monkeypatch):
    Image.new("RGBA", (8, 8)).save(tmp_path / "empty.png")
    Image.new("RGB", (8, 8), "red").save(tmp_path / "opaque.jpg")
    (tmp_path / "text.png").write_text("no picture")
    monkeypatch.setitem(sys.modules, "rembg", None)
    for name, words in (
        ("empty.png", "shows no object"),
        ("opaque.jpg", r"dreamfusion\[image\]"),
        ("text.png", "cannot be read"),
        ("none.png", "cannot be read"),
    ):
        with pytest.raises(DreamFusionError, match=words) as caught:
            cut_free(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(DreamFusionError, match="give --image FILE"):
        load_guidance(build_config("default", {"prompt": "a", "guidance": {"kind": "sd", "model": str(folder)}}), CPU)
    with pytest.raises(DreamFusionError, match="leave out --image"):
        open_prior(save_sd(tmp_path / "sd"), picture=Picture(picture))


def test_rembg_finds_the_background_where_it_is_installed(tmp_path, monkeypatch):
    Image.new("RGB", (30, 30), "blue").save(tmp_path / "opaque.png")

    def remove(image: Image.Image) -> Image.Image:
        image.putalpha(Image.fromarray(np.pad(np.full((20, 20), 255, np.uint8), 5)))
        return image

    monkeypatch.setitem(sys.modules, "rembg", SimpleNamespace(remove=remove))
    cut = cut_free(tmp_path / "opaque.png")
    assert cut.shape == (3, 25, 25)
    assert cut[:, 12, 12].tolist() == [0, 0, 1]
    assert cut[:, 0, 0].tolist() == [1, 1, 1]


def test_a_damaged_layer_is_one_line(tmp_path):
    folder = save_zero123(tmp_path / "model")
    save_file({"other.weight": torch.zeros(3)}, folder / "cc_projection/diffusion_pytorch_model.safetensors")
    with pytest.raises(DreamFusionError, match="no linear layer"):
        open_prior(folder)
