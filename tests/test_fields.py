"""The field and the backgrounds: values that can be worked out, determinism, normals and their gradients."""

import math

import pytest
import torch

from dreamfusion.config.schedule import Schedule, constant
from dreamfusion.errors import DreamFusionError
from dreamfusion.fields.background import BackgroundConfig, LearnedBackground, StaticBackground
from dreamfusion.fields.encodings import frequency_encode, integrated_encode
from dreamfusion.fields.field import Field
from dreamfusion.fields.mip_nerf import MipConfig, MipField, ResidualBlock
from dreamfusion.fields.nerf import HashGridConfig, NerfConfig, NerfField, active_levels

SMALL_GRID = HashGridConfig(levels=3, features=2, log2_size=10, base_resolution=4, max_resolution=16)
SMALL = NerfConfig(grid=SMALL_GRID, normal_epsilon=0.03)


def changed(section, **changes):
    """Return a section with some of its values replaced, checked as if it were written so."""
    return type(section)(**{**vars(section), **changes})


DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def points_in_ball(count: int, radius: float = 0.9) -> torch.Tensor:
    direction = torch.nn.functional.normalize(torch.randn(count, 3, generator=seeded(1)), dim=-1)
    return direction * radius * torch.rand(count, 1, generator=seeded(2))


def rough_field(config: NerfConfig = SMALL) -> NerfField:
    """A field with visible features, unlike a fresh one, whose table is all but zero."""
    field = NerfField(config, seeded())
    with torch.no_grad():
        field.table.normal_(generator=seeded(3))
    return field


def without_network(**changes: object) -> NerfField:
    """A field whose networks say 0: the blob and the bias alone."""
    field = NerfField(changed(SMALL, **changes), seeded())
    with torch.no_grad():
        field.table.zero_()
    return field


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # x = 0.3 from the middle, std 0.5: gaussian exp(-0.18), linear 1 - 0.6.
        ({"blob": "gaussian", "density_activation": "exp"}, math.exp(5 * math.exp(-0.18) - 1)),
        ({"blob": "linear", "density_activation": "exp"}, math.exp(5 * 0.4 - 1)),
        ({"blob": "linear", "density_activation": "softplus"}, math.log1p(math.exp(5 * 0.4 - 1))),
    ],
)
def test_blob_by_hand(changes, expected):
    field = without_network(blob_density=5.0, blob_std=0.5, density_bias=-1.0, **changes)
    assert field.density(torch.tensor([[0.0, 0.3, 0.0]])).item() == pytest.approx(expected, rel=1e-5)


def test_density_is_zero_outside_the_unit_sphere():
    x = torch.tensor([[0.999, 0.0, 0.0], [1.001, 0.0, 0.0], [0.7, 0.7, 0.7], [-5.0, 2.0, 9.0]])
    density = rough_field().density(x)
    assert density[0] > 0
    assert density[1:].tolist() == [0.0, 0.0, 0.0]


def test_fresh_field_is_a_soft_ball():
    """Opacity along a line through the scene at distance b from the middle: clear, not opaque, gone at the rim."""
    field = NerfField(generator=seeded())
    t = torch.linspace(-1, 1, 400)
    opacity = []
    for b in (0.0, 0.5, 0.9):
        line = torch.stack([t, torch.full_like(t, b), torch.zeros_like(t)], dim=-1)
        opacity.append(1 - math.exp(-field.density(line).sum().item() * 2 / 400))
    assert 0.8 < opacity[0] < 0.95
    assert 0.1 < opacity[1] < 0.4
    assert opacity[2] < 0.02


def test_huge_logits_neither_overflow_nor_lose_their_gradient():
    field = without_network(density_bias=500.0)
    density = field.density(torch.zeros(1, 3))
    assert density.isfinite().all()
    density.sum().backward()
    bias = field.density_network[-1].bias.grad
    assert bias.isfinite().all()
    assert bias.item() > 0


def test_albedo_is_between_zero_and_one_and_varies():
    albedo = rough_field().albedo(points_in_ball(200))
    assert ((albedo > 0) & (albedo < 1)).all()
    assert albedo.std() > 0.01


