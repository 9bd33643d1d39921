"""Analytic priors of toys, for tests of the whole system: exact, and quick enough for a CPU."""

from typing import Any

import torch

from dreamfusion.config import Config, merged, parse_config
from dreamfusion.guidance.analytic import AnalyticGuidance
from dreamfusion.method.cameras import CameraRange, sample_cameras
from dreamfusion.method.prompts import view_weights
from dreamfusion.method.shading import Lights
from dreamfusion.runs import results
from dreamfusion.toybox.render import render_toy
from dreamfusion.toybox.world import Toy

BACKDROP = (0.3, 0.5, 0.7)
STILL = {
    "radius_min": 2.7,
    "radius_max": 2.7,
    "focal_min": 1.35,
    "focal_max": 1.35,
    "position_noise": 0.0,
    "look_at_noise": 0.0,
    "up_noise": 0.0,
}
"""Cameras at one distance, without jitter, so that a rendering can equal one of the prior's images."""

SHORT: dict[str, Any] = {
    "steps": 20,
    "views": 2,
    "resolution": 16,
    "cameras": STILL,
    "guidance": {"guidance_scale": 1.0},
    "scene": {"background": "static", "background_color": BACKDROP},
    "shading": {"albedo_probability": {"from": 0.5}},
    "checkpoint_every": 5,
    "preview_every": 5,
    "device": "cpu",
}
"""A run of seconds: enough to change the ball it starts from."""

SMALLEST: dict[str, Any] = {
    "steps": 20,
    "views": 2,
    "resolution": 8,
    "cameras": STILL,
    "scene": {
        "step_length": 0.1,
        "occupancy_resolution": 16,
        "nerf": {"grid": {"levels": 2, "log2_size": 10, "base_resolution": 4, "max_resolution": 8}},
    },
    "device": "cpu",
}
"""A run for tests of priors: the scene is there to be shown."""


UNTUNED = {
    "steps": 300,
    "guidance": {
        "guidance_scale": 8.0,
        "t_min": 0.02,
        "t_max": {"start": 0.98, "end": 0.35, "from": 0.0, "curve": "sqrt"},
        "weighting": None,
    },
    "scene": {"surface_smoothing": 0.0, "nerf": {"normal_epsilon": 0.03}},
    "shading": {"albedo_probability": 0.35, "textureless_probability": 0.1},
    "loss": {"opacity": 1e-3, "entropy": {"end": 1e-3, "until": 0.5}, "normal_smooth_3d": 0.0},
}
"""Settings for a prior that says the same at every noise level, where the defaults are for the embedded one."""


def toy_prior(kind: str, *, views: int = 400, size: int = 32) -> AnalyticGuidance:
    """Return the prior whose images are albedo views of a red toy, known by camera."""
    cameras = sample_cameras(views, CameraRange(**STILL), torch.Generator().manual_seed(7))
    lights = Lights(torch.full((views, 3), 3.0), torch.zeros(views), torch.ones(views))
    images = render_toy(Toy(kind, "red"), cameras, lights, size, torch.tensor(BACKDROP))
    weights = view_weights(cameras.azimuth_deg, cameras.elevation_deg)
    # A width well below the spacing of the views picks the nearest one, whatever the rendering looks like.
    return AnalyticGuidance(images, weights, cameras=cameras, pose_width_deg=1.0)


def toy_config(**changes: Any) -> Config:
    """Return a small configuration that fits `toy_prior`."""
    values: dict[str, Any] = {
        "prompt": "a red mushroom",
        "steps": 120,
        "views": 4,
        "resolution": 32,
        "cameras": STILL,
        "guidance": {"guidance_scale": 1.0, "t_max": {"end": 0.3}},
        "scene": {"background": "static", "background_color": BACKDROP},
        "shading": {"albedo_probability": {"start": 1.0, "from": 1.0, "curve": "step"}},
        "device": "cpu",
    }
    return parse_config(merged(UNTUNED, values | changes))


def shrink_pictures() -> None:
    """Make the finished pictures and meshes of all runs in this process small."""
    results.SHEET_SIZE, results.TURNTABLE_SIZE, results.TURNTABLE_FRAMES = 16, 16, 3
    results.THUMBNAIL_SIZE, results.VALIDATION_SIZE = 16, 16
    results.MESH_RESOLUTION, results.MESH_FACES, results.TEXTURE_SIZE = 32, 1000, 64
