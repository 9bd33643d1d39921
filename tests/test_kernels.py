"""Kernels: hand-worked values, and every kernel against its PyTorch twin, forward and backward, on all devices."""

import itertools
import math
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dreamfusion.kernels import backend
from dreamfusion.kernels.allocation import keep_memory
from dreamfusion.kernels.compositing import ray_sum, ray_sum_reference, ray_weights, ray_weights_reference
from dreamfusion.kernels.hashgrid import (
    HashGridLayout,
    hash_encode,
    hash_encode_reference,
    hash_encode_slope,
    hash_encode_slope_reference,
)
from dreamfusion.kernels.marching import PackedSamples, march_rays, march_rays_reference

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
on_every_device = pytest.mark.parametrize("device", DEVICES)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def threads():
    """Set the number of CPU threads for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


# Hash grid


def one_cell(smoothstep: bool) -> HashGridLayout:
    return HashGridLayout.geometric(1, 1, 10, 1, 1, smoothstep=smoothstep)


def test_layout_spans_base_to_max_and_is_dense_where_it_fits():
    layout = HashGridLayout.geometric(4, 2, 12, 4, 32)
    assert layout.resolutions == (4, 8, 16, 32)
    assert layout.offsets == (0, 125, 125 + 729, 125 + 729 + 4096, 125 + 729 + 2 * 4096)
    assert layout.dense_levels == 2
    assert layout.channels == 8


@on_every_device
@pytest.mark.parametrize("encode", [hash_encode, hash_encode_reference])
def test_interpolation_by_hand(encode, device):
    table = torch.arange(1.0, 9.0, device=device)[:, None]  # vertex (x, y, z) holds 1 + x + 2y + 4z
    points = torch.tensor([[0.25, 0.0, 0.0], [1.0, 1.0, 1.0], [0.5, 0.5, 0.5], [-3.0, 0.0, 7.0]], device=device)
    linear = encode(points, table, one_cell(smoothstep=False))
    assert linear[:, 0].tolist() == pytest.approx([1.25, 8.0, 4.5, 5.0])  # the last point is clamped to (0, 0, 1)
    smooth = encode(points, table, one_cell(smoothstep=True))
    assert smooth[:, 0].tolist() == pytest.approx([1 + 3 / 16 - 2 / 64, 8.0, 4.5, 5.0])


@on_every_device
@pytest.mark.parametrize("encode", [hash_encode, hash_encode_reference])
def test_hashed_vertex_reads_the_entry_of_the_published_hash(encode, device):
    layout = HashGridLayout.geometric(1, 1, 10, 64, 64)
    table = torch.arange(float(layout.entries), device=device)[:, None]
    x, y, z = 13, 50, 7
    entry = (x ^ (y * 2654435761) ^ (z * 805459861)) % 1024
    assert encode(torch.tensor([[x, y, z]], device=device) / 64, table, layout).item() == entry


@on_every_device
@pytest.mark.parametrize("features", [1, 2, 4])
@pytest.mark.parametrize("smoothstep", [False, True])
@pytest.mark.parametrize("staggered", [False, True])
def test_hash_encode_agrees_with_its_twin(features, smoothstep, staggered, device):
    layout = HashGridLayout.geometric(5, features, 9, 4, 600, smoothstep=smoothstep, staggered=staggered)
    points = (torch.rand(1000, 3, generator=seeded()) * 1.2 - 0.1).to(device)
    table = torch.randn(layout.entries, features, generator=seeded(1)).to(device).requires_grad_()
    ours, twin = hash_encode(points, table, layout), hash_encode_reference(points, table, layout)
    torch.testing.assert_close(ours, twin, atol=2e-5, rtol=1e-5)
    upstream = torch.randn(ours.shape, generator=seeded(2)).to(device)
    (ours_grad,) = torch.autograd.grad(ours, table, upstream)
    (twin_grad,) = torch.autograd.grad(twin, table, upstream)
    torch.testing.assert_close(ours_grad, twin_grad, atol=2e-4, rtol=1e-4)


def tiny_cuda_nn_value(x: list[float], table: list[float], base: int, growth: float, level: int) -> float:
    """Return what tiny-cuda-nn's common_device.h says of one level, number by number; ``table`` is that level's."""
    scale = base * growth**level - 1
    resolution = math.ceil(scale) + 1
    position = [scale * value + 0.5 for value in x]
    cell = [math.floor(value) for value in position]
    total = 0.0
    for corner in itertools.product((0, 1), repeat=3):
        weight = math.prod(p - c if bit else 1 - (p - c) for p, c, bit in zip(position, cell, corner, strict=True))
        at = [c + bit for c, bit in zip(cell, corner, strict=True)]
        if len(table) < resolution**3:
            index = at[0] ^ (at[1] * 2654435761) ^ (at[2] * 805459861)
        else:
            index = at[0] + resolution * (at[1] + resolution * at[2])
        total += weight * table[index % len(table)]
    return total


@on_every_device
@pytest.mark.parametrize("encode", [hash_encode, hash_encode_reference])
def test_a_staggered_grid_is_that_of_tiny_cuda_nn(encode, device):
    layout = HashGridLayout.geometric(3, 1, 9, 5, 20, smoothstep=False, staggered=True)
    assert layout.offsets == (0, 128, 640, 1152)  # 5^3 filled up to 128; 10^3 and 20^3 do not fit into 512
    assert layout.dense_levels == 1
    table = torch.randn(layout.entries, 1, generator=seeded(1))
    # The last two reach beyond the end of the dense level, in one axis and in all.
    points = [[0.1, 0.5, 0.93], [0.0, 0.31, 0.77], [0.99, 0.2, 0.4], [1.0, 1.0, 1.0]]
    found = encode(torch.tensor(points, device=device), table.to(device), layout).cpu()
    for level, (begin, end) in enumerate(itertools.pairwise(layout.offsets)):
        values = table[begin:end, 0].tolist()
        expected = [tiny_cuda_nn_value(x, values, 5, 2.0, level) for x in points]
        assert found[:, level].tolist() == pytest.approx(expected, abs=1e-5)


def test_fine_resolutions_do_not_overflow_the_dense_test():
    # 2049^3 and 1626^3 do not fit into 32 bits.
    layout = HashGridLayout.geometric(2, 2, 8, 1625, 2048)
    points = torch.rand(50, 3, generator=seeded())
    table = torch.randn(layout.entries, 2, generator=seeded(1))
    # At such resolutions a rounding of the position is a visible part of a cell.
    torch.testing.assert_close(
        hash_encode(points, table, layout), hash_encode_reference(points, table, layout), atol=1e-3, rtol=0
    )


def test_table_gradient_is_the_same_bits_for_any_number_of_threads(threads):
    layout = HashGridLayout.geometric(5, 2, 9, 4, 64)
    points = torch.rand(3000, 3, generator=seeded())
    table = torch.randn(layout.entries, 2, generator=seeded(1)).requires_grad_()
    upstream = torch.randn(3000, layout.channels, generator=seeded(2))
    results = []
    for count in (1, 2, 3, 8):
        threads(count)
        encoding = hash_encode(points, table, layout)
        results.append((encoding, *torch.autograd.grad(encoding, table, upstream)))
    for encoding, grad in results[1:]:
        assert torch.equal(encoding, results[0][0])
        assert torch.equal(grad, results[0][1])


@on_every_device
def test_no_points_encode_to_nothing_with_a_zero_gradient(device):
    layout = HashGridLayout.geometric(3, 2, 8, 2, 16)
    table = torch.randn(layout.entries, 2, device=device, requires_grad=True)
    encoding = hash_encode(torch.empty(0, 3, device=device), table, layout)
    assert encoding.shape == (0, 6)
    (grad,) = torch.autograd.grad(encoding.sum(), table)
    assert torch.equal(grad, torch.zeros_like(table))


def test_points_get_no_gradient():
    layout = one_cell(smoothstep=False)
    points = torch.rand(4, 3, requires_grad=True)
    table = torch.randn(8, 1, requires_grad=True)
    encoding = hash_encode(points, table, layout)
    with pytest.raises(RuntimeError, match="not have been used"):
        torch.autograd.grad(encoding.sum(), points)


@on_every_device
@pytest.mark.parametrize("features", [1, 4])
@pytest.mark.parametrize("staggered", [False, True])
@pytest.mark.parametrize("smoothstep", [False, True])
def test_slope_of_the_encoding_agrees_with_its_twin(features, smoothstep, staggered, device):
    layout = HashGridLayout.geometric(5, features, 9, 4, 60, smoothstep=smoothstep, staggered=staggered)
    points = torch.rand(500, 3, generator=seeded()).to(device)
    table = torch.randn(layout.entries, features, generator=seeded(1)).to(device).requires_grad_()
    upstream = torch.randn(500, layout.channels, generator=seeded(2)).to(device).requires_grad_()
    ours, twin = (f(points, table, upstream, layout) for f in (hash_encode_slope, hash_encode_slope_reference))
    torch.testing.assert_close(ours, twin, atol=1e-2, rtol=1e-4)  # slopes reach 60 times the table's values
    direction = torch.randn(500, 3, generator=seeded(3)).to(device)
    ours_grads = torch.autograd.grad(ours, (table, upstream), direction)
    for a, b in zip(ours_grads, torch.autograd.grad(twin, (table, upstream), direction), strict=True):
        torch.testing.assert_close(a, b, atol=1e-2, rtol=1e-4)


@pytest.mark.parametrize(("smoothstep", "rate"), [(False, 1.0), (True, 6 * 0.25 * 0.75)])
def test_slope_in_one_cell_by_hand(smoothstep, rate):
    """Corner values x + 2 y + 4 z: the interpolation rises by 1, 2 and 4 times the slope of the fraction."""
    points, upstream = torch.full((1, 3), 0.25), torch.tensor([[3.0]])
    table = torch.arange(8.0)[:, None]
    slope = hash_encode_slope(points, table, upstream, one_cell(smoothstep=smoothstep))
    assert slope.tolist() == [pytest.approx([3 * rate, 6 * rate, 12 * rate])]


# Marching


def x_ray(device: str) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor([[-2.0, 0.0, 0.0]], device=device), torch.tensor([[1.0, 0.0, 0.0]], device=device)


@on_every_device
@pytest.mark.parametrize("march", [march_rays, march_rays_reference])
def test_samples_of_one_ray_by_hand(march, device):
    origin, direction = x_ray(device)
    full = torch.ones(4, 4, 4, dtype=torch.bool, device=device)
    half = torch.full((1,), 0.5, device=device)
    samples = march(origin, direction, full, 0.5, half)  # the sphere spans t = 1 to 3
    assert samples.t.tolist() == pytest.approx([1.25, 1.75, 2.25, 2.75])
    assert samples.offsets.tolist() == [0, 4]

    only_last = torch.zeros_like(full)
    only_last[3, 2, 2] = True  # x in [0.5, 1], y and z in [0, 0.5]
    samples = march(origin, direction, only_last, 0.5, half)
    assert samples.t.tolist() == pytest.approx([2.75])
    assert samples.points(origin, direction).tolist() == [pytest.approx([0.75, 0.0, 0.0])]


@on_every_device
@pytest.mark.parametrize("march", [march_rays, march_rays_reference])
def test_rays_that_miss_or_look_away_have_no_samples(march, device):
    origins = torch.tensor([[-2.0, 1.1, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 0.0]], device=device)
    directions = torch.tensor([[1.0, 0.0, 0.0]], device=device).expand(3, 3)
    full = torch.ones(4, 4, 4, dtype=torch.bool, device=device)
    samples = march(origins, directions, full, 0.5, torch.zeros(3, device=device))
    assert samples.offsets.tolist() == [0, 0, 0, 2]  # from inside, the lattice starts at the camera: t = 0, 0.5
    assert samples.ray_index.tolist() == [2, 2]
    assert samples.t.tolist() == [0.0, 0.5]


@on_every_device
@pytest.mark.parametrize("march", [march_rays, march_rays_reference])
def test_growing_steps_by_hand(march, device):
    """Even steps of 0.5 up to t = 0.5 / 0.25 = 2, which is u = 2; then t = 2 exp(0.25 (u - 2))."""
    origin, direction = x_ray(device)
    full = torch.ones(4, 4, 4, dtype=torch.bool, device=device)
    samples = march(origin, direction, full, 0.5, torch.full((1,), 0.5, device=device), growth=0.25)
    assert samples.t.tolist() == pytest.approx([1.25, 1.75, 2 * math.exp(0.125), 2 * math.exp(0.375)])
    grown = [2 * (math.exp(0.25) - 1), 2 * (math.exp(0.5) - math.exp(0.25))]
    assert samples.length.tolist() == pytest.approx([0.5, 0.5, *grown], abs=1e-5)


@on_every_device
@pytest.mark.parametrize("march", [march_rays, march_rays_reference])
def test_max_steps_keeps_the_nearest_samples(march, device):
    origin, direction = x_ray(device)
    full = torch.ones(4, 4, 4, dtype=torch.bool, device=device)
    samples = march(origin, direction, full, 0.5, torch.full((1,), 0.5, device=device), max_steps=3)
    assert samples.t.tolist() == pytest.approx([1.25, 1.75, 2.25])


@on_every_device
@pytest.mark.parametrize("growth", [0.0, 0.03])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 1.0])
def test_marching_agrees_with_its_twin(share, growth, device):
    generator = seeded()
    origins = 2 * torch.nn.functional.normalize(torch.randn(700, 3, generator=generator), dim=-1)
    aim = torch.randn(700, 3, generator=generator) * 0.4 - origins
    directions = torch.nn.functional.normalize(aim, dim=-1)
    grid = torch.rand(16, 16, 16, generator=generator) < share
    jitter = torch.rand(700, generator=generator)
    inputs = [v.to(device) for v in (origins, directions, grid)]
    ours = march_rays(*inputs, 0.03, jitter.to(device), growth=growth)
    twin = march_rays_reference(*inputs, 0.03, jitter.to(device), growth=growth)
    assert torch.equal(ours.offsets, twin.offsets)
    assert torch.equal(ours.ray_index, twin.ray_index)
    torch.testing.assert_close(ours.t, twin.t)
    torch.testing.assert_close(ours.length, twin.length, atol=1e-5, rtol=1e-5)
    assert (len(ours) == 0) == (share == 0)


def test_select_keeps_order_and_recounts():
    samples = PackedSamples(
        torch.tensor([0, 0, 2, 2, 2], dtype=torch.int32),
        torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]),
        torch.tensor([0, 2, 2, 5], dtype=torch.int32),
        torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]),
    )
    kept = samples.select(torch.tensor([False, True, True, False, True]))
    assert kept.t.tolist() == [2.0, 3.0, 5.0]
    assert kept.ray_index.tolist() == [0, 2, 2]
    assert kept.offsets.tolist() == [0, 1, 1, 3]
    assert kept.length.tolist() == pytest.approx([0.2, 0.3, 0.5])


# Compositing


@on_every_device
@pytest.mark.parametrize("weigh", [ray_weights, ray_weights_reference])
def test_weights_by_hand(weigh, device):
    sigma = torch.tensor([2 * math.log(2)] * 3, device=device)  # each half-unit step lets half of the light through
    weights, transmittance = weigh(sigma, 0.5, torch.tensor([0, 2, 2, 3], dtype=torch.int32, device=device))
    assert weights.tolist() == pytest.approx([0.5, 0.25, 0.5])
    assert transmittance.tolist() == pytest.approx([1.0, 0.5, 1.0])


def test_weights_of_samples_of_unequal_length_by_hand():
    sigma, offsets = torch.full((2,), math.log(2)), torch.tensor([0, 2], dtype=torch.int32)
    weights, _ = ray_weights(sigma, torch.tensor([1.0, 2.0]), offsets)
    assert weights.tolist() == pytest.approx([0.5, 0.5 * 0.75])


@on_every_device
@pytest.mark.parametrize("add", [ray_sum, ray_sum_reference])
def test_sums_by_hand(add, device):
    weights = torch.tensor([0.5, 0.25, 2.0], device=device)
    values = torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]], device=device)
    ray_index = torch.tensor([0, 0, 2], dtype=torch.int32, device=device)
    offsets = torch.tensor([0, 2, 2, 3], dtype=torch.int32, device=device)
    assert add(weights, values, ray_index, offsets).tolist() == [[1.0, 10.0], [0.0, 0.0], [6.0, 60.0]]


def packed(device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Densities over five orders of magnitude on 300 rays with 0 to 19 samples; (sigma, ray_index, offsets)."""
    counts = torch.randint(0, 20, (300,), generator=seeded())
    ray_index = torch.repeat_interleave(torch.arange(300), counts).int()
    offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0)).int()
    sigma = torch.exp(3 * torch.randn(len(ray_index), generator=seeded(1)))
    return sigma.to(device), ray_index.to(device), offsets.to(device)


