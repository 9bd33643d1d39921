"""Sana and Lumina 2: their denoisers are given what diffusers' own pipelines give them, and answer with noise."""

from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
)
from transformers import Gemma2Config, Gemma2Model

from dreamfusion.config import parse_config
from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.execution import Execution
from dreamfusion.guidance.families import open_prior
from dreamfusion.guidance.schedule import read_schedule
from dreamfusion.method.optimize import optimize
from dreamfusion.method.state import State
from support.worlds import STILL
from tiny.families import word_tokenizer

SIDE = {"sana": 32, "lumina2": 64}
"""Of the pictures: Lumina's pipeline has 8 pixels to a latent."""

CPU = torch.device("cpu")
PIPELINES = {"sana": SanaPipeline, "lumina2": Lumina2Pipeline}


def gemma() -> Gemma2Model:
    return Gemma2Model(
        Gemma2Config(
            vocab_size=len(word_tokenizer()), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=1, head_dim=8, sliding_window=512,
        )
    )  # fmt: skip


def stirred(module: torch.nn.Module) -> torch.nn.Module:
    """Return a module none of whose layers answers zero."""
    for parameter in module.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return module


def save_sana(folder: Path) -> Path:
    torch.manual_seed(0)
    dc_vae = AutoencoderDC(
        latent_channels=4, attention_head_dim=2, encoder_block_types=("ResBlock", "ResBlock"),
        decoder_block_types=("ResBlock", "ResBlock"), encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8), encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), ()), decoder_qkv_multiscales=((), ()), scaling_factor=0.41407,
    )  # fmt: skip
    transformer = SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=1,
        num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=16,
        sample_size=16,
    )  # fmt: skip
    SanaPipeline(
        tokenizer=word_tokenizer(),
        text_encoder=gemma(),
        vae=dc_vae,
        transformer=stirred(transformer),
        scheduler=DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    ).save_pretrained(folder)
    return folder


def save_lumina2(folder: Path) -> Path:
    torch.manual_seed(0)
    transformer = Lumina2Transformer2DModel(
        sample_size=8, in_channels=4, hidden_size=24, num_layers=1, num_refiner_layers=1,
        num_attention_heads=2, num_kv_heads=1, multiple_of=8, axes_dim_rope=(4, 4, 4), axes_lens=(300, 32, 32),
        cap_feat_dim=16,
    )  # fmt: skip
    eightfold = AutoencoderKL(
        block_out_channels=(4,) * 4, down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4, norm_num_groups=4, sample_size=64,
        scaling_factor=0.3611, shift_factor=0.1159,
    )  # fmt: skip
    Lumina2Pipeline(
        tokenizer=word_tokenizer(),
        text_encoder=gemma(),
        vae=eightfold,
        transformer=stirred(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
    ).save_pretrained(folder)
    return folder


SAVE = {"sana": save_sana, "lumina2": save_lumina2}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    torch.set_num_threads(1)
    return {name: save(tmp_path_factory.mktemp(name)) for name, save in SAVE.items()}


def watched(name: str, folder: Path):
    """Return z, and what the pipeline gives its denoiser for a prompt in its first step, and for the empty one."""
    pipeline = PIPELINES[name].from_pretrained(folder)
    calls = []
    pipeline.transformer.register_forward_pre_hook(lambda _, a, k: calls.append((a, dict(k))), with_kwargs=True)
    extra = {"use_resolution_binning": False, "clean_caption": False} if name == "sana" else {}
    extra |= {"height": SIDE[name], "width": SIDE[name], "generator": torch.Generator().manual_seed(1)}
    pipeline("a red mushroom", num_inference_steps=2, guidance_scale=2.0, output_type="latent", **extra)
    return pipeline, calls


@pytest.mark.parametrize("name", SAVE)
def test_the_words_are_those_of_diffusers_own_pipeline(name, folders):
    _, calls = watched(name, folders[name])
    prior = open_prior(folders[name], image_size=SIDE[name])
    told = prior.embed(["", "a red mushroom"])
    if name == "sana":  # both in one call, the empty prompt first
        tokens, mask = calls[0][1]["encoder_hidden_states"], calls[0][1]["encoder_attention_mask"]
    else:
        tokens, mask = (
            torch.cat([calls[1][1][key], calls[0][1][key]])
            for key in ("encoder_hidden_states", "encoder_attention_mask")
        )
    torch.testing.assert_close(told.tokens, tokens, rtol=1e-4, atol=1e-5)
    assert told.mask.tolist() == mask.bool().tolist()


@pytest.mark.parametrize("name", SAVE)
def test_the_answer_is_the_noise_that_the_velocity_implies(name, folders):
    pipeline, calls = watched(name, folders[name])
    prior = open_prior(folders[name], image_size=SIDE[name])
    t = torch.tensor([399, 399])
    s = prior._schedule.sigmas[399]
    z = torch.randn(2, *prior.latent_shape, generator=torch.Generator().manual_seed(2))
    texts = prior.embed(["a red mushroom", "red"])
    given = dict(calls[0][1], encoder_hidden_states=texts.tokens, encoder_attention_mask=texts.mask.int())
    given["timestep"] = (1 - s if name == "lumina2" else 1000 * s).expand(2)
    given["attention_kwargs"] = None
    with torch.no_grad():
        if name == "lumina2":
            velocity = -pipeline.transformer(**dict(given, hidden_states=z))[0]
        else:
            velocity = pipeline.transformer(z, **given)[0]
    expected = z + (1 - s) * velocity
    torch.testing.assert_close(prior.predict_noise(z, t, texts), expected, rtol=1e-4, atol=1e-5)


def test_sanas_schedule_by_hand():
    solver = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    s = read_schedule(solver, "sana", CPU).sigmas
    assert (len(s), s[999].item()) == (1000, 1.0)
    assert s[499].item() == pytest.approx(0.75), "3 / 2 over 1 + 2 / 2"
    solver.set_timesteps(4)
    assert solver.sigmas[1].item() == pytest.approx(s[749].item(), abs=2e-3), "as the solver's own"


@pytest.mark.parametrize("name", SAVE)
def test_a_run_takes_its_steps(name, folders):
    prior = open_prior(folders[name], image_size=SIDE[name])
    config = parse_config(
        {"prompt": "a red mushroom", "steps": 20, "views": 1, "resolution": 8, "cameras": STILL,
         "scene": {"step_length": 0.1, "occupancy_resolution": 16, "nerf": {"grid": {"levels": 2, "log2_size": 10}}}}
    )  # fmt: skip
    steps = [step.metrics for step in optimize(config, prior, State.fresh(config, CPU))]
    assert len(steps) == 20
    assert all(row["sds_gradient"] > 0 and row["grad_norm"] > 0 for row in steps)
    picture = torch.rand(1, 3, SIDE[name], SIDE[name], generator=torch.Generator().manual_seed(3))
    assert prior.decode(prior.encode(picture)).shape == picture.shape


def test_sanas_vae_is_not_checkpointed(folders):
    with pytest.raises(DreamFusionError, match="cannot be checkpointed"):
        open_prior(folders["sana"], image_size=32, execution=Execution(checkpoint_vae=True))
