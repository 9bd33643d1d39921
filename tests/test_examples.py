"""The examples run, in a few steps, and what they show is so."""

import json
import runpy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import dreamfusion
from support.linear import LinearGuidance, ask, problem
from support.worlds import SHORT, toy_prior

EXAMPLES = Path(__file__).parents[1] / "examples"
FEW = SHORT | {"steps": 2, "checkpoint_every": 2}


def example(name: str) -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / name))


def prior() -> dreamfusion.Guidance:
    return toy_prior("mushroom", views=8, size=16)


@pytest.mark.parametrize("path", [p for p in sorted(EXAMPLES.iterdir()) if p.suffix == ".py"], ids=lambda p: p.name)
def test_examples_are_short(path: Path):
    assert len(path.read_text(encoding="utf-8").splitlines()) < 80


def test_a_loss_of_your_own(tmp_path: Path):
    assert example("own_loss.py")["main"](tmp_path / "run", guidance=prior(), config=FEW).mesh.exists()


def test_classifier_scores_are_the_pull_of_the_prompt_alone():
    """5 (0.3 - 0.1), by hand, whatever picture and noise."""
    z, noise, text, uncond, t = problem()
    asked = ask(LinearGuidance(), text, uncond, scale=5.0)
    pull = example("own_loss.py")["classifier_score"](asked, z, t, noise)
    torch.testing.assert_close(pull, torch.ones_like(z))


def test_a_prior_of_your_own(tmp_path: Path):
    result = example("own_prior.py")["main"](tmp_path / "run", steps=2, device="cpu")
    assert result.contact_sheet.exists()


def test_the_example_prior_is_the_score_of_its_density():
    """d/dz_t log N(z_t; a mean, a^2 spread^2 + s^2) = -eps_hat / s, by differentiation."""
    balls = example("own_prior.py")["Balls"](spread=0.3)
    texts = balls.embed(["an orange ball", ""])
    assert texts.tokens[0].flatten().tolist() == pytest.approx([1.0, 165 / 127.5 - 1, -1.0])
    t = torch.tensor([300, 800])
    z_t = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    abar = balls.alphas_cumprod[t].view(2, 1, 1, 1)
    mean = torch.where(balls.disc, texts.tokens[:, 0, :, None, None], 0.6)
    density = torch.distributions.Normal(abar.sqrt() * mean, (abar * 0.09 + 1 - abar).sqrt())
    (score,) = torch.autograd.grad(density.log_prob(z_t).sum(), z_t)
    torch.testing.assert_close(balls.predict_noise(z_t.detach(), t, texts), -(1 - abar).sqrt() * score)


def test_a_field_of_your_own(tmp_path: Path):
    space = example("own_field.py")
    result = space["main"](tmp_path / "run", prior(), **FEW)
    assert result.mesh.exists()
    field = result.scene.field
    assert isinstance(field, space["VoxelField"])
    with torch.no_grad():  # linear between corners: a grid that holds x returns x
        axis = torch.linspace(-1, 1, 32)
        field.grid[:] = axis.view(1, 1, 1, 1, 32)
        x = torch.tensor([[0.3, -0.2, 0.9], [-0.71, 0.0, 0.1]])
        torch.testing.assert_close(field.encode(x), x[:, :1].expand(2, 8))


def test_a_sweep_draws_one_line_per_value(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    chart = example("sweep.py")["main"](tmp_path, scales=(1.0, 2.0), guidance=prior(), config=FEW, steps=3)
    assert chart.read_text().count("<polyline") == 2
    assert chart.read_text().count(",") == 2 * 3  # a point per step
    printed = capsys.readouterr().out.split()
    assert printed == [*(str(tmp_path / f"scale-{s}" / "render.png") for s in (1, 2)), str(chart)]


def test_the_notebook_runs_from_top_to_bottom(in_tmp: Path, monkeypatch: pytest.MonkeyPatch):
    shown: list[Any] = []
    display = ModuleType("IPython.display")
    display.__dict__.update(
        Image=lambda path: path, Video=lambda path, embed: path, clear_output=lambda wait: None, display=shown.append
    )
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    cells = json.loads((EXAMPLES / "words_to_object.ipynb").read_text(encoding="utf-8"))["cells"]
    space: dict[str, Any] = {}
    for cell in (cell for cell in cells if cell["cell_type"] == "code"):
        assert not cell["outputs"]
        exec("".join(cell["source"]), space)
        if "OPTIONS" in space and "result" not in space:  # after the first cell
            space["OPTIONS"] = {"guidance": prior(), "config": FEW, "steps": 10}
    folder = in_tmp / "runs" / "a-red-mushroom"
    assert shown[0].size == (512, 256)
    names = ["contact_sheet.png", "turntable.mp4", "render.png"]
    assert [Path(path).name for path in shown[1:]] == names
    assert all((folder / name).stat().st_size > 100 for name in [*names, "mesh.obj", "mesh.stl"])
