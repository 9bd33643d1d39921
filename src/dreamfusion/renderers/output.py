"""What every renderer gives: the pictures of a batch of views."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class RenderOutput:
    """Images of a batch, all [B, C, H, W].

    ``rgb``; ``opacity`` in [0, 1]; ``depth``: expected distance from the camera in world units given that the ray
    hits, 0 where it meets nothing; ``normal``: weighted sum of the world-space normals, not normalised, or None;
    ``samples``: how many points of the object were evaluated with gradient. A renderer that measures more on the way,
    for its scene's regularisers, returns a subclass.
    """

    rgb: Float[Tensor, "B 3 H W"]
    opacity: Float[Tensor, "B 1 H W"]
    depth: Float[Tensor, "B 1 H W"]
    normal: Float[Tensor, "B 3 H W"] | None
    samples: int

    def normal_picture(self) -> Float[Tensor, "B 3 H W"]:
        """Return the world-space normals coded to [0, 1], over black, [B, 3, H, W]; rendered ``with_normals``."""
        assert self.normal is not None, "rendered with_normals"
        return (self.normal + self.opacity) / 2
