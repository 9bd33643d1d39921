"""``dreamfusion prior sample``."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional


def prior_sample(
    prompts: Positional[tuple[str, ...]],
    *,
    output: Path = Path("samples.png"),
    model: str | None = None,
    steps: int = 50,
    guidance_scale: float = 3.0,
    negative_prompt: str = "",
    views: bool = True,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Draw pictures from a prior: what it believes the words look like.

    For example:
        dreamfusion prior sample "a red mushroom" "a blue car"

    Args:
        prompts: one or more prompts, a row of pictures each
        output: picture to write
        model: folder or hub name of a pixel-space diffusers pipeline; the embedded prior if not given
        steps: denoising steps
        guidance_scale: how strongly the words count
        negative_prompt: what the pictures must not show
        views: draw the front, side, back and overhead view; otherwise four samples of the bare prompt
        seed: decides the noise
        device: auto, cpu, cuda, cuda:N or mps

    """
    from dreamfusion.assets.images import save_png
    from dreamfusion.device import pick_device
    from dreamfusion.guidance.names import model_named
    from dreamfusion.guidance.pixel import PixelGuidance
    from dreamfusion.toybox.samples import sample_grid

    guidance = PixelGuidance(model_named(model or "toybox"), device=pick_device(device))
    grid = sample_grid(
        guidance,
        prompts,
        steps=steps,
        guidance_scale=guidance_scale,
        negative_prompt=negative_prompt,
        views=views,
        seed=seed,
    )
    save_png(grid, output)
    print(output)
