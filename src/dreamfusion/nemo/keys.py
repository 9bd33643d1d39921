"""Every key of a NeMo DreamFusion model configuration, and what it is here. docs/nemo.md is made from this table.

A key either sets keys of `dreamfusion.config.Config` (`to`), or must have one of a few values (`only`), or has no
effect here for a stated reason (`unused`). The parts of a configuration (nerf, background, ...) are told apart by the
module of their ``_target_``, the optimisers by their name; a part may also set keys of ours by being chosen
(`Part.sets`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from dreamfusion.errors import DreamFusionError
from dreamfusion.nemo.experiment import views_of
from dreamfusion.nemo.key import Key, LeftOut, Part, only, to, unused


def focal(fov_deg: float) -> float:
    """Return the focal length in image widths for a field of view in degrees."""
    return 0.5 / math.tan(math.radians(fov_deg) / 2)


def finest(scale: float | None, part: Mapping[str, Any]) -> int:
    """Return the cells per side of the last level of tiny-cuda-nn's grid, whose levels are ``scale`` times finer each.

    Without a scale it is NeMo's, 2^(7/15): from 16 cells it leads to 2048 on the last of 16 levels, and elsewhere with
    other numbers of cells and levels.
    """
    ratio = 2 ** (7 / 15) if scale is None else scale
    return round(part["encoder_cfg.base_resolution"] * ratio ** (part["encoder_cfg.n_levels"] - 1))


def used_levels(share: float | None, part: Mapping[str, Any]) -> int | None:
    """Return how many levels of the grid a share of them is; None for all."""
    levels = part["encoder_cfg.num_levels"]
    return None if share is None or share == 1 else math.ceil(share * levels)


def _if_on(factor: float = 1.0) -> Callable[[Any, Mapping[str, Any]], float]:
    return lambda value, part: factor * value if part["train_dataset.jitter"] else 0.0


_PRECISIONS = {
    name + mode: ours
    for name, ours in (("16", "fp16"), ("bf16", "bf16"), ("32", "fp32"))
    for mode in ("", "-mixed", "-true")
} | {16: "fp16", 32: "fp32"}
_BASE = "stabilityai/stable-diffusion-2-1-base"
_SHAPE = "scenes, cameras and colours have three dimensions"
_BOUND = only(
    1,
    why="the scene is the unit sphere, inside NeMo's cube of this bound: divide radii and blob_radius by another one",
)
_SQUARE = "pictures for people are square: width and height must be equal"
_BLOB = {"exp": ("exp", "gaussian"), "softplus": ("softplus", "linear")}
_NORMALS = {
    "central_finite_difference": "central",
    "forward_finite_difference": "forward",
    "backward_finite_difference": "backward",
    "autograd": "analytic",
}
_ENCODINGS = {"hashgrid": "hashgrid", "frequency": "frequency", "frequency_torch": "frequency"}
_FUSED = only("FullyFusedMLP", "CutlassMLP", why="the same network, as ordinary layers")
_RELU = only("ReLU", why="hidden layers are ReLU")
_NO_ACTIVATION = only("None", None, why="density and colour have their own activations")
_T_RANGE = to("guidance.t_min", "guidance.t_max", left_out=[0.02, 0.98])
_PRECISION = to("guidance.precision", among=_PRECISIONS, left_out="16", remark="fp16 on a CPU is run as fp32")
_SAMPLER = unused("score distillation draws no samples")
_NERF = {
    "num_input_dims": only(3, why=_SHAPE),
    "bound": _BOUND,
    "density_activation": to(
        "scene.nerf.density_activation",
        "scene.nerf.blob",
        among=_BLOB,
        remark="exp has a Gaussian blob, softplus a linear one",
    ),
    "blob_radius": to("scene.nerf.blob_std"),
    "blob_density": to("scene.nerf.blob_density"),
    "normal_type": to("scene.nerf.normal_method", among=_NORMALS, remark="differences over 0.01, as theirs"),
    "sigma_net_num_output_dims": only(1, why=_SHAPE),
    "features_net_num_output_dims": only(3, why=_SHAPE),
}
_NERF_SETS = {"scene.nerf.density_bias": 0.0, "scene.nerf.normal_epsilon": 0.01}


def hidden_layers(layers: int) -> int:
    """Return how many of NeMo's layers are hidden: all but the last, and at least one."""
    return max(layers - 1, 1)


