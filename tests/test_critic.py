"""Variational score distillation: the critic, by hand and in the whole system."""

import gc
import sys
from copy import deepcopy

import pytest
import torch
import trimesh
from torch import Tensor

from dreamfusion.config import parse_config
from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.base import Embeddings
from dreamfusion.guidance.execution import Execution
from dreamfusion.guidance.families import open_prior
from dreamfusion.guidance.pixel import PixelGuidance
from dreamfusion.io.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from dreamfusion.method.cameras import CameraRange, Cameras, sample_cameras
from dreamfusion.method.critic import Critic
from dreamfusion.method.distillation import vsd
from dreamfusion.method.optimize import optimize
from dreamfusion.method.state import State
from dreamfusion.runs.generate import generate
from dreamfusion.runs.refine import refine
from dreamfusion.standard import EMBEDDED_PRIOR
from support.families import SIZE, save_flux, save_sd, save_sd3, save_sdxl
from support.linear import LinearGuidance, ask, problem
from support.worlds import SHORT, toy_prior

CPU = torch.device("cpu")
LATENT = {"sd": save_sd, "sdxl": save_sdxl, "sd3": save_sd3, "flux": save_flux}
PRIORS = ["toybox", *LATENT]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {name: save(tmp_path_factory.mktemp(name)) for name, save in LATENT.items()} | {"toybox": EMBEDDED_PRIOR}


@pytest.fixture(scope="module")
def priors(folders):
    opened = {name: open_prior(folders[name], image_size=SIZE) for name in LATENT}
    return opened | {"toybox": PixelGuidance(EMBEDDED_PRIOR)}


def cameras(count: int = 2) -> Cameras:
    return sample_cameras(count, CameraRange(), torch.Generator().manual_seed(3))


def question(prior, count: int = 2) -> tuple[Tensor, Tensor, Embeddings]:
    generator = torch.Generator().manual_seed(4)
    z = prior.encode(torch.rand(count, 3, prior.sample_size, prior.sample_size, generator=generator))
    embeddings = prior.embed(["a red mushroom"]).expand(count)
    return z, torch.tensor([100, 700])[:count], embeddings


def critic_of(prior, **options) -> Critic:
    return Critic(prior, question(prior)[2].tokens.shape[-1], **options)


# --- the critic -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRIORS)
def test_the_critic_begins_as_the_prior_and_leaves_it_as_it_was(priors, name):
    prior = priors[name]
    z, t, embeddings = question(prior)
    weights = {key: value.clone() for key, value in prior.denoiser.state_dict().items()}
    before = prior.predict_noise(z, t, embeddings)
    critic = critic_of(prior, lr=1e-2)
    torch.testing.assert_close(critic.predict_noise(z, t, embeddings, cameras()), before, rtol=1e-4, atol=1e-5)
    for _ in range(3):
        critic.learn(z, embeddings, cameras())
    assert (critic.predict_noise(z, t, embeddings, cameras()) - before).abs().max() > 1e-3
    assert torch.equal(prior.predict_noise(z, t, embeddings), before), "the prior itself stays the same, to the bit"
    assert not prior.predict_noise(z, t, embeddings).requires_grad
    after = {key.replace(".base_layer", ""): value for key, value in prior.denoiser.state_dict().items()}
    assert all(torch.equal(after[key.replace(".base_layer", "")], value) for key, value in weights.items())


@pytest.mark.parametrize("name", PRIORS)
def test_a_checkpointed_denoiser_gives_the_critic_the_same_gradients_from_less(folders, name):
    gradients, kept = [], []
    for checkpointing in (False, True):
        execution = Execution(checkpoint_denoiser=checkpointing)
        prior = open_prior(folders[name], image_size=None if name == "toybox" else SIZE, execution=execution)
        z, _, embeddings = question(prior)
        critic = critic_of(prior, lr=1e-2)
        sizes: dict[int, int] = {}

        def pack(x: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            sizes[x.data_ptr()] = x.nbytes
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            critic.learn(z, embeddings, cameras())
        # Adam's first moment is a tenth of the gradient; its step would be of one size whatever the gradient.
        gradients.append({name: critic.optimizer.state[p]["exp_avg"] for name, p in critic.parameters.items()})
        kept.append(sum(sizes.values()))
    assert max(gradient.abs().max() for gradient in gradients[0].values()) > 0
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-8)
    assert kept[1] < 0.7 * kept[0]


