"""``dreamfusion experiment jacobian``: what the Jacobian of the denoiser does to the gradient, and to the result.

The loss of diffusion training, w |eps_hat - eps|^2 / 2, as a loss of the picture sends its gradient through the
denoiser. Score distillation leaves that factor out (paper section 3.1). Both optimise the same pictures from the same
seeds, with the same draws and the same steps. At pictures that are grey, between, and true, the variance of both
gradients is measured over many draws.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from dreamfusion.assets.images import contact_sheet, save_png
from dreamfusion.errors import DreamFusionError, refuse_small
from dreamfusion.evaluation.judge import ToyboxJudge
from dreamfusion.experiments.cells import Cell, Found, Outcome, Progress, run_cells
from dreamfusion.experiments.distilled import PictureLoss, diffusion_loss, distil, draw, sds_loss
from dreamfusion.experiments.figure2 import JUDGED
from dreamfusion.experiments.images import FreePixels
from dreamfusion.experiments.scores import Question, check_prompts, check_samples, check_scales, picture_figures
from dreamfusion.experiments.tables import table
from dreamfusion.guidance.asked import Asked
from dreamfusion.guidance.base import Guidance
from dreamfusion.guidance.pixel_space import image_to_z, z_to_image
from dreamfusion.io.files import write_text

TITLE = "The gradient with and without the denoiser's Jacobian"
LOSSES: dict[str, PictureLoss] = {"SDS": sds_loss, "with Jacobian": diffusion_loss}
POINTS = ("grey", "between", "true")
"""Where the variance is measured: at a grey picture, at the mean of that and a true one, and at a true one."""

_MEASURED = {
    "mean": ("size of the mean gradient", ""),
    "relative": ("noise over mean", ""),
    "towards": ("cosine of a step and the way to the true picture", ""),
}
_RESULT = JUDGED | {"seconds": ("seconds", "")}


@dataclass(frozen=True)
class JacobianSettings:
    """``draws`` gradients are drawn at each point; ``samples`` pictures of each prompt are optimised by each loss."""

    prompts: tuple[str, ...] = ("a red mushroom", "a blue car", "a yellow duck", "a green house")
    scales: tuple[float, ...] = (1.0, 5.0)
    samples: int = 2
    steps: int = 200
    draws: int = 64
    seed: int = 0

    def check(self) -> None:
        """Raise DreamFusionError for what cannot be measured."""
        check_prompts(self.prompts)
        check_samples(self.samples)
        refuse_small({"steps": self.steps})
        check_scales(self.scales)
        if self.draws < 2:
            raise DreamFusionError(f"--draws must be at least 2, for there to be a variance (given: {self.draws}).")


def run_jacobian(
    output: Path,
    settings: JacobianSettings,
    prior: Guidance,
    judge: ToyboxJudge,
    *,
    prior_name: str = "toybox",
    on_progress: Progress | None = None,
) -> Found:
    """Run the experiment, or go on with it, and write jacobian.json, jacobian.md and jacobian.png to ``output``.

    Raises DreamFusionError for a prior without a network, for settings out of range or other than those ``output`` has
    begun with, and `Stopped`.
    """
    settings.check()
    if prior.denoiser is None:
        raise DreamFusionError("This experiment differentiates the denoiser: choose a --model that is not compiled.")
    question = Question.of(settings.prompts, settings.samples, prior.sample_size, settings.seed)

    def result(name: str, scale: float) -> Outcome:
        generator = torch.Generator().manual_seed(settings.seed)
        picture = FreePixels(len(question.exam.toys), prior.sample_size, generator).to(prior.device)
        begun = time.monotonic()
        z = distil(
            question.asked(prior, scale),
            picture,
            steps=settings.steps,
            lr=picture.lr,
            generator=generator,
            loss=LOSSES[name],
        ).cpu()
        seconds = round(time.monotonic() - begun, 1)
        return Outcome(picture_figures(z, question, judge) | {"seconds": seconds}, {"z": z[:: settings.samples]})

    def gradient(name: str, scale: float, point: str) -> Outcome:
        asked = Question.of(settings.prompts, 1, prior.sample_size, settings.seed).asked(prior, scale)
        true = (2 * question.truth[:, 0] - 1).to(prior.device)
        generator = torch.Generator().manual_seed(settings.seed)
        at = {"grey": torch.zeros_like(true), "between": true / 2, "true": true}[point]
        drawn = gradients(asked, at, LOSSES[name], settings.draws, generator)
        return Outcome(gradient_figures(drawn, true - at), {})

    cells = [
        Cell(f"gradient, {name}, scale {scale:g}, {point}", partial(gradient, name, scale, point))
        for scale in settings.scales
        for point in POINTS
        for name in LOSSES
    ]
    cells += [
        Cell(f"result, {name}, scale {scale:g}", partial(result, name, scale))
        for scale in settings.scales
        for name in LOSSES
    ]
    about = asdict(settings) | {"prior": prior_name, "judge": judge.name}
    return run_cells(
        output, "jacobian", about, cells, partial(write_report, output=output, settings=settings), on_progress
    )


def gradients(asked: Asked, z: Tensor, loss: PictureLoss, count: int, generator: torch.Generator) -> Tensor:
    """Return ``count`` independent draws of the gradient of a loss at pictures z [B, 3, S, S], [count, B, 3, S, S]."""
    drawn = []
    for _ in range(count):
        leaf = z.detach().requires_grad_()
        t, noise = draw(asked, leaf, generator)
        (gradient,) = torch.autograd.grad(loss(asked, leaf, t, noise), leaf)
        drawn.append(len(z) * gradient)  # the losses are means over the pictures
    return torch.stack(drawn).cpu()


def gradient_figures(drawn: Tensor, way: Tensor) -> dict[str, float | None]:
    """Return what gradients [n, B, ...] of B pictures are like; ``way`` [B, ...] leads to the true picture.

    ``mean``: the norm of the mean gradient, of which what noise alone would make of it is taken off; ``relative``: the
    deviation of one draw over that; None if nothing is left. ``towards``: the mean cosine of one step against the
    gradient and the way; None at its end. Means over the pictures.
    """
    sets = drawn.flatten(2)
    middle = sets.mean(dim=0)
    variance = (sets - middle).square().sum(dim=(0, 2)) / (len(sets) - 1)
    squared = (middle.square().sum(dim=1) - variance / len(sets)).clamp(min=0)
    size = squared.sqrt().mean().item()
    goal = way.cpu().flatten(1)
    cosine = torch.nn.functional.cosine_similarity(-sets, goal.expand_as(sets), dim=2).mean().item()
    return {
        "mean": size,
        "relative": variance.sqrt().mean().item() / size if size > 0 else None,
        "towards": cosine if goal.any() else None,
    }


def write_report(found: Found, output: Path, settings: JacobianSettings) -> None:
    """Write jacobian.md with its tables and jacobian.png with the first picture of each prompt."""
    rows = {name: outcome.figures for name, outcome in found.outcomes.items()}

    def part(kind: str) -> dict[str, dict[str, float | None]]:
        return {name.removeprefix(f"{kind}, "): row for name, row in rows.items() if name.startswith(f"{kind}, ")}

    text = found.heading(TITLE)
    text += f"{settings.draws} draws at each point; {settings.samples} pictures of each of {len(settings.prompts)} "
    text += f"prompts, {settings.steps} steps.\n\n" + table(part("gradient"), _MEASURED, "gradient")
    if part("result"):
        text += "\n" + table(part("result"), _RESULT, "result")
        save_png(sheet(found), output / "jacobian.png")
    write_text(output / "jacobian.md", text)


def sheet(found: Found) -> Tensor:
    """Return a picture [3, H, W]: a row per loss and scale, a column per prompt."""
    return contact_sheet(
        {
            name.removeprefix("result, "): z_to_image(image_to_z(z_to_image(outcome.pictures["z"]), 64))
            for name, outcome in found.outcomes.items()
            if outcome.pictures
        }
    )
