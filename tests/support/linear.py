"""A prior simple enough to work out by hand, and what it is asked."""

from typing import Any

import torch
from torch import Tensor

from dreamfusion.guidance.asked import Asked
from dreamfusion.guidance.base import Embeddings, Guidance
from dreamfusion.method.cameras import CameraRange, sample_cameras


class LinearGuidance(Guidance):
    """Predicts 0.5 z_t + the embedding, and records how it is called."""

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


def ask(prior: Guidance, text: Embeddings, uncond: Embeddings, scale: float = 7.0, **options: Any) -> Asked:
    """Return the prior, asked for a text in views of random cameras."""
    cameras = sample_cameras(len(text), CameraRange(), torch.Generator().manual_seed(3))
    return Asked(prior, text, uncond, cameras, scale, **options)


def problem(device: str = "cpu", count: int = 2) -> tuple[Tensor, Tensor, Embeddings, Embeddings, Tensor]:
    """Return renderings, noise, embeddings of the texts 0.3 and 0.1, and timesteps, for `LinearGuidance`."""
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(count, 3, 4, 4, generator=generator, dtype=torch.float64).to(device)
    noise = torch.randn(count, 3, 4, 4, generator=generator, dtype=torch.float64).to(device)
    text = Embeddings(torch.full((count, 1, 1), 0.3, dtype=torch.float64, device=device))
    uncond = Embeddings(torch.full((count, 1, 1), 0.1, dtype=torch.float64, device=device))
    return z, noise, text, uncond, torch.tensor([1, 2], device=device)[:count]