def _layers(net: str, width: str, layers: str) -> dict[str, Key]:
    return {
        f"{net}.num_hidden_dims": to(width),
        f"{net}.num_layers": to(layers, by=hidden_layers, remark="theirs count the last"),
        f"{net}.bias": to("scene.nerf.network_bias", remark="both networks have biases, or neither"),
    }


def _fused_layers(net: str, width: str, layers: str) -> dict[str, Key]:
    return {
        f"{net}.otype": _FUSED,
        f"{net}.activation": _RELU,
        f"{net}.output_activation": _NO_ACTIVATION,
        f"{net}.n_neurons": to(width, left_out=128),
        f"{net}.n_hidden_layers": to(layers, left_out=5),
    }


_SIGMA = ("scene.nerf.hidden_width", "scene.nerf.hidden_layers")
_COLOURS = ("scene.nerf.albedo_width", "scene.nerf.albedo_layers")


def _dataset(kind: str) -> Key:
    """Return the key of a dataset that must be of the module ``kind``."""

    def put(target: Any, part: Mapping[str, Any]) -> tuple[Any, ...]:
        if str(target).split(".")[-2:-1] != [kind]:
            raise DreamFusionError(f"_target_ of a dataset cannot be {target} here: this one is of {kind}.")
        return ()

    return Key((), put, left_out=LeftOut.REFUSED, remark=f"must be of the module {kind}")


def _circle(data: str, views: str, side: str, camera: str) -> dict[str, Key]:
    """Return the keys of the pictures that go around the object, whose camera is at the keys that begin ``camera``."""
    return {
        f"{data}_batch_size": unused("pictures are rendered one at a time"),
        f"{data}_shuffle": unused("pictures go around the object in order"),
        f"{data}_dataset._target_": _dataset("circle_poses"),
        f"{data}_dataset.size": to(views, left_out=100),
        f"{data}_dataset.width": to(side, left_out=256, remark=_SQUARE),
        f"{data}_dataset.height": to(side, left_out=256, remark=_SQUARE),
        f"{data}_dataset.default_radius": to(f"{camera}radius", left_out=3.2),
        f"{data}_dataset.default_polar": to(f"{camera}elevation_deg", by=lambda v: 90 - v, left_out=90),
        f"{data}_dataset.default_azimuth": unused("circles begin at the front, with NeMo too"),
        f"{data}_dataset.default_fovx": to(f"{camera}focal", by=focal, left_out=20),
        f"{data}_dataset.default_fovy": to(
            f"{camera}focal", by=focal, left_out=20, remark="pixels are square: equal to fovx"
        ),
        f"{data}_dataset.angle_overhead": _ANGLES,
        f"{data}_dataset.angle_front": _ANGLES,
        f"{data}_dataset.near": _RANGE,
        f"{data}_dataset.far": _RANGE,
        f"{data}_dataset.device": _DEVICE,
    }


def _rates(*more: str, remark: str = "") -> Key:
    ours = ("optim.grid_lr", "optim.network_lr", "optim.background_lr", *more)
    return to(*ours, by=lambda v: (v,) * len(ours), left_out=1e-3, remark=remark)


def _adam(name: str) -> dict[str, Key]:
    """Return the keys that PyTorch's Adam and AdamW have in common; they do not clip gradients."""
    return {
        "name": only(name, why="the optimiser"),
        "lr": _rates(),
        "betas": to("optim.betas", left_out=[0.9, 0.999]),
        "eps": to("optim.eps", left_out=1e-8),
        "amsgrad": only(False, why="the plain algorithm"),
        "foreach": _ORDER,
        "fused": _ORDER,
    }


