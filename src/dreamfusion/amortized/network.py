"""The network from words and a seed to a scene: what it puts out are the parameters of an ordinary field.

The coarse levels of the field's hash grid are a mean plus a mixture of ``basis`` learned tables, whose coefficients
depend on the words and the seed. So do the biases of the field's two small networks, whose weights all scenes share.
Fine levels stay empty: they are what a later optimisation fills. Whatever renders, measures, saves or goes on with a
scene then needs to know nothing of where it came from.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dreamfusion.config import NerfConfig
from dreamfusion.fields.nerf import NerfField, grid_layout
from dreamfusion.guidance.base import Guidance

NOISE = 8
"""Numbers that a seed is made into."""

_START = 0.01  # size of the basis at first


@dataclass(frozen=True)
class NetworkSize:
    """``basis`` tables over the ``levels`` coarsest levels, and hidden layers of ``width``."""

    basis: int = 32
    levels: int = 4
    width: int = 256


class SceneNetwork(nn.Module):
    """From the features of a text [D] and a seed's noise [`NOISE`] to the parameters of a `NerfField` by name."""

    def __init__(self, config: NerfConfig, text_width: int, size: NetworkSize, seed: int = 0) -> None:
        super().__init__()
        layout = grid_layout(config.grid)
        self.size = size
        self.entries, self.modulated = layout.entries, layout.offsets[min(size.levels, layout.levels)]
        generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            field = NerfField(config, generator)
            self.trunk = nn.Sequential(
                nn.Linear(text_width + NOISE, size.width), nn.SiLU(), nn.Linear(size.width, size.width), nn.SiLU()
            )
            self.coefficients = nn.Linear(size.width, size.basis)
            shared = {name: value for name, value in field.named_parameters() if name != "table"}
            self.names = list(shared)
            self.shared = nn.ParameterList([value.detach().clone() for value in shared.values()])
            # Biases of the field that follow the words: at first they do not.
            self.biases = nn.Linear(size.width, sum(shared[name].numel() for name in self._bias_names()))
            nn.init.zeros_(self.biases.weight)
            nn.init.zeros_(self.biases.bias)
        self.mean = nn.Parameter(torch.zeros(self.modulated, layout.features))
        basis = torch.randn(size.basis, self.modulated, layout.features, generator=generator)
        self.basis = nn.Parameter(_START * basis)

    def _bias_names(self) -> list[str]:
        return [name for name in self.names if name.endswith("bias")]

    def forward(self, text: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """Return the parameters of a field, by name."""
        hidden = self.trunk(torch.cat([text, noise]))
        table = self.mean + torch.einsum("k,kef->ef", self.coefficients(hidden), self.basis)
        values = {"table": nn.functional.pad(table, (0, 0, 0, self.entries - self.modulated))}
        values |= dict(zip(self.names, self.shared, strict=True))
        names = self._bias_names()
        parts = self.biases(hidden).split([values[name].numel() for name in names])
        return values | {name: values[name] + part for name, part in zip(names, parts, strict=True)}


def text_features(prior: Guidance, prompts: list[str]) -> Tensor:
    """Return what a prior understands of n prompts as one vector each, [n, D], of length sqrt(D).

    That is the mean of its tokens, less that of the empty prompt: only what the words say. A camera's token, if the
    prior has one, comes last and is left out.
    """
    last = -1 if prior.knows_cameras and not prior.needs_cameras else None
    means = prior.embed([*prompts, ""]).tokens[:, :last].mean(dim=1)
    said = means[:-1] - means[-1]
    return nn.functional.normalize(said, dim=-1) * said.shape[-1] ** 0.5


def seed_noise(seed: int) -> Tensor:
    """Return the noise [`NOISE`] that a seed stands for."""
    return torch.randn(NOISE, generator=torch.Generator().manual_seed(seed))
