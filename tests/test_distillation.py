"""Score distillation by hand: guidance by words, the three losses, and the gradient that is made of them."""

import math

import pytest
import torch
from torch import Tensor

from dreamfusion.guidance.analytic import AnalyticGuidance
from dreamfusion.guidance.asked import Negatives
from dreamfusion.guidance.base import Embeddings
from dreamfusion.guidance.classifier_free import perp_neg_guidance, perpendicular, rescale_guidance
from dreamfusion.method.distillation import (
    clipped,
    ddim_inversion,
    distillation_figures,
    ism,
    loss_with_gradient,
    sds,
)
from dreamfusion.method.losses import sample_timesteps, timestep_weight
from support.linear import LinearGuidance, ask, problem

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])


# --- score distillation sampling --------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
def test_sds_is_the_guided_prediction_less_the_noise(device):
    guidance = LinearGuidance(device)
    z, noise, text, uncond, t = problem(device)
    difference = sds(ask(guidance, text, uncond), z, t, noise)
    abar = torch.tensor([0.64, 0.36], dtype=torch.float64, device=device)[:, None, None, None]
    z_t = abar.sqrt() * z + (1 - abar).sqrt() * noise
    torch.testing.assert_close(difference, 0.5 * z_t + (0.1 + 7.0 * (0.3 - 0.1)) - noise)
    assert guidance.calls == [(4, 3, 4, 4)]  # one call with the doubled batch


def test_abar_broadcasts_against_pictures():
    _, _, text, uncond, t = problem()
    abar = ask(LinearGuidance(), text, uncond).abar(t, like=torch.zeros(2, 3, 4, 4, dtype=torch.float64))
    torch.testing.assert_close(abar, torch.tensor([0.64, 0.36], dtype=torch.float64).reshape(2, 1, 1, 1))


def test_the_loss_has_the_gradient_and_tells_its_size():
    z, gradient, *_ = problem()
    z.requires_grad_()
    loss = loss_with_gradient(z, gradient)
    loss.backward()
    torch.testing.assert_close(z.grad, gradient / 2)  # the mean over two views
    assert loss.item() == pytest.approx(0.5 * gradient.square().sum().item() / 2)
    figures = distillation_figures(3 * gradient, gradient)
    assert figures["sds_gradient"] == pytest.approx(gradient.flatten(1).norm(dim=1).mean().item())
    assert figures["noise_error"] == pytest.approx(3 * gradient.flatten(1).square().mean(dim=1).sqrt().mean().item())


def test_gradient_reaches_the_parameters_of_the_scene():
    """d loss / d theta = w(t) (eps_hat - eps) dx/dtheta, with the Jacobian of the rendering by finite differences."""
    guidance = LinearGuidance()
    _, noise, text, uncond, t = problem("cpu", 1)
    theta = torch.tensor([0.4, -0.7], dtype=torch.float64, requires_grad=True)
    grid = torch.linspace(0, 1, 48, dtype=torch.float64).reshape(1, 3, 4, 4)

    def render(parameters: Tensor) -> Tensor:
        return torch.sigmoid(parameters[0] * grid + torch.sin(parameters[1] * grid * 3))

    z = guidance.encode(render(theta))
    asked = ask(guidance, text, uncond)
    loss_with_gradient(z, timestep_weight(asked.abar(t, like=z), "sds") * sds(asked, z, t, noise)).backward()

    abar = 0.64
    z_t = abar**0.5 * z.detach() + (1 - abar) ** 0.5 * noise
    gradient = (1 - abar) * (0.5 * z_t + 1.5 - noise)
    h = 1e-6
    for index in range(2):
        step = torch.zeros(2, dtype=torch.float64)
        step[index] = h
        jacobian = (guidance.encode(render(theta + step)) - guidance.encode(render(theta - step))) / (2 * h)
        assert theta.grad[index].item() == pytest.approx((gradient * jacobian).sum().item(), rel=1e-7)


def test_clip_limits_each_element():
    gradient = torch.tensor([[-2.0, 0.1], [0.3, 5.0]])
    torch.testing.assert_close(clipped(gradient, 0.3), torch.tensor([[-0.3, 0.1], [0.3, 0.3]]))
    assert clipped(gradient, None) is gradient


