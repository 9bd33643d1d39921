"""PixArt-Sigma: its denoiser is given what diffusers' own pipeline gives it, the mask of the padding included."""

from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel

from dreamfusion.config import parse_config
from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.families import open_prior
from dreamfusion.guidance.pixart import PixArtSigma
from dreamfusion.method.critic import check_adaptable
from dreamfusion.method.optimize import optimize
from dreamfusion.method.state import State
from support.worlds import STILL
from tiny.families import BETAS, SIZE, t5, vae, word_tokenizer

T = torch.tensor([100, 700])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("pixart")
    transformer = PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        norm_num_groups=4,
        cross_attention_dim=16,
        sample_size=SIZE // 2,
        caption_channels=32,
        use_additional_conditions=False,
    )
    # The last layer begins at zero, and then every answer is the same.
    torch.nn.init.normal_(transformer.proj_out.weight, std=0.5)
    PixArtSigmaPipeline(
        tokenizer=word_tokenizer(),
        text_encoder=t5(),
        vae=vae(),
        transformer=transformer,
        scheduler=DDPMScheduler(**BETAS),
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def prior(folder) -> PixArtSigma:
    opened = open_prior(folder)
    assert isinstance(opened, PixArtSigma)
    assert (opened.sample_size, opened.latent_shape) == (SIZE, (4, SIZE // 2, SIZE // 2))
    return opened


def test_the_answer_is_that_of_diffusers_own_pipeline(prior, folder):
    pipeline = PixArtSigmaPipeline.from_pretrained(folder)
    calls = []
    pipeline.transformer.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
    )
    z = torch.randn(1, 4, SIZE // 2, SIZE // 2, generator=torch.Generator().manual_seed(1))
    pipeline(
        "a red mushroom",
        latents=z,
        num_inference_steps=1,
        guidance_scale=1.0,
        output_type="latent",
        clean_caption=False,
        use_resolution_binning=False,
    )
    ((args, kwargs),) = calls
    with torch.no_grad():
        expected = pipeline.transformer(*args, **kwargs)[0][:, :4]
    eps = prior.predict_noise(args[0], kwargs["timestep"], prior.embed(["a red mushroom"]))
    torch.testing.assert_close(eps, expected, rtol=1e-4, atol=1e-5)


def test_the_padding_has_no_say(prior):
    told = prior.embed(["a red mushroom", "red"])
    assert told.mask is not None
    assert told.mask.dtype == torch.bool
    assert told.mask.sum(dim=1).tolist() == [3, 1]
    z = torch.randn(2, 4, SIZE // 2, SIZE // 2, generator=torch.Generator().manual_seed(1))
    before = prior.predict_noise(z, T, told)
    told.tokens[~told.mask] += 1.0
    torch.testing.assert_close(prior.predict_noise(z, T, told), before)
    told.tokens[told.mask] += 1.0
    assert (prior.predict_noise(z, T, told) - before).abs().max() > 1e-4


@pytest.mark.parametrize("kind", ["sds", "ism"])
def test_the_losses_run_on_it(prior, kind):
    config = parse_config(
        {
            "prompt": "a red mushroom",
            "steps": 2,
            "views": 2,
            "resolution": 8,
            "cameras": STILL,
            "guidance": {"perp_neg": True},
            "loss": {"kind": kind},
        }
    )
    steps = [step.metrics for step in optimize(config, prior, State.fresh(config, torch.device("cpu")))]
    assert all(row["sds_gradient"] > 0 for row in steps)


def test_a_transformer_that_takes_no_adapters_is_refused(prior):
    with pytest.raises(DreamFusionError, match="PixArtTransformer2DModel is none"):
        check_adaptable(prior)
