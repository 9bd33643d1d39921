"""Every key of a NeMo DreamFusion model configuration, and what it is here. docs/nemo.md is made from this table.

A key either sets keys of `dreamfusion.config.Config` (`to`), or must have one of a few values (`only`), or has no
effect here for a stated reason (`unused`). The parts of a configuration (nerf, background, ...) are told apart by the
module of their ``_target_``; a part may also set keys of ours by being chosen (`Part.sets`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Key:
    """What one key of NeMo's means: ``put`` maps its value to values of the keys ``ours``, in their order."""

    ours: tuple[str, ...] = ()
    put: Callable[[Any], tuple[Any, ...]] = lambda value: (value,)
    allowed: tuple[Any, ...] | None = None
    remark: str = ""
    note: str = ""


@dataclass(frozen=True)
class Part:
    """One choice for a part of the configuration: its keys, and what choosing it sets here."""

    keys: dict[str, Key]
    sets: dict[str, Any] = field(default_factory=dict)
    remark: str = ""


def to(*ours: str, by: Callable[[Any], Any] | None = None, remark: str = "") -> Key:
    """Return a key that sets ours: with ``by`` applied, and with one value for each of ours if there are several."""

    def put(value: Any) -> tuple[Any, ...]:
        value = value if by is None else by(value)
        return (value,) if len(ours) == 1 else tuple(value)

    return Key(ours, put, remark=remark)


def only(*values: Any, why: str) -> Key:
    """Return a key that must have one of these values here."""
    return Key(allowed=values, remark=why)


def unused(why: str, note: str = "") -> Key:
    """Return a key without effect here; ``note`` is told the user at the start of a run."""
    return Key(remark=why, note=note)


def focal(fov_deg: float) -> float:
    """Return the focal length in image widths for a field of view in degrees."""
    return 0.5 / math.tan(math.radians(fov_deg) / 2)


def precision(value: Any) -> str:
    """Return our name of a Lightning precision; KeyError for an unknown one."""
    return {"16": "fp16", "bf16": "bf16", "32": "fp32"}[str(value).removesuffix("-mixed").removesuffix("-true")]


def same_twice(value: Any) -> tuple[Any, Any]:
    """Return the value for two keys."""
    return value, value


_SHAPE = "scenes, cameras and colours have three dimensions"
_BOUND = only(1, why="the scene is the unit sphere, inside NeMo's cube of this bound; lengths are the same")
_SQUARE = "pictures are square: width and height must be equal"
_BLOB = {"exp": ("exp", "gaussian"), "softplus": ("softplus", "linear")}
_NORMALS = {
    "central_finite_difference": "central",
    "forward_finite_difference": "forward",
    "autograd": "analytic",
}
_FUSED = only("FullyFusedMLP", "CutlassMLP", why="the same network, as ordinary layers")
_RELU = only("ReLU", why="hidden layers are ReLU")
_NO_ACTIVATION = only("None", None, why="density and colour have their own activations")
_T_RANGE = to("guidance.t_min", "guidance.t_max", "guidance.t_max_end", by=lambda v: (v[0], v[1], v[1]))
_NERF = {
    "num_input_dims": only(3, why=_SHAPE),
    "bound": _BOUND,
    "density_activation": to(
        "scene.nerf.density_activation",
        "scene.nerf.blob",
        by=lambda v: _BLOB[v],
        remark="exp has a Gaussian blob, softplus a linear one",
    ),
    "blob_radius": to("scene.nerf.blob_std"),
    "blob_density": to("scene.nerf.blob_density"),
    "normal_type": to("scene.nerf.normal_method", by=lambda v: _NORMALS[v], remark="differences over 0.01, as theirs"),
    "sigma_net_num_output_dims": only(1, why=_SHAPE),
    "features_net_num_output_dims": only(3, why=_SHAPE),
}
_NERF_SETS = {"scene.nerf.density_bias": 0.0, "scene.nerf.normal_epsilon": 0.01}


def _layers(net: str) -> dict[str, Key]:
    one = "one width and depth for both networks"
    return {
        f"{net}.num_hidden_dims": to("scene.nerf.hidden_width", remark=one),
        f"{net}.num_layers": to("scene.nerf.hidden_layers", by=lambda v: v - 1, remark=f"theirs count the last; {one}"),
        f"{net}.bias": to("scene.nerf.network_bias"),
    }


