"""Experiments: samplers and pictures against closed forms, cells that stop and go on, honest reports."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dreamfusion.app.cli import dispatch
from dreamfusion.errors import DreamFusionError, Stopped
from dreamfusion.evaluation.judge import ToyboxJudge
from dreamfusion.experiments.ancestral import posterior, sample
from dreamfusion.experiments.cells import Cell, Outcome, run_cells
from dreamfusion.experiments.distilled import diffusion_loss, distil, sds_loss
from dreamfusion.experiments.figure2 import Figure2Settings, gaussian_answer, known_figures, run_figure2
from dreamfusion.experiments.grid import GridSettings, color_distance, run_grid, solid
from dreamfusion.experiments.images import PARAMETERISATIONS, build_picture
from dreamfusion.experiments.jacobian import JacobianSettings, gradient_figures, run_jacobian
from dreamfusion.experiments.scores import colour_figures, nearest
from dreamfusion.experiments.tables import show, table
from dreamfusion.guidance.analytic import AnalyticGuidance
from dreamfusion.guidance.asked import Asked
from dreamfusion.guidance.base import Guidance
from dreamfusion.guidance.gaussian import GaussianGuidance
from dreamfusion.method.cameras import fixed_cameras
from support.worlds import SHORT

PROMPT = "a red mushroom"
ASKED = f"{PROMPT}, front view"


def gaussian(spread: float = 0.2, size: int = 4) -> GaussianGuidance:
    ramp = torch.linspace(0.4, 0.6, 3 * size * size).view(3, size, size)
    return GaussianGuidance({"": torch.full_like(ramp, 0.5), ASKED: ramp}, spread)


def ask(prior: Guidance, scale: float = 1.0, count: int = 1) -> Asked:
    text, empty = (prior.embed([words]).expand(count) for words in (ASKED, ""))
    return Asked(prior, text, empty, fixed_cameras(torch.zeros(count), 0.0), scale)


def mean(prior: GaussianGuidance) -> Tensor:
    return prior.embed([ASKED]).tokens[0, 0, :-1].view(1, 3, 4, 4)


# --- ancestral sampling -----------------------------------------------------------------------------------------------


def test_posterior_by_hand():
    """abar 0.25 and 0.64: step 0.390625, mean 0.65 z_hat + 0.3 z_t, variance 0.609375 x 0.36 / 0.75."""
    prior = GaussianGuidance({"": torch.zeros(3, 1, 1), ASKED: torch.zeros(3, 1, 1)}, 1.0)
    prior.alphas_cumprod = torch.tensor([0.64, 0.25])
    z_t, z_hat = torch.ones(1, 3, 1, 1), torch.full((1, 3, 1, 1), 2.0)
    middle, deviation = posterior(ask(prior), z_t, z_hat, torch.tensor([1]), torch.tensor([0]))
    torch.testing.assert_close(middle, torch.full_like(z_t, 0.65 * 2 + 0.3))
    assert deviation.item() == pytest.approx(math.sqrt(0.2925))


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_samples_of_one_picture_are_that_picture(sampler):
    prior = gaussian(0.0)
    z = sample(ask(prior, count=2), (2, 3, 4, 4), sampler, steps=20, seed=0, clip=False)
    torch.testing.assert_close(z, mean(prior).expand_as(z), atol=1e-3, rtol=0)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_samples_of_a_gaussian_have_its_mean_and_spread_wherever_guidance_moves_it(sampler):
    prior, scale = gaussian(0.2), 4.0
    z = sample(ask(prior, scale, 64), (64, 3, 4, 4), sampler, steps=100, seed=0, clip=False)
    assert (z.mean(dim=0) - scale * mean(prior)[0]).abs().mean() < 0.04  # the mean of all is 0
    assert z.std(dim=0).mean().item() == pytest.approx(0.2, rel=0.1)  # the posterior's steps are finite


def test_clipped_samples_stay_in_range():
    z = sample(ask(gaussian(0.1), 100.0), (1, 3, 4, 4), "ddim", steps=10, seed=0, clip=True)
    assert z.abs().max() <= 1.0


# --- pictures and their distillation ----------------------------------------------------------------------------------


def test_parameterisations():
    for kind in PARAMETERISATIONS:
        picture = build_picture(kind, 2, 8, torch.Generator().manual_seed(0))
        z = picture()
        assert z.shape == (2, 3, 8, 8)
        assert z.abs().mean() < 0.3  # grey at first
        assert not torch.equal(z[0], z[1])
        z[0].sum().backward()
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in picture.parameters())
    mirror = build_picture("mirror", 1, 8, torch.Generator().manual_seed(0))()
    torch.testing.assert_close(mirror, mirror.flip(-1))
    loud = build_picture("network", 1, 8, torch.Generator().manual_seed(0))
    with torch.no_grad():
        loud.biases[-1] += 50
    assert loud().max() <= 1


@pytest.mark.parametrize("kind", ["pixels", "mirror"])
def test_distilled_pictures_reach_the_known_answer(kind):
    prior, generator = gaussian(0.0), torch.Generator().manual_seed(0)
    picture = build_picture(kind, 1, 4, generator)
    z = distil(ask(prior, 3.0), picture, steps=150, lr=0.05, generator=generator)
    settings = Figure2Settings(prompts=(ASKED,))
    answer = gaussian_answer(prior, settings, 3.0, mirrored=kind == "mirror")
    torch.testing.assert_close(z, answer, atol=0.01, rtol=0)


def test_the_diffusion_loss_has_the_jacobian_and_sds_does_not():
    """Of a Gaussian, whose guided Jacobian is alpha sigma / v whatever the scale."""
    prior, t = gaussian(0.2), torch.tensor([300])
    alpha, sigma = (float(x) for x in prior.coefficients(t))
    noise = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    gradients = []
    for loss in (sds_loss, diffusion_loss):
        z = torch.full((1, 3, 4, 4), 0.3, requires_grad=True)
        loss(ask(prior, 5.0), z, t, noise).backward()
        gradients.append(z.grad)
    jacobian = alpha * sigma / (alpha**2 * 0.04 + sigma**2)
    torch.testing.assert_close(gradients[1], jacobian * gradients[0])


# --- figures ----------------------------------------------------------------------------------------------------------


def test_figures_of_gradients_by_hand():
    """Draws (3, 0) and (5, 0): mean (4, 0), variance 2, of which half is taken off 16."""
    drawn = torch.tensor([[[3.0, 0.0]], [[5.0, 0.0]]])
    figures = gradient_figures(drawn, torch.tensor([[-1.0, 0.0]]))
    assert figures["mean"] == pytest.approx(math.sqrt(15))
    assert figures["relative"] == pytest.approx(math.sqrt(2 / 15))
    assert figures["towards"] == pytest.approx(1.0)
    noise = gradient_figures(torch.tensor([[[1.0]], [[-1.0]]]), torch.zeros(1, 1))
    assert noise == {"mean": 0.0, "relative": None, "towards": None}


def test_colours_distances_and_known_figures_by_hand():
    z = torch.tensor([1.0, -1.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2).clone()
    assert colour_figures(z) == {"saturation": 1.0, "outside": 0.0}
    z[0, 0, 0, 0] = 3.0
    assert colour_figures(z)["outside"] == pytest.approx(1 / 12)
    pictures = torch.tensor([0.0, 0.5, 0.6]).view(3, 1, 1, 1).expand(3, 3, 2, 2)
    assert nearest(pictures[:1], pictures[1:]) == pytest.approx(0.5)
    assert nearest(pictures, pictures, leave_out_same=True) == pytest.approx((0.5 + 0.1 + 0.1) / 3)
    figures = known_figures(torch.tensor([1.0, 3.0]).view(2, 1, 1, 1).expand(2, 3, 2, 2), torch.zeros(1, 3, 2, 2))
    assert figures["from_answer"] == pytest.approx(2.0)
    assert figures["deviation"] == pytest.approx(math.sqrt(2))


def test_tables():
    assert [show(0.934, "%"), show(0.0251), show(None), show(3.0)] == ["93 %", "0.0251", "–", "3.00"]
    assert table({"x": {"a": 0.5}}, {"a": ("A", "%"), "b": ("B", "")}, "one").splitlines() == [
        "| one | A | B |",
        "|---|---|---|",
        "| x | 50 % | – |",
    ]


# --- cells ------------------------------------------------------------------------------------------------------------


def cells(calls: list[str], stop_at: str | None = None) -> list[Cell]:
    def compute(name: str) -> Outcome:
        if name == stop_at:
            raise KeyboardInterrupt
        calls.append(name)
        return Outcome({"figure": float(len(name))}, {"picture": torch.full((1, 3, 2, 2), 0.5)})

    return [Cell(name, lambda name=name: compute(name)) for name in ("one", "three")]


def test_an_experiment_that_is_stopped_says_so_and_goes_on(tmp_path: Path):
    calls: list[str] = []
    headings: list[str] = []

    def run(**options) -> None:
        run_cells(
            tmp_path, "e", {"steps": 3}, cells(calls, **options), lambda found: headings.append(found.heading("E"))
        )

    with pytest.raises(Stopped, match="the same command goes on"):
        run(stop_at="three")
    record = json.loads((tmp_path / "e.json").read_text())
    assert (record["complete"], record["done"], record["of"]) == (False, 1, 2)
    assert "**Partial: 1 of 2 cells are done.**" in headings[-1]
    run()
    assert calls == ["one", "three"]  # the first is not computed again
    record = json.loads((tmp_path / "e.json").read_text())
    assert record["complete"]
    assert record["cells"] == {"one": {"figure": 3.0}, "three": {"figure": 5.0}}
    assert "Partial" not in headings[-1]


def test_cells_that_are_not_whole_are_computed_anew_and_other_settings_refused(tmp_path: Path):
    calls: list[str] = []
    run_cells(tmp_path, "e", {"steps": 3}, cells(calls), lambda found: None)
    (tmp_path / "cells" / "three.safetensors").write_bytes(b"half")
    run_cells(tmp_path, "e", {"steps": 3}, cells(calls), lambda found: None)
    assert calls == ["one", "three", "three"]
    with pytest.raises(DreamFusionError, match="--steps 3, not 4"):
        run_cells(tmp_path, "e", {"steps": 4}, cells(calls), lambda found: None)
    (tmp_path / "e.json").write_text("[")
    with pytest.raises(DreamFusionError, match="damaged: choose another --output"):
        run_cells(tmp_path, "e", {"steps": 3}, cells(calls), lambda found: None)


# --- whole experiments, small -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judge() -> ToyboxJudge:
    return ToyboxJudge()


def flat_prior() -> AnalyticGuidance:
    return AnalyticGuidance(torch.stack([torch.full((3, 16, 16), v) for v in (0.2, 0.9)]), torch.ones(2, 4))


TINY = Figure2Settings(prompts=(PROMPT,), scales=(1.0,), samples=1, steps=2, sampling_steps=2)


def test_figure2_stopped_in_the_middle_ends_with_the_same_figures(tmp_path: Path, judge: ToyboxJudge):
    def stop(done: int, count: int, what: str) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(Stopped):
        run_figure2(tmp_path / "a", TINY, flat_prior(), judge, on_progress=stop)
    assert "Partial: 4 of 11" in (tmp_path / "a" / "figure2.md").read_text()
    for folder in ("a", "b"):
        found = run_figure2(tmp_path / folder, TINY, flat_prior(), judge)
        assert found.complete
    first, second = (json.loads((tmp_path / folder / "figure2.json").read_text()) for folder in ("a", "b"))
    assert first == second
    report = (tmp_path / "a" / "figure2.md").read_text()
    assert "Partial" not in report
    assert report.count("SDS, mirror, scale 1") == 2
    assert (tmp_path / "a" / "figure2.png").is_file()


def test_jacobian(tmp_path: Path, judge: ToyboxJudge):
    settings = JacobianSettings(prompts=(PROMPT,), scales=(1.0,), samples=1, steps=2, draws=2)
    prior = gaussian(size=16)
    with pytest.raises(DreamFusionError, match="differentiates the denoiser"):
        run_jacobian(tmp_path / "a", settings, prior, judge)
    prior.denoiser = nn.Identity()
    found = run_jacobian(tmp_path / "a", settings, prior, judge)
    assert len(found.outcomes) == 2 * 3 + 2
    assert "with Jacobian, scale 1, between" in (tmp_path / "a" / "jacobian.md").read_text()


class Ball:
    """A ball of radius 0.5 of one colour."""

    def __init__(self, color: float, radius: float = 0.5) -> None:
        self.color, self.radius = color, radius

    def density(self, x: Tensor) -> Tensor:
        return 1e3 * (x.norm(dim=-1) < self.radius)

    def albedo(self, x: Tensor) -> Tensor:
        return torch.full_like(x, self.color)


def test_shapes_and_colours_of_two_objects():
    volume = solid(Ball(0.2), 0.0)
    side = 2 / 47
    assert volume.sum() * side**3 == pytest.approx(4 / 3 * math.pi * 0.125, rel=0.1)
    assert color_distance(Ball(0.2), Ball(0.5), volume) == pytest.approx(0.3 * math.sqrt(3))
    assert color_distance(Ball(0.2), Ball(0.5), volume & False) is None
    assert not solid(Ball(0.2, radius=0.0), 0.0).any()


def test_grid(tmp_path: Path, judge: ToyboxJudge):
    settings = GridSettings(PROMPT, ("SDS",), (1.0,), 2, "quick", 2)
    changes = {name: value for name, value in SHORT.items() if name not in ("steps", "guidance")}
    found = run_grid(tmp_path, settings, flat_prior(), judge, changes=changes)
    figures = found.outcomes["SDS, scale 1"].figures
    assert figures["finished"] == 2
    assert 0 < figures["shape_iou"] <= 1
    assert (tmp_path / "runs" / "sds-scale-1-seed-1" / "checkpoints").is_dir()
    assert "2 seeds, preset quick of 2 steps" in (tmp_path / "grid.md").read_text()
    with pytest.raises(DreamFusionError, match="needs a network to adapt"):
        run_grid(tmp_path / "b", GridSettings(methods=("VSD",)), flat_prior(), judge)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Figure2Settings(prompts=()), "--prompts: give at least one"),
        (Figure2Settings(prompts=("a unicorn",)), "No toy 'a unicorn' in the toybox"),
        (Figure2Settings(scales=(math.nan,)), "--scales: give one or more"),
        (Figure2Settings(samples=25), "--samples must be from 1 to 24"),
        (Figure2Settings(steps=0), "--steps must be at least 1"),
        (Figure2Settings(sampling_steps=0), "--sampling-steps must be at least 1"),
        (JacobianSettings(draws=1), "--draws must be at least 2"),
        (JacobianSettings(scales=()), "--scales: give one or more"),
        (GridSettings(methods=("DDPM",)), "--methods: give some of SDS"),
        (GridSettings(seeds=1), "--seeds must be at least 2"),
        (GridSettings(steps=0), "--steps must be at least 1"),
    ],
)
def test_budgets_that_are_too_small_and_unknown_names_are_refused(settings, message):
    with pytest.raises(DreamFusionError, match=message):
        settings.check()


def test_an_unknown_experiment_is_refused_by_name(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        dispatch(["experiment", "figure3"])
    assert "Did you mean experiment figure2?" in capsys.readouterr().err
