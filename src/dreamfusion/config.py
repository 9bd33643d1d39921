"""Configuration: every number of a run, typed, explained and saved beside its results as config.yaml.

Presets (`dreamfusion.presets`) list only what they change. Unknown keys and values out of range are refused with one
line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dreamfusion.errors import DreamFusionError
from dreamfusion.fields.background import BackgroundConfig
from dreamfusion.fields.mip_nerf import MipConfig
from dreamfusion.fields.nerf import NerfConfig
from dreamfusion.fields.tetrahedra import TetrahedraConfig
from dreamfusion.guidance.execution import Execution, Precision
from dreamfusion.io.files import write_text
from dreamfusion.method.cameras import CameraRange
from dreamfusion.method.losses import Anneal, Weighting
from dreamfusion.method.optimizers import OptimizerName
from dreamfusion.method.prompts import ViewMode, ViewTexts
from dreamfusion.method.shading import Backdrops, LightRange, Material, Shading
from dreamfusion.presets import PRESETS, Preset
from dreamfusion.renderers.nvdiffrast import Rasterizer
from dreamfusion.renderers.proposal import ProposalConfig

Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Side = Annotated[int, Field(ge=8, le=2048)]
"""Side of a square picture in pixels."""


class Section(BaseModel):
    """A part of the configuration: immutable, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class GuidanceConfig(Section):
    """The diffusion prior and how it is asked."""

    kind: Literal["toybox", "sd", "diffusers"] = "toybox"
    """toybox: the embedded prior; diffusers: the pipeline named by model; sd: the same, Stable Diffusion 2.1 if none"""
    model: str | None = None
    """folder, .safetensors or .ckpt file, or hub name of a diffusers pipeline"""
    image_size: Count | None = None
    """side of the pictures shown to a latent prior (null: the model's own); smaller ones need less memory"""
    guidance_scale: NonNegative = 8.0
    """classifier-free guidance: eps_uncond + scale * (eps_text - eps_uncond); the paper's omega is scale - 1"""
    negative_prompt: str = ""
    """what the result must not look like; takes the place of the empty prompt"""
    prompt_weighting: bool = False
    """read compel's syntax in prompts, (red)1.4 or mushroom++; needs dreamfusion[weights]; Stable Diffusion 1, 2, XL"""
    perp_neg: bool = False
    """Perp-Neg: push away from the view texts that a camera does not show; twice the cost of the prior per step"""
    rescale: Fraction = 0.0
    """how far the guided prediction is given the deviation of the unguided one; tames high guidance scales"""
    view_mode: ViewMode = "interpolated"
    """nearest: the text of the view the camera is closest to; interpolated: neighbours mixed by azimuth"""
    view_texts: ViewTexts = ViewTexts()
    """what is appended to the prompt for each view"""
    tell_cameras: bool = True
    """whether a prior that knows cameras, such as the embedded one, is told them in addition to the view texts"""
    t_min: Fraction = 0.02
    """lower end of the diffusion times drawn, as a fraction of all timesteps"""
    t_min_start: Fraction | None = None
    """lower end at the first step, from which it moves to t_min (null: t_min)"""
    t_max: Fraction = 0.98
    """upper end of the diffusion times at the first step"""
    t_max_end: Fraction = 0.35
    """upper end of the diffusion times at the last step"""
    anneal: Anneal = "sqrt"
    """how t_max moves to t_max_end over the run, and t_min_start to t_min: none, linear, sqrt, or hifa (sqrt, and every
    time drawn is t_max)"""
    anneal_from: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """share of the run during which both stay where they start"""
    weighting: Weighting | None = None
    """w(t) for abar: sds 1 - abar, uniform 1, fantasia3d sqrt(abar) (1 - abar), ism sqrt((1 - abar) / abar); null: the
    loss's own, ism for ism and sds for the others"""
    precision: Precision = "fp32"
    """number format of the prior's weights; tf32: fp32, with products rounded to TF32 on a GPU, which is faster"""
    execution: Execution = Execution()
    """switches for the prior's memory and speed"""

    @model_validator(mode="after")
    def _check(self) -> GuidanceConfig:
        if self.kind == "diffusers" and not self.model:
            raise ValueError("guidance 'diffusers' needs a model: give --model FOLDER_OR_HUB_NAME")
        if not self.t_min < min(self.t_max, self.t_max_end):
            raise ValueError("t_min must be below t_max and t_max_end")
        if self.t_min_start is not None and not self.t_min <= self.t_min_start < self.t_max:
            raise ValueError("t_min_start must be from t_min to below t_max")
        return self


