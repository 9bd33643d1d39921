"""``dreamfusion prior evaluate``: what a prior of the toybox has learned, without making anything in 3D.

On toys that are drawn as those of `dreamfusion evaluate` are, half of them pairs that were never shown, from cameras as
in training: the loss by noise level and by what is shown; how often the toybox judge reads from samples what the prompt
says; how far samples are from true pictures in the judge's features, and how far from each other. A small toy is shown
to a prior at full size, so no toy here is small.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dreamfusion.config import CameraRange
from dreamfusion.evaluation.features import frechet_distance, mean_pair_distance, principal_directions
from dreamfusion.evaluation.judge import ToyboxJudge
from dreamfusion.evaluation.judging import NAMED
from dreamfusion.evaluation.lessons import asked_lights, shades
from dreamfusion.evaluation.prompts import default_prompts
from dreamfusion.evaluation.reading import shown, words_of
from dreamfusion.guidance.base import Embeddings, Guidance
from dreamfusion.guidance.pixel import PixelGuidance
from dreamfusion.io.files import prepare_output_dir, write_table, write_text
from dreamfusion.method.cameras import Cameras, sample_cameras
from dreamfusion.method.prompts import VIEWS, view_weights
from dreamfusion.toybox.captions import caption
from dreamfusion.toybox.render import paint_toys, paint_views, trace
from dreamfusion.toybox.scores import SCORES, score_tables
from dreamfusion.toybox.world import SMALL, WIDE, Toy, World, is_held_out

_BATCH = 32
_DIRECTIONS = 32  # of the features; a covariance of all 256 would need thousands of pictures

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class PriorTrial:
    """How a prior is examined.

    ``levels`` are timesteps as fractions of all. Diversity is that of ``diverse_samples`` pictures of each of the first
    ``diverse_toys`` toys.
    """

    toys: int = 160
    steps: int = 20
    scales: tuple[float, ...] = (1.0, 2.0, 3.0, 5.0)
    levels: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    diversity_scale: float = 3.0
    diverse_toys: int = 8
    diverse_samples: int = 6
    seed: int = 91_000


QUICK = PriorTrial(toys=40, steps=10, scales=(1.0, 3.0), levels=(0.3, 0.6, 0.9), diverse_toys=4, diverse_samples=4)
"""A glance, at a twentieth of the cost."""


@dataclass(frozen=True)
class Exam:
    """Toys, the cameras they are seen from, and the names of these views."""

    toys: list[Toy]
    cameras: Cameras
    views: list[str]
    world: World = SMALL

    @property
    def texts(self) -> list[str]:
        """What the prior is asked for."""
        return [f"{caption(toy)}, {view} view" for toy, view in zip(self.toys, self.views, strict=True)]


def draw_exam(trial: PriorTrial, world: World = SMALL) -> Exam:
    """Return the toys and cameras of a trial; the same for the same trial."""
    drawn = default_prompts(trial.toys, world).toys.values()
    toys = [replace(toy, size=None) if toy.size == "small" else toy for toy in drawn]
    cameras = sample_cameras(len(toys), CameraRange(), torch.Generator().manual_seed(trial.seed))
    nearest = view_weights(cameras.azimuth_deg, cameras.elevation_deg).argmax(dim=1)
    return Exam(toys, cameras, [VIEWS[i] for i in nearest.tolist()], world)


def true_pictures(exam: Exam, size: int, seed: int) -> Tensor:
    """Return pictures [n, 3, size, size] in [0, 1] of an exam's toys, in lights, shades and backdrops of their own."""
    generator = torch.Generator().manual_seed(seed)
    rays = exam.cameras.rays(2 * size, 2 * size)
    lights, backdrop = asked_lights(exam.cameras, generator)
    paint = paint_toys(exam.toys, colors=shades(exam.toys, generator))
    return paint_views(trace(exam.toys, rays), rays, paint, lights, backdrop, supersample=2)


@torch.no_grad()
def noise_losses(guidance: Guidance, exam: Exam, images: Tensor, trial: PriorTrial) -> Tensor:
    """Return the v-prediction loss of each true picture at each noise level, [levels, n].

    v = alpha eps - sigma z, so that the error of v is that of eps over alpha.
    """
    generator = torch.Generator().manual_seed(trial.seed)
    rows = []
    for level in trial.levels:
        losses = []
        for part in _parts(len(images)):
            z = guidance.encode(images[part].to(guidance.device))
            noise = torch.randn(z.shape, generator=generator).to(z)
            t = torch.full((len(z),), int(level * len(guidance.alphas_cumprod)), device=guidance.device)
            told = _told(guidance, exam.texts[part], exam.cameras[part])
            error = guidance.predict_noise(guidance.add_noise(z, noise, t), t, told) - noise
            alpha, _ = guidance.coefficients(t)
            losses.append((error.square().mean(dim=(1, 2, 3)) / alpha.square()).cpu())
        rows.append(torch.cat(losses))
    return torch.stack(rows)


def _told(guidance: Guidance, texts: Sequence[str], cameras: Cameras) -> Embeddings:
    return guidance.condition(guidance.embed(texts), torch.eye(len(texts)), cameras.to(guidance.device))


def _parts(count: int) -> list[slice]:
    return [slice(start, start + _BATCH) for start in range(0, count, _BATCH)]


