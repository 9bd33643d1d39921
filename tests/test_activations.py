"""What a prior's activations take: told with fake tensors, as the real ones take it."""

from pathlib import Path

import pytest
import torch

from dreamfusion.app.doctor import report
from dreamfusion.guidance.activations import _Alive, activation_bytes
from dreamfusion.guidance.families import open_prior
from support.families import SIZE, save_sd, save_sd3


def test_what_is_alive_by_hand():
    with _Alive() as alive:
        x = torch.zeros(10, 4)  # 160 bytes
        y = x * 2
        z = y.relu()  # three of them are alive at once
        del y
        view = z.view(40)  # no memory of its own
    assert (alive.now, alive.most) == (320, 480)
    assert view.numel() == x.numel()


def test_what_is_kept_for_the_gradient_counts():
    with _Alive() as alive:
        x = torch.zeros(10, 4, requires_grad=True)
        y = (x.sin() * 2).exp()  # the sine needs x, the exponential its own result
    assert alive.now == 320
    assert y.requires_grad


@pytest.mark.parametrize("save", [save_sd, save_sd3])
def test_the_figure_is_what_the_real_tensors_take(save, tmp_path: Path):
    torch.set_num_threads(1)
    prior = open_prior(save(tmp_path / "model"))
    told = activation_bytes(prior)
    text, t = prior.embed(["a", ""]), torch.ones(2, dtype=torch.long)
    with _Alive() as alive:
        z = prior.encode(torch.zeros(1, 3, SIZE, SIZE, requires_grad=True))
        prior.predict_noise(torch.cat([z, z]).detach(), t, text)
    assert told == pytest.approx(alive.most, rel=0.1)


def test_the_doctor_tells_them(tmp_path: Path):
    checks = report(str(save_sd(tmp_path / "model")), tmp_path)
    (found,) = [check for check in checks if check.name.startswith("Model ")]
    assert "a view of 16 pixels takes" in found.detail