class SceneConfig(Section):
    """What is optimised, and how finely it is rendered."""

    kind: Literal["volume", "mesh"] = "volume"
    """volume: a field that rays pass through (the NeRF); mesh: a surface in a grid of tetrahedra, with the field's
    colours (refine); if it is not given, mesh where there are tetrahedra"""
    architecture: Literal["hashgrid", "mip360"] = "hashgrid"
    """hashgrid: small networks on a hash grid, or on sines (scene.nerf); mip360: the paper's network (scene.mip)"""
    nerf: NerfConfig = NerfConfig()
    """encoding, networks, density and normals of hashgrid"""
    mip: MipConfig = MipConfig()
    """encoding, network, density and normals of mip360"""
    renderer: Literal["marching", "proposal", "nerfacc"] = "marching"
    """where along a ray the field is asked. marching: evenly, where the occupancy grid is not empty; proposal: where a
    small network expects matter, as in mip-NeRF 360; nerfacc: as marching, by that library's kernels (CUDA)"""
    proposal: ProposalConfig = ProposalConfig()
    """the proposal renderer's samples and network"""
    tetrahedra: TetrahedraConfig | None = None
    """meshes: the grid of tetrahedra (null: the default one)"""
    rasterizer: Rasterizer = "warp"
    """meshes: warp: our rasteriser; nvdiffrast: that library's, where it is installed (CUDA; not for commercial use)"""
    background: Literal["random", "learned", "static"] = "random"
    """random: another plain colour for every view, which forces a clean silhouette; learned: the paper's network"""
    background_color: tuple[Fraction, Fraction, Fraction] = (1.0, 1.0, 1.0)
    """colour of the static background, and of the views that background_random_ratio leaves out"""
    background_random_ratio: Fraction = 1.0
    """random background: share of the views that get a random colour (NeMo's 'random': 0.5)"""
    background_random_colors: Backdrops = "grey"
    """random background: which colours, grey (with a faint tint) or any"""
    background_network: BackgroundConfig = BackgroundConfig()
    """the learned background"""
    material: Material = Material()
    """highlights on Lambertian views"""
    scale: Positive | None = None
    """size of the finished object, as a factor on that at which it is distilled (null: as the prior reads the prompt;
    the embedded one draws small things at full size, and they are 0.65)"""
    step_length: Annotated[float, Field(ge=1e-3, le=0.5)] = 0.03
    """distance between samples along a ray, in world units, at least"""
    dt_gamma: Annotated[float, Field(ge=0, le=0.1)] = 0.0
    """marching, nerfacc: samples are at least dt_gamma times their distance from the camera apart"""
    max_steps: Count = 1024
    """marching: most samples on a ray"""
    occupancy_resolution: Annotated[int, Field(ge=2, le=512)] = 64
    """cells per side of the grid that lets rays skip empty space"""
    occupancy_interval: Count = 10
    """steps between refreshes of that grid"""
    occupancy_density: Positive | None = None
    """density from which a cell of that grid counts as occupied, if the mean is not lower (NeMo's density_thresh: 10;
    null: the density at which one step has opacity 0.001)"""
    surface_smoothing: Annotated[float, Field(ge=0, le=0.2)] = 0.0
    """meshes of a volume: deviation of the Gaussian, in world units, that its opacity is blurred with first"""

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: Any) -> Any:
        """Earlier versions saved no kind: it followed from the tetrahedra."""
        if not isinstance(values, dict):
            return values
        kind = values.get("kind", "volume" if values.get("tetrahedra") is None else "mesh")
        grid = {"tetrahedra": TetrahedraConfig()} if kind == "mesh" and values.get("tetrahedra") is None else {}
        return {**values, **grid, "kind": kind}

    @model_validator(mode="after")
    def _check(self) -> SceneConfig:
        if self.kind != "mesh" and self.tetrahedra is not None:
            raise ValueError("tetrahedra belong to scene.kind 'mesh': leave them out (null), or give that kind")
        if self.renderer == "proposal" and self.dt_gamma > 0:
            raise ValueError("dt_gamma belongs to the renderers 'marching' and 'nerfacc', not to 'proposal'")
        return self


