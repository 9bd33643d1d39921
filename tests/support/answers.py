"""What a step of a run asks of a prior, to compare two of them, and a tiny VAE to put in the place of one."""

from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from torch import Tensor

from dreamfusion.guidance.base import Guidance


def answers(prior: Guidance, count: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Return what a step of a run asks for: latents, predicted noise, and a gradient with respect to the pictures."""
    image = torch.rand(count, 3, 12, 12, generator=torch.Generator().manual_seed(3)).to(prior.device).requires_grad_()
    z = prior.encode(image)
    t = torch.tensor([100, 700], device=prior.device)
    eps = prior.predict_noise(z.detach(), t, prior.embed(["a red mushroom", "a mushroom"]))
    (z * eps.sign()).sum().backward()  # after the denoiser was asked, as in a run
    assert image.grad.abs().max() > 0
    return z.detach().cpu(), eps.cpu(), image.grad.cpu()


def assert_same(found: tuple[Tensor, ...], expected: tuple[Tensor, ...], tolerance: float = 1e-4) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def save_tiny(folder: Path, latents: int = 4, levels: int = 2) -> Path:
    """Save an AutoencoderTiny that halves the picture levels - 1 times, as families.py's VAE does once."""
    torch.manual_seed(1)
    AutoencoderTiny(
        latent_channels=latents,
        encoder_block_out_channels=(8,) * levels,
        decoder_block_out_channels=(8,) * levels,
        num_encoder_blocks=(1,) * levels,
        num_decoder_blocks=(1,) * levels,
    ).save_pretrained(folder)
    return folder
