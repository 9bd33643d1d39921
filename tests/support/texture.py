"""Looking colours up in a texture, bilinear within a level and, given levels, linear between those of its mip pyramid.

Tests look through this at what `assets.texture` has baked. Plain PyTorch: a look-up is a few gathers.
Texture coordinates (u, v) run from (0, 0), the top left corner, to (1, 1); texel centres lie at (i + 1/2) / size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dreamfusion.kernels.rasterize import Fragments, interpolate, perspective_weights


def sample_texture(texture: Tensor, uv: Tensor, level: Tensor | None = None) -> Tensor:
    """Return the colours [..., C] of a texture [H, W, C] at ``uv`` [..., 2]; outside of it its border goes on.

    ``level`` [...] is the mip level, 0 the texture itself and each further one half its size, linear in between.
    """
    if level is None:
        return _bilinear([texture], uv, torch.zeros_like(uv[..., 0], dtype=torch.long))
    pyramid = mip_pyramid(texture)
    level = level.clamp(0, len(pyramid) - 1)
    finer = level.detach().floor().long()
    coarser = (finer + 1).clamp(max=len(pyramid) - 1)
    return torch.lerp(_bilinear(pyramid, uv, finer), _bilinear(pyramid, uv, coarser), (level - finer)[..., None])


def mip_pyramid(texture: Tensor) -> list[Tensor]:
    """Return a texture [H, W, C] and its halved copies down to one texel, each texel the mean of those it covers."""
    pyramid = [texture]
    while max(pyramid[-1].shape[:2]) > 1:
        image = pyramid[-1].permute(2, 0, 1)
        half = torch.nn.functional.avg_pool2d(image, 2, ceil_mode=True, count_include_pad=False)
        pyramid.append(half.permute(1, 2, 0))
    return pyramid


def mip_levels(uv: Tensor, clip: Tensor, faces: Tensor, fragments: Fragments, height: int, width: int) -> Tensor:
    """Return the mip level [B, H, W] at which one texel of a texture of ``height`` x ``width`` covers one pixel.

    ``uv`` [B or 1, V, 2] are the texture coordinates of the vertices; the others are those of `rasterize`. The level is
    that of the longer side of the pixel's footprint, found from the face's coordinates one pixel on; no gradient.
    """
    with torch.no_grad():
        image, row, column = (fragments.face >= 0).nonzero(as_tuple=True)
        _, rows, columns = fragments.face.shape
        vertices = faces[fragments.face[image, row, column].long()].long()
        corners = clip[image[:, None], vertices]
        here = interpolate(uv, faces, fragments)[image, row, column]
        attributes = uv.expand(len(clip), -1, -1)[image[:, None], vertices]
        texels = uv.new_tensor([width, height])
        footprint = torch.full_like(here[:, 0], 1e-8)
        for right, down in ((1, 0), (0, 1)):
            beside = torch.stack([(2 * (column + right) + 1) / columns - 1, (2 * (row + down) + 1) / rows - 1], dim=-1)
            there = (perspective_weights(corners, beside)[..., None] * attributes).sum(1)
            footprint = torch.maximum(footprint, ((there - here) * texels).norm(dim=-1))
        level = torch.zeros(fragments.face.shape, device=uv.device)
        level[image, row, column] = footprint.log2().clamp(min=0)
        return level


def _bilinear(pyramid: list[Tensor], uv: Tensor, level: Tensor) -> Tensor:
    """Return the colours [..., C] at ``uv`` [..., 2] of the levels ``level`` [...] of a pyramid."""
    texels = torch.cat([image.reshape(-1, image.shape[-1]) for image in pyramid])
    heights, widths = (torch.tensor([image.shape[axis] for image in pyramid], device=uv.device) for axis in (0, 1))
    first = torch.nn.functional.pad((heights * widths).cumsum(0), (1, 0))[:-1][level]
    height, width = heights[level], widths[level]
    x, y = uv[..., 0] * width - 0.5, uv[..., 1] * height - 0.5
    left, top = x.detach().floor(), y.detach().floor()
    right_share, lower_share = x - left, y - top
    colors = torch.zeros((), device=uv.device)
    for column, row_shares in ((left, 1 - right_share), (left + 1, right_share)):
        for row, shares in ((top, 1 - lower_share), (top + 1, lower_share)):
            at_row = torch.minimum(row.long().clamp(min=0), height - 1)
            at_column = torch.minimum(column.long().clamp(min=0), width - 1)
            colors = colors + (row_shares * shares)[..., None] * texels[first + at_row * width + at_column]
    return colors