class ShadingConfig(Section):
    """Which renderings are shown to the prior (paper A.2)."""

    latent_until: Fraction = 0.0
    """share of the run in which normals and opacity are the prior's latents themselves, without VAE (Latent-NeRF,
    arXiv 2211.07600; the first 0.2 in NVIDIA's NeMo); for latent priors of four channels"""
    albedo_until: Fraction = 0.2
    """share of the run with plain albedo only"""
    albedo_probability: Fraction = 0.35
    """afterwards: share of plain albedo views"""
    textureless_probability: Fraction = 0.1
    """afterwards: share of textureless views; the rest is Lambertian (the paper: 0.25 and 0.375)"""

    @model_validator(mode="after")
    def _check(self) -> ShadingConfig:
        if self.albedo_probability + self.textureless_probability > 1 + 1e-9:  # 0.9 and 0.1 add up to a bit more
            raise ValueError("albedo_probability and textureless_probability must add up to 1 or less")
        return self


class LossConfig(Section):
    """What is distilled from the prior, and the weights of the terms beside it (paper A.2)."""

    kind: Literal["sds", "vsd", "ism"] = "sds"
    """sds: score distillation, the paper's; vsd: variational, with a critic trained alongside; ism: interval score
    matching"""
    distillation: NonNegative = 1.0
    """weight of what is distilled"""
    clip: Positive | None = None
    """each element of the distillation gradient is limited to +-clip (null: not at all)"""
    clip_end: Positive | None = None
    """limit at the last step, reached linearly (null: clip stays)"""
    vsd_rank: Count = 4
    """vsd: rank of the critic's LoRA adapters"""
    vsd_lr: Positive = 1e-4
    """vsd: learning rate of the critic"""
    ism_delta_t: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """ism: the interval, as a fraction of all timesteps"""
    ism_delta_s: Annotated[float, Field(gt=0, le=1)] = 0.2
    """ism: longest step of the inversion, as a fraction of all timesteps"""
    opacity: NonNegative = 1e-3
    """keeps the scene from filling space: mean sqrt(opacity^2 + 0.01)"""
    opacity_squared: NonNegative = 0.0
    """the same purpose, NVIDIA's NeMo: mean opacity^2"""
    entropy: NonNegative = 1e-3
    """pushes opacity to 0 or 1; grows linearly to this over the first part of the run"""
    entropy_ramp: Fraction = 0.5
    """share of the run over which entropy grows"""
    orientation: NonNegative = 1e-2
    """forbids normals that face away from the camera; grows linearly to this over the first part of the run"""
    orientation_ramp: Fraction = 0.5
    """share of the run over which orientation grows"""
    orientation_start: Fraction = 0.01
    """least factor on orientation meanwhile"""
    normal_smooth_2d: NonNegative = 0.0
    """smooth pictures of normals: mean squared difference of neighbouring pixels, normals coded to [0, 1]"""
    normal_smooth_3d: NonNegative = 0.0
    """smooth surfaces: mean difference of the normal to that of a point moved by N(0, 0.01)"""
    distortion: NonNegative = 0.0
    """renderer proposal: keeps what a ray meets in one place (mip-NeRF 360, whose weight is 0.01)"""
    interlevel: NonNegative = 1.0
    """renderer proposal: trains the proposal network to cover what the field shows"""
    normal_consistency: NonNegative = 0.5
    """meshes: neighbouring faces look the same way; mean of 1 - cos of the angle between them"""
    laplacian: NonNegative = 0.5
    """meshes: vertices lie amid their neighbours; mean squared distance in sides of the grid's cubes"""

    @model_validator(mode="after")
    def _check(self) -> LossConfig:
        if self.clip_end is not None and self.clip is None:
            raise ValueError("clip_end needs clip, the limit at the first step")
        return self