def losses_by_word(losses: Tensor, exam: Exam, trial: PriorTrial) -> dict[str, dict[str, float]]:
    """Return mean losses by noise level, and over all levels by each word of each attribute and by kind of pair."""
    table = {"noise level": {f"{level:g}": row.mean().item() for level, row in zip(trial.levels, losses, strict=True)}}
    said = [shown(toy, view, exam.world) for toy, view in zip(exam.toys, exam.views, strict=True)]
    pairs = ["held out" if is_held_out(toy) else "shown in training" for toy in exam.toys]
    words = {name: [str(row[name]) for row in said] for name in words_of(exam.world)} | {"pair": pairs}
    mean = losses.mean(dim=0)
    for name, column in words.items():
        found = {word: [i for i, other in enumerate(column) if other == word] for word in sorted(set(column))}
        table[name] = {word: mean[rows].mean().item() for word, rows in found.items()}
    return table


def draw_samples(guidance: PixelGuidance, exam: Exam, scale: float, steps: int, seed: int) -> Tensor:
    """Return one sample [n, 3, S, S] per toy of an exam, from its camera."""
    images = []
    for part in _parts(len(exam.toys)):
        texts, cameras = exam.texts[part], exam.cameras[part]
        images.append(
            guidance.sample(texts, steps=steps, guidance_scale=scale, cameras=cameras, seed=seed + part.start).cpu()
        )
    return torch.cat(images)


def words_right(judge: ToyboxJudge, exam: Exam, samples: Tensor, truth: Tensor) -> dict[str, float | None]:
    """Return the share of samples [n, 3, S, S] from which the judge reads what was asked for, by attribute.

    What it does not read right from the true picture (``truth``, from the same camera) does not count: a part may be
    hidden there, or the judge may be wrong. Pattern, size and part colour count where the prompt names one. "all": the
    share of samples in which everything that counts is right, no pattern and the usual size included.
    """
    read, read_of_truth = judge.read(samples), judge.read(truth)
    shares: dict[str, float | None] = {}
    every = torch.ones(len(samples), dtype=torch.bool)
    for name in words_of(exam.world):
        asked = [shown(toy, view, exam.world)[name] for toy, view in zip(exam.toys, exam.views, strict=True)]
        target = torch.tensor([-1 if word is None else judge.words[name].index(word) for word in asked])
        can_tell = read_of_truth[name].argmax(dim=1).cpu() == target
        right = read[name].argmax(dim=1).cpu() == target
        every &= right | ~can_tell
        named = torch.tensor([name not in NAMED or getattr(toy, name) is not None for toy in exam.toys])
        counted = right[can_tell & named].float()
        shares[name] = counted.mean().item() if len(counted) else None
    return shares | {"all": every.float().mean().item()}


def diversity(guidance: PixelGuidance, judge: ToyboxJudge, exam: Exam, trial: PriorTrial) -> dict[str, float]:
    """Return how far pictures of one prompt from one camera are apart in the judge's features: samples, true ones."""
    few = [index for index in range(trial.diverse_toys) for _ in range(trial.diverse_samples)]
    cameras = Cameras(**{name: value[few] for name, value in vars(exam.cameras).items()})
    same = Exam([exam.toys[i] for i in few], cameras, [exam.views[i] for i in few])
    pictures = {
        "samples": draw_samples(guidance, same, trial.diversity_scale, trial.steps, trial.seed + 1),
        "true pictures": true_pictures(same, guidance.sample_size, trial.seed + 1),
    }
    sets = (trial.diverse_toys, trial.diverse_samples)
    return {name: mean_pair_distance(judge.features(p).unflatten(0, sets)) for name, p in pictures.items()}


def evaluate_prior(
    guidance: PixelGuidance,
    judge: ToyboxJudge,
    trial: PriorTrial,
    *,
    name: str,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """Return all scores of a prior, ready for JSON; ``on_progress(done, all, what)`` is called between its parts."""
    both_wide = guidance.world == judge.world == WIDE
    exam, size = draw_exam(trial, WIDE if both_wide else SMALL), guidance.sample_size
    parts = len(trial.scales) + 2

    def say(done: int, what: str) -> None:
        if on_progress is not None:
            on_progress(done, parts, what)

    say(0, "loss")
    truth = true_pictures(exam, size, trial.seed)
    loss = losses_by_word(noise_losses(guidance, exam, truth, trial), exam, trial)
    known = judge.features(truth)
    directions = principal_directions(known, min(_DIRECTIONS, len(truth) - 1))

    def frechet(images: Tensor) -> float:
        return frechet_distance(judge.features(images) @ directions, known @ directions)

    samples: dict[str, dict[str, float | None]] = {}
    for index, scale in enumerate(trial.scales, 1):
        say(index, f"samples at guidance scale {scale:g}")
        images = draw_samples(guidance, exam, scale, trial.steps, trial.seed)
        samples[f"{scale:g}"] = words_right(judge, exam, images, truth) | {"frechet": frechet(images)}
    say(parts - 1, "diversity")
    scores = {
        "prior": name,
        "image_size": size,
        "judge": judge.name,
        "settings": asdict(trial),
        "loss": loss,
        "samples": samples,
        "frechet_of_truth": frechet(true_pictures(exam, size, trial.seed + 2)),
        "diversity": diversity(guidance, judge, exam, trial),
    }
    say(parts, "done")
    return scores


def write_scores(scores: dict[str, Any], output: Path, card: Path | None = None) -> None:
    """Write scores.json and scores.md to ``output``.

    With ``card``, the folder of a prior, scores.json goes there as well, and the tables into its README.md. Raises
    DreamFusionError if that has no place for them.
    """
    text = json.dumps(scores, indent=1)
    write_text(prepare_output_dir(output) / SCORES, text)
    write_text(output / "scores.md", score_tables(scores))
    if card is not None:
        write_table(card / "README.md", score_tables(scores))
        write_text(card / SCORES, text)
