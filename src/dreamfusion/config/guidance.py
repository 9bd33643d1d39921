"""The diffusion prior and how it is asked: `guidance`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dreamfusion.config.execution import Execution, Precision
from dreamfusion.config.schedule import Schedule, ShareSchedule
from dreamfusion.config.section import Count, Fraction, NonNegative, Section, wrong

GuidanceKind = Literal["toybox", "sd", "diffusers"]
ViewMode = Literal["nearest", "interpolated"]
Weighting = Literal["sds", "uniform", "fantasia3d", "ism"]
ShapeShown = Literal["normals", "depth"]
Angle = Annotated[float, Field(ge=0, le=180)]


class ViewTexts(Section):
    """What is appended to the prompt for each view, and where each view begins.

    The paper gives 60 degrees for overhead and no number for the others; quadrants (45) are threestudio's choice.
    """

    front: str = ", front view"
    """for cameras at the front (paper: A.2)"""
    side: str = ", side view"
    """for cameras in between (paper: A.2)"""
    back: str = ", back view"
    """for cameras at the back (paper: A.2)"""
    overhead: str = ", overhead view"
    """for cameras above (paper: A.2)"""
    overhead_deg: float = 60.0
    """a camera looks from overhead with an elevation above this, in degrees (paper: A.2)"""
    front_deg: Angle = 45.0
    """otherwise at the front within so many degrees of azimuth 0"""
    back_deg: Angle = 45.0
    """and at the back within so many degrees of azimuth 180"""

    @model_validator(mode="after")
    def _check(self) -> ViewTexts:
        if self.front_deg + self.back_deg > 180:
            raise wrong("front_deg", "front_deg and back_deg must not add up to more than 180 degrees")
        return self


class GuidanceConfig(Section):
    """The diffusion prior and how it is asked."""

    kind: GuidanceKind = "toybox"
    """toybox: the embedded prior; diffusers: the pipeline named by model; sd: the same, Stable Diffusion 2.1 if none"""
    model: str | None = None
    """folder, .safetensors or .ckpt file, or hub name of a diffusers pipeline"""
    loras: tuple[str, ...] = ()
    """LoRAs to add to the model, FILE or FILE:WEIGHT each"""
    embeddings: tuple[str, ...] = ()
    """files of textual inversions, each one more word for prompts"""
    image: str | None = None
    """picture of the object from its front, for a prior that is shown one (Zero-1-to-3): with a transparent background,
    or any if rembg is installed"""
    image_elevation_deg: Annotated[float, Field(ge=-90, le=90)] = 0.0
    """height of the picture's camera, in degrees above the horizon"""
    image_distance: Annotated[float, Field(gt=0)] = 2.5
    """distance of the picture's camera from the object, in world units, with the views' focal length"""
    image_fourth: Literal["auto", "distance", "elevation"] = "auto"
    """the last of Zero-1-to-3's numbers of a view: distance, how much farther away it is; elevation, the picture's, as
    Stable Zero123 has it; auto: by whether the model's name holds stable"""
    ip_adapter: str | None = None
    """file of an IP-Adapter, its folder image_encoder beside it, which shows image to Stable Diffusion 1, 2 or XL"""
    ip_adapter_scale: NonNegative = 0.6
    """how strongly the IP-Adapter's picture counts beside the words"""
    controlnet: str | None = None
    """folder or hub name of a ControlNet for Stable Diffusion 1, 2 or XL, which is shown the object's shape"""
    controlnet_shows: ShapeShown = "normals"
    """what it is shown: normals (red is left, green is up, blue is towards the camera) or depth (near is white)"""
    controlnet_scale: NonNegative = 1.0
    """what its answer is multiplied by"""
    image_size: Count | None = None
    """side of the pictures shown to a latent prior (null: the model's own); smaller ones need less memory"""
    guidance_scale: NonNegative = 3.0
    """classifier-free guidance: eps_uncond + scale * (eps_text - eps_uncond); the paper's omega is scale - 1"""
    negative_prompt: str = ""
    """what the result must not look like; takes the place of the empty prompt"""
    prompt_weighting: bool = False
    """read compel's syntax in prompts, (red)1.4 or mushroom++; needs dreamfusion[weights]; Stable Diffusion 1, 2, XL"""
    perp_neg: bool = False
    """Perp-Neg: push away from the view texts that a camera does not show; twice the cost of the prior per step"""
    perp_neg_scale: NonNegative | None = None
    """guidance scale under perp_neg (null: guidance_scale)"""
    rescale: Fraction = 0.0
    """how far the guided prediction is given the deviation of the unguided one; tames high guidance scales"""
    view_mode: ViewMode = "interpolated"
    """nearest: the text of the view the camera is closest to; interpolated: neighbours mixed by azimuth"""
    view_texts: ViewTexts = ViewTexts()
    """what is appended to the prompt for each view"""
    tell_cameras: bool = True
    """whether a prior that knows cameras, such as the embedded one, is told them in addition to the view texts"""
    t_min: ShareSchedule = Schedule(start=0.8, end=0.2, from_=0.5)
    """lower end of the diffusion times drawn, as a fraction of all timesteps; where it equals t_max there is one time
    for all views, as HiFA has it (paper: 3.2)"""
    t_max: ShareSchedule = Schedule(start=0.97, end=0.5, from_=0.5)
    """upper end of the diffusion times (paper: 3.2)"""
    weighting: Weighting | None = "ism"
    """w(t) for abar: sds 1 - abar, uniform 1, fantasia3d sqrt(abar) (1 - abar), ism sqrt((1 - abar) / abar); null: the
    loss's own, ism for ism and sds for the others"""
    precision: Precision = "fp32"
    """number format of the prior's weights; tf32: fp32, with products rounded to TF32 on a GPU, which is faster"""
    execution: Execution = Execution()
    """switches for the prior's memory and speed"""

    @model_validator(mode="after")
    def _check(self) -> GuidanceConfig:
        if self.kind == "diffusers" and not self.model:
            raise wrong("model", "guidance 'diffusers' needs a model: give --model FOLDER_OR_HUB_NAME")
        if self.ip_adapter is not None and self.image is None:
            raise wrong("ip_adapter", "an IP-Adapter shows a picture: give --image FILE")
        if any(self.t_min.at(share / 100) > self.t_max.at(share / 100) for share in range(101)):
            raise wrong("t_min", "t_min must never be above t_max")
        return self