class OptimConfig(Section):
    """The optimiser of the scene."""

    optimizer: OptimizerName = "adam"
    """adam, adan (NeMo's choice) or shampoo (the paper's)"""
    grid_lr: Positive = 1e-2
    """learning rate of the hash grid"""
    network_lr: Positive = 2e-3
    """learning rate of the small networks"""
    surface_lr: Positive = 1e-3
    """meshes: learning rate of the distances, in world units, and of the offsets, in half sides of the grid's cubes"""
    bulge_lr: Positive = 1e-3
    """meshes: learning rate of scene.tetrahedra.bulge_resolution's grid, in world units"""
    background_lr: Positive | None = None
    """learning rate of a learned background (null: network_lr)"""
    betas: tuple[Fraction, ...] | None = None
    """decay rates of the optimiser's averages, three for adan, else two (null: adam 0.9, 0.99; adan 0.98, 0.92, 0.99;
    shampoo 0.9, 0.9)"""
    eps: Positive | None = None
    """the optimiser's small number (null: adam 1e-15, adan 1e-8, shampoo 1e-6)"""
    weight_decay: NonNegative = 0.0
    """decay of the parameters per unit of learning rate"""
    final_lr: Positive = 0.03
    """factor on the learning rates at the last step (cosine decay)"""
    warmup_steps: Annotated[int, Field(ge=0)] = 10
    """steps over which the learning rates rise linearly"""
    warmup_start: Fraction | None = None
    """factor on the learning rates at the first of these steps (null: 1 / (warmup_steps + 1))"""
    max_grad_norm: Positive | None = 5.0
    """gradients are scaled down to this norm (null: never)"""

    @model_validator(mode="after")
    def _check(self) -> OptimConfig:
        count = 3 if self.optimizer == "adan" else 2
        if self.betas is not None and (len(self.betas) != count or max(self.betas) >= 1):
            raise ValueError(f"{self.optimizer} takes {count} betas below 1")
        return self


class PicturesConfig(Section):
    """Pictures and video for people; the prior never sees them."""

    radius: Positive = 2.7
    """distance of the camera that goes around the object, in world units"""
    elevation_deg: Annotated[float, Field(ge=-90, le=90)] = 15.0
    """how far above the horizon it is, in degrees"""
    focal: Positive = 1.35
    """its focal length in image widths"""
    shading: Shading = "lambertian"
    """albedo, lambertian or textureless, for these two"""
    val_every: Count | None = None
    """steps between validation pictures, kept as validation/step_<step>.png (null: none)"""
    val_views: Count = 4
    """views in a validation picture, side by side"""
    val_resolution: Side | None = None
    """side of each of them in pixels (null: 144)"""
    val_depth: bool = False
    """whether to write step_<step>_depth.png beside it: near is white, far and nothing black"""
    val_video: bool = False
    """whether to write the views as a video, too, step_<step>.mp4: give enough val_views for one"""
    video: bool = True
    """whether to write turntable.mp4"""
    video_frames: Annotated[int, Field(ge=2, le=2000)] | None = None
    """frames of the video, once around (null: 30)"""
    video_resolution: Side | None = None
    """side of the video in pixels (null: 144)"""
    video_fps: Count = 15
    """frames per second of the video"""