def _fused_layers(net: str, width: str, layers: str) -> dict[str, Key]:
    return {
        f"{net}.otype": _FUSED,
        f"{net}.activation": _RELU,
        f"{net}.output_activation": _NO_ACTIVATION,
        f"{net}.n_neurons": to(width),
        f"{net}.n_hidden_layers": to(layers),
    }


def _circle(data: str, views: str, side: str) -> dict[str, Key]:
    """Return the keys of the pictures that go around the object."""
    return {
        f"{data}_batch_size": unused("pictures are rendered one at a time"),
        f"{data}_shuffle": unused("pictures go around the object in order"),
        f"{data}_dataset._target_": unused("there is one way around the object"),
        f"{data}_dataset.size": to(views),
        f"{data}_dataset.width": to(side, remark=_SQUARE),
        f"{data}_dataset.height": to(side, remark=_SQUARE),
        f"{data}_dataset.default_radius": to("pictures.radius", remark="3.2 if not given; one for both datasets"),
        f"{data}_dataset.default_polar": to("pictures.elevation_deg", by=lambda v: 90 - v, remark="90 if not given"),
        f"{data}_dataset.default_azimuth": only(0, why="circles begin at the front"),
        f"{data}_dataset.default_fovx": to("pictures.focal", by=focal, remark="20 if not given"),
        f"{data}_dataset.default_fovy": to("pictures.focal", by=focal, remark="pixels are square: equal to fovx"),
        f"{data}_dataset.angle_overhead": _ANGLES,
        f"{data}_dataset.angle_front": _ANGLES,
        f"{data}_dataset.near": _RANGE,
        f"{data}_dataset.far": _RANGE,
        f"{data}_dataset.device": _DEVICE,
    }


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
    "prompt": to("prompt"),
    "negative_prompt": to("guidance.negative_prompt"),
    "front_prompt": to("guidance.view_texts.front"),
    "side_prompt": to("guidance.view_texts.side"),
    "back_prompt": to("guidance.view_texts.back"),
    "update_extra_interval": to("scene.occupancy_interval", remark="equal to renderer.update_interval"),
    "guidance_scale": to("guidance.guidance_scale"),
    "export_video": to("pictures.video", remark="colours only; NeMo's second video, of depth, is not written"),
    "iters": to("steps"),
    "latent_iter_ratio": to(
        "shading.latent_until",
        remark="normals and opacity over black, where NeMo has its background; left out for a prior on pixels",
    ),
    "albedo_iter_ratio": to("shading.albedo_until"),
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
    "collapse_from": 0.5,
    "guidance.view_mode": "interpolated",
    "guidance.view_texts.overhead_deg": 90.0,  # it has no text for views from above
    "guidance.anneal": "none",
    "guidance.weighting": "sds",
    "shading.albedo_probability": 0.0,
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
}
"""What NeMo's model does without a key for it, and the surroundings of the model in NeMo's own configuration."""

