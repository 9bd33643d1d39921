"""ControlNet and IP-Adapter: the prior with one answers as diffusers' own pipeline with it; shapes drawn by hand."""

from pathlib import Path

import pytest
import torch
from diffusers import (
    ControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLControlNetPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from dreamfusion.config import build_config, parse_config
from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.control import Control
from dreamfusion.guidance.families import open_prior
from dreamfusion.guidance.ip_adapter import Adapter
from dreamfusion.guidance.picture import Picture
from dreamfusion.method.asking import Question
from dreamfusion.method.cameras import fixed_cameras
from dreamfusion.method.normals import shape_picture
from dreamfusion.method.optimize import optimize
from dreamfusion.method.state import State
from dreamfusion.renderers.output import RenderOutput
from dreamfusion.runs.generate import load_guidance
from support.families import SIZE, save_if, save_sd, save_sdxl
from support.worlds import STILL

CPU = torch.device("cpu")
SMALL = {"prompt": "a red mushroom", "steps": 2, "views": 2, "resolution": 8, "cameras": STILL, "device": "cpu"}
CLIP_WIDTH, TOKENS = 12, 4


def save_control(model: Path, folder: Path) -> Path:
    """Write a random ControlNet for a model, whose layers that begin at zero are not zero."""
    torch.manual_seed(5)
    unet = UNet2DConditionModel.from_pretrained(model / "unet")
    control = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8))
    for parameter in control.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    control.save_pretrained(folder)
    return folder


def save_adapter(model: Path, folder: Path) -> Path:
    """Write a random IP-Adapter for a model, its image encoder beside it; return its file."""
    torch.manual_seed(6)
    unet = UNet2DConditionModel.from_pretrained(model / "unet")
    width = unet.config.cross_attention_dim
    weights = {
        "image_proj.proj.weight": torch.randn(TOKENS * width, CLIP_WIDTH),
        "image_proj.proj.bias": torch.randn(TOKENS * width),
        "image_proj.norm.weight": torch.ones(width),
        "image_proj.norm.bias": torch.zeros(width),
    }
    layers = [name for name, _ in unet.named_modules() if name.endswith("attn2")]
    for number, name in enumerate(layers):
        query = unet.get_submodule(f"{name}.to_q")
        for kind in ("k", "v"):
            weights[f"ip_adapter.{2 * number + 1}.to_{kind}_ip.weight"] = torch.randn(query.out_features, width)
    folder.mkdir()
    save_file(weights, folder / "adapter.safetensors")
    clip = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, projection_dim=CLIP_WIDTH, num_hidden_layers=1, num_attention_heads=2,
        image_size=32, patch_size=16,
    )  # fmt: skip
    CLIPVisionModelWithProjection(clip).save_pretrained(folder / "image_encoder")
    return folder / "adapter.safetensors"


@pytest.fixture(scope="module")
def sd(tmp_path_factory) -> Path:
    torch.set_num_threads(1)
    return save_sd(tmp_path_factory.mktemp("models") / "sd")


@pytest.fixture(scope="module")
def control(sd, tmp_path_factory) -> Path:
    return save_control(sd, tmp_path_factory.mktemp("control"))