def test_evaluate_agrees_with_the_single_calls():
    field, x = rough_field(), points_in_ball(200)
    chosen = torch.tensor([5, 3, 199])
    density, albedo, normal = field.evaluate(x, chosen)
    torch.testing.assert_close(density, field.density(x))
    torch.testing.assert_close(albedo, field.albedo(x))
    torch.testing.assert_close(normal, field.normal(x[chosen]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", ["forward", "backward", "central"])
def test_normals_of_a_ball_point_outwards(method):
    x = points_in_ball(300)
    x = x[x.norm(dim=-1) > 0.3]
    normal = without_network().normal(x, method)
    torch.testing.assert_close(normal.norm(dim=-1), torch.ones(len(x)), atol=1e-3, rtol=0)
    cosine = (normal * torch.nn.functional.normalize(x, dim=-1)).sum(-1)
    assert cosine.min() > 0.995


def test_one_sided_differences_by_hand():
    # Before the activation the blob is 8 (1 - r / 0.5).
    field = without_network(blob="linear", blob_std=0.5, blob_density=8.0, normal_epsilon=0.1)
    x = torch.tensor([[0.05, 0.0, 0.0]])
    beside = 8 / 0.5 * (math.hypot(0.05, 0.1) - 0.05) / 0.1
    # Forwards along x the blob falls by 8 / 0.5; backwards, over the middle, it is as high as here.
    for method, along in (("forward", 8 / 0.5), ("backward", 0.0)):
        expected = torch.tensor([[along, beside, beside]])
        if method == "backward":
            expected[:, 1:] *= -1
        torch.testing.assert_close(field.normal(x, method), expected / expected.norm(), atol=1e-3, rtol=0)


def test_both_normal_methods_agree_on_a_fine_step():
    field = rough_field(changed(SMALL, normal_epsilon=2e-3))
    x = points_in_ball(200)
    cosine = (field.normal(x, "forward") * field.normal(x, "central")).sum(-1)
    assert cosine.median() > 0.999


def test_frequency_encoding_by_hand():
    encoding = frequency_encode(torch.tensor([0.3, -0.2]), 2)
    angles = [0.3, -0.2, 0.6, -0.4]
    expected = [0.3, -0.2, *map(math.sin, angles), *map(math.cos, angles)]
    assert encoding.tolist() == pytest.approx(expected)


def test_integrated_encoding_is_the_mean_over_a_gaussian():
    mean, variance = torch.tensor([0.7, -0.3, 0.1]), 0.05
    drawn = mean + math.sqrt(variance) * torch.randn(400_000, 3, generator=seeded())
    sampled = frequency_encode(drawn, 4)[:, 3:].mean(dim=0)
    encoding = integrated_encode(mean, variance, 4)
    torch.testing.assert_close(encoding, sampled, atol=5e-3, rtol=0)
    assert encoding[:3].abs().min() > 0.05  # the lowest octave is there,
    assert encoding[9:12].abs().max() < 0.25  # the highest, faded by exp(-64 * 0.05 / 2), hardly


def rough_mip(**changes: object) -> MipField:
    config = MipConfig(hidden_width=16, blocks=2, frequencies=4, normal_epsilon=2e-3, **changes)
    return MipField(config, seeded())


def test_mip_field_follows_the_paper():
    field = MipField(generator=seeded())
    blocks = [layer for layer in field.trunk if type(layer).__name__ == "ResidualBlock"]
    norms = [layer for layer in field.trunk if isinstance(layer, torch.nn.LayerNorm)]
    assert (len(blocks), len(norms), field.trunk[0].in_features) == (5, 4, 2 * 3 * 8)
    assert all(isinstance(block.layers[1], torch.nn.SiLU) for block in blocks)
    # One fifth of a paper's unit from the middle, two fifths of ours: the blob adds 5 exp(-1/2).
    with torch.no_grad():
        for parameter in field.density_network.parameters():
            parameter.zero_()
    assert field.density(torch.tensor([[0.4, 0.0, 0.0]])).item() == pytest.approx(
        math.exp(5 * math.exp(-0.5)), rel=1e-4
    )


def test_a_residual_block_by_hand():
    block = ResidualBlock(2, seeded())
    first, _, second = block.layers
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, -2.0]]))
        first.bias.copy_(torch.tensor([0.0, 1.0]))
        second.weight.copy_(torch.tensor([[1.0, 1.0], [3.0, 0.0]]))
        second.bias.copy_(torch.tensor([0.5, 0.0]))

    def silu(x: float) -> float:
        return x / (1 + math.exp(-x))

    # From (2, 1): W1 x + b1 = (2, -1).
    expected = [2 + silu(2) + silu(-1) + 0.5, 1 + 3 * silu(2)]
    assert block(torch.tensor([[2.0, 1.0]]))[0].tolist() == pytest.approx(expected)


