"""Between our images in [0, 1] and the space in which pixel-space diffusion models work."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate


def image_to_z(image: Float[Tensor, "B 3 H W"], size: int) -> Float[Tensor, "B 3 {size} {size}"]:
    """Return images [B, 3, H, W] in [0, 1] as z [B, 3, size, size] in [-1, 1]; differentiable.

    Larger images are averaged over areas, so that every pixel gets a gradient; smaller ones are interpolated.
    """
    return 2 * resized(image, size) - 1


def resized(image: Float[Tensor, "B C H W"], size: int) -> Float[Tensor, "B C {size} {size}"]:
    """Return images [B, C, H, W] with side ``size``: larger ones averaged over areas, smaller ones interpolated."""
    if image.shape[-2:] == (size, size):
        return image
    if min(image.shape[-2:]) >= size:
        return interpolate(image, size=(size, size), mode="area")
    return interpolate(image, size=(size, size), mode="bilinear", align_corners=False)


def z_to_image(z: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return z in [-1, 1] as images in [0, 1], clamped."""
    return ((z + 1) / 2).clamp(0, 1)
