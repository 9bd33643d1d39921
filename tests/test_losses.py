import math

import pytest
import torch
from torch import Tensor

from dreamfusion.guidance.analytic import AnalyticGuidance
from dreamfusion.guidance.base import Embeddings, Guidance
from dreamfusion.guidance.guided import Negatives, guided_noise, perp_neg_guidance, perpendicular, rescale_guidance
from dreamfusion.method.losses import (
    ddim_inversion,
    ddim_step,
    entropy_loss,
    ism_loss,
    normal_difference_loss,
    opacity_loss,
    sample_timesteps,
    sds_loss,
    squared_opacity_loss,
    timestep_weight,
)

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])


class LinearGuidance(Guidance):
    """Predicts 0.5 z_t + the embedding: simple enough to work out by hand, and it records how it is called."""

    def __init__(self, device: str = "cpu", dtype: torch.dtype = torch.float64) -> None:
        self.alphas_cumprod = torch.tensor([0.99, 0.64, 0.36], dtype=dtype, device=device)
        self.sample_size = 4
        self.device = torch.device(device)
        self.calls: list[tuple[int, ...]] = []

    def embed(self, prompts) -> Embeddings:
        return Embeddings(torch.tensor([[[float(len(p))]] for p in prompts], dtype=torch.float64, device=self.device))

    def encode(self, image: Tensor) -> Tensor:
        return 2 * image - 1

    def predict_noise(self, z_t: Tensor, t: Tensor, embeddings: Embeddings) -> Tensor:
        self.calls.append(tuple(z_t.shape))
        assert len(t) == len(embeddings) == len(z_t)
        return 0.5 * z_t + embeddings.tokens[:, :, :, None]


def problem(device: str, count: int = 2):
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(count, 3, 4, 4, generator=generator, dtype=torch.float64).to(device)
    noise = torch.randn(count, 3, 4, 4, generator=generator, dtype=torch.float64).to(device)
    text = Embeddings(torch.full((count, 1, 1), 0.3, dtype=torch.float64, device=device))
    uncond = Embeddings(torch.full((count, 1, 1), 0.1, dtype=torch.float64, device=device))
    return z, noise, text, uncond, torch.tensor([1, 2])[:count]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("weighting", ["sds", "uniform", "fantasia3d"])
def test_gradient_with_respect_to_z(device, weighting):
    guidance = LinearGuidance(device)
    z, noise, text, uncond, t = problem(device)
    z.requires_grad_()
    loss, info = sds_loss(guidance, z, text, uncond, t, noise, guidance_scale=7.0, weighting=weighting)
    loss.backward()

    abar = torch.tensor([0.64, 0.36], dtype=torch.float64, device=device)[:, None, None, None]
    z_t = abar.sqrt() * z.detach() + (1 - abar).sqrt() * noise
    eps_hat = 0.5 * z_t + (0.1 + 7.0 * (0.3 - 0.1))
    w = {"sds": 1 - abar, "uniform": 1.0, "fantasia3d": abar.sqrt() * (1 - abar)}[weighting]
    expected = w * (eps_hat - noise)
    torch.testing.assert_close(z.grad, expected / 2)  # the mean over two views
    assert loss.item() == pytest.approx(0.5 * expected.square().sum().item() / 2)
    norms = expected.flatten(1).norm(dim=1)
    assert info["sds_gradient"] == pytest.approx(norms.mean().item())
    error = (eps_hat - noise).flatten(1).square().mean(dim=1).sqrt()
    assert info["noise_error"] == pytest.approx(error.mean().item())
    assert guidance.calls == [(4, 3, 4, 4)]  # one call with the doubled batch


