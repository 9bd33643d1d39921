"""The loop: a random scene becomes one whose renderings the diffusion prior finds likely (paper Figure 3).

Read `take_step` from top to bottom: sample cameras and lights, render, distil, regularise, step.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dreamfusion.config import Config, Shading
from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.base import Guidance
from dreamfusion.guidance.reading.problems import is_out_of_memory
from dreamfusion.io.checkpoints import NotFiniteError, generator_states, restore_generators
from dreamfusion.method.asking import Question
from dreamfusion.method.cameras import sample_cameras
from dreamfusion.method.distillation import (
    Distilled,
    Loss,
    clipped,
    distill,
    distillation_figures,
    image_terms,
    loss_with_gradient,
)
from dreamfusion.method.losses import sample_timesteps, timestep_weight
from dreamfusion.method.normals import check_latent_phase, latent_picture, shape_picture
from dreamfusion.method.optimizers import carry_over, learning_rate_factor
from dreamfusion.method.ranks import ALONE, Ranks, check_shared
from dreamfusion.method.shading import sample_backdrops, sample_lights
from dreamfusion.method.state import State
from dreamfusion.scenes.scene import Views

_logger = logging.getLogger(__name__)

EMPTY_OPACITY, FULL_OPACITY = 0.01, 0.9
"""Running means of the opacity of all views beyond which there is no object any more."""

MOST_LEFT_OUT = 10
"""Steps in a row without a finite gradient after which the run does not go on as it is."""


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
    """Draw what a step wants to see: a random camera, light, shading and backdrop for each view.

    Views that a prior judges together (``cameras.set_size``) share shading and backdrop.
    """
    scene, each = config.scene, config.cameras.set_size
    cameras = sample_cameras(config.views, config.cameras, random["camera"])
    lights = sample_lights(cameras, config.lights, random["light"])
    shading = [kind for kind in sample_shading(config.sets, progress, config, random["shading"]) for _ in range(each)]
    backdrop = sample_backdrops(
        config.sets,
        random["background"],
        scene.background_random_colors,
        ratio=scene.background_random_ratio,
        base=scene.background_color,
    ).repeat_interleave(each, dim=0)
    size = round(config.resolution.at(progress))
    rows = max(1, round(size * config.rows_per_column))
    if config.shading.latent.at(progress) > 0:
        return Views(cameras, lights, ["albedo"] * config.views, size, backdrop, with_normals=True, rows=rows)
    with_normals = config.loss.normal_smooth_2d > 0 or config.loss.orientation_of_albedo
    with_normals |= config.guidance.controlnet is not None
    return Views(cameras, lights, shading, size, backdrop, with_normals=with_normals, rows=rows)


def set_learning_rates(state: State, config: Config) -> None:
    """Set each group's rate: its peak times a warm-up and its decay, less after the scene was not finite."""
    optim = config.optim
    factor = learning_rate_factor(state.step, config.steps, optim.warmup, optim.decay)
    peaks = state.scene.parameter_groups(optim)
    for group, peak in zip(state.optimizer.param_groups, peaks, strict=True):
        group["lr"] = peak["lr"] * factor * state.rate


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


def leave_out(state: State, metrics: dict[str, float], rendered: bool) -> None:
    """Count a step whose gradient is not finite, drop from its figures what JSON cannot hold, and say whose it is.

    ``rendered`` says whether the rendering is finite. The scene's gradient becomes zero.

    Raises NotFiniteError if the scene's own rendering is not finite, or the scene's gradient again and again; and
    DreamFusionError if the prior's answer is not, again and again.
    """
    state.left_out += 1
    if not rendered:
        raise NotFiniteError(f"The scene is not finite at step {state.step + 1}.")
    of_prior = not math.isfinite(metrics["noise_error"])
    if state.left_out > MOST_LEFT_OUT:
        if not of_prior:
            raise NotFiniteError(f"The scene's gradient is not finite at step {state.step + 1}.")
        raise DreamFusionError(
            f"What the prior answers is no longer finite since step {state.step + 2 - state.left_out}: half precision "
            "may overflow, so start again with guidance.precision fp32 or bf16 in a --config file, or check the model "
            "with dreamfusion doctor --model."
        )
    whose = "prior's answer" if of_prior else "scene's gradient"
    _logger.warning("The %s is not finite at step %d, which is left out.", whose, state.step + 1)
    for name in [name for name, value in metrics.items() if not math.isfinite(value)]:
        del metrics[name]
    metrics["left_out"] = 1.0
    for p in state.scene.parameters():  # what `adapt` gathers
        if p.grad is not None:
            p.grad.zero_()


def mean_figures(told: Sequence[tuple[float, Mapping[str, float]]]) -> dict[str, float]:
    """Return figures of portions of the views, each given with its share of all views, as their weighted sums."""
    return {name: sum(share * figures[name] for share, figures in told) for name in told[0][1]}


def release_memory(state: State) -> None:
    """Give back what a step that failed for want of memory still holds."""
    state.optimizer.zero_grad(set_to_none=True)
    if state.scene.device.type == "cuda":
        torch.cuda.empty_cache()


