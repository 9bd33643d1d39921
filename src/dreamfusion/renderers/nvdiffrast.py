"""nvdiffrast (Laine et al. 2020) in the place of `kernels.rasterize` and `kernels.antialias`, where it is installed.

Its licence forbids commercial use, and it needs CUDA. This is written after its documentation, and the tests look at
our side on a stand-in. Its clip space is OpenGL's: z / w from -1 at the near plane, and y up, its pictures beginning
with the lowest row, so that y and rows run as ours do and z alone is converted.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from dreamfusion.errors import DreamFusionError
from dreamfusion.kernels.rasterize import Fragments


def require_nvdiffrast() -> None:
    """Raise DreamFusionError unless nvdiffrast and a GPU are there."""
    _library()
    if not torch.cuda.is_available():
        raise DreamFusionError("scene.rasterizer nvdiffrast needs an NVIDIA GPU; scene.rasterizer warp needs nothing.")


def rasterize(clip: Tensor, faces: Tensor, height: int, width: int) -> Fragments:
    """Do what `kernels.rasterize.rasterize` does; DreamFusionError if the library or a GPU is missing."""
    x, y, z, w = clip.unbind(-1)
    theirs = torch.stack([x, y, 2 * z - w, w], dim=-1)
    drawn, _ = _library().rasterize(_context(clip.device), theirs, faces.contiguous(), (height, width))
    face = drawn[..., 3].int() - 1
    # Of the last corner it leaves out the weight, and where there is no face all are 0.
    weights = torch.cat([drawn[..., :2], 1 - drawn[..., :2].sum(-1, keepdim=True)], dim=-1)
    depth = torch.where(face >= 0, (drawn[..., 2].detach() + 1) / 2, 1)
    return Fragments(face, depth, weights * (face >= 0)[..., None])


def interpolate(attributes: Tensor, faces: Tensor, fragments: Fragments) -> Tensor:
    """Do what `kernels.rasterize.interpolate` does."""
    return _library().interpolate(attributes.contiguous(), _drawn(fragments), faces.contiguous())[0]


def antialias(colors: Tensor, clip: Tensor, faces: Tensor, fragments: Fragments) -> Tensor:
    """Do what `kernels.antialias.antialias` does, with outlines among the edges of visible faces alone."""
    return _library().antialias(colors.contiguous(), _drawn(fragments), clip.contiguous(), faces.contiguous())


def _drawn(fragments: Fragments) -> Tensor:
    """Return what nvdiffrast's `rasterize` gives: u, v, z / w and the number of the face, the first being 1."""
    nothing = fragments.face < 0
    depth = (2 * fragments.depth - 1).masked_fill(nothing, 0)
    number = (fragments.face + 1).float()
    return torch.cat([fragments.barycentric[..., :2], depth[..., None], number[..., None]], dim=-1)


@functools.cache
def _context(device: torch.device) -> Any:
    if device.type != "cuda":
        raise DreamFusionError(f"scene.rasterizer nvdiffrast needs --device cuda, not {device.type}.")
    return _library().RasterizeCudaContext(device=device)


def _library() -> Any:
    try:
        import nvdiffrast.torch as library
    except (ImportError, OSError):
        raise DreamFusionError(
            "scene.rasterizer nvdiffrast needs that package (pip install "
            "git+https://github.com/NVlabs/nvdiffrast; not for commercial use); scene.rasterizer warp needs nothing."
        ) from None
    return library
