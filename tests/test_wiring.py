"""That options reach what they are for, and that draws have the spread they are said to have.

Pure functions have right values by hand elsewhere. Here is what stands between: one line left out of the loop, the
state or an export changes no function, and a draw with another spread has the same mean.
"""

import math
import os
import stat
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dreamfusion.app.cli import main
from dreamfusion.assets import texture
from dreamfusion.assets.gltf import read_glb, triangles
from dreamfusion.assets.mesh import Mesh
from dreamfusion.assets.texture import unwrap
from dreamfusion.io.checkpoints import Checkpoint
from dreamfusion.io.files import write_text
from dreamfusion.method.cameras import CameraRange, fixed_cameras, sample_cameras
from dreamfusion.method.critic import Critic
from dreamfusion.method.optimize import optimize
from dreamfusion.method.shading import LightRange, headlights, sample_lights
from dreamfusion.method.state import PURPOSES, State
from dreamfusion.renderers.occupancy import OccupancyConfig, OccupancyGrid
from dreamfusion.runs import results
from dreamfusion.scenes.volume import VolumeScene
from dreamfusion.toybox.kinds import KINDS
from dreamfusion.toybox.render import signed_distance
from dreamfusion.toybox.world import Toy
from support.meshes import BALL, FACES, POINTS, glb_file
from support.worlds import toy_config, toy_prior