def test_sds_against_the_analytic_prior_finds_the_image():
    """A prior of one image attracts every start to that image."""
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(1, 3, 8, 8, generator=generator)
    guidance = AnalyticGuidance(target, torch.ones(1, 4))
    image = torch.full_like(target, 0.5).requires_grad_()
    optimizer = torch.optim.Adam([image], lr=0.03)
    embedding = guidance.embed(["anything"])
    asked = ask(guidance, embedding, embedding, 1.0)
    for _ in range(100):
        z = guidance.encode(image)
        t = sample_timesteps(1, 0.02, 0.98, 1000, generator)
        noise = torch.randn(z.shape, generator=generator)
        loss = loss_with_gradient(z, (1 - asked.abar(t, like=z)) * sds(asked, z, t, noise))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (image - target).abs().max() < 0.01


def test_rescale_guidance():
    generator = torch.Generator().manual_seed(3)
    text = torch.randn(2, 3, 4, 4, generator=generator)
    loud = 5 * torch.randn(2, 3, 4, 4, generator=generator)
    full = rescale_guidance(loud, text, 1.0)
    torch.testing.assert_close(full.flatten(1).std(dim=1), text.flatten(1).std(dim=1))
    torch.testing.assert_close(rescale_guidance(loud, text, 0.0), loud)
    torch.testing.assert_close(rescale_guidance(loud, text, 0.7), 0.7 * full + 0.3 * loud)


def test_an_asked_prior_rescales():
    z, noise, text, uncond, t = problem("cpu", 1)
    z_t = 0.8 * z + 0.6 * noise
    eps_hat = ask(LinearGuidance(), text, uncond, rescale=0.5).guided(z_t, t)
    torch.testing.assert_close(eps_hat, rescale_guidance(0.5 * z_t + 1.5, 0.5 * z_t + 0.3, 0.5))


def test_the_plain_answer_is_that_without_the_prompt():
    z, _, text, uncond, t = problem()
    guidance = LinearGuidance()
    torch.testing.assert_close(ask(guidance, text, uncond).plain(z, t), 0.5 * z + 0.1)
    assert guidance.calls == [(2, 3, 4, 4)]


# --- Perp-Neg ---------------------------------------------------------------------------------------------------------


def test_the_perpendicular_part_by_hand():
    x = torch.tensor([[3.0, 4.0], [1.0, 1.0], [2.0, 0.0]])
    y = torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    torch.testing.assert_close(perpendicular(x, y), torch.tensor([[0.0, 4.0], [0.0, 0.0], [2.0, 0.0]]))


def test_the_perpendicular_part_is_orthogonal_per_image():
    x, y = torch.randn(2, 5, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rest = perpendicular(x, y)
    torch.testing.assert_close((rest * y).flatten(1).sum(dim=1), torch.zeros(5, dtype=torch.float64))
    # What was taken away is a multiple of y.
    ratio = ((x - rest) / y).flatten(1)
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))


def test_perp_neg_guidance_by_hand():
    """e_pos = (2, 0); the negatives' directions (3, 4) and (-1, 1) have the perpendicular parts (0, 4) and (0, 1)."""
    uncond = torch.tensor([[1.0, 1.0]])
    text, first, second = (uncond + torch.tensor([e]) for e in ([2.0, 0.0], [3.0, 4.0], [-1.0, 1.0]))
    eps_hat = perp_neg_guidance(uncond, text, [first, second], torch.tensor([[-0.5, -1.0]]), 10.0)
    torch.testing.assert_close(eps_hat, torch.tensor([[1 + 10 * 2.0, 1 + 10 * (-2.0 - 1.0)]]))


def test_a_negative_that_says_the_prompt_again_changes_nothing():
    guidance = LinearGuidance()
    z, _, text, uncond, t = problem("cpu")
    plain = ask(guidance, text, uncond).guided(z, t)
    negatives = Negatives((text, uncond), torch.full((2, 2), -1.0, dtype=torch.float64))
    torch.testing.assert_close(ask(guidance, text, uncond, negatives=negatives).guided(z, t), plain)
    assert guidance.calls == [(4, 3, 4, 4), (8, 3, 4, 4)]  # one call each


class FourPixels(LinearGuidance):
    """Says its text's vector, whatever the picture."""

    def predict_noise(self, z_t: Tensor, t: Tensor, embeddings: Embeddings) -> Tensor:
        return embeddings.tokens.expand(len(z_t), -1, -1)[:, :, :, None]