@on_every_device
def test_weights_agree_with_their_twin(device):
    sigma, _, offsets = packed(device)
    sigma.requires_grad_()
    ours, ours_light = ray_weights(sigma, 0.1, offsets)
    twin, twin_light = ray_weights_reference(sigma, 0.1, offsets)
    torch.testing.assert_close(ours, twin, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(ours_light, twin_light, atol=1e-6, rtol=1e-5)
    upstream = torch.randn(ours.shape, generator=seeded(2)).to(device)
    (ours_grad,) = torch.autograd.grad(ours, sigma, upstream)
    (twin_grad,) = torch.autograd.grad(twin, sigma, upstream)
    torch.testing.assert_close(ours_grad, twin_grad, atol=1e-6, rtol=1e-4)


@on_every_device
def test_sums_agree_with_their_twin(device):
    sigma, ray_index, offsets = packed(device)
    weights = sigma.requires_grad_()
    values = torch.randn(len(sigma), 5, generator=seeded(3)).to(device).requires_grad_()
    ours, twin = (add(weights, values, ray_index, offsets) for add in (ray_sum, ray_sum_reference))
    torch.testing.assert_close(ours, twin, atol=1e-3, rtol=1e-5)
    upstream = torch.randn(ours.shape, generator=seeded(4)).to(device)
    for a, b in zip(
        torch.autograd.grad(ours, (weights, values), upstream),
        torch.autograd.grad(twin, (weights, values), upstream),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@on_every_device
def test_weight_gradient_against_finite_differences(device):
    sigma = torch.tensor([0.3, 2.0, 0.0, 5.0, 1.0], device=device, requires_grad=True)
    offsets = torch.tensor([0, 4, 5], dtype=torch.int32, device=device)
    upstream = torch.tensor([0.7, -1.0, 2.0, 0.4, 1.5], device=device)
    (grad,) = torch.autograd.grad(ray_weights(sigma, 0.4, offsets)[0], sigma, upstream)
    for i in range(5):
        bump = torch.zeros_like(sigma)
        bump[i] = 1e-2
        with torch.no_grad():
            high, low = (ray_weights(sigma + s * bump, 0.4, offsets)[0] @ upstream for s in (1, -1))
        assert grad[i].item() == pytest.approx(((high - low) / 2e-2).item(), abs=2e-4)


@on_every_device
def test_extreme_densities_keep_weights_and_gradients_finite(device):
    sigma = torch.tensor([0.0, 1e30, 1e30, 1e-30], device=device, requires_grad=True)
    weights, _ = ray_weights(sigma, 0.1, torch.tensor([0, 4], dtype=torch.int32, device=device))
    assert weights.tolist() == [0.0, 1.0, 0.0, 0.0]
    (grad,) = torch.autograd.grad(weights.sum(), sigma)
    assert grad.isfinite().all()


# Backend


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_in_parallel_calls_every_part_once(parts, threads):
    threads(parts)
    calls = []
    backend.in_parallel(lambda part, of: calls.append((part, of)), torch.device("cpu"))
    assert sorted(calls) == [(part, parts) for part in range(parts)]


def test_in_parallel_passes_errors_on(threads):
    def fail_in_part_one(part: int, parts: int) -> None:
        if part == 1:
            raise ValueError("part one")

    threads(2)
    with pytest.raises(ValueError, match="part one"):
        backend.in_parallel(fail_in_part_one, torch.device("cpu"))


def test_large_memory_is_ordinary_memory():
    tensor = backend.large_empty(2**22 + 3, 2, torch.device("cpu")).fill_(3.0)  # above the size for huge pages
    assert tensor.shape == (2**22 + 3, 2)
    assert tensor.sum(dtype=torch.float64).item() == 6.0 * (2**22 + 3)


def test_other_devices_take_the_twins():
    assert backend.uses_warp(torch.device("cpu"))
    assert not backend.uses_warp(torch.device("mps"))


def test_without_a_home_kernels_are_kept_where_nobody_else_can_write(tmp_path, monkeypatch):
    monkeypatch.setattr(backend.tempfile, "tempdir", str(tmp_path))
    own = backend._own_folder()
    assert os.path.dirname(own) == str(tmp_path)
    assert os.stat(own).st_mode & 0o077 == 0
    assert backend._own_folder() == own
    assert backend._can_write(Path(own))
    assert not backend._can_write(Path(own) / "absent")
    os.chmod(own, 0o777)  # as somebody else may have put it there first
    assert backend._own_folder() != own


def test_memory_is_kept_by_three_settings_of_glibc(monkeypatch: pytest.MonkeyPatch):
    asked: list[tuple[int, int]] = []
    library = SimpleNamespace(mallopt=lambda name, value: asked.append((name, value)) or 1)
    monkeypatch.setattr("platform.libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr("ctypes.CDLL", lambda _: library)
    assert keep_memory()
    assert sorted(asked) == [(-4, 0), (-2, 2**26), (-1, -1)]  # no maps, 64 MiB more at a time, never trimmed
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    assert not keep_memory()
    assert len(asked) == 3