PARTS: dict[str, dict[str, Part]] = {
    "nerf": {
        "torchngp_nerf": Part(
            _NERF
            | {
                "encoder_cfg.encoder_type": only("hashgrid", why="NeMo's other encoders are not in its groups"),
                "encoder_cfg.encoder_max_level": to(
                    "scene.nerf.grid.max_level", by=lambda v: 1.0 if v is None else v, remark="none is all levels"
                ),
                "encoder_cfg.log2_hashmap_size": to("scene.nerf.grid.log2_size"),
                "encoder_cfg.desired_resolution": to("scene.nerf.grid.max_resolution"),
                "encoder_cfg.interpolation": to("scene.nerf.grid.interpolation"),
            }
            | _layers("sigma_net_cfg")
            | _layers("features_net_cfg"),
            _NERF_SETS
            | {
                "scene.nerf.grid.levels": 16,
                "scene.nerf.grid.features": 2,
                "scene.nerf.grid.base_resolution": 16,
            },
        ),
        "tcnn_nerf": Part(
            _NERF
            | {
                "encoder_cfg.otype": only("HashGrid", why="tiny-cuda-nn's other encodings are not in NeMo's groups"),
                "encoder_cfg.n_levels": to("scene.nerf.grid.levels"),
                "encoder_cfg.n_features_per_level": to("scene.nerf.grid.features"),
                "encoder_cfg.log2_hashmap_size": to("scene.nerf.grid.log2_size"),
                "encoder_cfg.base_resolution": to("scene.nerf.grid.base_resolution"),
                "encoder_cfg.interpolation": to("scene.nerf.grid.interpolation", by=str.lower),
                "encoder_cfg.per_level_scale": only(None, why="levels lead up to 2048 cells, NeMo's own default"),
            }
            | _fused_layers("sigma_net_cfg", "scene.nerf.hidden_width", "scene.nerf.hidden_layers")
            | _fused_layers("features_net_cfg", "scene.nerf.hidden_width", "scene.nerf.hidden_layers"),
            _NERF_SETS
            | {
                "scene.nerf.grid.max_resolution": 2048,
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
                "encoder_type": only("frequency", why="directions are encoded by sines and cosines"),
                "encoder_input_dims": only(3, why=_SHAPE),
                "encoder_multi_res": to("scene.background_network.frequencies"),
                "num_output_dims": only(3, why=_SHAPE),
                "net_cfg.num_hidden_dims": to("scene.background_network.hidden_width"),
                "net_cfg.num_layers": to(
                    "scene.background_network.hidden_layers", by=lambda v: v - 1, remark="theirs count the last"
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
        ),
    },
    "material": {"basic_shading": Part({})},
    "renderer": {
        "torchngp_volume_renderer": Part(
            {
                "bound": _BOUND,
                "update_interval": to("scene.occupancy_interval", remark="equal to update_extra_interval"),
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
                "render_step_size": to("scene.step_length"),
                "near_plane": unused("cameras of this configuration stand outside of the unit sphere"),
                "cone_angle": to("scene.dt_gamma"),
                "alpha_thre": unused("samples of less than 0.001 of a pixel are left out here"),
            },
            {"scene.renderer": "marching"},
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
                "density_thresh": unused("the surface to begin with is that of the first stage's mesh"),
                "update_interval": to("scene.occupancy_interval", remark="equal to update_extra_interval"),
                "quartet_file": unused("the grid of tetrahedra is computed, not read"),
            },
            remark="the mesh stage: `refine`, not `generate`, takes these settings",
        ),
    },
    "guidance": {
        "stablediffusion_huggingface_pipeline": Part(
            {
                "precision": to("guidance.precision", by=precision, remark="fp16 on a CPU is run as fp32"),
                "model_key": to(
                    "guidance.kind",
                    "guidance.model",
                    by=lambda v: ("sd", None) if v == "stabilityai/stable-diffusion-2-1-base" else ("diffusers", v),
                    remark="stabilityai/stable-diffusion-2-1-base was deleted; a copy of it is taken",
                ),
                "t_range": _T_RANGE,
            },
        ),
        "stablediffusion_nemo_pipeline": Part(
            {
                "precision": to("guidance.precision", by=precision, remark="fp16 on a CPU is run as fp32"),
                "checkpoint": to("guidance.model", remark="NeMo's archives are read"),
                "sampler_type": unused("score distillation draws no samples"),
                "t_range": _T_RANGE,
            },
            {"guidance.kind": "diffusers"},
        ),
        "stablediffusion_trt_pipeline": Part(
            {
                "precision": to("guidance.precision", by=precision, remark="fp16 on a CPU is run as fp32"),
                "checkpoint": to("guidance.model", remark="NeMo's archives are read"),
                "plan_dir": unused(
                    "TensorRT's plans are not read; the same network runs from the checkpoint",
                    note="guidance.plan_dir holds compiled plans, which are not read: the checkpoint itself runs",
                ),
                "sampler_type": unused("score distillation draws no samples"),
                "sampler_type=": unused("so it is written in NeMo's own file; it draws no samples"),
                "t_range": _T_RANGE,
            },
            {"guidance.kind": "diffusers"},
        ),
    },
}
"""The choices for each part, by the module of their ``_target_``; "renderer" and so on are the parts' keys."""

PLAIN_PARTS: dict[str, Part] = {
    "optim": Part(
        {
            "name": only("adan", why="NeMo's choice; ours has more, see optim.optimizer"),
            "lr": to("optim.grid_lr", "optim.network_lr", "optim.background_lr", by=lambda v: (v, v, v)),
            "betas": to("optim.betas"),
            "eps": to("optim.eps"),
            "weight_decay": to("optim.weight_decay"),
            "max_grad_norm": to("optim.max_grad_norm", by=lambda v: v or None),
            "no_prox": only(False, why="weight decay is proximal"),
            "foreach": unused("the same arithmetic in another order of tensors"),
        },
        {"optim.optimizer": "adan", "optim.warmup_steps": 0, "optim.final_lr": 1.0},
    ),
    "loss": Part(
        {
            "lambda_sds": to("loss.distillation"),
            "lambda_opacity": to("loss.opacity_squared", remark="mean opacity^2; the paper's form is loss.opacity"),
            "lambda_entropy": to("loss.entropy", remark="of each ray's opacity; NeMo takes each sample's weight"),
            "lambda_orientation": to(
                "loss.orientation", remark="summed along a ray, as in the paper; NeMo has the mean over samples"
            ),
            "lambda_2d_normal_smooth": to("loss.normal_smooth_2d"),
            "lambda_3d_normal_smooth": to(
                "loss.normal_smooth_3d", remark="at the surface that rays hit; NeMo has all samples"
            ),
            "lambda_mesh_normal": only(0, why="for meshes: the mesh stage"),
            "lambda_mesh_laplacian": only(0, why="for meshes: the mesh stage"),
        },
        {"loss.opacity": 0.0, "loss.entropy_ramp": 0.5, "loss.orientation_ramp": 0.0},
    ),
    "data": Part(
        {
            "_target_": unused("there is one way to draw cameras"),
            "train_batch_size": to("views"),
            "train_shuffle": unused("cameras are random"),
            "train_dataset._target_": unused("there is one way to draw cameras"),
            "train_dataset.internal_batch_size": unused("cameras are drawn as they are needed"),
            "train_dataset.width": to("resolution", "resolution_end", by=same_twice, remark=_SQUARE),
            "train_dataset.height": to("resolution", "resolution_end", by=same_twice, remark=_SQUARE),
            "train_dataset.radius_range": to("cameras.radius_min", "cameras.radius_max"),
            "train_dataset.theta_range": to(
                "cameras.elevation_max_deg",
                "cameras.elevation_min_deg",
                by=lambda v: (90 - v[0], 90 - v[1]),
                remark="theirs is counted from the pole",
            ),
            "train_dataset.phi_range": to(
                "cameras.azimuth_min_deg",
                "cameras.azimuth_max_deg",
                remark="the azimuth chooses the prompt; NeMo unpacks cameras in another order and takes their radius",
            ),
            "train_dataset.fovx_range": to(
                "cameras.fov_min_deg", "cameras.fov_max_deg", remark="pixels are square: equal to fovy_range"
            ),
            "train_dataset.fovy_range": to(
                "cameras.fov_min_deg",
                "cameras.fov_max_deg",
                remark="NeMo draws both on their own, which stretches pictures",
            ),
            "train_dataset.jitter": only(True, False, why="turns the three keys below on"),
            "train_dataset.jitter_center": to("cameras.position_noise", by=lambda v: v / 2, remark="a full width"),
            "train_dataset.jitter_target": to("cameras.look_at_noise"),
            "train_dataset.jitter_up": to("cameras.up_noise"),
            "train_dataset.uniform_sphere_rate": to(
                "cameras.uniform_angle_probability",
                by=lambda v: 1 - v,
                remark="uniform in area within theta_range; NeMo leaves that range",
            ),
            "train_dataset.angle_overhead": _ANGLES,
            "train_dataset.angle_front": _ANGLES,
            **{
                f"train_dataset.default_{key}": unused("for datasets that go around the object")
                for key in ("fovx", "fovy", "radius", "polar", "azimuth")
            },
            "train_dataset.near": _RANGE,
            "train_dataset.far": _RANGE,
            "train_dataset.device": _DEVICE,
        }
        | _circle("val", "pictures.val_views", "pictures.val_resolution")
        | _circle("test", "pictures.video_frames", "pictures.video_resolution"),
        {"pictures.radius": 3.2, "pictures.elevation_deg": 0.0, "pictures.focal": focal(20)},
    ),
}
"""The parts that come in one kind."""

MESH_STAGE: dict[str, dict[str, Key]] = {
    "": {"resume_from_checkpoint": unused("the run that is refined takes its place")},
    "optim": {
        "lr": to(
            "optim.grid_lr",
            "optim.network_lr",
            "optim.background_lr",
            "optim.surface_lr",
            by=lambda v: (v, v, v, v),
            remark="distances and offsets of the tetrahedra included",
        )
    },
    "loss": {
        "lambda_mesh_normal": to("loss.normal_consistency"),
        "lambda_mesh_laplacian": to(
            "loss.laplacian", remark="of squared distances in cubes; NeMo looks for it under a wrong name, and has none"
        ),
    },
}
"""Keys that mean something else in NeMo's second stage, by part; "" is outside of the parts."""

GROUPS = (*PARTS, *PLAIN_PARTS)
"""The parts of a configuration."""