def test_all_parts_of_the_critic_learn(priors):
    prior = priors["toybox"]
    z, _, embeddings = question(prior)
    critic = critic_of(prior, rank=2)
    assert {name.split(".")[-2] for name in critic.parameters if name != "camera"} == {"lora_A", "lora_B"}
    assert all(2 in parameter.shape for name, parameter in critic.parameters.items() if name != "camera")
    before = {name: parameter.detach().clone() for name, parameter in critic.parameters.items()}
    for _ in range(2):  # A only has a gradient when B is no longer zero
        critic.learn(z, embeddings, cameras())
    assert [name for name, parameter in critic.parameters.items() if torch.equal(parameter, before[name])] == []


def held_out_error(critic: Critic, z: Tensor, embeddings: Embeddings) -> float:
    """The denoising loss of one picture over fixed timesteps and noise."""
    generator = torch.Generator().manual_seed(9)
    errors = []
    for t in range(50, 1000, 100):
        t, noise = torch.full((len(z),), t), torch.randn(z.shape, generator=generator)
        z_t = critic.guidance.add_noise(z, noise, t)
        eps = critic.predict_noise(z_t, t, embeddings, cameras(len(z)))
        errors.append((eps - noise).square().mean().item())
    return sum(errors) / len(errors)


@pytest.mark.slow
def test_the_critic_learns_a_picture(priors):
    prior = priors["toybox"]
    z, _, embeddings = question(prior, 1)
    z = torch.linspace(-1, 1, prior.sample_size).expand_as(z)  # not a toy: the prior does not expect it
    critic = critic_of(prior, lr=3e-3)
    before = held_out_error(critic, z, embeddings)
    for _ in range(100):
        critic.learn(z, embeddings, cameras(1))
    assert held_out_error(critic, z, embeddings) < 0.6 * before


def test_the_critic_tells_cameras_apart(priors):
    prior = priors["toybox"]
    z, t, embeddings = question(prior)
    critic = critic_of(prior)
    both = cameras()
    with torch.no_grad():
        critic.parameters["camera"].normal_(generator=torch.Generator().manual_seed(0))
    assert not torch.equal(
        critic.predict_noise(z, t, embeddings, both), critic.predict_noise(z, t, embeddings, both[torch.tensor([1, 0])])
    )


def test_critics_of_one_prior_do_not_disturb_each_other(priors):
    prior = priors["toybox"]
    z, t, embeddings = question(prior)
    before = prior.predict_noise(z, t, embeddings)
    first = critic_of(prior, lr=1e-2)
    first.learn(z, embeddings, cameras())
    first.learn(z, embeddings, cameras())
    said = first.predict_noise(z, t, embeddings, cameras())
    second = critic_of(prior, lr=1e-2, seed=1)
    second.learn(z, embeddings, cameras())
    assert torch.equal(first.predict_noise(z, t, embeddings, cameras()), said)
    del second
    gc.collect()
    assert torch.equal(first.predict_noise(z, t, embeddings, cameras()), said)
    assert torch.equal(prior.predict_noise(z, t, embeddings), before)
    del first
    gc.collect()
    assert not [name for name, _ in prior.denoiser.named_parameters() if "lora" in name], "nothing is left behind"
    assert torch.equal(prior.predict_noise(z, t, embeddings), before)


def test_making_a_critic_draws_nothing_from_the_global_generator(priors):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second = critic_of(priors["toybox"], seed=2), critic_of(priors["toybox"], seed=2)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(first.parameters[name], second.parameters[name]) for name in first.parameters)


