"""Our parameters through tiny-cuda-nn: packed in its order, on a stand-in that does what its source says."""

import importlib.util
import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from dreamfusion.fields import tinycudann
from dreamfusion.fields.nerf import HashGridConfig, NerfConfig, NerfField
from dreamfusion.kernels.hashgrid import HashGridLayout, hash_encode_reference

GRID = HashGridConfig(levels=4, features=2, log2_size=10, base_resolution=5, max_resolution=40, staggered=True)
FUSED = NerfConfig(grid=GRID, network_bias=False, hidden_width=24, hidden_layers=2, normal_method="central")
LIBRARY = importlib.util.find_spec("tinycudann") is not None and torch.cuda.is_available()


class Network(nn.Module):
    """tiny-cuda-nn's: matrices [out, in] row by row, its own inputs filled up with ones, outputs up to 16."""

    def __init__(self, inputs: int, outputs: int, config: dict) -> None:
        super().__init__()
        assert config["activation"] == "ReLU"
        assert config["output_activation"] == "None"
        assert (config["otype"] == "FullyFusedMLP") == (config["n_neurons"] in (16, 32, 64, 128))
        assert inputs % 16 == 0, "ones would be filled in"
        width = config["n_neurons"]
        sides = [inputs, *[width] * config["n_hidden_layers"], math.ceil(outputs / 16) * 16]
        self.shapes, self.outputs = [(b, a) for a, b in itertools.pairwise(sides)], outputs
        self.params = nn.Parameter(torch.full((sum(a * b for a, b in self.shapes),), math.nan))

    def forward(self, x: Tensor) -> Tensor:
        matrices = self.params.split([a * b for a, b in self.shapes])
        for i, (flat, shape) in enumerate(zip(matrices, self.shapes, strict=True)):
            x = (x.relu() if i > 0 else x) @ flat.view(shape).T
        return x[:, : self.outputs].half()


class Encoding(nn.Module):
    """tiny-cuda-nn's, of which test_kernels checks the numbers."""

    def __init__(self, inputs: int, config: dict, dtype: torch.dtype) -> None:
        super().__init__()
        assert (inputs, dtype, config["otype"]) == (3, torch.float32, "HashGrid")
        levels, base = config["n_levels"], config["base_resolution"]
        self.layout = HashGridLayout.geometric(
            levels,
            config["n_features_per_level"],
            config["log2_hashmap_size"],
            base,
            round(base * config["per_level_scale"] ** (levels - 1)),
            smoothstep=config["interpolation"] == "Smoothstep",
            staggered=True,
        )
        self.params = nn.Parameter(torch.full((self.layout.entries * self.layout.features,), math.nan))

    def forward(self, x: Tensor) -> Tensor:
        return hash_encode_reference(x, self.params.view(-1, self.layout.features), self.layout)


@pytest.fixture
def installed(monkeypatch):
    """Tell the package that the library is there and takes tensors of the CPU."""

    def clear() -> None:
        tinycudann._encoding.cache_clear()
        tinycudann._network.cache_clear()

    clear()
    monkeypatch.setattr(tinycudann, "_library", lambda: SimpleNamespace(Network=Network, Encoding=Encoding))
    monkeypatch.setattr(tinycudann, "usable", lambda device: True)
    yield
    clear()


def answers(field: NerfField) -> list[Tensor]:
    """Return what a field says of some points, and the gradients of all its parameters."""
    generator = torch.Generator().manual_seed(5)
    x = (1.2 * torch.rand(60, 3, generator=generator) - 0.6).to(field.progress.device)
    density, albedo, normal = field.evaluate(x, torch.arange(0, 60, 3, device=x.device))
    field.zero_grad()
    (density.log().sum() + albedo.sum() + normal[:, 0].sum()).backward()
    return [density, albedo, normal, *(p.grad for p in field.parameters())]


def roughened(config: NerfConfig, device: str = "cpu") -> NerfField:
    """Return a field whose table is not near zero, as a fresh one's is."""
    field = NerfField(config, torch.Generator().manual_seed(1))
    with torch.no_grad():
        field.table.uniform_(-1, 1, generator=torch.Generator().manual_seed(2))
    return field.to(device)


def test_weights_are_packed_row_by_row_and_filled_up_with_zeros():
    first, last = torch.arange(1.0, 1 + 16 * 3).view(16, 3), torch.arange(100.0, 132.0).view(2, 16)
    vector = tinycudann.packed([first, last])
    assert len(vector) == 16 * 16 + 16 * 16
    assert vector[:3].tolist() == [1, 2, 3]
    assert vector[3:16].abs().sum() == 0
    assert vector[16:19].tolist() == [4, 5, 6]
    assert vector[256 : 256 + 32].tolist() == list(range(100, 132))
    assert vector[256 + 32 :].abs().sum() == 0


@pytest.mark.parametrize("width", [24, 32])
def test_a_field_through_the_library_is_the_same(installed, monkeypatch, width):
    config = NerfConfig(**{**vars(FUSED), "hidden_width": width})
    through = answers(roughened(config))
    assert tinycudann._encoding.cache_info().currsize == 1, "the library was asked"
    monkeypatch.setattr(tinycudann, "usable", lambda device: False)
    for found, expected in zip(through, answers(roughened(config)), strict=True):
        torch.testing.assert_close(
            found, expected, rtol=1e-2, atol=1e-2 * expected.abs().max().item()
        )  # half precision


@pytest.mark.parametrize(
    "change", [{"network_bias": True}, {"normal_method": "analytic"}, {"grid": HashGridConfig(levels=2)}]
)
def test_what_the_library_cannot_do_is_done_by_our_kernels(installed, change):
    answers(roughened(NerfConfig(**{**vars(FUSED), **change})))
    assert tinycudann._encoding.cache_info().currsize == 0
    assert tinycudann._network.cache_info().currsize == 0


def test_without_the_library_nothing_is_asked_of_it():
    assert not tinycudann.usable(torch.device("cpu"))
    assert answers(roughened(FUSED))[0].isfinite().all()


@pytest.mark.skipif(not LIBRARY, reason="needs tinycudann and a GPU")
def test_the_library_itself(monkeypatch):
    through = answers(roughened(FUSED, "cuda"))
    monkeypatch.setattr(tinycudann, "usable", lambda device: False)
    for found, expected in zip(through, answers(roughened(FUSED, "cuda")), strict=True):
        torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2 * expected.abs().max().item())
