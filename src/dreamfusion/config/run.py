"""One text-to-3D run, with all its sections."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from dreamfusion.config.guidance import GuidanceConfig
from dreamfusion.config.loss import LossConfig
from dreamfusion.config.optim import OptimConfig
from dreamfusion.config.pictures import PicturesConfig
from dreamfusion.config.scene import SceneConfig
from dreamfusion.config.schedule import ShareSchedule, SideSchedule, constant
from dreamfusion.config.section import Count, Section, wrong
from dreamfusion.config.shading import ShadingConfig
from dreamfusion.config.views import CameraRange, LightRange


class Config(Section):
    """One text-to-3D run."""

    prompt: Annotated[str, Field(min_length=1)]
    """what to make"""
    later_prompts: dict[Annotated[int, Field(ge=0)], Annotated[str, Field(min_length=1)]] = {}  # noqa: RUF012
    """prompts that take over when so many steps are done; `dreamfusion view` adds to them while a run goes on"""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """same seed, same machine, same result"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps"""
    steps: Count = 200
    """optimisation steps"""
    views: Count = 4
    """views rendered and judged per step"""
    resolution: SideSchedule = constant(32)
    """side of the rendered views in pixels, rounded"""
    rows_per_column: Annotated[float, Field(ge=0.1, le=10)] = 1.0
    """rows of the rendered views as a share of their columns; the frame is square all the same, so that pixels are
    oblong (NeMo's height over width)"""
    checkpoint_every: Count = 100
    """steps between checkpoints"""
    preview_every: Count = 25
    """steps between refreshes of preview.png"""
    log: Literal["none", "tensorboard", "wandb"] = "none"
    """where figures and pictures go besides metrics.jsonl: to RUN/tensorboard, or to RUN/wandb (offline)"""
    collapse_check: ShareSchedule = constant(1)
    """1: the run stops if the scene has become nothing or fills the view; 0: it does not, as for a scene that begins as
    fog"""
    guidance: GuidanceConfig = GuidanceConfig()
    """the diffusion prior and how it is asked"""
    scene: SceneConfig = SceneConfig()
    """what is optimised, and how finely it is rendered"""
    shading: ShadingConfig = ShadingConfig()
    """which renderings are shown to the prior"""
    loss: LossConfig = LossConfig()
    """what is distilled, and the weights of the terms beside it"""
    optim: OptimConfig = OptimConfig()
    """the optimiser"""
    cameras: CameraRange = CameraRange()
    """what random cameras are drawn from"""
    lights: LightRange = LightRange()
    """what random lights are drawn from"""
    pictures: PicturesConfig = PicturesConfig()
    """pictures and video for people"""

    @model_validator(mode="after")
    def _check(self) -> Config:
        if self.scene.renderer != "proposal" and self.loss.distortion > 0:
            raise wrong("loss.distortion", "loss.distortion is for scene.renderer 'proposal'")
        if self.views % self.cameras.set_size:
            raise wrong("views", f"views must be a multiple of cameras.set_size, which is {self.cameras.set_size}")
        return self

    @property
    def sets(self) -> int:
        """How many sets of cameras a step draws; as many as views unless the prior judges several at once."""
        return self.views // self.cameras.set_size

    @property
    def prompts(self) -> dict[int, str]:
        """The prompts by the number of finished steps from which they hold, the first from 0 on."""
        return {0: self.prompt} | dict(sorted(self.later_prompts.items()))

    def prompt_at(self, step: int) -> str:
        """Return the prompt that holds when ``step`` steps are done."""
        return self.prompts[max(first for first in self.prompts if first <= step)]