def test_a_restored_critic_continues_bit_equal(priors):
    prior = priors["sd"]
    z, t, embeddings = question(prior)
    critic = critic_of(prior, lr=1e-2)
    for _ in range(2):
        critic.learn(z, embeddings, cameras())
    resumed = critic_of(prior, lr=1e-2, seed=7)
    resumed.load_state_dict(deepcopy(critic.state_dict()))
    for _ in range(2):
        assert critic.learn(z, embeddings, cameras()) == resumed.learn(z, embeddings, cameras())
    assert torch.equal(
        critic.predict_noise(z, t, embeddings, cameras()), resumed.predict_noise(z, t, embeddings, cameras())
    )


def test_a_critic_of_another_rank_is_refused(priors):
    with pytest.raises(DreamFusionError, match="critic does not fit"):
        critic_of(priors["toybox"], rank=2).load_state_dict(critic_of(priors["toybox"], rank=4).state_dict())


def test_half_precision_keeps_the_adapters_in_full():
    prior = PixelGuidance(EMBEDDED_PRIOR, dtype=torch.bfloat16)
    z, t, embeddings = question(prior)
    critic = critic_of(prior)
    critic.learn(z, embeddings, cameras())
    assert {parameter.dtype for parameter in critic.parameters.values()} == {torch.float32}
    assert critic.predict_noise(z, t, embeddings, cameras()).dtype == torch.float32


def test_a_prior_without_a_network_is_refused():
    with pytest.raises(DreamFusionError, match="AnalyticGuidance"):
        Critic(toy_prior("mushroom", views=8, size=16), 8)