def test_gradient_reaches_the_parameters_of_the_scene():
    """d loss / d theta = w(t) (eps_hat - eps) dx/dtheta, with the Jacobian of the rendering by finite differences."""
    guidance = LinearGuidance()
    _, noise, text, uncond, t = problem("cpu", 1)
    theta = torch.tensor([0.4, -0.7], dtype=torch.float64, requires_grad=True)
    grid = torch.linspace(0, 1, 48, dtype=torch.float64).reshape(1, 3, 4, 4)

    def render(parameters: Tensor) -> Tensor:
        return torch.sigmoid(parameters[0] * grid + torch.sin(parameters[1] * grid * 3))

    z = guidance.encode(render(theta))
    sds_loss(guidance, z, text, uncond, t, noise, guidance_scale=7.0)[0].backward()

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
    z, noise, text, uncond, t = problem("cpu")
    z.requires_grad_()
    plain = torch.autograd.grad(sds_loss(LinearGuidance(), z, text, uncond, t, noise, guidance_scale=7.0)[0], z)[0]
    loss, _ = sds_loss(LinearGuidance(), z, text, uncond, t, noise, guidance_scale=7.0, clip=0.3)
    clipped = torch.autograd.grad(loss, z)[0]
    assert plain.abs().max() > 0.15
    torch.testing.assert_close(clipped, plain.clamp(-0.15, 0.15))  # 0.3, then the mean over two views