def test_variance_falls_over_the_first_third_and_is_saved():
    field = MipField(MipConfig(hidden_width=8, blocks=1))
    variances = []
    for progress in (0.0, 1 / 6, 1 / 3, 1.0):
        field.progress.fill_(progress)
        variances.append(field.variance.item())
    assert variances == pytest.approx([0.05, 0.026, 0.002, 0.002])
    again = MipField(MipConfig(hidden_width=8, blocks=1))
    again.load_state_dict(field.state_dict())
    assert again.variance.item() == pytest.approx(0.002)


def test_levels_join_one_by_one():
    grid = HashGridConfig(levels=8, levels_used=Schedule(start=3, end=8, from_=0.2, until=0.6, curve="stairs"))
    shares = torch.tensor([0.0, 0.19, 0.2, 0.29, 0.3, 0.5, 0.6, 1.0])
    assert active_levels(grid, shares).tolist() == [3, 3, 4, 4, 5, 7, 8, 8]
    assert active_levels(HashGridConfig(levels=8, levels_used=constant(3)), shares).unique().tolist() == [3]


def test_levels_not_in_use_are_zero_and_get_no_gradient():
    grid = changed(SMALL.grid, levels_used=Schedule(start=1, end=3, from_=0.5, curve="stairs"))
    field = rough_field(changed(SMALL, grid=grid))
    x = points_in_ball(50)
    everything = rough_field().encode(x)
    encoding = field.encode(x)
    assert torch.equal(encoding[:, :2], everything[:, :2])
    assert (encoding[:, 2:] == 0).all()
    encoding.sum().backward()
    first = field.layout.offsets[1]
    assert field.table.grad[:first].abs().sum() > 0
    assert (field.table.grad[first:] == 0).all()
    field.progress.fill_(1.0)
    assert torch.equal(field.encode(x), everything)
    assert "progress" in field.state_dict()
    assert "progress" not in rough_field().state_dict()


ANALYTIC = {
    "linear": lambda: rough_field(
        changed(SMALL, grid=changed(SMALL.grid, interpolation="linear"), normal_epsilon=1e-3)
    ),
    "smoothstep": lambda: rough_field(changed(SMALL, normal_epsilon=1e-3)),
    "half the levels": lambda: rough_field(
        changed(SMALL, grid=changed(SMALL.grid, levels_used=constant(2)), normal_epsilon=1e-3)
    ),
    "linear blob": lambda: rough_field(changed(SMALL, blob="linear", normal_epsilon=1e-3)),
    "frequency": lambda: NerfField(changed(SMALL, encoding="frequency", frequencies=4, normal_epsilon=2e-3), seeded()),
    "mip": rough_mip,
}


@pytest.mark.parametrize("make", ANALYTIC.values(), ids=ANALYTIC)
def test_analytic_normals_are_the_limit_of_differences(make):
    field, x = make(), points_in_ball(300)
    cosine = (field.normal(x, "analytic") * field.normal(x, "central")).sum(-1)
    assert cosine.median() > 0.9999
    assert (cosine > 0.99).float().mean() > 0.9  # the rest crosses a cell or a kink of ReLU


