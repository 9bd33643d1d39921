import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dreamfusion.assets.mesh import sample_density, surface_level
from dreamfusion.config import parse_config
from dreamfusion.errors import DreamFusionError
from dreamfusion.io.checkpoints import Checkpoint, NotFiniteError
from dreamfusion.method.normals import latent_picture
from dreamfusion.method.optimize import MOST_LEFT_OUT, optimize, refuse_collapse, sample_shading
from dreamfusion.method.ranks import ALONE
from dreamfusion.method.state import State
from dreamfusion.renderers.output import RenderOutput
from dreamfusion.toybox.render import signed_distance
from dreamfusion.toybox.world import Toy
from support.worlds import BACKDROP, toy_config, toy_prior

CPU = torch.device("cpu")


def volume_iou(state: State, kind: str, resolution: int = 48) -> float:
    """Intersection over union with the true toy, its surface being where the exported mesh has it."""
    density = sample_density(state.scene.field, resolution)
    axis = torch.linspace(-1, 1, resolution)
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)
    truth = (signed_distance(Toy(kind), points) < 0).reshape(density.shape).numpy()
    solid = density > surface_level(density, 2 / (resolution - 1))
    return (solid & truth).sum() / (solid | truth).sum()


@pytest.mark.slow
def test_distillation_from_the_analytic_prior_recovers_a_known_object():
    config, guidance = toy_config(steps=130), toy_prior("mushroom")
    state = State.fresh(config, CPU)
    assert volume_iou(state, "mushroom") < 0.4
    for _ in optimize(config, guidance, state):
        pass
    assert volume_iou(state, "mushroom") >= 0.8


def run_steps(count: int, state: State, config, guidance) -> list[dict[str, float]]:
    steps = optimize(config, guidance, state)
    return [next(steps).metrics for _ in range(count)]


def test_the_same_seed_gives_the_same_run_and_another_seed_another():
    guidance = toy_prior("mushroom", views=8, size=16)
    tiny = {"steps": 8, "views": 2, "resolution": 16}
    config = toy_config(**tiny)
    first, second = (run_steps(3, State.fresh(config, CPU), config, guidance) for _ in range(2))
    assert first == second
    other = toy_config(**tiny, seed=1)
    assert run_steps(3, State.fresh(other, CPU), other, guidance) != first


@pytest.mark.parametrize("optimizer", ["adam", "adan", "shampoo"])
def test_a_restored_state_continues_bit_equal(optimizer: str):
    guidance = toy_prior("mushroom", views=8, size=16)
    config = toy_config(
        steps=10,
        views=2,
        resolution=16,
        optim={"optimizer": optimizer},
        shading={"albedo_probability": {"start": 1, "from": 0.2, "curve": "step"}},
        scene={"background": "learned", "occupancy_interval": 3},
    )
    whole = State.fresh(config, CPU)
    run_steps(4, whole, config, guidance)
    tensors, values = whole.to_checkpoint()
    saved = Checkpoint(whole.step, {name: tensor.clone() for name, tensor in tensors.items()}, values)
    expected = run_steps(6, whole, config, guidance)

    resumed = State.fresh(config, CPU)
    resumed.restore(saved)
    assert run_steps(6, resumed, config, guidance) == expected
    for a, b in zip(whole.scene.parameters(), resumed.scene.parameters(), strict=True):
        assert torch.equal(a, b)


SMALL_MIP = {"hidden_width": 32, "blocks": 2}
PROPOSAL = {"rounds": 1, "proposal_samples": 32, "samples": 16}


@pytest.mark.parametrize(
    "scene",
    [
        {
            "mip": SMALL_MIP | {"density_bias": -2.0},
            "occupancy_resolution": 24,
        },  # without fog, which the occupancy grid could not skip
        {"mip": SMALL_MIP, "renderer": "proposal", "proposal": PROPOSAL},
    ],
    ids=["marching", "proposal"],
)
def test_the_papers_field_moves_towards_a_known_object(scene):
    scene = {"architecture": "mip360", "background": "static", "background_color": BACKDROP} | scene
    optim = {"network_lr": 3e-3}
    config = toy_config(steps=30, resolution=16, scene=scene, optim=optim)
    state, guidance = State.fresh(config, CPU), toy_prior("mushroom", views=100, size=16)
    before = volume_iou(state, "mushroom", 24)
    for _ in optimize(config, guidance, state):
        pass
    assert volume_iou(state, "mushroom", 24) > before + 0.15


