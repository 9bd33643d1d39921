"""docs/method.md, step by step: on normally distributed pictures every expectation has a closed form.

eps_hat is linear in the noise, so the mean over eps and -eps is its expectation, exactly: no test draws enough noise to
come near an answer. Symbols as in the page: v = alpha^2 s^2 + sigma^2.
"""

import math
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dreamfusion.guidance.asked import Asked, Negatives
from dreamfusion.guidance.gaussian import GaussianGuidance
from dreamfusion.method.cameras import fixed_cameras
from dreamfusion.method.distillation import clipped, ism, loss_with_gradient, sds
from dreamfusion.method.losses import timestep_weight

SPREAD = 0.4
SIDE = 2
TEXTS = {"": 0.5, "y": 0.7, "n": 0.4}  # means, as brightness in [0, 1]: 0, 0.4 and -0.2 in z


def prior(spread: float = SPREAD, **options) -> GaussianGuidance:
    generator = torch.Generator().manual_seed(5)
    pattern = 0.1 * torch.rand(3, SIDE, SIDE, generator=generator, dtype=torch.float64)
    means = {text: value + (index + 1) * pattern for index, (text, value) in enumerate(TEXTS.items())}
    return GaussianGuidance(means, spread, **options)


def mean_of(guidance: GaussianGuidance, text: str) -> Tensor:
    return guidance.embed([text]).tokens[0, 0, :-1].reshape(1, 3, SIDE, SIDE)


def ask(guidance: GaussianGuidance, scale: float = 1.0, count: int = 1, negatives: Negatives | None = None) -> Asked:
    positive, negative = (guidance.embed([text]).expand(count) for text in ("y", ""))
    return Asked(guidance, positive, negative, fixed_cameras(torch.zeros(count), 0.0), scale, negatives=negatives)


def somewhere(seed: int = 0) -> Tensor:
    return torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def expectation(asked: Asked, z: Tensor, t: Tensor, seed: int = 1) -> Tensor:
    """Return E_eps[eps_hat - eps], exactly."""
    noise = somewhere(seed)
    return (sds(asked, z, t, noise) + sds(asked, z, t, -noise)) / 2


def coefficients(guidance: GaussianGuidance, t: Tensor, spread: float = SPREAD) -> tuple[float, float, float]:
    alpha, sigma = (float(x) for x in guidance.coefficients(t))
    return alpha, sigma, alpha**2 * spread**2 + sigma**2


LEVELS = [20, 300, 700, 980]


# --- 1 to 3: from the divergence to the gradient ----------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
def test_the_prediction_is_the_score(level):
    """eps_hat = -sigma d/dz_t log N(z_t; alpha mu, v I)."""
    guidance, t = prior(), torch.tensor([level])
    alpha, _, v = coefficients(guidance, t)
    z_t = somewhere().requires_grad_()
    log_p = -(z_t - alpha * mean_of(guidance, "y")).square().sum() / (2 * v)
    (score,) = torch.autograd.grad(log_p, z_t)
    _, sigma = guidance.coefficients(t)
    torch.testing.assert_close(guidance.predict_noise(z_t.detach(), t, guidance.embed(["y"])), -sigma * score)


@pytest.mark.parametrize("level", LEVELS)
def test_the_gradient_of_the_weighted_divergence_is_that_of_sds(level):
    """w sigma / alpha times the gradient of KL(q(z_t | z) || p(z_t | y)) is w E[eps_hat - eps]."""
    guidance, t = prior(), torch.tensor([level])
    alpha, sigma, v = coefficients(guidance, t)
    z = somewhere().requires_grad_()
    q, p = (
        torch.distributions.Normal(alpha * z, sigma),
        torch.distributions.Normal(alpha * mean_of(guidance, "y"), math.sqrt(v)),
    )
    divergence = torch.distributions.kl_divergence(q, p).sum()
    (gradient,) = torch.autograd.grad(sigma / alpha * divergence, z)
    torch.testing.assert_close(expectation(ask(guidance), z.detach(), t), gradient)


