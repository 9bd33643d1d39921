import math

import pytest
import torch

from dreamfusion.config import DecayForm, OptimConfig
from dreamfusion.config.schedule import Schedule, constant
from dreamfusion.errors import DreamFusionError
from dreamfusion.io.checkpoints import pack, unpack
from dreamfusion.method.optimizers import build_optimizer, learning_rate_factor

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])


def step_with(optimizer: torch.optim.Optimizer, parameter: torch.Tensor, gradient: float) -> None:
    parameter.grad = torch.full_like(parameter, gradient)
    optimizer.step()


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_adan_first_two_steps_by_hand(weight_decay):
    p = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    adan = build_optimizer("adan", [{"params": [p], "lr": 0.1}], weight_decay=weight_decay)
    shrink = 1 + 0.1 * weight_decay

    # Bias correction makes the first step lr * sign(g): m = g, v = 0, sqrt(n) = |g|.
    step_with(adan, p, 2.0)
    after_one = (1.0 - 0.1) / shrink
    assert p.item() == pytest.approx(after_one)

    # Gradient 2, then 1, so the difference is -1.
    m = 0.98 * (0.02 * 2.0) + 0.02 * 1.0
    v = 0.08 * -1.0
    n = 0.99 * (0.01 * 2.0**2) + 0.01 * (1.0 + 0.92 * -1.0) ** 2
    update = (m / (1 - 0.98**2) + 0.92 * v / (1 - 0.92**2)) / math.sqrt(n / (1 - 0.99**2))
    step_with(adan, p, 1.0)
    assert p.item() == pytest.approx((after_one - 0.1 * update) / shrink)


def test_adam_first_two_steps_by_hand():
    p = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    adam = build_optimizer("adam", [{"params": [p], "lr": 0.1}], betas=(0.9, 0.99), eps=1e-3, weight_decay=0.5)
    # Decay is decoupled, p (1 - lr * decay), and bias correction makes the first step lr * g / (|g| + eps).
    step_with(adam, p, 2.0)
    after_one = 1.0 * (1 - 0.1 * 0.5) - 0.1 * 2 / (2 + 1e-3)
    assert p.item() == pytest.approx(after_one)
    m = 0.9 * (0.1 * 2.0) + 0.1 * -1.0
    n = 0.99 * (0.01 * 2.0**2) + 0.01 * 1.0
    update = (m / (1 - 0.9**2)) / (math.sqrt(n / (1 - 0.99**2)) + 1e-3)
    step_with(adam, p, -1.0)
    assert p.item() == pytest.approx(after_one * (1 - 0.1 * 0.5) - 0.1 * update)


def test_forms_of_weight_decay_by_hand():
    def after_one(name: str, form: DecayForm, gradient: float = 2.0) -> float:
        p = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
        groups = [{"params": [p], "lr": 0.1}]
        step_with(build_optimizer(name, groups, eps=1e-12, weight_decay=0.5, decay_form=form), p, gradient)
        return p.item()

    # The first step of Adam and Adan is lr times the sign of the gradient.
    assert after_one("adam", "l2", -0.3) == pytest.approx(1 - 0.1), "the gradient with decay is -0.3 + 0.5"
    assert after_one("adam", "decoupled") == pytest.approx(1 - 0.1 * 0.5 - 0.1)
    assert after_one("adan", "proximal") == pytest.approx((1 - 0.1) / (1 + 0.1 * 0.5), rel=1e-4)
    assert after_one("adan", "decoupled") == pytest.approx(1 - 0.1 * 0.5 - 0.1, rel=1e-4)
    with pytest.raises(DreamFusionError, match="decay_form 'proximal' is for optimizer 'adan'"):
        OptimConfig(decay_form="proximal")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["adan", "adam"])
def test_minimises_a_quadratic(name, device):
    scale = torch.tensor([1.0, 30.0, 0.1], device=device)
    target = torch.tensor([1.0, -2.0, 0.5], device=device)
    p = torch.zeros(3, device=device, requires_grad=True)
    optimizer = build_optimizer(name, [{"params": [p], "lr": 0.05}])
    for step in range(400):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * learning_rate_factor(step, 400, constant(1), falling(0.0, 0.01))
        optimizer.zero_grad()
        (scale * (p - target) ** 2).sum().backward()
        optimizer.step()
    torch.testing.assert_close(p.detach(), target, atol=2e-2, rtol=0)


@pytest.mark.parametrize("name", ["adan", "adam"])
def test_gradients_are_left_as_they_were(name):
    p = torch.zeros(2, requires_grad=True)
    optimizer = build_optimizer(name, [{"params": [p], "lr": 0.1}])
    step_with(optimizer, p, 3.0)
    assert p.grad.tolist() == [3.0, 3.0]


@pytest.mark.parametrize("name", ["adan", "adam"])
def test_groups_have_their_own_learning_rates(name):
    slow, fast = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    optimizer = build_optimizer(name, [{"params": [slow], "lr": 0.01}, {"params": [fast], "lr": 0.1}])
    slow.grad, fast.grad = torch.ones(1), torch.ones(1)
    optimizer.step()
    assert (slow.item(), fast.item()) == (pytest.approx(-0.01), pytest.approx(-0.1))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["adan", "adam"])