_ORDER = unused("the same arithmetic in another order of tensors")
_CONSTANT_RATE = {"optim.warmup": 1.0, "optim.decay": 1.0}
_ANGLES = unused("these angles name views that NeMo's prompts do not use; they are interpolated by azimuth")
_RANGE = unused("rays are followed through the whole unit sphere")
_DEVICE = unused("--device says where a run is computed")
_TRAIN = "data.train_dataset"

TOP: dict[str, Key] = {
    "_target_": only(
        "nemo.collections.multimodal.models.nerf.dreamfusion.DreamFusion",
        "nemo.collections.multimodal.models.text_to_3d.nerf.DreamFusion",
        why="the model that this is a reader for",
    ),
    "resume_from_checkpoint": only(None, "", why="NeMo's checkpoints are not read; --resume continues a run of ours"),
    "prompt": to("prompt", left_out=LeftOut.HARMLESS, remark="may be given as an option"),
    "negative_prompt": to("guidance.negative_prompt"),
    "front_prompt": to("guidance.view_texts.front"),
    "side_prompt": to("guidance.view_texts.side"),
    "back_prompt": to("guidance.view_texts.back"),
    "update_extra_interval": unused("NeMo does not read it: renderer.update_interval is the one"),
    "guidance_scale": to("guidance.guidance_scale"),
    "export_video": to(
        "pictures.video",
        left_out=False,
        remark="colours only; NeMo does not read it, and its test writes this video and another of depth",
    ),
    "iters": to("steps"),
    "latent_iter_ratio": to(
        "shading.latent",
        by=lambda share: {"start": 1, "end": 0, "from": share, "curve": "step"} if share > 0 else 0,
        remark="normals and opacity over black, where NeMo has its background; left out for a prior on pixels",
    ),
    "albedo_iter_ratio": to(
        "shading.albedo_probability",
        by=lambda share: {"start": 1, "end": 0, "from": share, "curve": "step"} if share > 0 else 0,
    ),
    "min_ambient_ratio": to(
        "lights.ambient",
        remark="diffuse light is 1 - ambient, so that pictures do not clip; NeMo leaves it at 1",
    ),
    "textureless_ratio": to(
        "shading.textureless_probability",
        remark="lit white surfaces; NeMo's show the ambient light alone, without any shape",
    ),
}
"""The keys outside of the parts."""

TOP_SETS: dict[str, Any] = {
    "seed": 2023,
    "collapse_check": 0,
    "guidance.view_mode": "interpolated",
    "guidance.view_texts.overhead_deg": 90.0,  # it has no text for views from above
    "guidance.weighting": "sds",
    "scene.surface_smoothing": 0.0,
    # A light without distance, in the direction of a point within N(0, I) of the camera.
    "lights.distance_min": 1000.0,
    "lights.distance_max": 1000.0,
    "lights.position_noise": 1.0,
    "lights.ambient_max": 1.0,
    "pictures.shading": "albedo",
    "pictures.video_fps": 25,
    # The file around the model: trainer and experiment manager.
    "checkpoint_every": 1000,
    "pictures.val_every": 100,
    "pictures.val_depth": True,
    "pictures.mesh_needed": False,
}
"""What NeMo's model does without a key for it, and the surroundings of the model in NeMo's own configuration."""