@pytest.mark.parametrize("make", ANALYTIC.values(), ids=ANALYTIC)
def test_parameter_gradient_of_analytic_normals_against_finite_differences(make):
    field, x = make(), points_in_ball(40)
    upstream = torch.randn(40, 3, generator=seeded(5))

    def value() -> torch.Tensor:
        return (field.normal(x, "analytic") * upstream).sum()

    parameters = [p for p in field.parameters() if p.requires_grad]
    grads = torch.autograd.grad(value(), parameters, allow_unused=True)
    pairs = [(p, g) for p, g in zip(parameters, grads, strict=True) if g is not None]
    norm = torch.stack([g.square().sum() for _, g in pairs]).sum().sqrt().item()
    step, values = 1e-3 / norm * max(1.0, norm), []
    with torch.no_grad():
        start = [p.clone() for p, _ in pairs]
        for sign in (1, -1):
            for (p, g), s in zip(pairs, start, strict=True):
                p.copy_(s + sign * step * g / norm)
            values.append(value().item())
    assert norm > 0.1
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(norm, rel=0.03)


@pytest.mark.parametrize("make", ANALYTIC.values(), ids=ANALYTIC)
def test_evaluate_with_analytic_normals_agrees_with_the_single_calls(make):
    field, x, chosen = make(), points_in_ball(60), torch.tensor([5, 3, 59])
    expected = field.density(x), field.albedo(x), field.normal(x[chosen], "analytic")
    field.config = changed(field.config, normal_method="analytic")
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            found = field.evaluate(x, chosen)
        assert all(value.requires_grad == grad for value in found)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("method", "per_normal"), [("forward", 3), ("backward", 3), ("central", 6), ("analytic", 0)])
def test_normals_cost_only_where_they_are_wanted(method, per_normal, monkeypatch):
    field, x, asked = rough_field(changed(SMALL, normal_method=method)), points_in_ball(50), []
    encode = field.encode
    monkeypatch.setattr(field, "encode", lambda x: asked.append(len(x)) or encode(x))
    for wanted in (0, 10):
        asked.clear()
        field.evaluate(x, torch.arange(wanted))
        assert sum(asked) == 50 + per_normal * wanted


@pytest.mark.parametrize("make", [rough_mip, ANALYTIC["frequency"]])
def test_other_fields_have_one_group_and_a_gradient_everywhere(make):
    field: Field = make()
    (group,) = field.parameter_groups(grid_lr=0.1, network_lr=0.2)
    assert group["lr"] == 0.2
    density, albedo, normal = field.evaluate(points_in_ball(30), torch.arange(30))
    (density.sum() + albedo.sum() + normal.square().sum(-1).sqrt().sum() + normal[:, 0].sum()).backward()
    assert all(p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in group["params"])


def test_normals_in_a_flat_region_are_zero_with_finite_gradients():
    field = without_network(blob_density=0.0)
    normal = field.normal(points_in_ball(20))
    assert torch.equal(normal, torch.zeros(20, 3))
    normal.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in field.parameters())


def test_gradient_of_the_normals_against_finite_differences():
    config = changed(SMALL, normal_epsilon=0.05)
    field = rough_field(config)
    x = points_in_ball(50)
    upstream = torch.randn(50, 3, generator=seeded(5))
    (grad,) = torch.autograd.grad((field.normal(x) * upstream).sum(), field.table)
    direction = grad / grad.norm()  # along itself the derivative is largest, so rounding matters least
    step, values = 1e-2, []
    with torch.no_grad():
        start = field.table.clone()
        for sign in (1, -1):
            field.table.copy_(start + sign * step * direction)
            values.append((field.normal(x) * upstream).sum().item())
    assert grad.norm().item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=0.02)


