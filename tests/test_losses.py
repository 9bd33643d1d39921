import math

import pytest
import torch

from dreamfusion.method.losses import (
    sample_timesteps,
    timestep_weight,
)
from dreamfusion.scenes.regularizers import entropy_loss, normal_difference_loss, opacity_loss, squared_opacity_loss


def test_timestep_weight_by_hand():
    abar = torch.tensor([0.25, 0.64])
    torch.testing.assert_close(timestep_weight(abar, "sds"), torch.tensor([0.75, 0.36]))
    torch.testing.assert_close(timestep_weight(abar, "uniform"), torch.ones(2))
    torch.testing.assert_close(timestep_weight(abar, "fantasia3d"), torch.tensor([0.375, 0.288]))
    torch.testing.assert_close(timestep_weight(abar, "ism"), torch.tensor([math.sqrt(3), 0.75]))
    assert torch.isfinite(timestep_weight(torch.zeros(1), "ism")).all()


def test_timesteps_cover_their_range():
    t = sample_timesteps(5000, 0.02, 0.05, 1000, torch.Generator().manual_seed(0))
    assert t.dtype == torch.int64
    assert sorted(set(t.tolist())) == list(range(20, 51))
    assert abs(t.double().mean().item() - 35) < 0.5
    last = sample_timesteps(1000, 0.99, 1.0, 1000, torch.Generator().manual_seed(0))
    assert last.max() == 999


def test_timesteps_follow_the_generator():
    first = sample_timesteps(8, 0.02, 0.98, 1000, torch.Generator().manual_seed(5))
    assert torch.equal(first, sample_timesteps(8, 0.02, 0.98, 1000, torch.Generator().manual_seed(5)))
    assert not torch.equal(first, sample_timesteps(8, 0.02, 0.98, 1000, torch.Generator().manual_seed(6)))


def test_opacity_loss_by_hand():
    opacity = torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)
    loss = opacity_loss(opacity)
    assert loss.item() == pytest.approx((0.1 + math.sqrt(1.01)) / 2)
    loss.backward()
    assert opacity.grad.tolist() == pytest.approx([0.0, 0.5 / math.sqrt(1.01)])


def test_squared_opacity_loss_by_hand():
    opacity = torch.tensor([0.0, 0.5, 1.0], requires_grad=True)
    loss = squared_opacity_loss(opacity)
    assert loss.item() == pytest.approx(1.25 / 3)
    loss.backward()
    assert opacity.grad.tolist() == pytest.approx([0, 1 / 3, 2 / 3])


def test_normal_difference_loss_by_hand():
    picture = torch.zeros(1, 3, 2, 2, dtype=torch.float64)
    picture[0, 0] = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    # One of two vertical and one of two horizontal neighbours differ by 1 in one of three components.
    assert normal_difference_loss(picture).item() == pytest.approx(1 / 6 + 1 / 6)
    random = torch.rand(1, 3, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.autograd.gradcheck(normal_difference_loss, random.requires_grad_())


def test_entropy_loss_by_hand():
    assert entropy_loss(torch.tensor([0.5])).item() == pytest.approx(1.0)
    quarter = 0.25 * 2 + 0.75 * math.log2(4 / 3)
    assert entropy_loss(torch.tensor([[0.25, 0.75]])).item() == pytest.approx(quarter)
    assert entropy_loss(torch.tensor([0.0, 1.0])).item() < 1e-3


def test_entropy_loss_gradient_is_finite_and_pushes_outwards():
    opacity = torch.tensor([0.0, 0.2, 0.8, 1.0], requires_grad=True)
    entropy_loss(opacity).backward()
    assert torch.isfinite(opacity.grad).all()
    assert opacity.grad[1] > 0 > opacity.grad[2]


@pytest.mark.parametrize("loss", [opacity_loss, entropy_loss])
def test_regulariser_gradients_against_finite_differences(loss):
    opacity = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert torch.autograd.gradcheck(loss, (0.05 + 0.9 * opacity).requires_grad_())