PARTS: dict[str, dict[str, Part]] = {
    "nerf": {
        "torchngp_nerf": Part(
            _NERF
            | {
                "encoder_cfg.encoder_type": to(
                    "scene.nerf.encoding",
                    among=_ENCODINGS,
                    remark="tiled grids and harmonics are not here: they want kernels of their own, for less detail",
                ),
                "encoder_cfg.encoder_max_level": to(
                    "scene.nerf.grid.levels_used",
                    beside=used_levels,
                    left_out=None,
                    remark="a share of the levels, rounded up; none is all",
                ),
                "encoder_cfg.multires": to(
                    "scene.nerf.frequencies", left_out=6, remark="octaves of encoder_type frequency"
                ),
                "encoder_cfg.degree": unused("for harmonics"),
                "encoder_cfg.num_levels": to("scene.nerf.grid.levels", left_out=16),
                "encoder_cfg.level_dim": to("scene.nerf.grid.features", left_out=2),
                "encoder_cfg.base_resolution": to("scene.nerf.grid.base_resolution", left_out=16),
                "encoder_cfg.log2_hashmap_size": to("scene.nerf.grid.log2_size", left_out=19),
                "encoder_cfg.desired_resolution": to("scene.nerf.grid.max_resolution", left_out=2048),
                "encoder_cfg.align_corners": unused(
                    "cells fill the cube here; with NeMo they are shifted if it is false"
                ),
                "encoder_cfg.interpolation": to("scene.nerf.grid.interpolation", left_out="linear"),
            }
            | _layers("sigma_net_cfg", *_SIGMA)
            | _layers("features_net_cfg", *_COLOURS),
            _NERF_SETS,
        ),
        "tcnn_nerf": Part(
            _NERF
            | {
                "encoder_cfg.otype": only(
                    "HashGrid", why="tiny-cuda-nn's other encodings are not in NeMo's groups", left_out=LeftOut.REFUSED
                ),
                "encoder_cfg.n_levels": to("scene.nerf.grid.levels", left_out=16),
                "encoder_cfg.n_features_per_level": to("scene.nerf.grid.features", left_out=2),
                "encoder_cfg.log2_hashmap_size": to("scene.nerf.grid.log2_size", left_out=19),
                "encoder_cfg.base_resolution": to("scene.nerf.grid.base_resolution", left_out=16),
                "encoder_cfg.interpolation": to("scene.nerf.grid.interpolation", by=str.lower, left_out="Linear"),
                "encoder_cfg.per_level_scale": to(
                    "scene.nerf.grid.max_resolution",
                    beside=finest,
                    left_out=None,
                    remark="base_resolution * scale^(n_levels - 1), rounded; null is 2^(7/15), as with NeMo",
                ),
            }
            | _fused_layers("sigma_net_cfg", *_SIGMA)
            | _fused_layers("features_net_cfg", *_COLOURS),
            _NERF_SETS
            | {
                "scene.nerf.grid.staggered": True,
                "scene.nerf.network_bias": False,
            },
            "the same grid and networks without biases; by tinycudann on a GPU if it is installed, else by our kernels",
        ),
    },
    "background": {
        "static_background": Part({"background": to("scene.background_color")}, {"scene.background": "static"}),
        "random_background": Part(
            {
                "base_background": to("scene.background_color"),
                "random_ratio": to(
                    "scene.background_random_ratio", remark="one colour for a view; NeMo draws one for each ray"
                ),
            },
            {"scene.background": "random", "scene.background_random_colors": "any"},
        ),
        "torchngp_background": Part(
            {
                "encoder_type": only(
                    "frequency",
                    "frequency_torch",
                    why="directions are encoded by sines and cosines",
                    left_out=LeftOut.REFUSED,
                ),
                "encoder_input_dims": only(3, why=_SHAPE),
                "encoder_multi_res": to("scene.background_network.frequencies"),
                "num_output_dims": only(3, why=_SHAPE),
                "net_cfg.num_hidden_dims": to("scene.background_network.hidden_width"),
                "net_cfg.num_layers": to(
                    "scene.background_network.hidden_layers", by=hidden_layers, remark="theirs count the last"
                ),
                "net_cfg.bias": only(True, why="the background's network has biases"),
            },
            {"scene.background": "learned"},
        ),
        "tcnn_background": Part(
            {
                "bound": _BOUND,
                "encoder_num_input_dims": only(3, why=_SHAPE),
                **{
                    f"encoder_cfg.{key}": unused("directions are encoded by sines and cosines here")
                    for key in (
                        "otype",
                        "n_levels",
                        "n_features_per_level",
                        "log2_hashmap_size",
                        "base_resolution",
                        "interpolation",
                        "per_level_scale",
                    )
                },
                "background_net_num_output_dims": only(3, why=_SHAPE),
            }
            | _fused_layers(
                "background_net_cfg",
                "scene.background_network.hidden_width",
                "scene.background_network.hidden_layers",
            ),
            {"scene.background": "learned", "scene.background_network.frequencies": 6},
            "a hash grid of directions can hold an object; here it is six octaves of sines and cosines",
            "background tcnn: directions are encoded by six octaves of sines and cosines, not by a hash grid",
        ),
    },
    "material": {"basic_shading": Part({})},
    "renderer": {
        "torchngp_volume_renderer": Part(
            {
                "bound": _BOUND,
                "update_interval": to("scene.occupancy_interval"),
                "grid_resolution": to("scene.occupancy_resolution"),
                "density_thresh": to("scene.occupancy_density"),
                "max_steps": to(
                    "scene.step_length",
                    "scene.max_steps",
                    by=lambda v: (2 * 3**0.5 / v, v),
                    remark="steps on the diagonal of the cube",
                ),
                "dt_gamma": to("scene.dt_gamma"),
            },
            {"scene.renderer": "marching"},
        ),
        "nerfacc_volume_renderer": Part(
            {
                "bound": _BOUND,
                "grid_resolution": to("scene.occupancy_resolution"),
                "grid_levels": unused("further levels enclose more than the unit sphere, where there is nothing"),
                "render_step_size": to(
                    "scene.step_length",
                    "scene.occupancy_density",
                    by=lambda v: (v, 0.01 / v),
                    left_out=1e-3,
                    remark="a cell is occupied if one step in it has 0.01",
                ),
                "near_plane": unused("rays are followed through the whole unit sphere", told=True),
                "cone_angle": to("scene.dt_gamma", left_out=0.004),
                "alpha_thre": unused("samples of less than 0.001 of a pixel are left out here", told=True),
            },
            {"scene.renderer": "marching", "scene.occupancy_interval": 16},
            "the same marching by our kernels on every machine; `scene.renderer: nerfacc` takes the library",
        ),
        "nvdiffrast_renderer": Part(
            {
                "bound": _BOUND,
                "grid_resolution": to(
                    "scene.tetrahedra.resolution",
                    by=lambda v: round(v / 2),
                    remark="cubes along a side, each with a vertex in its middle: half of NeMo's number is as fine",
                ),
                "density_thresh": unused("the surface to begin with is that of the run's mesh, or a ball"),
                "update_interval": unused("a mesh has no grid of occupied cells, with NeMo neither"),
                "quartet_file": unused("the grid of tetrahedra is computed, not read"),
            },
            remark="the mesh stage: `refine` begins with a run, `generate` with a ball; rasterised by our kernels, "
            "`scene.rasterizer: nvdiffrast` takes the library",
        ),
    },
    "guidance": {
        "stablediffusion_huggingface_pipeline": Part(
            {
                "precision": _PRECISION,
                "model_key": to(
                    "guidance.kind",
                    "guidance.model",
                    by=lambda v: ("sd", None) if v == _BASE else ("diffusers", v),
                    left_out=_BASE,
                    remark="stabilityai/stable-diffusion-2-1-base was deleted; a copy of it is taken",
                ),
                "t_range": _T_RANGE,
            },
        ),
        "stablediffusion_nemo_pipeline": Part(
            {
                "precision": _PRECISION,
                "checkpoint": to("guidance.model", remark="NeMo's archives are read"),
                "sampler_type": _SAMPLER,
                "t_range": _T_RANGE,
            },
            {"guidance.kind": "diffusers"},
        ),
        "stablediffusion_trt_pipeline": Part(
            {
                "checkpoint": to("guidance.model", remark="NeMo's archives are read"),
                "plan_dir": unused(
                    "TensorRT's plans are not read; the same network runs from the checkpoint", told=True
                ),
                "sampler_type": _SAMPLER,
                "sampler_type=": unused("so it is written in NeMo's own file; it draws no samples"),
                "t_range": _T_RANGE,
            },
            {"guidance.kind": "diffusers"},
        ),
    },
    "optim": {
        "adan": Part(
            {
                "name": only("adan", why="the optimiser"),
                "lr": _rates(),
                "betas": to("optim.betas", left_out=LeftOut.HARMLESS, remark="0.98, 0.92, 0.99 if left out"),
                "eps": to("optim.eps", left_out=1e-8),
                "weight_decay": to("optim.weight_decay", left_out=0.0),
                "max_grad_norm": to("optim.max_grad_norm", by=lambda v: v or None, left_out=0),
                "no_prox": to("optim.decay_form", by=lambda v: "decoupled" if v else "proximal", left_out=False),
                "foreach": _ORDER,
                "fused": _ORDER,
            },
            {"optim.optimizer": "adan"} | _CONSTANT_RATE,
        ),
        "adamw": Part(
            _adam("adamw") | {"weight_decay": to("optim.weight_decay", left_out=1e-2)},
            {"optim.optimizer": "adam", "optim.max_grad_norm": None} | _CONSTANT_RATE,
        ),
        "adam": Part(
            _adam("adam") | {"weight_decay": to("optim.weight_decay", left_out=0, remark="added to the gradient")},
            {"optim.optimizer": "adam", "optim.max_grad_norm": None, "optim.decay_form": "l2"} | _CONSTANT_RATE,
        ),
    },
}
"""The choices for each part, by the module of their ``_target_``, or the optimiser's name."""

