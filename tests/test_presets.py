"""Every preset against the numbers that the papers and systems state, in their own lengths."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dreamfusion.config import Config, build_config
from dreamfusion.config.presets import PRESETS
from dreamfusion.config.schedule import constant
from dreamfusion.fields.nerf import active_levels
from dreamfusion.method.cameras import sample_cameras
from dreamfusion.method.optimize import optimize, set_learning_rates
from dreamfusion.method.optimizers import learning_rate_factor
from dreamfusion.method.state import State
from support.worlds import toy_prior


def preset(name: Any) -> Config:
    return build_config(name, {"prompt": "a"})


def test_paper_camera_and_light():
    c, length = preset("paper"), 1.4  # the radius of its scene
    cameras, lights = c.cameras, c.lights
    assert [cameras.radius_min * length, cameras.radius_max * length] == pytest.approx([1, 1.5])
    assert [cameras.azimuth_min_deg, cameras.azimuth_max_deg] == [-180, 180]
    assert [cameras.elevation_min_deg, cameras.elevation_max_deg] == [-10, 90]
    assert (cameras.uniform_angle_probability, cameras.area_elevation_min_deg) == (0.5, 0)
    assert cameras.position_noise * length == pytest.approx(0.1)
    assert cameras.look_at_noise * length == pytest.approx(0.2)
    assert cameras.up_noise == 0.02
    assert [cameras.focal_min, cameras.focal_max] == [0.7, 1.35]
    assert [lights.distance_min * length, lights.distance_max * length] == pytest.approx([0.8, 1.5])
    assert lights.position_noise is not None
    assert lights.position_noise * length == pytest.approx(1)
    assert [lights.ambient, lights.diffuse] == [0.1, 0.9]


def test_paper_scene():
    c = preset("paper")
    assert (c.scene.architecture, c.scene.renderer, c.scene.background) == ("mip360", "proposal", "learned")
    mip = c.scene.mip
    assert (mip.frequencies, mip.blocks, mip.hidden_width, mip.density_activation) == (8, 5, 128, "exp")
    assert (mip.variance.start, mip.variance.end) == (5e-2, 2e-3)
    assert mip.variance.until * c.steps == pytest.approx(5000)
    assert mip.scale == 1.4
    assert (mip.blob_density, mip.blob_std * mip.scale) == (5, pytest.approx(0.2))
    assert math.exp(mip.density_bias) == pytest.approx(mip.scale), "density is per length"


def test_paper_run():
    c = preset("paper")
    assert (c.steps, c.views, c.resolution) == (15000, 4, constant(64))
    g = c.guidance
    assert g.guidance_scale - 1 == 100
    assert (g.t_min, g.t_max, g.weighting) == (constant(0.02), constant(0.98), "sds")
    assert (g.view_mode, g.view_texts.overhead_deg) == ("nearest", 60)
    s = c.shading
    assert s.albedo_probability.from_ * c.steps == pytest.approx(1000)
    lit = 1 - s.albedo_probability.end
    assert (lit, s.textureless_probability.end / lit) == (0.75, 0.5)
    assert 1e-3 <= c.loss.opacity <= 5e-3
    assert (c.loss.entropy, c.loss.opacity_squared) == (constant(0), 0)
    assert (c.loss.orientation.start, c.loss.orientation.end) == (1e-4, 1e-2)
    assert c.loss.orientation.until * c.steps == pytest.approx(5000)


def test_paper_optimizer():
    c = preset("paper")
    o = c.optim
    assert (o.optimizer, o.betas, o.eps, o.max_grad_norm) == ("shampoo", (0.9, 0.9), 1e-6, None)

    def rate(step: int) -> float:
        return o.network_lr * learning_rate_factor(step, c.steps, o.warmup, o.decay)

    assert rate(0) == pytest.approx(1e-9)
    assert rate(1500) == pytest.approx((1e-9 + 1e-4) / 2)
    assert rate(3000) == pytest.approx(1e-4)
    assert rate(9000) == pytest.approx((1e-4 + 1e-6) / 2)
    assert rate(15000) == pytest.approx(1e-6)


def test_nemo():
    c = preset("nemo")
    assert (c.seed, c.steps, c.views, c.resolution) == (2023, 10000, 1, constant(64))
    assert (c.pictures.val_every, c.checkpoint_every, c.guidance.precision) == (100, 1000, "fp16")
    o = c.optim
    assert (o.optimizer, o.grid_lr, o.network_lr, o.eps, o.weight_decay) == ("adan", 5e-3, 5e-3, 1e-8, 2e-5)
    assert (o.max_grad_norm, o.betas, o.warmup, o.decay) == (5, None, constant(1), constant(1))
    cameras = c.cameras
    assert (cameras.radius_min, cameras.radius_max) == (3, 3.5)
    assert (90 - cameras.elevation_max_deg, 90 - cameras.elevation_min_deg) == (45, 105)
    assert (cameras.azimuth_min_deg, cameras.azimuth_max_deg) == (-180, 180)
    assert (cameras.fov_min_deg, cameras.fov_max_deg) == (10, 30)
    assert (cameras.position_noise, cameras.look_at_noise, cameras.up_noise) == (0, 0, 0)
    assert cameras.uniform_angle_probability == 1
    p = c.pictures
    assert (p.val_views, p.video_frames, p.val_resolution, p.video_resolution) == (5, 100, 800, 800)
    assert (p.radius, p.elevation_deg, p.video, p.video_fps) == (3.2, 0, False, 25)
    assert math.degrees(2 * math.atan(0.5 / p.focal)) == pytest.approx(20)
    nerf = c.scene.nerf
    assert (nerf.grid.log2_size, nerf.grid.max_resolution, nerf.grid.interpolation) == (19, 2048, "smoothstep")
    assert (nerf.hidden_width, nerf.hidden_layers + 1) == (64, 3)
    assert (nerf.density_activation, nerf.blob, nerf.blob_std, nerf.blob_density) == ("exp", "gaussian", 0.2, 5)
    assert (nerf.normal_method, nerf.normal_epsilon) == ("central", 1e-2)
    s = c.scene
    assert (s.occupancy_resolution, s.occupancy_density, s.occupancy_interval) == (128, 10, 16)
    assert s.step_length * 1024 == pytest.approx(2 * math.sqrt(3))
    assert (s.background, s.background_color) == ("static", (0, 0, 1))
    g = c.guidance
    assert (g.kind, g.model, g.guidance_scale) == ("sd", None, 100)
    assert (g.t_min, g.t_max, g.weighting, g.view_mode) == (constant(0.02), constant(0.98), "sds", "interpolated")
    assert [c.shading.latent.at(p) for p in (0, 0.19, 0.2)] == [1, 1, 0]
    assert (c.shading.albedo_probability, c.shading.textureless_probability) == (constant(0), constant(0.2))
    assert (c.lights.ambient, c.lights.ambient_max) == (0.1, 1)
    w = c.loss
    assert (w.distillation, w.opacity, w.opacity_squared) == (1, 0, 0)
    assert [w.entropy.at(p) for p in (0, 0.25, 0.5, 0.9)] == [0, 5e-4, 1e-3, 1e-3]
    assert w.orientation == constant(1e-2)
    assert (w.normal_smooth_2d, w.normal_smooth_3d) == (0, 0)


def test_nemo_has_no_text_for_views_from_above():
    c = preset("nemo")
    cameras = sample_cameras(1000, c.cameras, torch.Generator().manual_seed(0))
    assert cameras.elevation_deg.max() < c.guidance.view_texts.overhead_deg


@pytest.mark.parametrize(("name", "scale", "highest"), [("threestudio-sd", 100, 45), ("threestudio-if", 20, 90)])
def test_threestudio(name: str, scale: float, highest: float):
    c, length = preset(name), 2.0  # the radius of its geometry
    g, cameras = c.guidance, c.cameras
    assert g.guidance_scale - 1 == scale, "it adds to the text's prediction, as the paper does"
    assert (g.t_min, g.t_max, g.weighting) == (constant(0.02), constant(0.98), "sds")
    assert g.view_mode == "nearest"
    assert (g.view_texts.overhead_deg, g.view_texts.front_deg, g.view_texts.back_deg) == (60, 45, 45)
    assert (c.steps, c.views, c.resolution) == (10000, 1, constant(64))
    assert (cameras.radius_min * length, cameras.radius_max * length) == (1.5, 2)
    assert (cameras.fov_min_deg, cameras.fov_max_deg) == (40, 70)
    assert (cameras.elevation_min_deg, cameras.elevation_max_deg) == (-10, highest)
    assert (cameras.position_noise * length, cameras.look_at_noise * length, cameras.up_noise) == (0.1, 0.2, 0.02)
    assert (c.lights.distance_min * length, c.lights.distance_max * length) == (0.8, 1.5)
    assert c.lights.position_noise is not None
    assert c.lights.position_noise * length == 1
    assert c.shading.albedo_probability.from_ * c.steps == pytest.approx(2001)
    w = c.loss
    assert (w.distillation, w.opacity, w.entropy) == (1, 1, constant(0))
    assert (w.orientation.start, w.orientation.end, w.orientation.until * c.steps) == (10, 1000, 5000)
    o = c.optim
    assert (o.optimizer, o.betas, o.eps) == ("adam", (0.9, 0.99), 1e-15)
    assert (o.grid_lr, o.network_lr, o.background_lr, o.max_grad_norm) == (0.01, 0.01, 0.001, None)
    nerf = c.scene.nerf
    assert (nerf.density_activation, nerf.blob, nerf.normal_method) == ("softplus", "linear", "analytic")
    assert (nerf.blob_density / length, nerf.blob_std * length) == (10, 0.5)
    grid = nerf.grid
    assert (grid.levels, grid.features, grid.log2_size, grid.max_resolution) == (16, 2, 19, 4096)
    assert w.orientation_of_albedo
    assert c.scene.background_network.encoding == "harmonics"
    assert (c.guidance.perp_neg_scale, c.guidance.precision) == (100, "fp16")
    levels = active_levels(grid, torch.tensor([1999, 2000, 2499, 2500, 5499, 5500]) / c.steps)
    assert levels.tolist() == [8, 9, 9, 10, 15, 16]
    assert c.scene.step_length == pytest.approx(2 * math.sqrt(3) * length / 512 / length, rel=1e-3)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_takes_steps(name: str):
    """Small pictures and tables, and a prior without latents; all else is the preset's."""
    small = {
        "steps": 2,
        "views": build_config(name, {"prompt": "a"}).cameras.set_size,
        "resolution": 8,
        "scene": {"nerf": {"grid": {"log2_size": 10}}, "occupancy_resolution": 16, "step_length": 0.05},
        "shading": {"latent": 0, "albedo_probability": {"from": 0.0}},
    }
    kind = build_config(name, {"prompt": "a"}).loss.kind
    loss = {"kind": "sds" if kind == "vsd" else kind}  # the prior here has no network to adapt
    config = build_config(name, {"prompt": "a red mushroom", "loss": loss, **small})
    state = State.fresh(config, torch.device("cpu"))
    before = [p.detach().clone() for p in state.scene.field.parameters()]
    last = [step.metrics for step in optimize(config, toy_prior("mushroom", views=8, size=8), state)][-1]
    assert all(math.isfinite(value) for value in last.values())
    assert any(not torch.equal(a, b) for a, b in zip(before, state.scene.field.parameters(), strict=True))


def test_rates_of_a_run_follow_the_preset():
    c = preset("paper")
    parameter = torch.zeros(1, requires_grad=True)
    groups = [{"params": [parameter], "lr": 1e-4}]
    scene = SimpleNamespace(parameter_groups=lambda optim: groups)
    state: Any = SimpleNamespace(step=0, rate=1.0, scene=scene, optimizer=torch.optim.SGD([parameter], lr=1))
    set_learning_rates(state, c)
    assert state.optimizer.param_groups[0]["lr"] == pytest.approx(1e-9)
