import pytest
import torch

from dreamfusion.assets.mesh import sample_density, surface_level
from dreamfusion.config import parse_config
from dreamfusion.errors import DreamFusionError
from dreamfusion.optimize import State, optimize, refuse_collapse, sample_shading
from dreamfusion.toybox.render import signed_distance
from dreamfusion.toybox.world import Toy
from worlds import toy_config, toy_prior

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
    tiny = {"steps": 8, "views": 2, "resolution": 16, "resolution_end": 16}
    config = toy_config(**tiny)
    first, second = (run_steps(3, State.fresh(config, CPU), config, guidance) for _ in range(2))
    assert first == second
    other = toy_config(**tiny, seed=1)
    assert run_steps(3, State.fresh(other, CPU), other, guidance) != first


@pytest.mark.parametrize("optimizer", ["adam", "adan"])
def test_a_restored_state_continues_bit_equal(optimizer: str):
    guidance = toy_prior("mushroom", views=8, size=16)
    config = toy_config(
        steps=10,
        views=2,
        resolution=16,
        resolution_end=16,
        optim={"optimizer": optimizer},
        shading={"albedo_until": 0.2},
        scene={"background": "learned", "occupancy_interval": 3},
    )
    whole = State.fresh(config, CPU)
    run_steps(4, whole, config, guidance)
    from dreamfusion.checkpoints import Checkpoint

    tensors, values = whole.to_checkpoint()
    saved = Checkpoint(whole.step, {name: tensor.clone() for name, tensor in tensors.items()}, values)
    expected = run_steps(6, whole, config, guidance)

    resumed = State.fresh(config, CPU)
    resumed.restore(saved)
    assert run_steps(6, resumed, config, guidance) == expected
    for a, b in zip(whole.scene.parameters(), resumed.scene.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_checkpoint_of_another_architecture_is_refused():
    small = toy_config(scene={"nerf": {"hidden_width": 8}})
    tensors, values = State.fresh(small, CPU).to_checkpoint()
    from dreamfusion.checkpoints import Checkpoint

    with pytest.raises(DreamFusionError, match="does not fit"):
        State.fresh(toy_config(), CPU).restore(Checkpoint(0, tensors, values))


def test_every_loss_weight_changes_the_gradient():
    guidance = toy_prior("mushroom", views=8, size=16)

    def moved(**loss: float) -> torch.Tensor:
        config = toy_config(
            steps=4,
            views=2,
            resolution=16,
            resolution_end=16,
            loss=loss,
            shading={"albedo_until": 0.0},
            optim={"warmup_steps": 0},
        )
        state = State.fresh(config, CPU)
        run_steps(3, state, config, guidance)
        return state.scene.field.table.detach()

    nothing = {"opacity": 0.0, "entropy": 0.0, "orientation": 0.0}
    plain = moved(**nothing)
    for name in nothing:
        assert not torch.equal(plain, moved(**(nothing | {name: 10.0}))), name


def test_shading_begins_with_albedo_and_then_mixes():
    config = parse_config({"prompt": "a", "shading": {"albedo_until": 0.2, "albedo_probability": 0.25}})
    generator = torch.Generator().manual_seed(0)
    assert sample_shading(50, 0.1, config, generator) == ["albedo"] * 50
    drawn = sample_shading(8000, 0.5, config, generator)
    textureless = config.shading.textureless_probability
    assert drawn.count("albedo") / 8000 == pytest.approx(0.25, abs=0.02)
    assert drawn.count("textureless") / 8000 == pytest.approx(textureless, abs=0.02)


def test_not_a_number_stops_the_run_with_advice():
    guidance = toy_prior("mushroom", views=8, size=16)
    config = toy_config(steps=4, views=1, resolution=16, resolution_end=16)
    state = State.fresh(config, CPU)
    with torch.no_grad():
        state.scene.field.albedo_network[0].weight.fill_(float("nan"))
    with pytest.raises(DreamFusionError, match=r"no longer finite at step 0.*--seed"):
        next(optimize(config, guidance, state))


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
        resolution_end=16,
        loss={"opacity": 1e4},
        optim={"grid_lr": 0.1, "network_lr": 0.1},
    )
    with pytest.raises(DreamFusionError, match="collapsed to nothing"):
        for _ in optimize(config, guidance, State.fresh(config, CPU)):
            pass