CPU = torch.device("cpu")
TINY: dict[str, Any] = {"steps": 4, "views": 8, "resolution": 8}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Told:
    """A loss that keeps what it is told and answers with the same number everywhere, of changing signs."""

    def __init__(self, size: float = 0.0) -> None:
        self.size, self.times = size, []

    def __call__(self, asked: Any, z: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        self.times.append(t)
        return self.size * torch.ones_like(z).flatten().mul(torch.arange(z.numel()) % 2 * 2 - 1).view_as(z)


def run(config: Any, loss: Told) -> list[dict[str, float]]:
    guidance = toy_prior("mushroom", views=8, size=16)
    return [step.metrics for step in optimize(config, guidance, State.fresh(config, CPU), loss_function=loss)]


def test_both_ends_of_the_diffusion_times_move_with_the_run():
    told = Told()
    whole = {"from": 0.0, "until": 1.0, "curve": "linear"}
    ends = {"t_min": whole | {"start": 0.9, "end": 0.1}, "t_max": whole | {"start": 0.92, "end": 0.12}}
    config = toy_config(**TINY, guidance={"guidance_scale": 1.0, **ends})
    run(config, told)
    for t, (low, high) in zip(told.times, ((900, 920), (700, 720), (500, 520), (300, 320)), strict=True):
        assert low <= t.min() <= t.max() <= high


def test_the_configured_clip_limits_the_gradient_from_both_sides():
    said = {"weighting": "uniform"}
    config = toy_config(**TINY | {"steps": 2}, guidance=said, loss={"clip": {"start": 0.5, "end": 0.25, "from": 0.0}})
    figures = run(config, Told(100.0))
    count = 3 * 16 * 16  # elements of the prior's pictures
    for row, limit in zip(figures, (0.5, 0.375), strict=True):
        assert row["sds_gradient"] == pytest.approx(limit * math.sqrt(count), rel=1e-5)
    assert run(toy_config(**TINY | {"steps": 1}, guidance=said), Told(100.0))[0]["sds_gradient"] > 1000


def test_an_optimiser_has_the_configured_numbers_or_its_own():
    plain = State.fresh(toy_config(optim={}), CPU).optimizer.param_groups
    assert all((group["betas"], group["eps"], group["weight_decay"]) == ((0.9, 0.99), 1e-15, 0.0) for group in plain)
    asked = {"betas": [0.5, 0.6], "eps": 0.125, "weight_decay": 0.25}
    groups = State.fresh(toy_config(optim=asked), CPU).optimizer.param_groups
    assert all((group["betas"], group["eps"], group["weight_decay"]) == ((0.5, 0.6), 0.125, 0.25) for group in groups)


def test_every_purpose_has_draws_of_its_own_and_no_seed_shares_them():
    drawn = []
    for seed in range(3):
        generators = State.fresh(toy_config(seed=seed), CPU).generators
        assert list(generators) == list(PURPOSES)
        drawn += [g.initial_seed() for g in generators.values()]
    assert len(set(drawn)) == 3 * len(PURPOSES)


def test_what_is_known_of_a_run_is_there_again_after_resuming():
    state = State.fresh(toy_config(), CPU)
    state.opacity, state.rate, state.left_out, state.portions = 0.125, 0.5, 3, 2
    tensors, values = state.to_checkpoint()
    again = State.fresh(toy_config(), CPU)
    again.restore(Checkpoint(7, tensors, values))
    assert (again.step, again.opacity, again.rate, again.left_out, again.portions) == (7, 0.125, 0.5, 3, 2)


def test_occupied_cells_are_looked_for_before_the_first_step_and_at_every_interval(monkeypatch: pytest.MonkeyPatch):
    now, seen = [0], []
    monkeypatch.setattr(OccupancyGrid, "update", lambda *_: seen.append(now[0]))
    scene = State.fresh(toy_config(scene={"occupancy_interval": 3}), CPU).scene
    assert isinstance(scene, VolumeScene)
    for now[0] in range(8):
        scene.prepare(now[0], now[0] / 8, generator())
    assert seen == [0, 3, 6]


@pytest.mark.parametrize(("threshold", "left", "right"), [(10.0, False, True), (1.0, True, True), (6.0, False, True)])
def test_a_cell_is_empty_below_both_the_threshold_and_the_mean(threshold: float, left: bool, right: bool):
    """Densities of 2 and 8, whose mean is 5: a threshold of 10 must not empty everything."""
    grid = OccupancyGrid(OccupancyConfig(resolution=8, density=threshold, dilate=False))
    field = SimpleNamespace(density=lambda x: torch.where(x[:, 0] < 0, 2.0, 8.0))
    grid.update(field, generator())
    for half, occupied in ((slice(0, 4), left), (slice(4, 8), right)):
        assert torch.equal(grid.occupied[half], grid.inside[half] & occupied)


STILL = {
    "radius_min": 2.5,
    "radius_max": 2.5,
    "azimuth_min_deg": 0,
    "azimuth_max_deg": 0,
    "uniform_angle_probability": 1,
}
STILL |= {"elevation_min_deg": 0, "elevation_max_deg": 0, "position_noise": 0, "look_at_noise": 0, "up_noise": 0}


def drawn(**noise: float) -> Tensor:
    """Return 4000 poses [N, 3, 4] of cameras that would all stand on the x axis and look at the middle."""
    return sample_cameras(4000, CameraRange(**STILL | noise), generator()).camera_to_world


def test_the_point_looked_at_moves_by_its_deviation():
    forward = drawn(look_at_noise=0.1)[:, :, 2]
    aside = 2.5 * forward[:, 1:] / -forward[:, :1]  # where the axis meets the plane through the middle
    assert aside.std(dim=0).tolist() == pytest.approx([0.1, 0.1], rel=0.05)
    assert aside.mean(dim=0).abs().max() < 0.01
    assert abs(torch.corrcoef(aside.T)[0, 1]) < 0.05
    assert drawn()[:, 0, 2].tolist() == [-1.0] * 4000


def test_the_up_vector_moves_by_its_deviation():
    right = drawn(up_noise=0.1)[:, :, 0]
    roll = -right[:, 2] / right[:, 1]
    assert roll.std().item() == pytest.approx(0.1, rel=0.05)
    assert abs(roll.mean()) < 0.01


def test_a_camera_moves_evenly_within_its_half_width():
    moved = drawn(position_noise=0.3)[:, :, 3] - torch.tensor([2.5, 0.0, 0.0])
    assert moved.abs().max() <= 0.3 + 1e-6
    assert moved.std(dim=0).tolist() == pytest.approx([0.3 / math.sqrt(3)] * 3, rel=0.05)
    assert (torch.corrcoef(moved.T) - torch.eye(3)).abs().max() < 0.05, "along each axis by itself"


def test_an_ambient_light_that_varies_leaves_the_rest_to_the_lamp():
    lights = sample_lights(fixed_cameras(torch.zeros(4000), 0.0), LightRange(ambient=0.1, ambient_max=0.5), generator())
    assert torch.equal(lights.diffuse, 1 - lights.ambient)
    assert 0.1 <= lights.ambient.min() < 0.11
    assert 0.49 < lights.ambient.max() <= 0.5
    assert lights.ambient.std().item() == pytest.approx(0.4 / math.sqrt(12), rel=0.05)


def test_distances_of_lights_are_even_and_their_directions_as_wide_as_asked():
    cameras = fixed_cameras(torch.zeros(4000), 0.0)
    lights = sample_lights(cameras, LightRange(distance_min=1, distance_max=3, direction_noise=0.1), generator())
    assert lights.position.norm(dim=1).std().item() == pytest.approx(2 / math.sqrt(12), rel=0.05)
    slope = lights.position[:, 1:] / lights.position[:, :1]
    assert slope.std(dim=0).tolist() == pytest.approx([0.1, 0.1], rel=0.1)


def test_the_headlight_is_above_the_camera_to_its_right():
    lights = headlights(fixed_cameras(0.0, 0.0, radius=2.0), ambient=0.25, side_deg=45.0)
    assert lights.position[0].tolist() == pytest.approx([2.0, math.sqrt(2), math.sqrt(2)], abs=1e-6)  # right is +y
    assert (lights.diffuse.item(), lights.ambient.item()) == (0.75, 0.25)
    assert headlights(fixed_cameras(0.0, 0.0)).ambient.item() == pytest.approx(0.3)


def test_the_critic_learns_at_all_timesteps():
    critic, seen = Critic.__new__(Critic), []
    critic.generator, critic._awake = generator(), nullcontext
    critic.guidance = SimpleNamespace(
        alphas_cumprod=torch.ones(4), together=1, add_noise=lambda z, n, t: (seen.append(t), z)[1]
    )
    critic._predict = lambda z, t, *_: z.clone().requires_grad_()
    critic.optimizer = SimpleNamespace(step=lambda: None, zero_grad=lambda set_to_none: None)
    critic.learn(torch.zeros(200, 1), None, None)
    assert seen[0].unique().tolist() == [0, 1, 2, 3]


def test_a_node_is_scaled_then_turned_then_moved_and_so_are_those_below_it(tmp_path: Path):
    corners = np.float32([[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    half = math.sqrt(0.5)
    nodes = [
        {"children": [1], "translation": [10, 0, 0], "rotation": [half, 0, 0, half]},  # y to z
        {"mesh": 0, "translation": [5, 6, 7], "rotation": [0, 0, half, half], "scale": [2, 3, 4]},  # x to y
    ]
    path = glb_file(tmp_path / "nodes.glb", corners, np.array([0, 1, 2]), nodes=nodes)
    # (1, 0, 0) is scaled to (2, 0, 0), turned to (0, 2, 0), moved to (5, 8, 7), turned to (5, -7, 8), moved by 10.
    in_gltf = np.array([[15, -7, 8], [12, -7, 6], [15, -11, 6]])
    found = triangles(read_glb(path)).vertices
    np.testing.assert_allclose(found, in_gltf[:, [2, 0, 1]], atol=1e-5)  # our x, y, z are glTF's z, x, y


def test_an_atlas_that_is_no_square_keeps_the_shape_of_its_charts(monkeypatch: pytest.MonkeyPatch):
    normals = BALL.vertices.astype(np.float32)
    mesh = Mesh(POINTS, FACES, normals, np.ones_like(normals))
    corners = np.float32([[0, 0], [1, 0], [0, 1]])[np.arange(len(mesh.vertices)) % 3]
    faces = np.arange(3, dtype=np.uint32)[None]

    class Atlas:
        width, height = 100, 50

        def add_mesh(self, *_: object) -> None: ...

        def generate(self, *_: object) -> None: ...

        def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
            return np.arange(len(mesh.vertices)), faces, corners

    options = {"ChartOptions": SimpleNamespace, "PackOptions": SimpleNamespace}
    monkeypatch.setitem(sys.modules, "xatlas", SimpleNamespace(Atlas=Atlas, **options))
    monkeypatch.setattr(texture, "can_unwrap", lambda: True)
    assert np.array_equal(unwrap(mesh, 64).uv, corners * np.float32([1, 0.5]))


def test_export_gives_every_option_to_what_it_is_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: dict[str, Any] = {}
    monkeypatch.setattr(results, "export_run", lambda run, **options: asked.update(options) or [])
    options = "--format glb --resolution 17 --faces 1234 --texture-size 65 --height 2.5 --pivot base --lod 3"
    main(["export", "somewhere", *options.split(), "--license", "CC0", "--device", "cpu"])
    expected = {"formats": ["glb"], "resolution": 17, "max_faces": 1234, "texture_size": 65, "height_m": 2.5, "lod": 3}
    expected |= {"pivot": "base", "licence": "CC0", "device": "cpu", "normal_map": False, "compress": False}
    assert {name: asked[name] if name != "formats" else list(asked[name]) for name in expected} == expected


def test_a_file_and_its_folder_are_flushed_to_the_disk_in_this_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    flushed = []
    fsync, path = os.fsync, tmp_path / "a.txt"

    def watched(handle: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file"
        flushed.append((kind, path.exists()))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", watched)
    write_text(path, "text")
    assert flushed == [("file", False), ("folder", True)], "a finished rename has to outlive a power cut"


SHAPES = {
    "mushroom": 980,
    "snowman": 614,
    "car": 718,
    "house": 1144,
    "chair": 384,
    "tree": 592,
    "mug": 462,
    "robot": 520,
    "duck": 692,
    "rocket": 436,
    "boat": 404,
    "bear": 556,
    "fish": 364,
    "rabbit": 440,
    "train": 718,
    "plane": 268,
    "teapot": 656,
    "castle": 948,
    "penguin": 670,
    "turtle": 638,
}
"""How many points of a grid of 24 x 24 x 24 lie in each kind of toy that the embedded prior was trained on."""


def points_inside(kind: str) -> int:
    axis = torch.linspace(-1, 1, 24)
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)
    return int((signed_distance(Toy(kind), points) < 0).sum())


def test_the_kinds_are_those_that_the_embedded_prior_was_trained_on():
    found = {kind: points_inside(kind) for kind in KINDS}
    assert found.keys() == SHAPES.keys()
    # A point that lies on a surface may fall to either side on another machine.
    assert all(abs(found[kind] - SHAPES[kind]) <= 2 for kind in KINDS), found
