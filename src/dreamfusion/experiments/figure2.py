"""``dreamfusion experiment figure2``: ancestral sampling against score distillation (paper Figure 2).

The same prior, the same words, several guidance scales. DDPM and DDIM sample; score distillation optimises free pixels,
a mirror-symmetric picture and a coordinate network. All of it twice: with a trained prior, judged, and with a Gaussian
prior (`guidance/gaussian.py`), whose answer is known: mu_0 + scale (mu - mu_0).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from dreamfusion.assets.images import contact_sheet, save_png
from dreamfusion.errors import refuse_small
from dreamfusion.evaluation.judge import ToyboxJudge
from dreamfusion.experiments.ancestral import SAMPLERS, Sampler, sample
from dreamfusion.experiments.cells import Cell, Found, Outcome, Progress, run_cells
from dreamfusion.experiments.distilled import distil
from dreamfusion.experiments.images import PARAMETERISATIONS, Parameterisation, build_picture
from dreamfusion.experiments.scores import (
    Question,
    check_prompts,
    check_samples,
    check_scales,
    colour_figures,
    picture_figures,
    true_figures,
)
from dreamfusion.experiments.tables import table
from dreamfusion.guidance.asked import Asked
from dreamfusion.guidance.base import Guidance
from dreamfusion.guidance.gaussian import GaussianGuidance
from dreamfusion.guidance.pixel_space import z_to_image
from dreamfusion.io.files import write_text

TITLE = "Ancestral sampling against score distillation"
METHODS: tuple[Sampler | Parameterisation, ...] = (*SAMPLERS, *PARAMETERISATIONS)
NAMES = {"ddpm": "DDPM", "ddim": "DDIM", "pixels": "SDS, pixels", "mirror": "SDS, mirror", "network": "SDS, network"}
TRUE = "true pictures"

JUDGED = {
    "right": ("all read right", "%"),
    "kind": ("kind", "%"),
    "color": ("colour", "%"),
    "distance": ("distance to the nearest true picture", ""),
    "saturation": ("saturation", ""),
    "outside": ("elements out of range", "%"),
}
KNOWN = {
    "from_answer": ("distance of their mean from the answer", ""),
    "deviation": ("deviation of pictures", ""),
    "saturation": ("saturation", ""),
    "outside": ("elements out of range", "%"),
}

_SPREAD = 0.2  # of the Gaussian prior's pictures, in z
_GAUSSIAN_COUNT = 8  # pictures of each method with it


@dataclass(frozen=True)
class Figure2Settings:
    """What is drawn: ``samples`` pictures per prompt, method and scale.

    ``sampling_steps`` are those of DDPM and DDIM, ``steps`` those of score distillation.
    """

    prompts: tuple[str, ...] = ("a red mushroom", "a blue car", "a yellow duck", "a green house")
    scales: tuple[float, ...] = (1.0, 5.0, 25.0)
    samples: int = 4
    steps: int = 300
    sampling_steps: int = 50
    seed: int = 0

    def check(self) -> None:
        """Raise DreamFusionError for what cannot be drawn."""
        check_prompts(self.prompts)
        check_samples(self.samples)
        refuse_small({"steps": self.steps, "sampling_steps": self.sampling_steps})
        check_scales(self.scales)


def draw_pictures(method: Sampler | Parameterisation, asked: Asked, settings: Figure2Settings, *, clip: bool) -> Tensor:
    """Return z [B, 3, S, S], a picture for each of the B texts of ``asked``, by a sampler or by score distillation."""
    count, size = len(asked.positive), asked.prior.sample_size
    if method in get_args(Sampler):
        shape = (count, 3, size, size)
        return sample(asked, shape, method, steps=settings.sampling_steps, seed=settings.seed, clip=clip)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(settings.seed)
    picture = build_picture(method, count, size, generator).to(asked.prior.device)  # type: ignore[arg-type]
    return distil(asked, picture, steps=settings.steps, lr=picture.lr, generator=generator)


def run_figure2(
    output: Path,
    settings: Figure2Settings,
    prior: Guidance,
    judge: ToyboxJudge,
    *,
    prior_name: str = "toybox",
    on_progress: Progress | None = None,
) -> Found:
    """Run the experiment, or go on with it, and write figure2.json, figure2.md and figure2.png to ``output``.

    Raises DreamFusionError for settings out of range or other than those ``output`` has begun with, and `Stopped`.
    """
    settings.check()
    question = Question.of(settings.prompts, settings.samples, prior.sample_size, settings.seed)
    gaussian = gaussian_prior(question)

    def judged(method: Sampler | Parameterisation, scale: float) -> Outcome:
        z = draw_pictures(method, question.asked(prior, scale), settings, clip=True).cpu()
        return Outcome(picture_figures(z, question, judge), {"z": z[:: settings.samples]})

    def known(method: Sampler | Parameterisation, scale: float) -> Outcome:
        z = draw_pictures(method, ask_gaussian(gaussian, settings, scale), settings, clip=False)
        answers = gaussian_answer(gaussian, settings, scale, mirrored=method == "mirror")
        return Outcome(known_figures(z, answers), {"z": z[::_GAUSSIAN_COUNT]})

    truth = Outcome(true_figures(question), {"z": 2 * question.truth[:, 0] - 1})
    cells = [Cell(TRUE, lambda: truth)]
    for kind, compute in (("Gaussian", known), ("prior", judged)):  # the quick ones first
        cells += _cells(kind, compute, settings.scales)
    about = asdict(settings) | {"prior": prior_name, "judge": judge.name, "size": prior.sample_size}
    return run_cells(
        output, "figure2", about, cells, partial(write_report, output=output, settings=settings), on_progress
    )


def _cells(
    kind: str, compute: Callable[[Sampler | Parameterisation, float], Outcome], scales: Sequence[float]
) -> list[Cell]:
    return [Cell(cell_name(kind, m, s), partial(compute, m, s)) for m in METHODS for s in scales]


def cell_name(kind: str, method: str, scale: float) -> str:
    """Return the name of a cell: "prior, SDS, pixels, scale 5"."""
    return f"{kind}, {NAMES[method]}, scale {scale:g}"


def gaussian_prior(question: Question) -> GaussianGuidance:
    """Return the prior of pictures that are normal around the mean true picture of each prompt.

    All pictures together are, in it, as wide around the mean of these means, so that the answer has a closed form.
    """
    means = {prompt: truth.mean(dim=0) for prompt, truth in zip(question.prompts, question.truth, strict=True)}
    return GaussianGuidance({"": torch.stack(list(means.values())).mean(dim=0)} | means, _SPREAD)


def ask_gaussian(prior: GaussianGuidance, settings: Figure2Settings, scale: float) -> Asked:
    """Return the Gaussian prior asked for `_GAUSSIAN_COUNT` pictures of each prompt."""
    texts = [prompt for prompt in settings.prompts for _ in range(_GAUSSIAN_COUNT)]
    cameras = Question.of(settings.prompts[:1], len(texts), prior.sample_size, 0).exam.cameras
    return Asked(prior, prior.embed(texts), prior.embed([""]).expand(len(texts)), cameras, scale)


def gaussian_answer(prior: GaussianGuidance, settings: Figure2Settings, scale: float, *, mirrored: bool) -> Tensor:
    """Return where score distillation must end, [prompts, 3, S, S]: mu_0 + scale (mu - mu_0) (docs/method.md).

    The best mirror-symmetric picture is the mean of that and its mirror image.
    """
    means = prior.embed(["", *settings.prompts]).tokens[:, 0, :-1].unflatten(1, (3, prior.sample_size, -1))
    answer = means[:1] + scale * (means[1:] - means[:1])
    return (answer + answer.flip(-1)) / 2 if mirrored else answer


def known_figures(z: Tensor, answers: Tensor) -> dict[str, float | None]:
    """Return how pictures z [prompts * n, 3, S, S] lie around the ``answers`` [prompts, 3, S, S].

    ``from_answer``: root-mean-square distance of the mean of a prompt's pictures; ``deviation``: root-mean-square
    deviation of pictures from that mean, which is the prior's spread for samples. Also `colour_figures`.
    """
    sets = z.unflatten(0, (len(answers), -1))
    middle = sets.mean(dim=1)
    away = (middle - answers).square().mean().sqrt()
    deviation = (sets - middle[:, None]).square().sum(dim=1).mean() / (sets.shape[1] - 1)
    return {"from_answer": away.item(), "deviation": deviation.sqrt().item()} | colour_figures(z)


def write_report(found: Found, output: Path, settings: Figure2Settings) -> None:
    """Write figure2.md with its tables, and figure2.png with the first picture of each prompt."""
    rows = {name: outcome.figures for name, outcome in found.outcomes.items()}

    def part(kind: str) -> dict[str, dict[str, float | None]]:
        return {name.removeprefix(f"{kind}, "): row for name, row in rows.items() if name.startswith(f"{kind}, ")}

    judged = {name: row for name, row in rows.items() if name == TRUE} | part("prior")
    text = found.heading(TITLE)
    text += (
        f"{settings.samples} pictures of each of {len(settings.prompts)} prompts, {settings.sampling_steps} steps of "
    )
    text += f"sampling, {settings.steps} of distillation.\n\n" + table(judged, JUDGED, "trained prior")
    known = part("Gaussian")
    if known:
        text += f"\nWith a Gaussian prior of spread {_SPREAD:g}, {_GAUSSIAN_COUNT} pictures of each prompt:\n\n"
        text += table(known, KNOWN, "Gaussian prior")
    write_text(output / "figure2.md", text)
    save_png(sheet(found), output / "figure2.png")


def sheet(found: Found) -> Tensor:
    """Return a picture [3, H, W]: a row per method and scale, a column per prompt; the trained prior comes first."""
    names = sorted(found.outcomes, key=lambda name: name.startswith("Gaussian"))
    return contact_sheet(
        {name.removeprefix("prior, "): z_to_image(found.outcomes[name].pictures["z"]) for name in names}, gap=2
    )