def test_same_generator_seed_gives_the_same_field():
    first, again, other = (NerfField(SMALL, seeded(s)) for s in (7, 7, 8))
    pairs = list(zip(first.parameters(), again.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert not any(torch.equal(a, c) for a, _, c in pairs if a.dim() > 1)
    torch.manual_seed(7)
    from_global = NerfField(SMALL)
    torch.manual_seed(7)
    assert torch.equal(from_global.table, NerfField(SMALL).table)


def test_parameter_groups_hold_every_parameter_once():
    field = NerfField(SMALL)
    grid, networks = field.parameter_groups(grid_lr=0.1, network_lr=0.2)
    assert (grid["lr"], networks["lr"]) == (0.1, 0.2)
    assert grid["params"] == [field.table]
    grouped = [id(p) for p in grid["params"] + networks["params"]]
    assert sorted(grouped) == sorted(id(p) for p in field.parameters())


@pytest.mark.parametrize("device", DEVICES)
def test_field_and_background_run_on_every_device(device):
    field, x = rough_field().to(device), points_in_ball(10).to(device)
    reference = rough_field().density(points_in_ball(10))
    torch.testing.assert_close(field.density(x).cpu(), reference, rtol=1e-3, atol=1e-4)
    assert LearnedBackground(generator=seeded()).to(device)(x).device.type == device


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: HashGridConfig(levels=0), "levels"),
        (lambda: HashGridConfig(log2_size=30), "log2_size"),
        (lambda: HashGridConfig(base_resolution=64, max_resolution=32), "base_resolution"),
        (lambda: NerfConfig(hidden_layers=0), "hidden_layers"),
        (lambda: NerfConfig(blob_std=0.0), "blob_std"),
        (lambda: NerfConfig(normal_epsilon=-1.0), "normal_epsilon"),
        (lambda: NerfConfig(frequencies=0), "frequencies"),
        (lambda: HashGridConfig(levels_used=constant(0)), "levels_used"),
        (lambda: HashGridConfig(levels=4, levels_used=constant(5)), "levels_used"),
        (lambda: HashGridConfig(levels_used=Schedule(start=1, end=2)), "levels_used"),
        (lambda: MipConfig(blocks=0), "blocks"),
        (lambda: MipConfig(variance=Schedule(start=1, end=0, until=0.0)), "variance"),
        (lambda: BackgroundConfig(hidden_layers=0), "hidden_layers"),
    ],
)
def test_impossible_configurations_are_refused(make, key):
    with pytest.raises(DreamFusionError, match=rf"^{key}: "):
        make()


def test_a_learned_background_by_hand():
    background = LearnedBackground(BackgroundConfig(frequencies=1, hidden_width=2, hidden_layers=1), seeded())
    hidden, _, out = background.network
    with torch.no_grad():
        hidden.weight.zero_()
        hidden.weight[0, 2] = 1.0  # the direction's z
        hidden.weight[1, 3] = 2.0  # the sine of its x
        hidden.bias.copy_(torch.tensor([0.0, -0.5]))
        out.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, -1.0]]))
        out.bias.copy_(torch.tensor([0.0, 0.0, 0.25]))
    high, wide = 0.8, 2 * math.sin(0.6) - 0.5
    expected = torch.tensor([high, wide, high - wide + 0.25]).sigmoid()
    torch.testing.assert_close(background(torch.tensor([0.6, 0.0, 0.8])), expected)
    # Below the horizon z is negative, which the hidden layer holds back.
    below = torch.tensor([0.0, 0.0, 0.25]).sigmoid()
    torch.testing.assert_close(background(torch.tensor([0.0, 0.6, -0.8])), below)


def test_backgrounds():
    directions = torch.nn.functional.normalize(torch.randn(2, 4, 5, 3, generator=seeded()), dim=-1)
    learned = LearnedBackground(generator=seeded())
    color = learned(directions)
    assert color.shape == (2, 4, 5, 3)
    assert ((color > 0) & (color < 1)).all()
    assert color.std() > 1e-3
    color.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learned.parameters())
    wide = LearnedBackground(BackgroundConfig(frequencies=6, hidden_width=32, hidden_layers=2), seeded())
    assert [tuple(p.shape) for p in wide.parameters() if p.dim() == 2] == [(32, 39), (32, 32), (3, 32)]
    static = StaticBackground((0.1, 0.2, 0.3))
    assert static(directions)[1, 2, 3].tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert list(static.parameters()) == []