PLAIN_PARTS: dict[str, Part] = {
    "loss": Part(
        {
            "lambda_sds": to("loss.distillation"),
            "lambda_opacity": to("loss.opacity_squared", remark="mean opacity^2; the paper's form is loss.opacity"),
            "lambda_entropy": to(
                "loss.entropy",
                by=lambda v: {"start": 0, "end": v, "until": 0.5} if v else 0,
                remark="grows over the first half; of each ray's opacity, where NeMo takes each sample's weight: told",
            ),
            "lambda_orientation": to(
                "loss.orientation", remark="summed along a ray, as in the paper; NeMo has the mean over samples: told"
            ),
            "lambda_2d_normal_smooth": to("loss.normal_smooth_2d"),
            "lambda_3d_normal_smooth": to(
                "loss.normal_smooth_3d", remark="at the surface that rays hit; NeMo has all samples"
            ),
            "lambda_mesh_normal": unused("a NeRF has no faces, with NeMo neither: the mesh stage", told=True),
            "lambda_mesh_laplacian": unused("a NeRF has no faces, with NeMo neither: the mesh stage", told=True),
        },
        {"loss.opacity": 0.0},
    ),
    "data": Part(
        {
            "_target_": unused("there is one way to draw cameras"),
            "train_batch_size": to(
                "views", beside=views_of, left_out=1, remark="times the trainer's devices, nodes and gathered batches"
            ),
            "train_shuffle": unused("cameras are random"),
            "train_dataset._target_": _dataset("random_poses"),
            "train_dataset.internal_batch_size": unused("cameras are drawn as they are needed"),
            "train_dataset.width": to("resolution", left_out=256),
            "train_dataset.height": to(
                "rows_per_column",
                beside=lambda v, part: v / part["train_dataset.width"],
                left_out=256,
                remark="the frame stays as it is, so pixels are oblong if it is not the width; the prior sees a square",
            ),
            "train_dataset.radius_range": to("cameras.radius_min", "cameras.radius_max", left_out=[3.0, 3.5]),
            "train_dataset.theta_range": to(
                "cameras.elevation_max_deg",
                "cameras.elevation_min_deg",
                by=lambda v: (90 - v[0], 90 - v[1]),
                left_out=[45.0, 105.0],
                remark="theirs is counted from the pole",
            ),
            "train_dataset.phi_range": to(
                "cameras.azimuth_min_deg",
                "cameras.azimuth_max_deg",
                left_out=[-180.0, 180.0],
                remark="the azimuth chooses the prompt; NeMo unpacks cameras in another order and takes their radius",
            ),
            "train_dataset.fovx_range": to(
                "cameras.fov_min_deg",
                "cameras.fov_max_deg",
                left_out=[10.0, 30.0],
                remark="pixels are square: equal to fovy_range",
            ),
            "train_dataset.fovy_range": to(
                "cameras.fov_min_deg",
                "cameras.fov_max_deg",
                left_out=[10.0, 30.0],
                remark="NeMo, too, takes one random number for both",
            ),
            "train_dataset.jitter": only(True, False, why="turns the three keys below on", left_out=False),
            "train_dataset.jitter_center": to(
                "cameras.position_noise", beside=_if_on(0.5), left_out=0.2, remark="a full width"
            ),
            "train_dataset.jitter_target": to("cameras.look_at_noise", beside=_if_on(), left_out=0.2),
            "train_dataset.jitter_up": to("cameras.up_noise", beside=_if_on(), left_out=0.02),
            "train_dataset.uniform_sphere_rate": to(
                "cameras.uniform_angle_probability",
                by=lambda v: 1 - v,
                left_out=0.0,
                remark="uniform in area within theta_range; NeMo leaves that range",
            ),
            "train_dataset.angle_overhead": _ANGLES,
            "train_dataset.angle_front": _ANGLES,
            **{
                f"train_dataset.default_{key}": unused("for datasets that go around the object")
                for key in ("fovx", "fovy", "radius", "polar")
            },
            "train_dataset.default_azimuth": only(0, why="prompts count the azimuth from the front"),
            "train_dataset.near": _RANGE,
            "train_dataset.far": _RANGE,
            "train_dataset.device": _DEVICE,
        }
        | _circle("val", "pictures.val_views", "pictures.val_resolution", "pictures.val_")
        | _circle("test", "pictures.video_frames", "pictures.video_resolution", "pictures."),
    ),
}
"""The parts that come in one kind."""


