"""Presets: what each changes of the classes' defaults.

quick, default and high are tuned for the embedded prior. The others are other systems' settings, number for number, and
want the large model they name; `--guidance` and `--model` choose another. ``nemo`` is what `dreamfusion.nemo` reads in
NeMo's own file.

The defaults are score distillation from the embedded prior, which knows the camera. It says what belongs where at high
noise, and at low noise believes what it is shown: a scene that has become all red stays so. So the first half of a run
is at high noise alone. There z - x_hat, which is the gradient with the weight "ism", is large enough beside that of
lower noise; with the paper's weight it would be a tenth of it. Knowing the camera the prior needs little
classifier-free guidance, which makes colours loud. Against that gradient, which is summed over pixels, opacity and
entropy, which are means, must weigh much: together, with entropy growing to the end, they clear the haze and make
surfaces sharp without making them wider or narrower. The prior sees 32 pixels, so more of them, or a finer grid, only
cost time. A run of few steps needs larger ones.
Below the size of a pixel normals are paint: where colours should be darker, surfaces grow bristles that turn away from
the light, most of all in textureless views, which this prior has never seen. So there are none of those and few lit
ones, and normals are kept smooth.

Lengths. Our scene is the unit sphere. The paper's has radius 1.4 and cameras that may stand inside it, so `paper`
divides its lengths by 1.4 and multiplies densities, which are per length, by it. threestudio's has radius 2: divided by
2. NeMo's scene is the cube [-1, 1]^3, of which an object fills less than the unit sphere: as they are.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from dreamfusion.config.methods import METHODS
from dreamfusion.config.tables import merged

Preset = Literal[
    "quick",
    "default",
    "high",
    "paper",
    "nemo",
    "threestudio-sd",
    "threestudio-if",
    "prolificdreamer",
    "luciddreamer",
    "hifa",
    "mvdream",
]
TUNED: tuple[Preset, ...] = ("quick", "default", "high")
"""Presets for the embedded prior; the others want a large model, and a GPU."""
RefinePreset = Literal["quick", "default", "high", "nemo-dmtet"]
"""What `dreamfusion.runs.refine` has settings for."""

PRESETS: tuple[Preset, ...] = get_args(Preset)

_UNTUNED: dict[str, Any] = {
    "guidance": {"t_min": 0.02, "t_max": 0.98, "weighting": "sds"},
    "scene": {"surface_smoothing": 0.0, "nerf": {"normal_epsilon": 0.03}},
    "loss": {"entropy": 0.0, "normal_smooth_3d": 0.0},
}
"""What the systems below have in common: times without annealing, w = 1 - abar, and nothing that smooths."""

_LATE = {"start": 0, "end": 1, "from": 0.5, "curve": "step"}
"""The second half of a run."""

_THREESTUDIO: dict[str, Any] = {
    "steps": 10000,
    "views": 1,
    "resolution": 64,
    "collapse_check": _LATE,
    "scene": {
        "nerf": {
            "grid": {
                "levels": 16,
                "features": 2,
                "log2_size": 19,
                "base_resolution": 16,
                "max_resolution": 4096,
                "interpolation": "linear",
                # one more at step 2000 and after every 500 steps
                "levels_used": {"start": 8, "end": 16, "from": 0.2, "until": 0.2 + 0.05 * 7, "curve": "stairs"},
            },
            "hidden_width": 64,
            "density_activation": "softplus",
            "density_bias": 0.0,
            "blob": "linear",
            "blob_density": 20.0,  # 10 per length of theirs, which is half of ours
            "blob_std": 0.25,  # 0.5 / 2
            "normal_method": "analytic",
        },
        "background": "learned",
        "background_network": {"encoding": "harmonics", "hidden_width": 16, "hidden_layers": 2},
        "step_length": 0.00677,  # 512 samples on the diagonal of their cube, 2 sqrt(3) 2 / 512, halved
    },
    "shading": {
        "albedo_probability": {"start": 1, "end": 0.25, "from": 0.2001, "curve": "step"},  # 2001 steps
        "textureless_probability": 0.375,
    },
    "loss": {
        "opacity": 1.0,
        "orientation": {"start": 10.0, "end": 1000.0, "from": 0, "until": 0.5, "curve": "ramp"},
        "orientation_of_albedo": True,
    },
    "optim": {
        "optimizer": "adam",
        "betas": (0.9, 0.99),
        "eps": 1e-15,
        "grid_lr": 0.01,
        "network_lr": 0.01,
        "background_lr": 0.001,
        "warmup": 1,
        "decay": 1,
        "max_grad_norm": None,
    },
    "cameras": {
        "radius_min": 0.75,  # 1.5 / 2
        "radius_max": 1.0,  # 2 / 2
        "elevation_min_deg": -10.0,
        "fov_min_deg": 40.0,
        "fov_max_deg": 70.0,
        "position_noise": 0.05,  # 0.1 / 2
        "look_at_noise": 0.1,  # 0.2 / 2
        "up_noise": 0.02,
    },
    "lights": {
        "distance_min": 0.4,  # 0.8 / 2
        "distance_max": 0.75,  # 1.5 / 2
        "position_noise": 0.5,  # 1 / 2
        "ambient": 0.1,
        "diffuse": 0.9,
    },
}

_SD: dict[str, Any] = {"kind": "sd", "view_mode": "nearest", "precision": "fp16"}
"""Stable Diffusion 2.1 as threestudio asks it."""

_CHANGES: dict[Preset, dict[str, Any]] = {
    "quick": {
        "steps": 120,
        "views": 2,
        "optim": {"grid_lr": 2e-2, "network_lr": 4e-3, "warmup": {"until": 10 / 120}, "decay": {"from": 10 / 120}},
    },
    "default": {},
    "high": {"steps": 1000, "optim": {"warmup": {"until": 0.01}, "decay": {"from": 0.01}}},
    # The paper (arXiv 2209.14988); "not given" is our choice.
    "paper": {
        "steps": 15000,  # section 3.2
        "views": 4,  # section 3.2: four chips, one view each
        "resolution": 64,  # section 3.2
        "collapse_check": _LATE,  # not given; a scene of fog fills the view at first
        "guidance": {
            "kind": "diffusers",
            "model": "DeepFloyd/IF-I-XL-v1.0",  # section 3: Imagen's 64 x 64 base model, which nobody else has
            "guidance_scale": 101.0,  # section 3.2: omega = 100
            "view_mode": "nearest",  # A.2
            "precision": "fp16",  # not given; as its authors publish the model
        },
        "scene": {
            "architecture": "mip360",  # section 3.1
            "mip": {
                "scale": 1.4,  # A.2: the scene's radius
                "density_activation": "exp",  # section 3.1
                "density_bias": 0.33647223662121,  # ln 1.4: density per length of ours
                "blob_density": 5.0,  # A.2
                "blob_std": 0.2 / 1.4,  # A.2
                "normal_method": "analytic",  # section 3.1
                "frequencies": 8,  # A.2: octaves 2^0 to 2^7
                "variance": {"start": 5e-2, "end": 2e-3, "until": 1 / 3},  # A.2: over 5000 steps
                "hidden_width": 128,  # A.2
                "blocks": 5,  # A.2
            },
            "renderer": "proposal",  # section 3.1, mip-NeRF 360
            "background": "learned",  # section 3.1; its size is not given
        },
        "shading": {
            "albedo_probability": {"start": 1, "end": 0.25, "from": 1 / 15, "curve": "step"},  # A.2: 1000 steps
            "textureless_probability": 0.375,  # A.2: half of the lit views
        },
        "loss": {
            "opacity": 1e-3,  # A.2: in [1e-3, 5e-3]
            "orientation": {"start": 1e-4, "end": 1e-2, "until": 1 / 3, "curve": "ramp"},  # A.2: over 5000 steps
        },
        "optim": {
            "optimizer": "shampoo",  # A.2, and all the numbers here
            "betas": (0.9, 0.9),
            "eps": 1e-6,
            "grid_lr": 1e-4,
            "network_lr": 1e-4,
            "warmup": {"start": 1e-5, "until": 0.2},  # from 1e-9 to 1e-4 over 3000 steps
            "decay": {"end": 1e-2, "from": 0.2},  # to 1e-6
            "max_grad_norm": None,
        },
        "cameras": {
            "radius_min": 1 / 1.4,  # section 3.2
            "radius_max": 1.5 / 1.4,
            "elevation_min_deg": -10.0,  # section 3.2
            "elevation_max_deg": 90.0,
            "uniform_angle_probability": 0.5,  # A.2
            "area_elevation_min_deg": 0.0,  # A.2: on the upper hemisphere
            "focal_min": 0.7,  # section 3.2
            "focal_max": 1.35,
            "position_noise": 0.1 / 1.4,  # A.2
            "look_at_noise": 0.2 / 1.4,  # A.2
            "up_noise": 0.02,  # A.2
        },
        "lights": {
            "distance_min": 0.8 / 1.4,  # A.2
            "distance_max": 1.5 / 1.4,
            "position_noise": 1 / 1.4,  # A.2
            "ambient": 0.1,  # A.2
            "diffuse": 0.9,
        },
    },
    "threestudio-sd": merged(
        _THREESTUDIO,
        {
            # threestudio's 100 is added to the text's prediction, not to the empty one's.
            "guidance": _SD | {"guidance_scale": 101.0, "perp_neg_scale": 100.0},
            "cameras": {"elevation_max_deg": 45.0},
        },
    ),
    # threestudio's hifa, which is its dreamfusion-sd with one time for all views, two more terms, and no more.
    "hifa": merged(
        _THREESTUDIO,
        {
            "guidance": _SD
            | {
                "guidance_scale": 101.0,
                "t_min": {"start": 0.98, "end": 0.02, "from": 0, "until": 1, "curve": "sqrt"},
                "t_max": {"start": 0.98, "end": 0.02, "from": 0, "until": 1, "curve": "sqrt"},
            },
            "loss": {"image": 0.01, "z_variance": 75.0},  # 300 / 2^2: a variance of lengths that are half of theirs
            "cameras": {"elevation_max_deg": 45.0},
        },
    ),
    # The first stage of threestudio's prolificdreamer, whose scene has radius 1, as ours.
    "prolificdreamer": merged(
        merged(_THREESTUDIO, METHODS["vsd"]),
        {
            "steps": 25000,
            "resolution": {"start": 64, "end": 512, "from": 0.2, "until": 0.2, "curve": "step"},
            # Adapters are trained through the prior, and in fp16 their small gradients vanish.
            "guidance": _SD | {"precision": "bf16", "view_texts": {"front_deg": 30.0, "back_deg": 30.0}},
            "scene": {
                "nerf": {
                    "grid": {"levels_used": None},
                    "blob_density": 10.0,
                    "blob_std": 0.5,
                    "normal_method": "forward",  # only pictures for people have normals
                },
            },
            "shading": {"albedo_probability": 1, "textureless_probability": 0},
            "loss": {"kind": "vsd", "opacity": 10.0, "orientation": 0.0, "orientation_of_albedo": False},
            "optim": {"network_lr": 0.001},
            "cameras": {
                "radius_min": 1.0,
                "radius_max": 1.5,
                "elevation_max_deg": 45.0,
                "position_noise": 0.1,
                "look_at_noise": 0.2,
            },
        },
    ),
    # LucidDreamer's distillation (Gaussians there) on threestudio's scene.
    "luciddreamer": merged(
        merged(_THREESTUDIO, METHODS["ism"]),
        {
            "steps": 5000,
            "resolution": {"start": 64, "end": 512, "from": 0.3, "until": 0.3, "curve": "step"},
            "guidance": _SD,
            "shading": {"albedo_probability": 1, "textureless_probability": 0},
            "loss": {"kind": "ism"},
            "cameras": {"elevation_max_deg": 45.0},
        },
    ),
    # MVDream's own (arXiv 2308.16512, MVDream-threestudio), whose scene has radius 1, as ours.
    "mvdream": merged(
        _THREESTUDIO,
        {
            "views": 8,
            "resolution": {"start": 64, "end": 256, "from": 0.5, "until": 0.5, "curve": "step"},
            "guidance": {
                "kind": "diffusers",
                "model": "ashawkey/mvdream-sd2.1-diffusers",
                "guidance_scale": 50.0,
                "precision": "fp16",
                "rescale": 0.5,
                "weighting": "ism",  # z - z_hat, of its loss on the reconstruction
                "t_min": {"start": 0.98, "end": 0.02, "from": 0.0, "until": 0.8, "curve": "linear"},
                "t_max": {"start": 0.98, "end": 0.5, "from": 0.0, "until": 0.8, "curve": "linear"},
                "view_texts": {"front": "", "side": "", "back": "", "overhead": ""},
                "negative_prompt": (
                    "ugly, bad anatomy, blurry, pixelated obscure, unnatural colors, poor lighting, dull, and unclear, "
                    "cropped, lowres, low quality, artifacts, duplicate, morbid, mutilated, poorly drawn face, "
                    "deformed, dehydrated, bad proportions"
                ),
            },
            "scene": {
                "nerf": {
                    "grid": {"levels_used": None},
                    "blob_density": 10.0,
                    "blob_std": 0.5,
                    "normal_method": "forward",  # only pictures for people have normals
                },
                "step_length": 0.00677,
            },
            "shading": {"albedo_probability": 1, "textureless_probability": 0},
            "loss": {"opacity": 0.0, "orientation": 0.0, "orientation_of_albedo": False},
            "optim": {"network_lr": 0.001},
            "cameras": {
                "set_size": 4,
                "radius_min": 0.8,  # of the distance at which a unit fills the picture
                "radius_max": 1.0,
                "radius_by_focal": True,
                "fov_min_deg": 15.0,
                "fov_max_deg": 60.0,
                "elevation_min_deg": 0.0,
                "elevation_max_deg": 30.0,
                "position_noise": 0.0,
                "look_at_noise": 0.0,
                "up_noise": 0.0,
            },
        },
    ),
    "threestudio-if": merged(
        _THREESTUDIO,
        {
            "guidance": {
                "kind": "diffusers",
                "model": "DeepFloyd/IF-I-XL-v1.0",
                "guidance_scale": 21.0,
                "perp_neg_scale": 100.0,
                "view_mode": "nearest",
                "precision": "fp16",
            },
            "scene": {
                "nerf": {"albedo_activation": "scaled"},
                "background_network": {"activation": "scaled"},
            },
            "cameras": {"elevation_max_deg": 90.0},
        },
    ),
}


def preset_values(preset: Preset) -> dict[str, Any]:
    """Return what a preset changes of the defaults, as nested tables."""
    match preset:
        case "quick" | "default" | "high":
            return _CHANGES[preset]
        case "nemo":
            from dreamfusion.nemo.reader import stock_values  # imported here: its reader takes as long as all else

            return stock_values("dreamfusion.yaml")
        case _:
            return merged(_UNTUNED, _CHANGES[preset])