def test_sds_against_the_analytic_prior_finds_the_image():
    """A prior of one image attracts every start to that image."""
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(1, 3, 8, 8, generator=generator)
    guidance = AnalyticGuidance(target, torch.ones(1, 4))
    image = torch.full_like(target, 0.5).requires_grad_()
    optimizer = torch.optim.Adam([image], lr=0.03)
    embedding = guidance.embed(["anything"])
    for _ in range(100):
        z = guidance.encode(image)
        t = sample_timesteps(1, 0.02, 0.98, 1000, generator)
        noise = torch.randn(z.shape, generator=generator)
        loss, _ = sds_loss(guidance, z, embedding, embedding, t, noise, guidance_scale=1.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (image - target).abs().max() < 0.01


def test_timestep_weight_by_hand():
    abar = torch.tensor([0.25, 0.64])
    torch.testing.assert_close(timestep_weight(abar, "sds"), torch.tensor([0.75, 0.36]))
    torch.testing.assert_close(timestep_weight(abar, "uniform"), torch.ones(2))
    torch.testing.assert_close(timestep_weight(abar, "fantasia3d"), torch.tensor([0.375, 0.288]))
    torch.testing.assert_close(timestep_weight(abar, "ism"), torch.tensor([math.sqrt(3), 0.75]))
    assert torch.isfinite(timestep_weight(torch.zeros(1), "ism")).all()


def test_rescale_guidance():
    generator = torch.Generator().manual_seed(3)
    text = torch.randn(2, 3, 4, 4, generator=generator)
    loud = 5 * torch.randn(2, 3, 4, 4, generator=generator)
    full = rescale_guidance(loud, text, 1.0)
    torch.testing.assert_close(full.flatten(1).std(dim=1), text.flatten(1).std(dim=1))
    torch.testing.assert_close(rescale_guidance(loud, text, 0.0), loud)
    torch.testing.assert_close(rescale_guidance(loud, text, 0.7), 0.7 * full + 0.3 * loud)


def test_sds_loss_uses_rescale():
    z, noise, text, uncond, t = problem("cpu", 1)
    z.requires_grad_()
    loss, _ = sds_loss(
        LinearGuidance(), z, text, uncond, t, noise, guidance_scale=7.0, weighting="uniform", rescale=0.5
    )
    gradient = torch.autograd.grad(loss, z)[0]
    z_t = 0.8 * z.detach() + 0.6 * noise
    torch.testing.assert_close(gradient, rescale_guidance(0.5 * z_t + 1.5, 0.5 * z_t + 0.3, 0.5) - noise)


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
    asked = {"guidance_scale": 7.0}
    plain = guided_noise(guidance, z, t, text, uncond, **asked)
    negatives = Negatives((text, uncond), torch.full((2, 2), -1.0, dtype=torch.float64))
    torch.testing.assert_close(guided_noise(guidance, z, t, text, uncond, negatives=negatives, **asked), plain)
    assert guidance.calls == [(4, 3, 4, 4), (8, 3, 4, 4)]  # one call each


class FourPixels(LinearGuidance):
    """Says its text's vector, whatever the picture."""

    def predict_noise(self, z_t: Tensor, t: Tensor, embeddings: Embeddings) -> Tensor:
        return embeddings.tokens.expand(len(z_t), -1, -1)[:, :, :, None]


def test_every_loss_uses_perp_neg():
    """uncond 0, text (1, 0), negative (2, 3): eps_hat is s (1, 0) + s w (0, 3)."""
    guidance = FourPixels()
    z = torch.zeros(1, 1, 2, 1, dtype=torch.float64, requires_grad=True)

    def says(*values: float) -> Embeddings:
        return Embeddings(torch.tensor([[values]], dtype=torch.float64))

    negatives = Negatives((says(2, 3),), torch.tensor([[-0.5]], dtype=torch.float64))
    expected = torch.tensor([10.0, -15.0], dtype=torch.float64).reshape(1, 1, 2, 1)
    for loss in (sds_loss, ism_loss):
        value, _ = loss(
            guidance,
            z,
            says(1, 0),
            says(0, 0),
            torch.tensor([2]),
            torch.zeros_like(z),
            guidance_scale=10.0,
            negatives=negatives,
            weighting="uniform",
        )
        torch.testing.assert_close(torch.autograd.grad(value, z)[0], expected)


# --- interval score matching ------------------------------------------------------------------------------------------


def test_a_ddim_step_by_hand():
    """From abar 0.64 to 0.36: z = 1, eps = 0.5 give the data (1 - 0.6 * 0.5) / 0.8 = 0.875."""
    guidance = LinearGuidance()
    z, eps = torch.ones(1, 3, 4, 4, dtype=torch.float64), torch.full((1, 3, 4, 4), 0.5, dtype=torch.float64)
    moved = ddim_step(guidance, z, torch.tensor([1]), torch.tensor([2]), eps)
    torch.testing.assert_close(moved, torch.full_like(z, 0.6 * 0.875 + 0.8 * 0.5))
    back = ddim_step(guidance, moved, torch.tensor([2]), torch.tensor([1]), eps)
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
    z_s = ddim_inversion(guidance, picture, embeddings, end, noise, 100)
    z_0 = guidance.add_noise(picture, noise, torch.zeros(2, dtype=torch.int64))
    eps = guidance.predict_noise(z_0, torch.zeros(2, dtype=torch.int64), embeddings)
    torch.testing.assert_close(z_s, guidance.add_noise(torch.full_like(picture, 0.4), eps, end))  # 2 * 0.7 - 1
    torch.testing.assert_close(z_s[1], z_0[1])


def test_the_number_of_calls_of_ism():
    guidance = LinearGuidance()
    guidance.alphas_cumprod = torch.linspace(0.99, 0.01, 1000, dtype=torch.float64)
    z, noise, text, uncond, _ = problem("cpu")
    ism_loss(guidance, z, text, uncond, torch.tensor([300, 660]), noise, guidance_scale=7.0)
    # s = 250 and 610: four steps of inversion, one prediction at s, and one under guidance at t.
    assert guidance.calls == [(2, 3, 4, 4)] * 5 + [(4, 3, 4, 4)]


@pytest.mark.parametrize("t", [30, 400, 800])
def test_ism_points_from_the_picture_of_no_words_to_that_of_the_words(t):
    """Without words the prior knows B alone, with words A alone: then g = w (alpha / sigma) scale (B - A), exactly.

    The path of inversion is B plus a constant eps, and eps_hat for A differs from it by alpha_t (B - A) / sigma_t.
    """
    guidance = flat_prior(0.75, 0.25)
    text, uncond = guidance.embed([", front view", ", side view"]).tokens.split(1)
    z = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    noise = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    loss, info = ism_loss(
        guidance, z, Embeddings(text), Embeddings(uncond), torch.tensor([t]), noise, guidance_scale=7.5
    )
    gradient = torch.autograd.grad(loss, z)[0]
    torch.testing.assert_close(gradient, torch.full_like(z, 7.5 * (-0.5 - 0.5)))  # down it goes towards A
    assert info["sds_gradient"] == pytest.approx(7.5 * math.sqrt(48))


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
