"""A prior of your own: one that believes in balls of the prompt's colour. python examples/own_prior.py

A prior says which noise it sees in a noisy picture. This one knows the answer in closed form: its pictures are a disc
before grey, give or take ``spread`` in each pixel, so the best guess of the noise in z_t = a z + s eps is
eps_hat = s (z_t - a mean) / (a^2 spread^2 + s^2).
"""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import ImageColor
from torch import Tensor
from torch.nn.functional import interpolate

import dreamfusion
from dreamfusion.guidance.analytic import cosine_alphas_cumprod
from dreamfusion.guidance.base import per_image


class Balls(dreamfusion.Guidance):
    """A prior on pictures of 32 x 32 pixels, z in [-1, 1]."""

    def __init__(self, spread: float = 0.1) -> None:
        self.device, self.sample_size, self.spread = torch.device("cpu"), 32, spread
        self.alphas_cumprod = cosine_alphas_cumprod()
        axis = torch.linspace(-1, 1, self.sample_size)
        self.disc = axis.square() + axis[:, None].square() < 0.3

    def embed(self, prompts: Sequence[str]) -> dreamfusion.Embeddings:
        """Return the colour that each prompt names, as one token [n, 1, 3]; grey for one that names none."""
        words = [[word for word in prompt.split() if word in ImageColor.colormap] for prompt in prompts]
        colors = [ImageColor.getrgb(found[0])[:3] if found else (204, 204, 204) for found in words]
        return dreamfusion.Embeddings(torch.tensor(colors)[:, None] / 127.5 - 1)

    def encode(self, image: Tensor) -> Tensor:
        """Return z of pictures [B, 3, H, W] in [0, 1]; differentiable."""
        return 2 * interpolate(image, (self.sample_size,) * 2, mode="bilinear", antialias=True) - 1

    def predict_noise(self, z_t: Tensor, t: Tensor, embeddings: dreamfusion.Embeddings) -> Tensor:
        """Return eps_hat [B, 3, S, S] for timesteps [B] and B embeddings."""
        a, s = (per_image(values, z_t) for values in self.coefficients(t))
        mean = torch.where(self.disc, embeddings.tokens[:, 0, :, None, None], 0.6)
        return s * (z_t - a * mean) / (a**2 * self.spread**2 + s**2)


def main(output: str = "runs/own-prior", **options: Any) -> dreamfusion.Result:
    """Make a ball with it, and say where its pictures are. It knows colours alone, so no guidance is needed."""
    settings = {"scene": {"background": "static", "background_color": [0.8, 0.8, 0.8]}, "steps": 150}
    result = dreamfusion.generate(
        "an orange ball",
        guidance=Balls(),
        guidance_scale=1.0,
        output=output,
        preset="quick",
        progress=True,
        config=settings,
        **options,
    )
    print(result.contact_sheet)
    return result


if __name__ == "__main__":
    main()
