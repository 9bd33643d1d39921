"""``dreamfusion prior sample``."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from dreamfusion.config import Precision


def prior_sample(
    prompts: Positional[tuple[str, ...]],
    *,
    output: Path = Path("samples.png"),
    model: str | None = None,
    image: Path | None = None,
    steps: int = 50,
    lora: tuple[str, ...] = (),
    embedding: tuple[str, ...] = (),
    precision: Precision = "fp32",
    image_size: int | None = None,
    guidance_scale: float | None = None,
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
        model: toybox, sd, or a diffusers pipeline: folder, file or hub name; the embedded prior if not given
        image: picture of the object from its front, for a model that is shown one
        steps: denoising steps
        lora: LoRA files to add to the model, FILE or FILE:WEIGHT
        embedding: files of textual inversions
        precision: number format of the model's weights; fp16 is for GPUs
        image_size: side of the pictures of a latent model (its own if not given)
        guidance_scale: how strongly the words count (3 for a prior that knows cameras, else 7.5)
        negative_prompt: what the pictures must not show
        views: draw the front, side, back and overhead view; otherwise four samples of the bare prompt
        seed: decides the noise
        device: auto, cpu, cuda, cuda:N or mps

    """
    from dreamfusion.assets.images import save_png
    from dreamfusion.device import pick_device
    from dreamfusion.guidance.families import open_prior
    from dreamfusion.guidance.names import model_named
    from dreamfusion.guidance.picture import Picture
    from dreamfusion.guidance.reading.prepare import set_precision
    from dreamfusion.toybox.samples import sample_grid

    chosen = pick_device(device)
    guidance = open_prior(
        model_named(model or "toybox"),
        device=chosen,
        dtype=set_precision(precision, chosen),
        image_size=image_size,
        loras=lora,
        embeddings=embedding,
        picture=None if image is None else Picture(image),
    )
    usual = 3.0 if guidance.knows_cameras and guidance.latent_shape is None else 7.5
    grid = sample_grid(
        guidance,
        prompts,
        steps=steps,
        guidance_scale=usual if guidance_scale is None else guidance_scale,
        negative_prompt=negative_prompt,
        views=views,
        seed=seed,
    )
    save_png(grid, output)
    print(output)
