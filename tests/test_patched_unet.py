import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel

from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.compiled.compiling import compile_prior
from dreamfusion.guidance.families import open_prior
from dreamfusion.guidance.patched_unet import (
    PatchedUNet,
    enlarged,
    from_bands,
    shifted_cosine,
    shifted_cosine_betas,
    to_bands,
)
from dreamfusion.guidance.pixel import PixelGuidance
from dreamfusion.toybox.model import TEXT_WIDTH, build_pipeline, build_unet, grow


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", autouse=True)
def _narrow() -> Iterator[None]:
    """Build networks of few channels: what they compute is the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dreamfusion.toybox.model.CHANNELS", (8, 8, 16))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained prior of 64 pixels, saved as one that was trained."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("prior") / "64"
    build_pipeline(64).save_pretrained(path, safe_serialization=True)
    return path


def test_bands_by_hand():
    # One patch, pixels a b over c d, in the first channel only.
    a, b, c, d = 0.1, 0.3, 0.5, 0.7
    picture = torch.zeros(1, 3, 2, 2)
    picture[0, 0] = torch.tensor([[a, b], [c, d]])
    bands = to_bands(picture)[0, :, 0, 0]
    assert bands[[0, 3, 6, 9]].tolist() == pytest.approx([0.8, -0.2, -0.4, 0.0], abs=1e-6)  # twice the mean is 0.8
    assert bands.count_nonzero() <= 4


def test_bands_lose_nothing_and_keep_white_noise_white():
    picture = noise(2, 3, 8, 8)
    torch.testing.assert_close(from_bands(to_bands(picture)), picture)
    torch.testing.assert_close(to_bands(picture).square().sum(), picture.square().sum())
    basis = to_bands(torch.eye(12).view(12, 3, 2, 2)).flatten(1)
    torch.testing.assert_close(basis @ basis.T, torch.eye(12))


def test_an_enlarging_convolution_is_one_transposed_convolution():
    layer = torch.nn.Conv2d(3, 5, 3, padding=1)
    picture = noise(2, 3, 4, 6)
    expected = layer(torch.nn.functional.interpolate(picture, scale_factor=2, mode="nearest"))
    torch.testing.assert_close(enlarged(picture, layer.weight, layer.bias), expected, atol=1e-5, rtol=1e-5)


def test_the_shifted_schedule():
    cosine = DDPMScheduler(1000, beta_schedule="squaredcos_cap_v2").alphas_cumprod[:990]  # beyond, betas are capped
    plain = DDPMScheduler(1000, trained_betas=shifted_cosine_betas(1000, 1.0)).alphas_cumprod[:990]
    torch.testing.assert_close(plain, cosine, atol=1e-5, rtol=1e-3)
    halved = DDPMScheduler(1000, trained_betas=shifted_cosine_betas(1000, 2.0)).alphas_cumprod[:990]
    torch.testing.assert_close(halved / (1 - halved), cosine / (1 - cosine) / 4, atol=1e-5, rtol=2e-3)
    alpha, sigma = shifted_cosine(torch.arange(990.0), 1000, 2.0)
    torch.testing.assert_close(alpha.square(), halved, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(alpha.square() + sigma.square(), torch.ones(990))


@torch.no_grad()
def test_a_grown_network_sees_the_means_as_the_small_one_did():
    torch.manual_seed(1)
    small, large = build_unet(32), build_unet(64)
    assert isinstance(small, UNet2DConditionModel)
    assert isinstance(large, PatchedUNet)
    grow(small, large)
    z, text, t = noise(2, 3, 64, 64), noise(2, 7, TEXT_WIDTH), torch.tensor([150, 800])
    alpha, sigma = (x[:, None, None, None] for x in shifted_cosine(t.float(), 1000, 2.0))
    data = to_bands(alpha * z - sigma * large(z, t, text).sample)

    bands = to_bands(z)
    # Twice the means, of signal 2 alpha m, in the small one's own variance: 4 alpha^2 + sigma^2 = 1 / c^2.
    c = (4 * alpha.square() + sigma.square()).rsqrt()
    means = c * bands[:, :3]
    v = small(means, t, text).sample[:, :3]
    torch.testing.assert_close(data[:, :3] / 2, 2 * alpha * c * means - sigma * c * v, atol=2e-4, rtol=1e-3)
    # Of the differences it knows their size alone: the best guess of x in alpha x + sigma n, x of deviation 0.14.
    best = alpha * 0.14**2 / (alpha.square() * 0.14**2 + sigma.square()) * bands[:, 3:6]
    torch.testing.assert_close(data[:, 3:6], best, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("size", [32, 64])
def test_priors_of_both_sizes_load_from_their_folders(size: int, folder: Path, tmp_path: Path):
    if size == 32:
        folder = tmp_path / "32"
        build_pipeline(32).save_pretrained(folder, safe_serialization=True)
    prior = open_prior(folder)
    assert isinstance(prior, PixelGuidance)
    assert prior.sample_size == size
    assert prior.knows_cameras
    eps = prior.predict_noise(noise(1, 3, size, size), torch.tensor([500]), prior.embed(["a red car"]))
    assert eps.shape == (1, 3, size, size)
    assert torch.isfinite(eps).all()


def test_a_saved_network_is_the_same_again(folder: Path):
    saved = json.loads((folder / "model_index.json").read_text())
    assert saved["_class_name"] == "IFPipeline"
    assert saved["unet"] == ["dreamfusion.guidance.patched_unet", "PatchedUNet"]
    torch.manual_seed(0)
    unet, again = build_pipeline(64).unet, PixelGuidance(folder).denoiser
    assert isinstance(again, PatchedUNet)
    z, text = noise(1, 3, 64, 64), noise(1, 7, TEXT_WIDTH)
    with torch.no_grad():
        torch.testing.assert_close(again(z, 300, text).sample, unet(z, 300, text, return_dict=False)[0])


@pytest.mark.parametrize(
    "foreign",
    [
        ["os", "system"],
        ["dreamfusion.toybox.train", "Trainer"],
        ["dreamfusion.guidance.patched_unet", "ModelMixin"],
        ["builtins", "eval"],
    ],
)
def test_no_other_class_is_loaded(foreign: list[str], folder: Path, tmp_path: Path):
    index: dict[str, Any] = json.loads((folder / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps(index | {"unet": foreign}))
    with pytest.raises(DreamFusionError, match=f"The unet of .* is {'.'.join(foreign)}: only parts of") as error:
        open_prior(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.long
def test_a_compiled_network_gives_the_same(folder: Path, tmp_path: Path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    compiled = open_prior(compile_prior(folder, tmp_path / "compiled"))
    prior = open_prior(folder)
    z, t = noise(3, 3, 64, 64), torch.tensor([100, 500, 900])
    answers = [one.predict_noise(z, t, one.embed(["a red car", "", "a mug"])) for one in (prior, compiled)]
    torch.testing.assert_close(answers[1], answers[0], atol=1e-3, rtol=1e-3)
    assert compiled.sample_size == 64