def optimize(
    config: Config,
    guidance: Guidance,
    state: State,
    *,
    loss_function: Loss | None = None,
    release_text_encoders: bool = False,
    go_back: Callable[[], None] | None = None,
    ranks: Ranks = ALONE,
) -> Iterator[Step]:
    """Optimise ``state`` in place, yielding after every step until ``config.steps`` are done.

    ``loss_function`` takes the place of the configured loss. With ``release_text_encoders`` the prior's text encoders
    leave memory once the prompts are embedded, and it serves no other prompts after this. A step whose gradient is not
    finite is left out; ``go_back()`` is called to bring an earlier state back where the scene itself is not finite any
    more. A step that does not fit into memory is taken again in smaller portions. ``ranks`` are the processes that
    share the views, each of which calls this with the same configuration and state.
    Raises DreamFusionError if that does not help, or the scene collapses to empty or full.
    """
    check_latent_phase(config, guidance)
    check_shared(ranks, config.sets, config.loss.kind)
    questions = {prompt: Question(guidance, config, prompt) for prompt in config.prompts.values()}
    if release_text_encoders:
        guidance.release_text_encoders()

    while state.step < config.steps:
        draws = generator_states(state.generators)
        try:
            step = take_step(config, guidance, state, questions, loss_function, ranks)
        except NotFiniteError:
            if go_back is None:
                raise
            go_back()
            continue
        except Exception as error:
            most = ranks.most_portions(config.sets)
            if not is_out_of_memory(error) or state.portions >= most:
                raise
            restore_generators(state.generators, draws)
            state.portions = min(2 * state.portions, most)
            release_memory(state)
            _logger.warning(
                "Not enough memory at step %d: goes on with the views of a step in %d portions.",
                state.step + 1,
                state.portions,
            )
            continue
        yield step


def take_step(
    config: Config,
    guidance: Guidance,
    state: State,
    questions: Mapping[str, Question],
    own: Loss | None = None,
    ranks: Ranks = ALONE,
) -> Step:
    """Take one step: views, rendering, distillation (by the loss ``own`` if given), regularisation, optimiser.

    All ``ranks`` draw the random numbers of all views, and each takes its share of them.
    """
    scene, optimizer, random = state.scene, state.optimizer, state.generators
    progress = state.step / config.steps
    set_learning_rates(state, config)
    scene.prepare(state.step, progress, random["occupancy"])
    optimizer.zero_grad(set_to_none=True)
    told: list[tuple[float, dict[str, float]]] = []  # of each portion: its share of the views, and its figures
    images = []

    # 1. A random camera, light and timestep for each view.
    all_views = draw_views(config, progress, random)
    t_min, t_max = config.guidance.t_min.at(progress), config.guidance.t_max.at(progress)
    each, all_noise = config.cameras.set_size, None
    all_t = sample_timesteps(config.views, t_min, t_max, len(guidance.alphas_cumprod), random["timestep"], each)
    for part in ranks.portions(config.views, state.portions, each):  # all in one, unless memory is short
        views = all_views[part]
        share = len(views.cameras) / config.views
        jitter = ranks.jitter(random["jitter"], part, views.size)

        # 2. Render.
        out = scene.render(views, jitter)

        # 3. Ask the prior which way the renderings should change: g = w(t) (eps_hat - eps), paper equation 3.
        t = all_t[part].to(guidance.device)
        z = latent_picture(out, guidance) if config.shading.latent.at(progress) > 0 else guidance.encode(out.rgb)
        if all_noise is None:
            all_noise = torch.randn(config.views, *z.shape[1:], generator=random["noise"])
        noise = all_noise[part].to(z)
        shape = shape_picture(out, views.cameras, guidance)
        asked = questions[config.prompt_at(state.step)].about(views.cameras, views.textureless, shape)
        said = distill(config, state, asked, z, t, noise) if own is None else Distilled(own(asked, z, t, noise))
        w = timestep_weight(asked.abar(t, like=z), config.guidance.weighting or said.weighting)
        limit = None if config.loss.clip is None else config.loss.clip.at(progress)
        gradient = clipped(w * said.difference, limit)

        # 4. Regularise.
        terms = scene.regularize(out, views, config.loss, progress, jitter)
        terms |= image_terms(config, guidance, out.rgb, z, said, asked.abar(t, like=z), w)
        loss = share * (config.loss.distillation * loss_with_gradient(z, gradient) + sum(terms.values()))
        loss.backward()
        figures = {"opacity": out.opacity.mean().item(), "t_max": t_max}
        figures |= distillation_figures(said.difference, gradient) | said.figures
        told.append((share, figures | {name: value.item() for name, value in terms.items()} | {"loss": loss.item()}))
        images.append(out.rgb.detach())

    # 5. Sum over all processes, and step.
    ranks.pass_over(random["jitter"], config.views, all_views.size)
    metrics = ranks.sum_figures(mean_figures(told))
    ranks.sum_gradients(scene.parameters())
    norm = nn.utils.clip_grad_norm_(scene.parameters(), config.optim.max_grad_norm or math.inf).item()
    if math.isfinite(norm) and math.isfinite(metrics.pop("loss")):
        optimizer.step()
        state.left_out = 0
    else:
        leave_out(state, metrics, ranks.all(all(bool(torch.isfinite(image).all()) for image in images)))
    state.step += 1
    carry_over(optimizer, scene.adapt(state.step, progress, random["occupancy"]))
    state.opacity += 0.05 * (metrics["opacity"] - state.opacity)
    if config.collapse_check.at(progress) > 0:
        refuse_collapse(state.opacity, state.step)
    return Step(state.step, {"step": state.step, "grad_norm": norm, **metrics}, torch.cat(images))
