"""The loop: a random scene becomes one whose renderings the diffusion prior finds likely (paper Figure 3).

Read `optimize` from top to bottom: sample cameras and lights, render, distil, regularise, step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dreamfusion.config import Config
from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.base import Guidance
from dreamfusion.method.asking import Texts, ViewPrompts
from dreamfusion.method.cameras import Cameras, sample_cameras
from dreamfusion.method.losses import (
    annealed_clip,
    ism_loss,
    sample_timesteps,
    sds_loss,
    timestep_range,
    vsd_loss,
)
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
    if progress < shading.albedo_until:
        return ["albedo"] * count
    textureless_from = 1.0 - shading.textureless_probability

    def pick(draw: float) -> Shading:
        if draw < shading.albedo_probability:
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
    size = config.resolution if progress < config.resolution_from else config.resolution_end
    if progress < config.shading.latent_until:
        return Views(cameras, lights, ["albedo"] * config.views, size, backdrop, with_normals=True)
    return Views(cameras, lights, shading, size, backdrop, with_normals=config.loss.normal_smooth_2d > 0)


def set_learning_rates(state: State, config: Config) -> None:
    """Set each group's rate: its peak times a warm-up and a cosine decay."""
    optim = config.optim
    factor = learning_rate_factor(
        state.step,
        config.steps,
        warmup_steps=optim.warmup_steps,
        warmup_start=optim.warmup_start,
        final=optim.final_lr,
    )
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


def distill(
    config: Config, guidance: Guidance, state: State, texts: Texts, cameras: Cameras, z: Tensor, t: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """Return the configured loss of renderings z [B, ...] at timesteps t [B], and figures to log."""
    g, loss = config.guidance, config.loss
    noise = torch.randn(z.shape, generator=state.generators["noise"]).to(z)
    positive, negative = texts.positive, texts.negative
    options: dict[str, Any] = {
        "guidance_scale": g.guidance_scale,
        "rescale": g.rescale,
        "negatives": texts.perp_neg,
        "clip": annealed_clip(state.step / config.steps, loss.clip, loss.clip_end),
    }
    if g.weighting is not None:
        options["weighting"] = g.weighting
    match loss.kind:
        case "sds":
            return sds_loss(guidance, z, positive, negative, t, noise, **options)
        case "vsd":
            critic = state.open_critic(config, guidance, positive.tokens.shape[-1])
            value, info = vsd_loss(guidance, critic, z, positive, negative, cameras, t, noise, **options)
            return value, info | {"critic_loss": critic.learn(z, positive, cameras)}
        case "ism":
            steps = len(guidance.alphas_cumprod)
            options["delta_t"] = max(1, round(loss.ism_delta_t * steps))
            options["delta_s"] = max(1, round(loss.ism_delta_s * steps))
            return ism_loss(guidance, z, positive, negative, t, noise, **options)


def optimize(
    config: Config, guidance: Guidance, state: State, *, release_text_encoders: bool = False
) -> Iterator[Step]:
    """Optimise ``state`` in place, yielding after every step until ``config.steps`` are done.

    With ``release_text_encoders`` the prior's text encoders leave memory once the prompts are embedded, and it serves
    no other prompts after this.
    Raises DreamFusionError if a loss or gradient is no longer finite, or the scene collapses to empty or full.
    """
    check_latent_phase(config, guidance)
    scene, optimizer, random = state.scene, state.optimizer, state.generators
    prompts = {prompt: ViewPrompts(guidance, config, prompt) for prompt in config.prompts.values()}
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

        # 3. Ask the prior which way the renderings should change.
        g = config.guidance
        start = (g.t_min if g.t_min_start is None else g.t_min_start, g.t_max)
        t_min, t_max = timestep_range(progress, start, (g.t_min, g.t_max_end), g.anneal, g.anneal_from)
        t = sample_timesteps(config.views, t_min, t_max, len(guidance.alphas_cumprod), random["timestep"])
        in_latents = progress < config.shading.latent_until
        z = latent_picture(out, guidance) if in_latents else guidance.encode(out.rgb)
        texts = prompts[config.prompt_at(state.step)](views.cameras)
        distillation, info = distill(config, guidance, state, texts, views.cameras, z, t)

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
        if progress >= config.collapse_from:
            refuse_collapse(state.opacity, state.step)
        metrics = {"step": state.step, "opacity": opacity, "grad_norm": norm.item(), "t_max": t_max, **info}
        metrics |= {name: value.item() for name, value in terms.items()}
        yield Step(state.step, metrics, out.rgb.detach())
