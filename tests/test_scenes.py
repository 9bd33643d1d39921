"""The contract of scenes: kinds and their configuration, and scenes whose parameters become more and fewer in a run."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from dreamfusion.config import SceneConfig, build_config, parse_config
from dreamfusion.errors import DreamFusionError
from dreamfusion.io.checkpoints import Checkpoint, latest_checkpoint, load_checkpoint
from dreamfusion.method.cameras import fixed_cameras
from dreamfusion.method.optimizers import build_optimizer, carry_over
from dreamfusion.method.shading import Lights
from dreamfusion.method.state import State
from dreamfusion.runs.generate import carry_out
from dreamfusion.runs.results import open_state
from dreamfusion.scenes.build import build_scene
from dreamfusion.scenes.resized import Resized
from dreamfusion.scenes.scene import Views
from support.worlds import BACKDROP, toy_config, toy_prior

CPU = torch.device("cpu")
EXAMPLE = Path(__file__).parents[1] / "examples" / "own_scene.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("own_scene", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Kinds


def test_the_kind_of_earlier_configurations_follows_from_their_tetrahedra():
    assert SceneConfig().kind == "volume"
    assert parse_config({"prompt": "a", "scene": {"tetrahedra": None}}).scene.kind == "volume"
    old = parse_config({"prompt": "a", "scene": {"tetrahedra": {"resolution": 8}}}).scene
    assert (old.kind, old.tetrahedra.resolution) == ("mesh", 8)
    assert parse_config({"prompt": "a", "scene": {"kind": "mesh"}}).scene.tetrahedra.resolution == 48
    again = parse_config(parse_config({"prompt": "a", "scene": {"kind": "mesh"}}).model_dump(mode="json"))
    assert again.scene.kind == "mesh"


def test_a_kind_and_what_belongs_to_another_are_refused_in_one_line():
    for scene in ({"kind": "volume", "tetrahedra": {"resolution": 8}}, {"kind": "points"}):
        with pytest.raises(DreamFusionError, match="scene") as caught:
            parse_config({"prompt": "a", "scene": scene})
        assert "\n" not in str(caught.value)


def test_every_kind_is_built_and_told_what_it_is():
    volume = build_scene(SceneConfig())
    mesh = build_scene(SceneConfig(kind="mesh", tetrahedra={"resolution": 8}))
    assert (volume.has_surface, mesh.has_surface) == (False, True)
    assert volume.colors is volume.field
    assert mesh.colors.albedo(torch.zeros(1, 3)).shape == (1, 3)
    for scene in (volume, mesh):
        assert scene.adapt(1, 0.5, torch.Generator()) == ()
        assert scene.shape_like({}) == ()


# Parameters that become more and fewer


@pytest.mark.parametrize(("name", "kept"), [("adam", True), ("adan", True), ("shampoo", False)])
def test_what_the_optimiser_gathered_goes_with_its_rows(name: str, kept: bool):
    before = nn.Parameter(torch.tensor([[1.0], [2.0], [3.0]]))
    other = nn.Parameter(torch.zeros(2))
    optimizer = build_optimizer(name, [{"params": [before, other], "lr": 0.1}])
    for p, gradient in ((before, [[1.0], [2.0], [3.0]]), (other, [1.0, 1.0])):
        p.grad = torch.tensor(gradient)
    optimizer.step()
    gathered = {key: value.clone() for key, value in optimizer.state[before].items() if torch.is_tensor(value)}
    after = nn.Parameter(torch.zeros(4, 1))
    carry_over(optimizer, [Resized(before, after, torch.tensor([2, -1, 0, 2]))])
    assert [p is q for p, q in zip(optimizer.param_groups[0]["params"], (after, other), strict=True)] == [True, True]
    assert before not in optimizer.state
    assert other in optimizer.state
    assert (after in optimizer.state) == kept
    if name == "adam":  # (1 - beta) times the gradient, row by row, and zeros for the new one
        moved = optimizer.state[after]["exp_avg"].flatten().tolist()
        assert moved == pytest.approx([0.3, 0.0, 0.1, 0.3])
        assert optimizer.state[after]["step"] == gathered["step"]
    after.grad, other.grad = torch.ones(4, 1), torch.ones(2)
    optimizer.step()
    assert (after < 0).all()


class Killed(BaseException):
    """What ends a run without a word, as a signal would."""


@pytest.mark.parametrize("optimizer", ["adam", "adan"])
def test_a_scene_that_prunes_and_adds_is_killed_and_resumed_bit_equal(example, tmp_path: Path, optimizer: str):
    scene = {"background": "static", "background_color": BACKDROP}
    tiny = {"steps": 12, "views": 2, "resolution": 16, "checkpoint_every": 5}
    config = toy_config(**tiny, scene=scene, preview_every=1000, optim={"optimizer": optimizer, "grid_lr": 0.05})
    prior = toy_prior("mushroom", views=8, size=16)
    counts: list[int] = []

    def run(name: str, stop_after: int | None = None) -> None:
        (tmp_path / name).mkdir(exist_ok=True)
        state = open_state(tmp_path / name, config, CPU, example.PointScene(config.scene))

        def on_step(step) -> None:
            counts.append(len(state.scene.points))
            if step.number == stop_after:
                raise Killed

        carry_out(config, prior, state, tmp_path / name, own_prior=False, assets=False, on_step=on_step)

    run("whole")
    assert counts[2] == 60
    assert counts[3] not in (60, 65), "after four steps five were added, and some went"
    with pytest.raises(Killed):
        run("killed", stop_after=9)
    assert load_checkpoint(latest_checkpoint(tmp_path / "killed/checkpoints")).step == 5
    run("killed")
    for name in ("tensors.safetensors", "state.json"):
        whole, killed = (tmp_path / folder / "checkpoints/step_000012" / name for folder in ("whole", "killed"))
        assert whole.read_bytes() == killed.read_bytes()


def test_a_checkpoint_with_other_points_does_not_fit_a_volume(example):
    config = toy_config()
    points = State.fresh(config, CPU, example.PointScene(config.scene))
    tensors, values = points.to_checkpoint()
    with pytest.raises(DreamFusionError, match="does not fit"):
        State.fresh(config, CPU).restore(Checkpoint(0, tensors, values))


def test_the_example_runs(example, capsys: pytest.CaptureFixture[str]):
    example.main(steps=4)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[-1].startswith("4 ")
    assert len(EXAMPLE.read_text().splitlines()) < 80


# Losses


OF_ONE_KIND = ("laplacian", "normal_consistency", "normal_smooth_3d", "orientation", "interlevel")
OF_ALL = ("opacity", "entropy", "opacity_squared", "normal_smooth_2d")
KINDS = (
    ({"kind": "volume"}, {"normal_smooth_3d", "orientation"}),
    ({"kind": "volume", "renderer": "proposal"}, {"normal_smooth_3d", "orientation", "interlevel"}),
    ({"kind": "mesh", "tetrahedra": {"resolution": 8}}, {"laplacian", "normal_consistency"}),
)


@pytest.mark.parametrize(("scene", "own"), KINDS, ids=["volume", "proposal", "mesh"])
def test_a_kind_has_a_term_for_every_weight_that_the_configuration_lets_pass(scene, own: set[str]):
    def refused(name: str) -> bool:
        try:
            build_config("default", {"prompt": "a", "scene": scene, "loss": {name: 7.0}})
        except DreamFusionError as error:
            return "has no effect here" in str(error)
        return False

    assert {name for name in OF_ONE_KIND if not refused(name)} == own
    config = toy_config(scene=scene, loss=dict.fromkeys((*OF_ALL, *own), 7.0), views=1)
    built, random = build_scene(config.scene), torch.Generator().manual_seed(0)
    lights = Lights(torch.full((1, 3), 3.0), torch.ones(1), torch.ones(1))
    views = Views(fixed_cameras(0.0, 0.0), lights, ["lambertian"], 8, torch.zeros(1, 3), with_normals=True)
    terms = built.regularize(built.render(views, random), views, config.loss, 1.0, random)
    unasked = {"distortion"} if "interlevel" in own else set()  # weighs nothing by default
    assert {name.removesuffix("_loss") for name in terms} == {*OF_ALL, *own, *unasked}