def test_the_noise_is_half_of_the_entropy_term_and_both_halves_cancel():
    """log q(z_t | z) does not change with z along a path; its two parts are +-alpha eps / sigma."""
    guidance, t = prior(), torch.tensor([300])
    alpha, sigma, _ = coefficients(guidance, t)
    noise, z = somewhere(2), somewhere()

    def log_q(z_t: Tensor, mean: Tensor) -> Tensor:
        return -(z_t - alpha * mean).square().sum() / (2 * sigma**2)

    z = z.requires_grad_()
    z_t = alpha * z + sigma * noise
    (total,) = torch.autograd.grad(log_q(z_t, z), z, retain_graph=True)
    (path,) = torch.autograd.grad(log_q(z_t, z.detach()), z)
    (parameter,) = torch.autograd.grad(log_q(z_t.detach(), z), z)
    torch.testing.assert_close(total, torch.zeros_like(total), atol=1e-12, rtol=0)
    torch.testing.assert_close(path, -alpha / sigma * noise)
    torch.testing.assert_close(parameter, alpha / sigma * noise)


def test_the_surrogate_loss_carries_it_through_the_rendering():
    """w (eps_hat - eps) dz/dtheta, for a mirrored picture: each half gets the sum of both sides."""
    guidance, t, noise = prior(), torch.tensor([700]), somewhere(3)
    theta = torch.rand(1, 3, SIDE, SIDE // 2, dtype=torch.float64, requires_grad=True)
    z = torch.cat([theta.flip(-1), theta], dim=-1)
    asked = ask(guidance)
    gradient = timestep_weight(asked.abar(t, like=z), "sds") * sds(asked, z.detach(), t, noise)
    loss_with_gradient(z, gradient).backward()
    left, right = gradient.chunk(2, dim=-1)
    torch.testing.assert_close(theta.grad, left.flip(-1) + right)


# --- 4: variances -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
def test_variance_with_and_without_the_noise(level):
    """The coefficient of eps is sigma^2 / v in eps_hat alone, and -alpha^2 s^2 / v in eps_hat - eps."""
    guidance, t, z, noise = prior(), torch.tensor([level]), somewhere(), somewhere(4)
    alpha, sigma, v = coefficients(guidance, t)
    asked = ask(guidance)
    deviation = sds(asked, z, t, noise) - expectation(asked, z, t)
    torch.testing.assert_close(deviation, -((alpha * SPREAD) ** 2) / v * noise)
    torch.testing.assert_close(deviation + noise, sigma**2 / v * noise)
    best = deviation + (1 - sigma**2 / v) * noise  # subtracting sigma^2 / v of the noise leaves nothing
    torch.testing.assert_close(best, torch.zeros_like(best), atol=1e-12, rtol=0)


def test_at_the_answer_a_single_picture_has_no_variance_left():
    """It sticks the landing: with s = 0 and z = mu every draw of eps_hat - eps is 0, and eps_hat alone is eps."""
    guidance = prior(0.0)
    z, noise, t = mean_of(guidance, "y"), somewhere(4), torch.tensor([300])
    difference = sds(ask(guidance), z, t, noise)
    torch.testing.assert_close(difference, torch.zeros_like(z), atol=1e-12, rtol=0)


def test_the_noise_helps_where_the_picture_is_known_and_hurts_where_it_is_not():
    """Below alpha s = sigma the variance of eps_hat - eps is less than that of eps_hat, above it more."""
    guidance = prior()
    below, above = coefficients(guidance, torch.tensor([980])), coefficients(guidance, torch.tensor([20]))
    for (alpha, sigma, v), helps in ((below, True), (above, False)):
        assert ((alpha**2 * SPREAD**2 / v) ** 2 < (sigma**2 / v) ** 2) is helps
        assert (alpha * SPREAD < sigma) is helps


# --- 5: the Jacobian that is left out ---------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
def test_the_jacobian_only_shrinks_the_gradient_here(level):
    """d eps_hat / dz is alpha sigma / v: small at both ends, so the training loss moves a picture at neither."""
    guidance, t, noise = prior(), torch.tensor([level]), somewhere(4)
    alpha, sigma, v = coefficients(guidance, t)
    z = somewhere().requires_grad_()
    eps_hat = guidance.predict_noise_with_graph(guidance.add_noise(z, noise, t), t, guidance.embed(["y"]))
    (eps_hat - noise).square().sum().div(2).backward()
    torch.testing.assert_close(z.grad, alpha * sigma / v * sds(ask(guidance), z.detach(), t, noise))


# --- 6: the mode, and guidance ----------------------------------------------------------------------------------------


def descend(asked: Asked, levels: list[int], steps: int = 400, rate: float = 0.5) -> Tensor:
    """Return where the expected gradient of SDS leads, with w = 1 - abar and evenly drawn ``levels``."""
    z = somewhere()
    for _ in range(steps):
        gradient = torch.zeros_like(z)
        for level in levels:
            t = torch.tensor([level])
            gradient += timestep_weight(asked.abar(t, like=z), "sds") * expectation(asked, z, t) / len(levels)
        z = z - rate * gradient
    return z


def test_sds_finds_the_mode_and_not_a_sample():
    guidance = prior()
    torch.testing.assert_close(descend(ask(guidance), LEVELS), mean_of(guidance, "y"))


def test_guidance_moves_the_mode_in_proportion():
    """With equal spreads the answer is mu_0 + scale (mu_y - mu_0), for every weight and range of t."""
    guidance = prior()
    all_, own = mean_of(guidance, ""), mean_of(guidance, "y")
    for levels in (LEVELS, [300]):
        torch.testing.assert_close(descend(ask(guidance, 7.5), levels), all_ + 7.5 * (own - all_))


def test_guidance_with_a_wider_prior_of_all_pictures():
    """The answer is the mean of both modes, weighed by scale a_y and (1 - scale) a_0, a = sum w alpha sigma / v."""
    wide, scale = 1.2, 5.0
    guidance = prior(spreads={"": wide})
    sums = {"y": 0.0, "": 0.0}
    for level in LEVELS:
        t = torch.tensor([level])
        for text, spread in (("y", SPREAD), ("", wide)):
            alpha, sigma, v = coefficients(guidance, t, spread)
            sums[text] += sigma**2 * alpha * sigma / v
    weights = {"y": scale * sums["y"], "": (1 - scale) * sums[""]}
    answer = sum(weight * mean_of(guidance, text) for text, weight in weights.items()) / sum(weights.values())
    torch.testing.assert_close(descend(ask(guidance, scale), LEVELS), answer)
    plain = mean_of(guidance, "") + scale * (mean_of(guidance, "y") - mean_of(guidance, ""))
    assert (answer - mean_of(guidance, "y")).norm() < (plain - mean_of(guidance, "y")).norm()


# --- 7: variants ------------------------------------------------------------------------------------------------------


def test_vsd_with_a_perfect_critic_of_one_picture_is_sds():
    """A prior of nothing but z sees in z_t the noise that was added: eps_phi = eps."""
    guidance, t, noise, z = prior(), torch.tensor([300]), somewhere(4), somewhere()
    critic = GaussianGuidance({"": (z[0] + 1) / 2}, 0.0)
    asked = ask(guidance)
    z_t = asked.add_noise(z, noise, t)
    eps_phi = critic.predict_noise(z_t, t, critic.embed([""]))
    torch.testing.assert_close(asked.guided(z_t, t) - eps_phi, sds(asked, z, t, noise))


@pytest.mark.parametrize(("cloud", "grows"), [(0.1, True), (SPREAD, None), (0.9, False)])
def test_vsd_rests_where_the_cloud_is_as_wide_as_the_data_and_sds_only_at_a_point(cloud, grows):
    """Of particles N(mu, r^2): VSD widens r < s and narrows r > s, SDS narrows always."""
    guidance, t = prior(), torch.tensor([300])
    mean, away, noise = mean_of(guidance, "y"), somewhere(6), somewhere(4)
    critic = GaussianGuidance({"": (mean[0] + 1) / 2}, cloud)
    asked = ask(guidance)
    z = mean + cloud * away

    def vsd(eps: Tensor) -> Tensor:
        z_t = asked.add_noise(z, eps, t)
        return asked.guided(z_t, t) - critic.predict_noise(z_t, t, critic.embed([""]))

    outward = -((vsd(noise) + vsd(-noise)) / 2 * away).sum()
    if grows is None:
        assert outward.abs() < 1e-12
    else:
        assert bool(outward > 0) is grows
    assert -(expectation(asked, z, t) * away).sum() < 0


def test_ism_rests_at_the_mode_without_noise_of_its_own():
    """The path from mu stays at alpha mu but for the noise at timestep 0, so both predictions agree there."""
    guidance = prior(spreads={"": SPREAD}, alphas_cumprod=torch.linspace(1 - 1e-9, 0.01, 1000, dtype=torch.float64))
    own = GaussianGuidance({"": TEXTS["y"] + torch.zeros(3, SIDE, SIDE, dtype=torch.float64)}, SPREAD)
    text = own.embed([""])
    asked = Asked(guidance, text, text, fixed_cameras(0.0, 0.0), 1.0)
    t, mean = torch.tensor([600]), text.tokens[0, 0, :-1].reshape(1, 3, SIDE, SIDE)
    at_rest = ism(asked, mean, t, somewhere(4))
    assert at_rest.abs().max() < 2e-4
    away = 0.3 * somewhere(7)
    outward = (ism(asked, mean + away, t, torch.zeros_like(mean)) * away).sum()
    assert outward > 0  # a descent step leads back
    assert (ism(asked, mean + away, t, somewhere(4)) - ism(asked, mean + away, t, somewhere(5))).abs().max() < 5e-4


def test_perp_neg_moves_the_mode_at_right_angles():
    """mu_0 + scale (d_y + w perpendicular(d_n, d_y)), with directions d from the mean of all pictures."""
    guidance, weight, scale = prior(), -0.7, 3.0
    negatives = Negatives((guidance.embed(["n"]),), torch.tensor([[weight]], dtype=torch.float64))
    all_, own, other = (mean_of(guidance, text) for text in ("", "y", "n"))
    d_y, d_n = own - all_, other - all_
    perpendicular = d_n - (d_n * d_y).sum() / d_y.square().sum() * d_y
    answer = all_ + scale * (d_y + weight * perpendicular)
    torch.testing.assert_close(descend(ask(guidance, scale, negatives=negatives), LEVELS), answer)


def test_clipping_keeps_the_mode_and_bounds_the_step():
    """Noise is as likely as its negative, so at the mode clipped gradients cancel; far away a step is the limit."""
    guidance, t, noise = prior(), torch.tensor([300]), somewhere(4)
    asked, mean = ask(guidance), mean_of(guidance, "y")
    pair = [clipped(sds(asked, mean, t, eps), 0.1) for eps in (noise, -noise)]
    torch.testing.assert_close(pair[0] + pair[1], torch.zeros_like(mean), atol=1e-12, rtol=0)
    far = mean + 100.0
    torch.testing.assert_close(clipped(sds(asked, far, t, noise), 0.1), torch.full_like(mean, 0.1))


# --- the page ---------------------------------------------------------------------------------------------------------


def test_every_test_that_the_page_names_is_here():
    page = (Path(__file__).parents[1] / "docs" / "method.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", page))
    here = {name for name in globals() if name.startswith("test_")} - {"test_every_test_that_the_page_names_is_here"}
    assert named == here