def surface_rate(rate: float, part: Mapping[str, Any]) -> tuple[float, ...]:
    """Return the learning rates of the mesh stage: grid, networks, background, and in our units distances and offsets.

    NeMo's distances are clamp(sigma - 10, -1, 1), which goes from -1 to 1 within one edge of its grid, of length
    2 / grid_resolution. A change by d so moves the surface by d times half an edge, and d / grid_resolution is what it
    is in world units. Offsets are tanh(x) / grid_resolution there and 2 tanh(x) / grid_resolution here.
    """
    return rate, rate, rate, rate / part["renderer.grid_resolution"], rate / 2


_OF_SAMPLES = unused("a mesh has no samples along rays, with NeMo neither: nothing acts", told=True)

MESH_STAGE: dict[str, dict[str, Key]] = {
    "": {"resume_from_checkpoint": unused("`refine RUN` begins with a run in its place")},
    "optim": {
        "lr": to(
            "optim.grid_lr",
            "optim.network_lr",
            "optim.background_lr",
            "optim.surface_lr",
            "optim.offset_lr",
            beside=surface_rate,
            left_out=1e-3,
            remark="distances by 1 / grid_resolution, offsets by 1 / 2: theirs have other units",
        ),
    },
    "loss": {
        "lambda_orientation": _OF_SAMPLES,
        "lambda_opacity": _OF_SAMPLES,
        "lambda_entropy": _OF_SAMPLES,
        "lambda_3d_normal_smooth": _OF_SAMPLES,
        "lambda_mesh_normal": to("loss.normal_consistency"),
        "lambda_mesh_laplacian": to(
            "loss.laplacian", remark="of squared distances in cubes; NeMo looks for it under a wrong name, and has none"
        ),
    },
}
"""Keys that mean something else in NeMo's second stage, by part; "" is outside of the parts."""

MESH_SETS: dict[str, Any] = {
    "scene.tetrahedra.fitted": True,
    **{f"loss.{name}": 0.0 for name in ("orientation", "opacity_squared", "entropy", "normal_smooth_3d")},
}
"""What that stage does without a key for it: its grid is as large as the object, and nothing weighs samples."""

GROUPS = (*PARTS, *PLAIN_PARTS)
"""The parts of a configuration."""