class Config(Section):
    """One text-to-3D run."""

    prompt: Annotated[str, Field(min_length=1)]
    """what to make"""
    later_prompts: dict[Annotated[int, Field(ge=0)], Annotated[str, Field(min_length=1)]] = {}
    """prompts that take over when so many steps are done; `dreamfusion view` adds to them while a run goes on"""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """same seed, same machine, same result"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps"""
    steps: Count = 300
    """optimisation steps"""
    views: Count = 4
    """views rendered and judged per step"""
    resolution: Side = 32
    """side of the rendered views in pixels, at first"""
    resolution_end: Side = 48
    """side of the rendered views from the share resolution_from on"""
    resolution_from: Fraction = 0.6
    """share of the run after which views have their final size"""
    checkpoint_every: Count = 100
    """steps between checkpoints"""
    preview_every: Count = 25
    """steps between refreshes of preview.png"""
    collapse_from: Fraction = 0.0
    """share of the run from which it stops if the scene has become nothing or fills the view; a scene that begins as
    fog fills the view at first"""
    guidance: GuidanceConfig = GuidanceConfig()
    scene: SceneConfig = SceneConfig()
    shading: ShadingConfig = ShadingConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    cameras: CameraRange = CameraRange()
    lights: LightRange = LightRange()
    pictures: PicturesConfig = PicturesConfig()

    @model_validator(mode="after")
    def _check(self) -> Config:
        if self.scene.renderer != "proposal" and self.loss.distortion > 0:
            raise ValueError("loss.distortion is for scene.renderer 'proposal'")
        return self

    @property
    def prompts(self) -> dict[int, str]:
        """The prompts by the number of finished steps from which they hold, the first from 0 on."""
        return {0: self.prompt} | dict(sorted(self.later_prompts.items()))

    def prompt_at(self, step: int) -> str:
        """Return the prompt that holds when ``step`` steps are done."""
        return self.prompts[max(first for first in self.prompts if first <= step)]


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return nested tables with the values of ``changes`` in place of those of ``base``."""
    result = dict(base)
    for key, value in changes.items():
        nested = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if nested else value
    return result


def build_config(
    preset: Preset, changes: dict[str, Any], file: Path | str | None = None, *, base: dict[str, Any] | None = None
) -> Config:
    """Return a preset, or ``base`` in its place, with the YAML file's keys and then ``changes`` applied.

    Raises DreamFusionError, naming the key and what it accepts, if one is wrong or missing.
    """
    if preset not in PRESETS:
        raise DreamFusionError(f"Unknown preset {preset!r}: choose one of {', '.join(PRESETS)}.")
    asked = changes if file is None else merged(read_yaml(Path(file)), changes)
    return changed_config(PRESETS[preset] if base is None else base, asked)


def changed_config(base: dict[str, Any], asked: dict[str, Any]) -> Config:
    """Return the configuration of ``base`` with what the user ``asked`` for.

    Raises DreamFusionError as `parse_config` does, and for a weight that was asked for and would have no effect. One
    that is as by default, or as in ``base``, may have been asked for by a saved configuration, which holds every key.
    """
    config = parse_config(merged(base, asked))
    for name, (where, has_effect) in _LOSSES_OF_ONE_KIND.items():
        weight = asked.get("loss", {}).get(name)
        usual = (LossConfig.model_fields[name].default, base.get("loss", {}).get(name))
        if weight and weight not in usual and not has_effect(config.scene):
            raise DreamFusionError(f"loss.{name} is for {where} and has no effect here: leave it out.")
    return config


_LOSSES_OF_ONE_KIND: dict[str, tuple[str, Callable[[SceneConfig], bool]]] = {
    "laplacian": ("meshes", lambda scene: scene.kind == "mesh"),
    "normal_consistency": ("meshes", lambda scene: scene.kind == "mesh"),
    "normal_smooth_3d": ("volumes", lambda scene: scene.kind == "volume"),
    "orientation": ("volumes", lambda scene: scene.kind == "volume"),
    "interlevel": (
        "scene.renderer 'proposal'",
        lambda scene: scene.kind == "volume" and scene.renderer == "proposal",
    ),
}
"""Losses that only some scenes have: which, in words, and whether a scene is one of them."""


class WrongValueError(DreamFusionError):
    """A value of a configuration that is not possible; ``key`` is its dotted name."""

    def __init__(self, key: str, line: str) -> None:
        super().__init__(line)
        self.key = key


def parse_config(values: dict[str, Any]) -> Config:
    """Return the configuration of nested plain values; DreamFusionError naming the first wrong key.

    It is a `WrongValueError` if one value alone is wrong.
    """
    try:
        return Config(**values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "configuration"
        if key == "prompt" and first["type"] == "missing":
            raise DreamFusionError('Nothing to make: give a prompt, for example "a red mushroom".') from None
        message = first["msg"].removeprefix("Value error, ")
        hint = _nearest(key) if first["type"] in ("extra_forbidden", "unexpected_keyword_argument") else ""
        raise WrongValueError(key, f"{key}: {message} (given: {first['input']!r:.80}).{hint}") from None
    except TypeError as error:
        raise DreamFusionError(f"The configuration must be a table of keys and values: {error}.") from None


def _nearest(key: str) -> str:
    """Return a question with the key that is most like an unknown one, or nothing."""
    whole = Config(prompt="a", scene=SceneConfig(tetrahedra=TetrahedraConfig())).model_dump()
    known, last = [*whole, *dict(leaves(whole))], key.rsplit(".", 1)[-1]
    close = [name for name in known if name.rsplit(".", 1)[-1] == last] or get_close_matches(key, known, n=1)
    return f" Did you mean {close[0]}?" if close else ""


def leaves(tree: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the value of everything in a tree of tables."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def save_config(config: Config, path: Path) -> None:
    """Write the whole configuration as YAML."""
    write_text(path, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def load_config(path: Path) -> Config:
    """Read a configuration written by `save_config`; DreamFusionError if that is not possible."""
    return parse_config(read_yaml(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the table in a YAML file; DreamFusionError if it cannot be read or holds something else."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise DreamFusionError(f"Cannot read the configuration {path}: {reason}.") from None
    if not isinstance(values, dict):
        raise DreamFusionError(f"{path} is not a configuration: it must be a YAML table of keys and values.")
    return values
