"""What a prior believes, drawn by the contract alone, against diffusers' own pipelines."""

import itertools
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusion3Pipeline, StableDiffusionPipeline

from dreamfusion.app.cli import dispatch
from dreamfusion.guidance.families import open_prior
from dreamfusion.guidance.flow import StableDiffusion3
from support.families import save_sd, save_sd3


def first_noise(*shape: int) -> torch.Tensor:
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))


def test_a_diffusion_model_draws_what_its_pipeline_does(tmp_path: Path):
    model = save_sd(tmp_path)
    prior = open_prior(model)
    ours = prior.sample(["a red mushroom"], steps=3, guidance_scale=4.0)
    pipeline = StableDiffusionPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    times = torch.linspace(999, 0, 4).round().long()
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    z, texts = first_noise(*prior.latent_shape), pipeline.encode_prompt("a red mushroom", "cpu", 1, True, "")[:2]
    abar = pipeline.scheduler.alphas_cumprod
    for now, following in itertools.pairwise(times):
        with torch.no_grad():
            plain, told = (pipeline.unet(z, now, encoder_hidden_states=text).sample for text in texts[::-1])
        eps = plain + 4 * (told - plain)
        data = (z - (1 - abar[now]).sqrt() * eps) / abar[now].sqrt()
        z = abar[following].sqrt() * data + (1 - abar[following]).sqrt() * eps
    with torch.no_grad():
        expected = pipeline.vae.decode(z / pipeline.vae.config.scaling_factor).sample
    torch.testing.assert_close(ours, ((expected + 1) / 2).clamp(0, 1), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("config", [{}, {"qk_norm": "rms_norm", "dual_attention_layers": (0,), "num_layers": 2}])
def test_a_flow_follows_its_velocity(config: dict, tmp_path: Path):
    """The second is Stable Diffusion 3.5's transformer."""
    model = save_sd3(tmp_path, **config)
    prior = open_prior(model)
    assert isinstance(prior, StableDiffusion3)
    ours = prior.sample(["red"], steps=2, guidance_scale=1.0)
    s = prior.coefficients(torch.arange(1000))[1]
    last = int((1 - s > 1e-3).nonzero()[-1])
    times = torch.linspace(last, 0, 3).round().long()
    pipeline = StableDiffusion3Pipeline.from_pretrained(model)
    tokens, _, pooled, _ = pipeline.encode_prompt("red", "red", "red", do_classifier_free_guidance=False)
    z = first_noise(*prior.latent_shape)
    for now, following in itertools.pairwise(times):
        with torch.no_grad():
            velocity = pipeline.transformer(
                z, encoder_hidden_states=tokens, pooled_projections=pooled, timestep=s[now, None] * 1000
            ).sample
        z = z + (s[following] - s[now]) * velocity
    torch.testing.assert_close(ours, prior.decode(z), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("save", [save_sd, save_sd3])
def test_the_command_draws_the_four_views_of_any_prior(save, tmp_path: Path):
    model, output = save(tmp_path / "model"), tmp_path / "samples.png"
    dispatch(["prior", "sample", "a red mushroom", "--model", str(model), "--steps", "1", "--output", str(output)])
    assert output.is_file()
