"""What pictures of the toybox score: what the judge reads, how near true pictures are, how loud their colours are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamfusion.errors import DreamFusionError
from dreamfusion.evaluation.judge import ToyboxJudge
from dreamfusion.evaluation.prior import Exam, true_pictures, words_right
from dreamfusion.guidance.asked import Asked
from dreamfusion.guidance.base import Guidance
from dreamfusion.guidance.pixel_space import z_to_image
from dreamfusion.method.cameras import fixed_cameras
from dreamfusion.toybox.captions import parse_toy
from dreamfusion.toybox.world import WIDE

RADIUS, FOCAL, ELEVATION_DEG = 2.5, 1.42, 10.0
"""The camera of all pictures: from the front, in the middle of what the embedded prior was trained with."""

_TRUE = 24  # true pictures of each toy


@dataclass(frozen=True)
class Question:
    """What is asked for: ``count`` pictures of each prompt from the front, in a row, and true pictures of the same.

    ``truth`` [prompts, `_TRUE`, 3, S, S]: in lights, shades and before backdrops of their own.
    """

    prompts: tuple[str, ...]
    exam: Exam
    truth: Tensor

    @staticmethod
    def of(prompts: Sequence[str], count: int, size: int, seed: int) -> Question:
        """Return the question for prompts that describe toys; DreamFusionError for others."""
        exams = [_front([prompt] * _TRUE) for prompt in prompts]
        truth = torch.stack([true_pictures(exam, size, seed + index) for index, exam in enumerate(exams)])
        return Question(tuple(prompts), _front([prompt for prompt in prompts for _ in range(count)]), truth)

    @property
    def count(self) -> int:
        """Pictures of each prompt."""
        return len(self.exam.toys) // len(self.prompts)

    def asked(self, prior: Guidance, scale: float) -> Asked:
        """Return the prior asked for all of the pictures."""
        texts, cameras = self.exam.texts, self.exam.cameras.to(prior.device)
        told = prior.condition(prior.embed(texts), torch.eye(len(texts)), cameras)
        return Asked(prior, told, prior.embed([""]).expand(len(texts)), cameras, scale)


def _front(prompts: list[str]) -> Exam:
    cameras = fixed_cameras(torch.zeros(len(prompts)), ELEVATION_DEG, radius=RADIUS, focal=FOCAL)
    return Exam([parse_toy(prompt, WIDE) for prompt in prompts], cameras, ["front"] * len(prompts))


def check_prompts(prompts: Sequence[str]) -> None:
    """Raise DreamFusionError unless there are prompts, each of which describes a toy."""
    if not prompts:
        raise DreamFusionError('--prompts: give at least one, for example "a red mushroom".')
    for prompt in prompts:
        parse_toy(prompt, WIDE)


def check_samples(samples: int) -> None:
    """Raise DreamFusionError for more pictures of a prompt than there are true ones to compare with, or none."""
    if not 1 <= samples <= _TRUE:
        raise DreamFusionError(f"--samples must be from 1 to {_TRUE} (given: {samples}).")


def check_scales(scales: Sequence[float]) -> None:
    """Raise DreamFusionError unless there are guidance scales, none of them negative."""
    if not scales or any(not (math.isfinite(scale) and scale >= 0) for scale in scales):
        raise DreamFusionError("--scales: give one or more guidance scales of at least 0.")


def colour_figures(z: Tensor) -> dict[str, float | None]:
    """Return how loud pictures z [n, 3, S, S] are.

    ``saturation``: largest less smallest channel of what a screen shows, mean over all pixels. ``outside``: the share
    of elements that no screen can show, beyond [-1, 1] by more than a level of 255.
    """
    image = z_to_image(z)
    chroma = image.amax(dim=1) - image.amin(dim=1)
    outside = (z.abs() > 1 + 2 / 255).float().mean()
    return {"saturation": chroma.mean().item(), "outside": outside.item()}


def nearest(images: Tensor, truth: Tensor, *, leave_out_same: bool = False) -> float:
    """Return the mean root-mean-square distance of images [n, ...] to the nearest of ``truth`` [m, ...].

    With ``leave_out_same`` the two are the same set, and no picture is its own neighbour.
    """
    distance = torch.cdist(images.flatten(1), truth.flatten(1)) / images[0].numel() ** 0.5
    if leave_out_same:
        distance = distance + torch.diag(torch.full((len(images),), torch.inf))
    return distance.min(dim=1).values.mean().item()


def picture_figures(z: Tensor, question: Question, judge: ToyboxJudge) -> dict[str, float | None]:
    """Return all figures of pictures z [prompts * count, 3, S, S].

    ``right``: the share from which the judge reads all that was asked for and can be seen in a true picture; ``kind``
    and ``color`` alone. ``distance``: to the nearest true picture of the same toy, per element in [0, 1]. Also
    `colour_figures`.
    """
    images = z_to_image(z).cpu()
    one = question.truth[:, : question.count].flatten(0, 1)
    words = words_right(judge, question.exam, images, one)
    sets = images.unflatten(0, (len(question.prompts), question.count))
    distances = [nearest(own, true) for own, true in zip(sets, question.truth, strict=True)]
    read = {"right": words["all"], "kind": words["kind"], "color": words["color"]}
    return read | {"distance": sum(distances) / len(distances)} | colour_figures(z)


def true_figures(question: Question) -> dict[str, float | None]:
    """Return the figures of the true pictures themselves, each compared with the others."""
    distances = [nearest(true, true, leave_out_same=True) for true in question.truth]
    return {"distance": sum(distances) / len(distances)} | colour_figures(2 * question.truth.flatten(0, 1) - 1)