def test_fields_that_change_with_the_run_continue_bit_equal():
    guidance = toy_prior("mushroom", views=8, size=16)
    tiny = {
        "steps": 8,
        "views": 2,
        "resolution": 16,
        "shading": {"albedo_probability": {"start": 1, "from": 0.2, "curve": "step"}},
    }
    progressive = {"grid": {"levels_used": {"start": 2, "end": 6, "from": 0.4, "until": 1.0, "curve": "stairs"}}}
    for scene in (
        {"architecture": "mip360", "mip": SMALL_MIP, "renderer": "proposal", "proposal": PROPOSAL},
        {"nerf": progressive | {"normal_method": "analytic"}, "background_random_ratio": 0.5, "dt_gamma": 0.01},
    ):
        config = toy_config(**tiny, scene=scene, loss={"distortion": 0.1 if "proposal" in scene else 0.0})
        whole = State.fresh(config, CPU)
        run_steps(3, whole, config, guidance)
        tensors, values = whole.to_checkpoint()
        saved = Checkpoint(whole.step, {name: tensor.clone() for name, tensor in tensors.items()}, values)
        expected = run_steps(5, whole, config, guidance)
        resumed = State.fresh(config, CPU)
        resumed.restore(saved)
        assert run_steps(5, resumed, config, guidance) == expected
        assert resumed.scene.field.progress == 7 / 8
        for a, b in zip(whole.scene.parameters(), resumed.scene.parameters(), strict=True):
            assert torch.equal(a, b)


def test_a_checkpoint_of_another_architecture_is_refused():
    small = toy_config(scene={"nerf": {"hidden_width": 8}})
    tensors, values = State.fresh(small, CPU).to_checkpoint()
    with pytest.raises(DreamFusionError, match=r"\(scene\.nerf\.hidden_width is 32 here and 8 there\)\.$") as caught:
        State.fresh(toy_config(scene={}), CPU).restore(Checkpoint(0, tensors, values))
    assert "\n" not in str(caught.value)
    mesh = State.fresh(toy_config(scene={"tetrahedra": {"resolution": 8}}), CPU)
    with pytest.raises(DreamFusionError, match="does not fit"):
        mesh.restore(Checkpoint(0, tensors, values))
    del values["scene_config"]  # as in earlier versions
    with pytest.raises(DreamFusionError, match="does not fit"):
        State.fresh(toy_config(), CPU).restore(Checkpoint(0, tensors, values))


def test_every_loss_weight_changes_the_gradient():
    guidance = toy_prior("mushroom", views=8, size=16)

    def moved(scene: dict[str, Any], **loss: float) -> list[torch.Tensor]:
        config = toy_config(
            steps=4,
            views=2,
            resolution=16,
            loss=loss,
            scene=scene,
            shading={"albedo_probability": 0.35},
            optim={"warmup": 1, "decay": {"from": 0}},
        )
        state = State.fresh(config, CPU)
        run_steps(3, state, config, guidance)
        return [parameter.detach() for parameter in state.scene.parameters()]

    proposal = {"renderer": "proposal", "proposal": PROPOSAL}
    cases = [
        ({}, ("opacity", "opacity_squared", "entropy", "orientation", "normal_smooth_2d", "normal_smooth_3d")),
        (proposal, ("distortion", "interlevel")),
        ({"tetrahedra": {"resolution": 8}}, ("normal_consistency", "laplacian", "opacity", "entropy")),
    ]
    for scene, terms in cases:
        nothing = dict.fromkeys(terms, 0.0)
        plain = moved(scene, **nothing)
        assert all(map(torch.equal, plain, moved(scene, **nothing))), "the same again is the same"
        for name in (*terms, "distillation"):
            other = moved(scene, **(nothing | {name: 10.0}))
            assert not all(map(torch.equal, plain, other)), name


def test_shading_begins_with_albedo_and_then_mixes():
    config = parse_config(
        {
            "prompt": "a",
            "shading": {"albedo_probability": {"end": 0.25, "from": 0.2}, "textureless_probability": 0.375},
        }
    )
    generator = torch.Generator().manual_seed(0)
    assert sample_shading(50, 0.1, config, generator) == ["albedo"] * 50
    drawn = sample_shading(8000, 0.5, config, generator)
    textureless = 0.375
    assert drawn.count("albedo") / 8000 == pytest.approx(0.25, abs=0.02)
    assert drawn.count("textureless") / 8000 == pytest.approx(textureless, abs=0.02)


def test_normals_and_opacity_as_latents_by_hand():
    normal = torch.tensor([0.5, -0.5, 0.0])[None, :, None, None].expand(1, 3, 2, 2)
    opacity = torch.full((1, 1, 2, 2), 0.5)
    out = RenderOutput(normal, opacity, opacity, normal, 0)
    latents = latent_picture(out, SimpleNamespace(latent_shape=(4, 8, 8)))
    assert latents.shape == (1, 4, 8, 8)
    # A half opaque pixel of normal (1, -1, 0), coded to (1, 0, 0.5), over black; then from [0, 1] to [-1, 1].
    torch.testing.assert_close(latents[0, :, 3, 3], torch.tensor([0.0, -1.0, -0.5, 0.0]))


def test_a_latent_phase_without_four_latents_is_refused():
    config = toy_config(shading={"latent": {"start": 1, "end": 0, "from": 0.2, "curve": "step"}})
    guidance = toy_prior("mushroom", views=8, size=16)
    with pytest.raises(DreamFusionError, match=r"shading\.latent renders.*works on pixels"):
        next(optimize(config, guidance, State.fresh(config, CPU)))
    guidance.latent_shape = (16, 8, 8)
    with pytest.raises(DreamFusionError, match="16 channels"):
        next(optimize(config, guidance, State.fresh(config, CPU)))


