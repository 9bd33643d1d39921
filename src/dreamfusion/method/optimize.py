"""The loop: a random scene becomes one whose renderings the diffusion prior finds likely (paper Figure 3).

Read `optimize` from top to bottom: sample cameras and lights, render, distil, regularise, step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dreamfusion.config import Config
from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.base import Guidance
from dreamfusion.method.asking import Question
from dreamfusion.method.cameras import sample_cameras
from dreamfusion.method.distillation import (
    Distilled,
    Loss,
    clipped,
    distill,
    distillation_figures,
    loss_with_gradient,
)
from dreamfusion.method.losses import sample_timesteps, timestep_weight
from dreamfusion.method.normals import check_latent_phase, latent_picture
from dreamfusion.method.optimizers import carry_over, learning_rate_factor
from dreamfusion.method.shading import Shading, sample_backdrops, sample_lights
from dreamfusion.method.state import State
from dreamfusion.scenes.scene import Views

EMPTY_OPACITY, FULL_OPACITY = 0.01, 0.9
"""Running means of the opacity of all views beyond which there is no object any more."""


@dataclass(frozen=True)
class Step:
    """What a finished step tells: ``metrics`` for the log, and what was shown to the prior."""

    number: int
    metrics: dict[str, float]
    image: Tensor = field(repr=False)


def sample_shading(count: int, progress: float, config: Config, generator: torch.Generator) -> list[Shading]:
    """Draw how each view is shaded: albedo first, then a mixture (paper A.2)."""
    shading = config.shading
    draws = torch.rand(count, generator=generator).tolist()
    albedo_until = shading.albedo_probability.at(progress)
    textureless_from = 1.0 - shading.textureless_probability.at(progress)

    def pick(draw: float) -> Shading:
        if draw < albedo_until:
            return "albedo"
        return "textureless" if draw >= textureless_from else "lambertian"

    return [pick(draw) for draw in draws]


def draw_views(config: Config, progress: float, random: dict[str, torch.Generator]) -> Views:
    """Draw what a step wants to see: a random camera, light, shading and backdrop for each view."""
    scene = config.scene
    cameras = sample_cameras(config.views, config.cameras, random["camera"])
    lights = sample_lights(cameras, config.lights, random["light"])
    shading = sample_shading(config.views, progress, config, random["shading"])
    backdrop = sample_backdrops(
        config.views,
        random["background"],
        scene.background_random_colors,
        ratio=scene.background_random_ratio,
        base=scene.background_color,
    )
    size = round(config.resolution.at(progress))
    if config.shading.latent.at(progress) > 0:
        return Views(cameras, lights, ["albedo"] * config.views, size, backdrop, with_normals=True)
    return Views(cameras, lights, shading, size, backdrop, with_normals=config.loss.normal_smooth_2d > 0)


def set_learning_rates(state: State, config: Config) -> None:
    """Set each group's rate: its peak times a warm-up and its decay."""
    optim = config.optim
    factor = learning_rate_factor(state.step, config.steps, optim.warmup, optim.decay)
    peaks = state.scene.parameter_groups(optim)
    for group, peak in zip(state.optimizer.param_groups, peaks, strict=True):
        group["lr"] = peak["lr"] * factor


def refuse_collapse(opacity: float, step: int) -> None:
    """Raise DreamFusionError if the running mean of the opacity says that the scene is empty or fills the view."""
    if opacity < EMPTY_OPACITY:
        raise DreamFusionError(
            f"The scene has collapsed to nothing by step {step}: try another --seed, a higher --guidance-scale, or a "
            "lower loss.opacity."
        )
    if opacity > FULL_OPACITY:
        raise DreamFusionError(
            f"The scene has grown to fill the view by step {step}: try another --seed, a lower --guidance-scale, or a "
            "higher loss.opacity."
        )


def optimize(
    config: Config,
    guidance: Guidance,
    state: State,
    *,
    loss_function: Loss | None = None,
    release_text_encoders: bool = False,
) -> Iterator[Step]:
    """Optimise ``state`` in place, yielding after every step until ``config.steps`` are done.

    ``loss_function`` takes the place of the configured loss. With ``release_text_encoders`` the prior's text encoders
    leave memory once the prompts are embedded, and it serves no other prompts after this.
    Raises DreamFusionError if a loss or gradient is no longer finite, or the scene collapses to empty or full.
    """
    check_latent_phase(config, guidance)
    scene, optimizer, random = state.scene, state.optimizer, state.generators
    questions = {prompt: Question(guidance, config, prompt) for prompt in config.prompts.values()}
    if release_text_encoders:
        guidance.release_text_encoders()

    while state.step < config.steps:
        progress = state.step / config.steps
        set_learning_rates(state, config)
        scene.prepare(state.step, progress, random["occupancy"])

        # 1. A random camera and light for each view.
        views = draw_views(config, progress, random)

        # 2. Render.
        out = scene.render(views, random["jitter"])

        # 3. Ask the prior which way the renderings should change: g = w(t) (eps_hat - eps), paper equation 3.
        g = config.guidance
        t_min, t_max = g.t_min.at(progress), g.t_max.at(progress)
        t = sample_timesteps(config.views, t_min, t_max, len(guidance.alphas_cumprod), random["timestep"])
        t = t.to(guidance.device)
        in_latents = config.shading.latent.at(progress) > 0
        z = latent_picture(out, guidance) if in_latents else guidance.encode(out.rgb)
        noise = torch.randn(z.shape, generator=random["noise"]).to(z)
        asked = questions[config.prompt_at(state.step)].about(views.cameras)
        own = loss_function
        said = distill(config, state, asked, z, t, noise) if own is None else Distilled(own(asked, z, t, noise))
        w = timestep_weight(asked.abar(t, like=z), g.weighting or said.weighting)
        limit = config.loss.clip and config.loss.clip.at(progress)
        gradient = clipped(w * said.difference, limit)
        distillation = loss_with_gradient(z, gradient)

        # 4. Regularise and step.
        terms = scene.regularize(out, views, config.loss, progress, random["jitter"])
        loss = config.loss.distillation * distillation + sum(terms.values())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(scene.parameters(), config.optim.max_grad_norm or math.inf)
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            raise DreamFusionError(
                f"The optimisation is no longer finite at step {state.step}: resume from the last checkpoint with "
                "another --seed, a lower --guidance-scale, or lower learning rates."
            )
        optimizer.step()
        state.step += 1
        carry_over(optimizer, scene.adapt(state.step, progress, random["occupancy"]))

        opacity = out.opacity.mean().item()
        state.opacity += 0.05 * (opacity - state.opacity)
        if config.collapse_check.at(progress) > 0:
            refuse_collapse(state.opacity, state.step)
        metrics = {"step": state.step, "opacity": opacity, "grad_norm": norm.item(), "t_max": t_max}
        metrics |= distillation_figures(said.difference, gradient) | said.figures
        metrics |= {name: value.item() for name, value in terms.items()}
        yield Step(state.step, metrics, out.rgb.detach())