def watched(pipeline, **arguments):
    """Return what a pipeline gives its UNet in its only step, and what that answers."""
    calls = []
    pipeline.unet.register_forward_hook(lambda _, a, k, out: calls.append((a, k, out[0])), with_kwargs=True)
    z = torch.randn(1, 4, SIZE // 2, SIZE // 2, generator=torch.Generator().manual_seed(1))
    pipeline("a red mushroom", latents=z, num_inference_steps=2, guidance_scale=3.0, output_type="latent", **arguments)
    (z_t, t), _, answer = calls[0]
    return z_t, torch.as_tensor(t).long(), answer


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_a_controlnet_is_diffusers_own(family, sd, tmp_path):
    model = sd if family == "sd" else save_sdxl(tmp_path / "sdxl")
    folder = save_control(model, tmp_path / "control")
    cls = StableDiffusionControlNetPipeline if family == "sd" else StableDiffusionXLControlNetPipeline
    extra = {"safety_checker": None} if family == "sd" else {}
    theirs = cls.from_pretrained(model, controlnet=ControlNetModel.from_pretrained(folder), **extra)
    shape = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    z_t, t, expected = watched(theirs, image=shape, controlnet_conditioning_scale=0.5)
    prior = open_prior(model, control=Control(str(folder), scale=0.5))
    assert prior.shape_shown == "normals"
    texts = prior.told_shape(prior.embed(["", "a red mushroom"]), shape.expand(2, -1, -1, -1))
    eps = prior.predict_noise(z_t, t.expand(2), texts)
    torch.testing.assert_close(eps, expected, rtol=1e-3, atol=1e-4)
    plain = prior.predict_noise(z_t, t.expand(2), prior.embed(["", "a red mushroom"]))
    assert (plain - expected).abs().max() > 1e-2


def test_an_ip_adapter_is_diffusers_own(sd, tmp_path):
    file = save_adapter(sd, tmp_path / "adapter")
    picture = Image.effect_noise((32, 32), 90).convert("RGB")
    picture.save(tmp_path / "picture.png")
    theirs = StableDiffusionPipeline.from_pretrained(sd)
    theirs.load_ip_adapter(str(file.parent), subfolder="", weight_name=file.name)
    theirs.set_ip_adapter_scale(0.7)
    z_t, t, expected = watched(theirs, ip_adapter_image=picture)
    prior = open_prior(sd, picture=Picture(tmp_path / "picture.png"), adapter=Adapter(file, 0.7))
    config = parse_config(
        SMALL | {"views": 1, "guidance": {"view_texts": dict.fromkeys(("front", "side", "back"), "")}}
    )
    asked = Question(prior, config, "a red mushroom").about(fixed_cameras(0.0, 0.0), torch.zeros(1, dtype=torch.bool))
    both = asked.negative.followed_by(asked.positive)
    eps = prior.predict_noise(z_t, t.expand(2), both)
    torch.testing.assert_close(eps, expected, rtol=1e-3, atol=1e-4)
    assert prior.pipeline.image_encoder is None


def one_pixel(normal: tuple[float, float, float], depth: float, opacity: float = 1.0) -> RenderOutput:
    def picture(*values: float) -> torch.Tensor:
        return torch.tensor(values).reshape(1, -1, 1, 1)

    return RenderOutput(picture(0.0, 0.0, 0.0), picture(opacity), picture(depth), picture(*normal), 1)


class Shown:
    def __init__(self, kind):
        self.shape_shown = kind


@pytest.mark.parametrize(
    ("normal", "color"),
    [
        ((1.0, 0.0, 0.0), (0.5, 0.5, 1.0)),  # towards a camera in front: blue
        ((0.0, -1.0, 0.0), (1.0, 0.5, 0.5)),  # -y is to its left: red
        ((0.0, 0.0, 1.0), (0.5, 1.0, 0.5)),  # up: green
    ],
)
def test_normals_as_they_are_shown_by_hand(normal, color):
    picture = shape_picture(one_pixel(normal, 2.0), fixed_cameras(0.0, 0.0), Shown("normals"))
    assert picture.flatten().tolist() == pytest.approx(color, abs=1e-6)
    empty = shape_picture(one_pixel((0.0, 0.0, 0.0), 0.0, 0.0), fixed_cameras(0.0, 0.0), Shown("normals"))
    assert empty.flatten().tolist() == [0.5, 0.5, 1.0], "a wall"


def test_depth_as_it_is_shown_by_hand():
    depth = torch.tensor([[[[1.0, 2.0], [4.0, 0.0]]]])
    out = RenderOutput(torch.zeros(1, 3, 2, 2), (depth > 0).float(), depth, None, 1)
    picture = shape_picture(out, fixed_cameras(0.0, 0.0), Shown("depth"))
    # 1, 1/2 and 1/4 between 1/4 and 1.
    torch.testing.assert_close(picture[0, 0], torch.tensor([[1.0, 1 / 3], [0.0, 0.0]]))
    assert (picture[0, 0] == picture[0, 2]).all()
    nothing = RenderOutput(out.rgb, torch.zeros_like(depth), torch.zeros_like(depth), None, 1)
    assert (shape_picture(nothing, fixed_cameras(0.0, 0.0), Shown("depth")) == 0).all()
    assert shape_picture(out, fixed_cameras(0.0, 0.0), Shown(None)) is None


@pytest.mark.parametrize("shows", ["normals", "depth"])
def test_a_run_shows_it_what_is_rendered(shows, sd, control):
    guidance = {"kind": "sd", "model": str(sd), "controlnet": str(control), "controlnet_shows": shows}
    config = parse_config(SMALL | {"guidance": guidance | {"perp_neg": True}})
    prior = load_guidance(config, CPU)
    seen = []
    prior._control.network.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["controlnet_cond"]), with_kwargs=True
    )
    steps = [step.metrics for step in optimize(config, prior, State.fresh(config, CPU))]
    assert all(row["sds_gradient"] > 0 for row in steps)
    assert seen[0].shape == (8, 3, SIZE, SIZE), "of two views for four texts"
    assert seen[0].std() > 0.01
    torch.testing.assert_close(seen[0][:2], seen[0][2:4])


def test_what_does_not_go_together_is_one_line(sd, control, tmp_path):
    file = save_adapter(sd, tmp_path / "adapter")
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.png")
    shown = {"picture": Picture(tmp_path / "picture.png")}
    bare = tmp_path / "bare.safetensors"
    save_file({"image_proj.x": torch.zeros(1)}, bare)
    pixels = save_if(tmp_path / "if")
    for model, given, words in (
        (save_sd(tmp_path / "wide", width=24), {"control": Control(str(control))}, "cross_attention_dim is 16, not 24"),
        (sd, {"control": Control(str(sd / "vae"))}, "must be of the kind ControlNetModel"),
        (pixels, {"control": Control(str(control))}, "takes no ControlNet"),
        (pixels, {"adapter": Adapter(file), **shown}, "takes no IP-Adapter"),
        (sd, {"adapter": Adapter(tmp_path / "none.safetensors"), **shown}, "is no file"),
        (sd, {"adapter": Adapter(bare), **shown}, "image_encoder beside it"),
        (tmp_path / "wide", {"adapter": Adapter(file), **shown}, "is not for"),
        (sd, shown, "add --ip-adapter"),
    ):
        with pytest.raises(DreamFusionError, match=words) as caught:
            open_prior(model, **given)
        assert "\n" not in str(caught.value)
    with pytest.raises(DreamFusionError, match="give --image FILE"):
        build_config("default", {"prompt": "a", "guidance": {"ip_adapter": str(file)}})