def test_a_full_view_is_not_a_collapse_before_the_given_share():
    guidance = toy_prior("mushroom", views=8, size=16)
    config = toy_config(
        steps=100, views=1, resolution=8, collapse_check={"start": 0, "end": 1, "from": 0.5, "curve": "step"}
    )
    state = State.fresh(config, CPU)
    state.opacity = 0.99
    next(optimize(config, guidance, state))
    state.opacity, state.step = 0.99, 50
    with pytest.raises(DreamFusionError, match="fill the view"):
        next(optimize(config, guidance, state))


def test_a_scene_that_is_not_finite_goes_back_or_stops():
    guidance = toy_prior("mushroom", views=8, size=16)
    config = toy_config(steps=4, views=1, resolution=16)
    state = State.fresh(config, CPU)
    with torch.no_grad():
        state.scene.field.albedo_network[0].weight.fill_(float("nan"))
    with pytest.raises(NotFiniteError, match="not finite at step 1"):
        next(optimize(config, guidance, state))
    back: list[int] = []

    def go_back() -> None:
        back.append(state.step)
        state.restore(Checkpoint(0, *State.fresh(config, CPU).to_checkpoint()))

    next(optimize(config, guidance, state, go_back=go_back))
    assert (back, state.step) == ([0], 1)


def test_a_collapsed_scene_stops_the_run_with_advice():
    refuse_collapse(0.3, 100)
    with pytest.raises(DreamFusionError, match="nothing by step 100"):
        refuse_collapse(0.001, 100)
    with pytest.raises(DreamFusionError, match="fill the view by step 100"):
        refuse_collapse(0.99, 100)


def test_a_scene_that_is_driven_empty_is_reported():
    guidance = toy_prior("mushroom", views=8, size=16)
    config = toy_config(
        steps=400,
        views=1,
        resolution=16,
        loss={"opacity": 1e4},
        optim={"grid_lr": 0.1, "network_lr": 0.1},
    )
    with pytest.raises(DreamFusionError, match="collapsed to nothing"):
        for _ in optimize(config, guidance, State.fresh(config, CPU)):
            pass


def test_portions_of_views_by_hand():
    assert list(ALONE.portions(5, 1)) == [slice(0, 5)]
    assert list(ALONE.portions(5, 2)) == [slice(0, 2), slice(2, 5)]
    assert list(ALONE.portions(4, 4)) == [slice(0, 1), slice(1, 2), slice(2, 3), slice(3, 4)]


def test_a_step_in_portions_has_the_gradient_of_the_whole():
    """The same timesteps, noise and jitter for all views, drawn so that portions draw alike."""
    config = toy_config(steps=4, views=2, resolution=16)
    gradients = []
    for parts in (1, 2):
        guidance = toy_prior("mushroom", views=8, size=16)
        # What is distilled depends on draws; regularisers alone do not.
        quiet = config.model_copy(update={"loss": config.loss.model_copy(update={"distillation": 0.0})})
        state = State.fresh(quiet, CPU)
        state.portions = parts
        state.optimizer.step = lambda: None
        step = next(optimize(quiet, guidance, state))
        assert step.image.shape == (2, 3, 16, 16)
        gradients.append(torch.cat([p.grad.flatten() for p in state.scene.parameters() if p.grad is not None]))
    assert gradients[0].norm() > 0
    cosine = torch.nn.functional.cosine_similarity(gradients[0], gradients[1], dim=0)
    assert cosine > 0.95  # the jitter along the rays differs
    assert gradients[1].norm().item() == pytest.approx(gradients[0].norm().item(), rel=0.2)


def test_a_bad_answer_of_the_prior_is_left_out_and_the_weights_stay():
    guidance = toy_prior("mushroom", views=8, size=16)
    config = toy_config(steps=20, views=1, resolution=16)
    state = State.fresh(config, CPU)
    answer = guidance.predict_noise

    def one_bad_number(z, t, embeddings):
        good = answer(z, t, embeddings).clone()
        good[0, 0, 0, 5] = math.nan
        return good

    guidance.predict_noise = one_bad_number
    before = [p.detach().clone() for p in state.scene.parameters()]
    steps = optimize(config, guidance, state)
    first = next(steps)
    assert first.metrics["left_out"] == 1
    assert all(math.isfinite(value) for value in first.metrics.values())
    assert all(torch.equal(a, b) for a, b in zip(before, state.scene.parameters(), strict=True))
    guidance.predict_noise = answer
    second = next(steps)
    assert "left_out" not in second.metrics
    assert state.left_out == 0
    guidance.predict_noise = one_bad_number
    with pytest.raises(
        DreamFusionError, match=r"prior answers is no longer finite since step 3: .*guidance\.precision"
    ):
        for _ in steps:
            pass
    assert state.step == 2 + MOST_LEFT_OUT


def test_the_advice_against_bad_numbers_is_accepted():
    for changes in ({"guidance": {"precision": "fp32"}}, {"guidance": {"precision": "bf16"}}):
        assert toy_config(**changes)
    rates = {"grid_lr": 1e-3, "network_lr": 1e-4}
    assert toy_config(optim=rates).optim.grid_lr == 1e-3