def test_restored_state_continues_bit_equal(name, device):
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(5, generator=generator).to(device) for _ in range(8)]

    def fresh(start: torch.Tensor) -> tuple[torch.Tensor, torch.optim.Optimizer]:
        p = start.clone().requires_grad_()
        return p, build_optimizer(name, [{"params": [p], "lr": 0.1}], weight_decay=1e-3)

    def run(p: torch.Tensor, optimizer: torch.optim.Optimizer, some: list[torch.Tensor]) -> None:
        for gradient in some:
            p.grad = gradient.clone()
            optimizer.step()

    whole, optimizer = fresh(torch.ones(5, device=device))
    run(whole, optimizer, gradients[:4])
    middle, state = whole.detach().clone(), optimizer.state_dict()
    state = torch.utils._pytree.tree_map(lambda x: x.clone() if isinstance(x, torch.Tensor) else x, state)
    run(whole, optimizer, gradients[4:])

    resumed, optimizer = fresh(middle)
    optimizer.load_state_dict(state)
    run(resumed, optimizer, gradients[4:])
    assert torch.equal(resumed, whole)
    assert not torch.equal(resumed, middle)


def rising(start: float, until: float) -> Schedule:
    return Schedule(start=start, end=1.0, until=until)


def falling(from_: float, end: float) -> Schedule:
    return Schedule(start=1.0, end=end, from_=from_, curve="cosine")


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.2), (1, 0.4), (3, 0.8), (4, 1.0), (54, 0.55), (104, 0.1), (200, 0.1)],
)
def test_learning_rate_factor(step, expected):
    assert learning_rate_factor(step, 104, rising(0.0, 4 / 104), falling(4 / 104, 0.1)) == pytest.approx(expected)


def test_a_warm_up_from_a_given_factor():
    factors = [learning_rate_factor(step, 104, rising(0.2, 4 / 104), falling(4 / 104, 0.1)) for step in range(5)]
    assert factors == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_betas_and_eps_reach_the_optimizer():
    p = torch.zeros(1, requires_grad=True)
    adan = build_optimizer("adan", [{"params": [p], "lr": 0.1}], betas=(0.9, 0.8, 0.7), eps=1e-3)
    assert adan.param_groups[0]["betas"] == (0.9, 0.8, 0.7)
    assert adan.param_groups[0]["eps"] == 1e-3
    adam = build_optimizer("adam", [{"params": [p], "lr": 0.1}], betas=(0.5, 0.6), eps=1e-4, weight_decay=0.1)
    assert [adam.param_groups[0][key] for key in ("betas", "eps", "weight_decay")] == [(0.5, 0.6), 1e-4, 0.1]


def shampoo(p: torch.Tensor, lr: float = 0.1) -> torch.optim.Optimizer:
    return build_optimizer("shampoo", [{"params": [p], "lr": lr}])


def test_shampoo_has_the_papers_settings():
    p = torch.zeros(300, 4, requires_grad=True)
    optimizer = shampoo(p)
    step_with(optimizer, p, 1.0)
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.9)
    preconditioner = optimizer.state[p]["pre_conditioner"]
    assert preconditioner.exponent_for_pre_conditioner == 2
    assert preconditioner.beta2 == 0.9
    assert preconditioner.matrix_eps == 1e-6
    assert max(statistic.shape[0] for statistic in preconditioner.statistics) == 128  # 300 rows in blocks
    assert type(optimizer.state[p]["graft"]).__name__ == "SQRTNGraft"


def test_shampoo_preconditions_by_inverse_square_roots_and_steps_as_far_as_signs_do():
    gradients = torch.randn(30, 40, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = torch.zeros(40, 40, dtype=torch.float64, requires_grad=True)
    optimizer = shampoo(p)
    eye = torch.eye(40, dtype=torch.float64)
    left, right, roots, momentum = 1e-6 * eye, 1e-6 * eye, (eye, eye), 0 * eye
    for number, g in enumerate(gradients, start=1):
        before = p.detach().clone()
        p.grad = g.clone()
        optimizer.step()
        left, right = 0.9 * left + 0.1 * g @ g.T, 0.9 * right + 0.1 * g.T @ g
        if number % 10 == 0:
            roots = tuple(inverse_square_root(matrix) for matrix in (left, right))
        direction = roots[0] @ g @ roots[1]
        direction = direction * 40 / direction.norm()  # as long as a 40 x 40 matrix of signs
        momentum = 0.9 * momentum + direction
    expected = -0.1 * (0.9 * momentum + direction)  # Nesterov's momentum
    torch.testing.assert_close(p.detach() - before, expected, rtol=1e-2, atol=1e-2)


def inverse_square_root(matrix: torch.Tensor) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values.rsqrt()) @ vectors.T


def test_shampoo_restored_from_a_checkpoint_continues_bit_equal():
    gradients = torch.randn(40, 6, 3, generator=torch.Generator().manual_seed(0))

    def run(p: torch.Tensor, optimizer: torch.optim.Optimizer, some: torch.Tensor) -> None:
        for gradient in some:
            p.grad = gradient.clone()
            optimizer.step()

    whole = torch.ones(6, 3, requires_grad=True)
    optimizer = shampoo(whole)
    run(whole, optimizer, gradients[:28])
    tensors, tree = pack(optimizer.state_dict(), "optimizer")
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    middle = whole.detach().clone()
    run(whole, optimizer, gradients[28:])

    resumed = middle.clone().requires_grad_()
    optimizer = shampoo(resumed)
    optimizer.load_state_dict(unpack(tree, tensors))
    run(resumed, optimizer, gradients[28:])
    assert torch.equal(resumed, whole)
    assert not torch.equal(resumed, middle)


def test_learning_rate_factor_without_warm_up_or_decay():
    one = constant(1)
    assert [learning_rate_factor(step, 10, one, one) for step in (0, 5, 10)] == [1.0, 1.0, 1.0]


def test_learning_rate_factor_of_a_run_that_is_all_warm_up():
    assert learning_rate_factor(2, 3, rising(0.0, 1.0), constant(1)) == pytest.approx(0.75)