def test_every_loss_uses_perp_neg():
    """uncond 0, text (1, 0), negative (2, 3): eps_hat is s (1, 0) + s w (0, 3)."""
    guidance = FourPixels()
    z = torch.zeros(1, 1, 2, 1, dtype=torch.float64)

    def says(*values: float) -> Embeddings:
        return Embeddings(torch.tensor([[values]], dtype=torch.float64))

    negatives = Negatives((says(2, 3),), torch.tensor([[-0.5]], dtype=torch.float64))
    expected = torch.tensor([10.0, -15.0], dtype=torch.float64).reshape(1, 1, 2, 1)
    asked = ask(guidance, says(1, 0), says(0, 0), 10.0, negatives=negatives)
    for loss in (sds, ism):
        torch.testing.assert_close(loss(asked, z, torch.tensor([2]), torch.zeros_like(z)), expected)


# --- interval score matching ------------------------------------------------------------------------------------------


def test_a_ddim_step_by_hand():
    """From abar 0.64 to 0.36: z = 1, eps = 0.5 give the data (1 - 0.6 * 0.5) / 0.8 = 0.875."""
    _, _, text, uncond, _ = problem("cpu", 1)
    asked = ask(LinearGuidance(), text, uncond)
    z, eps = torch.ones(1, 3, 4, 4, dtype=torch.float64), torch.full((1, 3, 4, 4), 0.5, dtype=torch.float64)
    moved = asked.ddim_step(z, torch.tensor([1]), torch.tensor([2]), eps)
    torch.testing.assert_close(moved, torch.full_like(z, 0.6 * 0.875 + 0.8 * 0.5))
    back = asked.ddim_step(moved, torch.tensor([2]), torch.tensor([1]), eps)
    torch.testing.assert_close(back, z)


def flat_prior(*grays: float, size: int = 4) -> AnalyticGuidance:
    """A prior of plain grey pictures, the first one for the front view, the second one for the side view."""
    images = torch.stack([torch.full((3, size, size), gray, dtype=torch.float64) for gray in grays])
    return AnalyticGuidance(images, torch.eye(len(grays), 4, dtype=torch.float64))


def test_inversion_of_a_known_picture_keeps_its_noise():
    """With one picture, eps_hat is the same everywhere on the path, and all steps are exact."""
    guidance = flat_prior(0.7)
    picture = torch.full((2, 3, 4, 4), 0.4, dtype=torch.float64)  # the data of the path as z, without being it
    noise = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    end, embeddings = torch.tensor([310, 0]), guidance.embed(["", ""])
    z_s = ddim_inversion(ask(guidance, embeddings, embeddings), picture, end, noise, 100)
    z_0 = guidance.add_noise(picture, noise, torch.zeros(2, dtype=torch.int64))
    eps = guidance.predict_noise(z_0, torch.zeros(2, dtype=torch.int64), embeddings)
    torch.testing.assert_close(z_s, guidance.add_noise(torch.full_like(picture, 0.4), eps, end))  # 2 * 0.7 - 1
    torch.testing.assert_close(z_s[1], z_0[1])


def test_the_number_of_calls_of_ism():
    guidance = LinearGuidance()
    guidance.alphas_cumprod = torch.linspace(0.99, 0.01, 1000, dtype=torch.float64)
    z, noise, text, uncond, _ = problem("cpu")
    ism(ask(guidance, text, uncond), z, torch.tensor([300, 660]), noise)
    # s = 250 and 610: four steps of inversion, one prediction at s, and one under guidance at t.
    assert guidance.calls == [(2, 3, 4, 4)] * 5 + [(4, 3, 4, 4)]


@pytest.mark.parametrize("t", [30, 400, 800])
def test_ism_points_from_the_picture_of_no_words_to_that_of_the_words(t):
    """Without words the prior knows B alone, with words A alone: then g = w (alpha / sigma) scale (B - A), exactly.

    The path of inversion is B plus a constant eps, and eps_hat for A differs from it by alpha_t (B - A) / sigma_t.
    """
    guidance = flat_prior(0.75, 0.25)
    text, uncond = guidance.embed([", front view", ", side view"]).tokens.split(1)
    z = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    asked, t = ask(guidance, Embeddings(text), Embeddings(uncond), 7.5), torch.tensor([t])
    gradient = timestep_weight(asked.abar(t, like=z), "ism") * ism(asked, z, t, noise)
    torch.testing.assert_close(gradient, torch.full_like(z, 7.5 * (-0.5 - 0.5)))  # down it goes towards A
    assert gradient.norm().item() == pytest.approx(7.5 * math.sqrt(48))