def test_missing_peft_names_its_install_line(priors, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(DreamFusionError, match=r'pip install "dreamfusion\[vsd\]"'):
        critic_of(priors["toybox"])


def test_a_run_that_cannot_have_a_critic_leaves_nothing(tmp_path):
    with pytest.raises(DreamFusionError, match="needs a network"):
        generate(
            "a red mushroom",
            output=tmp_path / "run",
            guidance_model=toy_prior("mushroom", views=8, size=16),
            loss={"kind": "vsd"},
            device="cpu",
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("offload", ["model", "layers"])
def test_a_denoiser_that_comes_and_goes_is_refused_before_there_is_a_folder(folders, tmp_path, offload):
    guidance = {
        "kind": "diffusers",
        "model": str(folders["sd"]),
        "image_size": SIZE,
        "execution": {"offload": offload},
    }
    settings = {"guidance": guidance, "loss": {"kind": "vsd"}, "device": "cpu"}
    with pytest.raises(DreamFusionError, match=r"leave out guidance\.execution\.offload"):
        generate("a red mushroom", output=tmp_path / "run", **settings)
    trimesh.creation.icosphere(1, radius=0.5).export(tmp_path / "ball.ply")
    with pytest.raises(DreamFusionError, match=r"leave out guidance\.execution\.offload"):
        refine(mesh=tmp_path / "ball.ply", prompt="a red mushroom", output=tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


# --- the loss ---------------------------------------------------------------------------------------------------------


class KnownCritic(Critic):
    """Says z_t / 4."""

    def __init__(self) -> None:
        pass

    def predict_noise(self, z_t: Tensor, t: Tensor, embeddings: Embeddings, cameras: Cameras) -> Tensor:
        assert len(cameras) == len(z_t)
        return z_t / 4


def test_the_difference_is_that_of_the_two_predictions():
    """eps_hat - eps_phi, with the prior saying z_t / 2 + 0.1 + 7 (0.3 - 0.1); the noise is not in it."""
    z, noise, text, uncond, t = problem()
    difference = vsd(ask(LinearGuidance(), text, uncond), KnownCritic(), z, t, noise)
    abar = torch.tensor([0.64, 0.36], dtype=torch.float64)[:, None, None, None]
    z_t = abar.sqrt() * z + (1 - abar).sqrt() * noise
    torch.testing.assert_close(difference, 0.5 * z_t + 1.5 - 0.25 * z_t)


def test_a_fresh_critic_and_no_guidance_give_no_gradient(priors):
    prior = priors["sd3"]
    z, t, embeddings = question(prior)
    difference = vsd(ask(prior, embeddings, embeddings, 1.0), critic_of(prior), z, t, torch.randn(z.shape))
    assert difference.square().sum() < 1e-5


# --- the whole system -------------------------------------------------------------------------------------------------


def run(count: int, state: State, config, prior) -> list[dict[str, float]]:
    steps = optimize(config, prior, state)
    return [next(steps).metrics for _ in range(count)]


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("kind", ["sds", "vsd", "ism"])
def test_every_loss_runs_on_every_prior(priors, name, kind):
    guidance = {"guidance_scale": 5.0, "perp_neg": True, "rescale": 0.5}
    values = SHORT | {"steps": 3, "guidance": guidance, "loss": {"kind": kind, "clip": {"start": 0.5, "end": 2.0}}}
    config = parse_config({"prompt": "a red mushroom"} | values)
    state = State.fresh(config, CPU)
    metrics = run(3, state, config, priors[name])
    assert all(row["sds_gradient"] > 0 and row["grad_norm"] > 0 for row in metrics)
    assert all(("critic_loss" in row) == (kind == "vsd") for row in metrics)
    changed = State.fresh(config, CPU).scene.field.table
    assert not torch.equal(state.scene.field.table, changed)


@pytest.mark.slow
def test_every_setting_of_the_losses_changes_the_run(priors):
    def metrics(guidance: dict | None = None, **loss) -> float:
        values = SHORT | {
            "steps": 2,
            "guidance": {"guidance_scale": 5.0, "weighting": None} | (guidance or {}),
            "loss": loss,
        }
        config = parse_config({"prompt": "a red mushroom"} | values)
        return run(2, State.fresh(config, CPU), config, priors["sd"])[1]["sds_gradient"]

    sds = metrics()
    settings = [{"perp_neg": True}, {"rescale": 0.7}, {"weighting": "uniform"}, {"t_min": 0.5, "t_max": 0.5}]
    settings += [{"weighting": "fantasia3d"}, {"negative_prompt": "blue"}]
    assert len({sds, *(metrics(setting) for setting in settings)}) == 1 + len(settings)
    assert len({sds, metrics(clip=0.1), metrics(clip={"start": 0.1, "end": 0.2})}) == 3
    ism = [metrics(kind="ism"), metrics(kind="ism", ism_delta_t=0.01), metrics(kind="ism", ism_delta_s=0.05)]
    vsd = [metrics(kind="vsd"), metrics(kind="vsd", vsd_lr=1e-1), metrics(kind="vsd", vsd_rank=1, vsd_lr=1e-1)]
    assert len({sds, *ism, *vsd}) == 7
    assert metrics({"weighting": "sds"}) == sds
    assert metrics({"weighting": "ism"}, kind="ism") == ism[0]


@pytest.mark.parametrize("name", ["toybox", "flux"])
def test_a_resumed_run_is_bit_equal(priors, name, tmp_path):
    config = parse_config({"prompt": "a red mushroom"} | SHORT | {"steps": 6, "loss": {"kind": "vsd", "vsd_lr": 1e-2}})
    whole = State.fresh(config, CPU)
    run(3, whole, config, priors[name])
    saved = load_checkpoint(save_checkpoint(tmp_path, whole.step, *whole.to_checkpoint()))
    expected = run(3, whole, config, priors[name])

    resumed = State.fresh(config, CPU)
    resumed.restore(saved)
    assert run(3, resumed, config, priors[name]) == expected
    assert torch.equal(resumed.scene.field.table, whole.scene.field.table)
    for name, parameter in whole.critic.parameters.items():
        assert torch.equal(parameter, resumed.critic.parameters[name])


def test_a_state_without_its_prior_keeps_the_critic(priors, tmp_path):
    """Rendering a finished run restores its state, and may save it, without loading the prior."""
    config = parse_config({"prompt": "a red mushroom"} | SHORT | {"steps": 2, "loss": {"kind": "vsd"}})
    state = State.fresh(config, CPU)
    run(1, state, config, priors["sd"])
    tensors, values = state.to_checkpoint()
    restored = State.fresh(config, CPU)
    restored.restore(Checkpoint(1, tensors, values))
    again, values_again = restored.to_checkpoint()
    assert values_again == values
    assert again.keys() == tensors.keys()
    assert any("lora_A" in name for name in again)
