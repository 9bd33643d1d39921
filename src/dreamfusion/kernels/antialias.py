"""Antialiasing of rasterised images by their silhouettes (after Laine et al. 2020, arXiv 2011.03277, section 3.6).

Symbols: B images of H x W pixels with C channels, V vertices, F faces.
Coverage is yes or no, so it has no gradient. Where two neighbouring pixels show different faces and an outline of the
nearer one's surface crosses the line between their centres, at a share d of the way from the nearer one, a pixel that
the outline cuts takes over what lies across it:
    d < 1/2    the nearer pixel takes 1/2 - d of the other's colour
    d > 1/2    the other takes d - 1/2 of the nearer one's
d moves with the two vertices of the outline, and so does the image. An outline is an edge with one face, or with two of
which both lie on the same side of it on the screen. Steep outlines are looked for between pixels of a row, flat ones
between those of a column: either way sees all of an outline's movement, both would count it twice.

The paper looks for the outline among the edges of the face that the nearer pixel shows. Towards a silhouette faces turn
away and become thinner than a pixel, so on a fine mesh that finds next to nothing. Here the way from pixel to pixel is
walked from face to face until it meets an outline or the other pixel's face.
"""

# Kernels are written in Warp's dialect: annotations are values, and int(0) declares a variable where 0 is a constant
# (a loop over a constant is written out).
# mypy: disable-error-code="valid-type, misc, no-untyped-def, attr-defined, operator, index, call-overload"
# ruff: noqa: UP018, RUF046

from __future__ import annotations

from typing import Any

import torch
import warp as wp
from jaxtyping import Float, Int
from torch import Tensor

from dreamfusion.kernels.backend import array, uses_warp
from dreamfusion.kernels.rasterize import Fragments, over_images
from dreamfusion.kernels.topology import opposite_half_edges

MOST_FACES = 64
"""Faces walked over between two pixels before the search is given up."""


@wp.func
def _on_screen(p: wp.vec4, height: int, width: int):
    return wp.vec2((p[0] / p[3] * 0.5 + 0.5) * float(width), (p[1] / p[3] * 0.5 + 0.5) * float(height))


@wp.func
def _side(a: wp.vec2, b: wp.vec2, p: wp.vec2):
    return (b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0]) > 0.0


@wp.func
def _is_outline(
    clip: wp.array2d(dtype=wp.vec4),
    faces: wp.array2d(dtype=int),
    across: int,
    image: int,
    a: wp.vec2,
    b: wp.vec2,
    front: bool,
    height: int,
    width: int,
):
    if across < 0:
        return True
    beyond = clip[image, faces[across // 3, (across + 2) % 3]]  # 3 f + k and k have the same remainder
    if beyond[2] < 0.0:
        return False
    return _side(a, b, _on_screen(beyond, height, width)) == front


@wp.kernel(enable_backward=False)
def _find_outlines(
    clip: wp.array2d(dtype=wp.vec4),
    faces: wp.array2d(dtype=int),
    opposite: wp.array2d(dtype=int),
    height: int,
    width: int,
    outlines: wp.array2d(dtype=int),
    first_image: int,
    grain: int,
):
    # Bit k of a face says that its edge k is an outline in the image, 8 that a part of it is behind the near plane.
    lane, block = wp.tid()
    image = first_image + lane
    for f in range(block * grain, wp.min((block + 1) * grain, faces.shape[0])):
        pa, pb, pc = clip[image, faces[f, 0]], clip[image, faces[f, 1]], clip[image, faces[f, 2]]
        bits = 8
        if pa[2] >= 0.0 and pb[2] >= 0.0 and pc[2] >= 0.0:
            bits = 0
            a, b, c = _on_screen(pa, height, width), _on_screen(pb, height, width), _on_screen(pc, height, width)
            front = _side(a, b, c)  # the same for all three edges
            if _is_outline(clip, faces, opposite[f, 0], image, a, b, front, height, width):
                bits += 1
            if _is_outline(clip, faces, opposite[f, 1], image, b, c, front, height, width):
                bits += 2
            if _is_outline(clip, faces, opposite[f, 2], image, c, a, front, height, width):
                bits += 4
        outlines[image, f] = bits


@wp.func
def _crossing_at(
    clip: wp.array2d(dtype=wp.vec4),
    faces: wp.array2d(dtype=int),
    image: int,
    f: int,
    k: int,
    centre: wp.vec2,
    vertical: int,
    direction: float,
    height: int,
    width: int,
):
    # How far ahead of a pixel centre edge k of face f crosses its row (column if vertical), or far behind if nowhere.
    a = _on_screen(clip[image, faces[f, k]], height, width)
    b = _on_screen(clip[image, faces[f, (k + 1) % 3]], height, width)
    s = a[1 - vertical] - centre[1 - vertical]
    t = b[1 - vertical] - centre[1 - vertical]
    if (s < 0.0) == (t < 0.0):
        return float(-1.0e30)
    return direction * (a[vertical] + s / (s - t) * (b[vertical] - a[vertical]) - centre[vertical])


@wp.func
def _exit(
    clip: wp.array2d(dtype=wp.vec4),
    faces: wp.array2d(dtype=int),
    image: int,
    f: int,
    came_by: int,
    centre: wp.vec2,
    vertical: int,
    direction: float,
    height: int,
    width: int,
):
    # By which edge a row (column if vertical) leaves face f, and how far ahead of the pixel centre.
    a = _crossing_at(clip, faces, image, f, 0, centre, vertical, direction, height, width)
    b = _crossing_at(clip, faces, image, f, 1, centre, vertical, direction, height, width)
    c = _crossing_at(clip, faces, image, f, 2, centre, vertical, direction, height, width)
    if came_by != 0 and (came_by == 1 or a >= b) and (came_by == 2 or a >= c):
        return wp.vec2(0.0, a)
    if came_by != 1 and (came_by == 2 or b >= c):
        return wp.vec2(1.0, b)
    return wp.vec2(2.0, c)


@wp.func
def _walk_from(
    clip: wp.array2d(dtype=wp.vec4),
    faces: wp.array2d(dtype=int),
    opposite: wp.array2d(dtype=int),
    outlines: wp.array2d(dtype=int),
    image: int,
    start: int,
    goal: int,
    centre: wp.vec2,
    vertical: int,
    direction: float,
    height: int,
    width: int,
    most_faces: int,
):
    # The face and edge of the outline, and d; the face is -1 if there is none.
    came_by = int(3)
    f = start + 0
    for _step in range(most_faces):
        if f == goal or outlines[image, f] == 8:
            return wp.vec3i(-1, 0, 0), float(0.0)
        way = _exit(clip, faces, image, f, came_by, centre, vertical, direction, height, width)
        if way[1] < 0.0 or way[1] > 1.0:
            return wp.vec3i(-1, 0, 0), float(0.0)
        out = int(way[0])
        if ((outlines[image, f] >> out) & 1) == 1:
            a = _on_screen(clip[image, faces[f, out]], height, width)
            b = _on_screen(clip[image, faces[f, (out + 1) % 3]], height, width)
            beside, along = wp.abs(b[1 - vertical] - a[1 - vertical]), wp.abs(b[vertical] - a[vertical])
            if beside < along or (vertical == 1 and beside == along):
                return wp.vec3i(-1, 0, 0), float(0.0)
            return wp.vec3i(f, out, 0), way[1]
        across = opposite[f, out]
        came_by = across % 3
        f = across // 3
    return wp.vec3i(-1, 0, 0), float(0.0)


@wp.kernel(enable_backward=False)
def _walk(
    clip: wp.array2d(dtype=wp.vec4),
    faces: wp.array2d(dtype=int),
    opposite: wp.array2d(dtype=int),
    outlines: wp.array2d(dtype=int),
    face: wp.array3d(dtype=int),
    depth: wp.array3d(dtype=float),
    most_faces: int,
    crossed: wp.array4d(dtype=int),
    share: wp.array4d(dtype=float),
    first_image: int,
    grain: int,
):
    # For a pixel and its neighbour to the right (0) and below (1): the half-edge of the outline between them, or -1,
    # and d, or 2 - d if the neighbour is the nearer one.
    lane, block = wp.tid()
    image = first_image + lane
    height, width = face.shape[1], face.shape[2]
    for item in range(block * grain, wp.min((block + 1) * grain, 2 * height * width)):
        vertical, pixel = item % 2, item // 2
        row, column = pixel // width, pixel % width
        next_row, next_column = row + vertical, column + 1 - vertical
        if next_row < height and next_column < width:
            here = face[image, row, column]
            there = face[image, next_row, next_column]
            if here != there:
                nearer = int(0)
                if here < 0 or (there >= 0 and depth[image, next_row, next_column] < depth[image, row, column]):
                    nearer = 1
                start = here + nearer * (there - here)
                goal = here + there - start
                direction = float(1 - 2 * nearer)
                x = float(column + nearer * (1 - vertical)) + 0.5
                y = float(row + nearer * vertical) + 0.5
                found, d = _walk_from(
                    clip,
                    faces,
                    opposite,
                    outlines,
                    image,
                    start,
                    goal,
                    wp.vec2(x, y),
                    vertical,
                    direction,
                    height,
                    width,
                    most_faces,
                )
                if found[0] >= 0:
                    crossed[image, row, column, vertical] = 3 * found[0] + found[1]
                    share[image, row, column, vertical] = d + float(nearer) * (2.0 - 2.0 * d)


@wp.func
def _screen_gradient(p: wp.vec4, gx: float, gy: float):
    # From the gradient for x / w and y / w to that for x, y and w.
    return wp.vec4(gx / p[3], gy / p[3], 0.0, -(gx * p[0] + gy * p[1]) / (p[3] * p[3]))


@wp.func
def _move_outline(
    clip: wp.array2d(dtype=wp.vec4),
    faces: wp.array2d(dtype=int),
    image: int,
    f: int,
    k: int,
    centre: wp.vec2,
    vertical: int,
    slope: float,
    height: int,
    width: int,
    clip_grad: wp.array2d(dtype=wp.vec4),
):
    # The edge from a to b crosses the line through `centre` at u = s / (s - t), where s and t are the heights of a and
    # b above the line: at a + u (b - a) along it. That moves by 1 with a step along the line and by -slope of the edge
    # with one away from it, 1 - u of it with a's and u with b's.
    va, vb = faces[f, k], faces[f, (k + 1) % 3]
    pa, pb = clip[image, va], clip[image, vb]
    a, b = _on_screen(pa, height, width), _on_screen(pb, height, width)
    s = a[1 - vertical] - centre[1 - vertical]
    t = b[1 - vertical] - centre[1 - vertical]
    u = s / (s - t)
    away = slope * (b[vertical] - a[vertical]) / (s - t)
    gx, gy = slope, away
    if vertical == 1:
        gx, gy = away, slope
    gx, gy = gx * 0.5 * float(width), gy * 0.5 * float(height)
    wp.atomic_add(clip_grad, image, va, _screen_gradient(pa, gx, gy) * (1.0 - u))
    wp.atomic_add(clip_grad, image, vb, _screen_gradient(pb, gx, gy) * u)


@wp.func
def _weight(crossed: int, share: float, second: int):
    # How much of the other's colour a pixel takes, the first or second of a pair.
    if crossed < 0:
        return float(0.0)
    d, nearer = share, 0
    if share > 1.0:
        d, nearer = 2.0 - share, 1
    if nearer == second:
        return wp.max(0.5 - d, 0.0)
    return wp.max(d - 0.5, 0.0)


@wp.kernel(enable_backward=False)
def _antialias(
    colors: wp.array4d(dtype=float),
    crossed: wp.array4d(dtype=int),
    share: wp.array4d(dtype=float),
    result: wp.array4d(dtype=float),
    first_image: int,
    grain: int,
):
    # Every pixel gathers from its four neighbours, so nothing is added up in an order left to chance.
    lane, block = wp.tid()
    image = first_image + lane
    height, width = colors.shape[1], colors.shape[2]
    sides = 4  # right, left, below, above
    for pixel in range(block * grain, wp.min((block + 1) * grain, height * width)):
        row, column = pixel // width, pixel % width
        for side in range(sides):
            vertical, second = side // 2, side % 2
            at_row, at_column = row - vertical * second, column - (1 - vertical) * second
            if at_row >= 0 and at_column >= 0:
                half_edge = crossed[image, at_row, at_column, vertical]
                d = share[image, at_row, at_column, vertical]
                weight = _weight(half_edge, d, second)
                if weight > 0.0:
                    near_row = row + vertical * (1 - 2 * second)
                    near_column = column + (1 - vertical) * (1 - 2 * second)
                    for k in range(colors.shape[3]):
                        difference = colors[image, near_row, near_column, k] - colors[image, row, column, k]
                        result[image, row, column, k] += weight * difference


@wp.kernel(enable_backward=False)
def _antialias_backward(
    colors: wp.array4d(dtype=float),
    crossed: wp.array4d(dtype=int),
    share: wp.array4d(dtype=float),
    clip: wp.array2d(dtype=wp.vec4),
    faces: wp.array2d(dtype=int),
    result_grad: wp.array4d(dtype=float),
    colors_grad: wp.array4d(dtype=float),
    clip_grad: wp.array2d(dtype=wp.vec4),
    first_image: int,
    grain: int,
):
    lane, block = wp.tid()
    image = first_image + lane
    height, width = colors.shape[1], colors.shape[2]
    sides = 4
    for pixel in range(block * grain, wp.min((block + 1) * grain, height * width)):
        row, column = pixel // width, pixel % width
        for side in range(sides):
            vertical, second = side // 2, side % 2
            at_row, at_column = row - vertical * second, column - (1 - vertical) * second
            if at_row >= 0 and at_column >= 0:
                half_edge = crossed[image, at_row, at_column, vertical]
                d = share[image, at_row, at_column, vertical]
                near_row = row + vertical * (1 - 2 * second)
                near_column = column + (1 - vertical) * (1 - 2 * second)
                given = _weight(half_edge, d, 1 - second)
                if given > 0.0:
                    for k in range(colors.shape[3]):
                        colors_grad[image, row, column, k] += given * result_grad[image, near_row, near_column, k]
                taken = _weight(half_edge, d, second)
                if taken > 0.0:
                    slope = float(0.0)  # of the loss with `taken`
                    for k in range(colors.shape[3]):
                        g = result_grad[image, row, column, k]
                        colors_grad[image, row, column, k] += -taken * g
                        slope += g * (colors[image, near_row, near_column, k] - colors[image, row, column, k])
                    # An outline that moves towards a pixel uncovers more of what this takes over.
                    towards = slope * float(2 * second - 1)
                    centre = wp.vec2(float(column) + 0.5, float(row) + 0.5)
                    f, k = half_edge // 3, half_edge % 3
                    _move_outline(clip, faces, image, f, k, centre, vertical, towards, height, width, clip_grad)


class _Antialias(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, colors: Tensor, clip: Tensor, faces: Tensor, crossed: Tensor, share: Tensor) -> Tensor:
        colors, clip = colors.contiguous(), clip.contiguous()
        result = colors.clone()
        batch, height, width, _ = colors.shape
        arguments = [array(colors), array(crossed), array(share), array(result)]
        over_images(_antialias, batch, height * width, arguments, colors.device)
        ctx.save_for_backward(colors, crossed, share, clip, faces)
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, result_grad: Tensor) -> tuple[Tensor | None, ...]:
        colors, crossed, share, clip, faces = ctx.saved_tensors
        result_grad = result_grad.contiguous()
        colors_grad, clip_grad = result_grad.clone(), torch.zeros_like(clip)
        batch, height, width, _ = colors.shape
        arguments = [array(colors), array(crossed), array(share), array(clip, wp.vec4), array(faces)]
        arguments += [array(result_grad), array(colors_grad), array(clip_grad, wp.vec4)]
        over_images(_antialias_backward, batch, height * width, arguments, colors.device)
        return colors_grad, clip_grad, None, None, None


def antialias(
    colors: Float[Tensor, "B H W C"], clip: Float[Tensor, "B V 4"], faces: Int[Tensor, "F 3"], fragments: Fragments
) -> Float[Tensor, "B H W C"]:
    """Return images [B, H, W, C] whose silhouettes are smoothed, from ``colors`` [B, H, W, C] of the pixel centres.

    ``clip`` [B, V, 4], ``faces`` [F, 3] int32 and ``fragments`` are those of `rasterize`. Differentiable once with
    respect to the colours and to x, y and w of the vertices on silhouettes. Outlines next to faces that cross the near
    plane stay as they are.
    """
    if not uses_warp(colors.device):
        return antialias_reference(colors, clip, faces, fragments)
    faces = faces.contiguous()
    return _Antialias.apply(colors, clip, faces, *_outlines_between(clip, faces, fragments))


def _outlines_between(clip: Tensor, faces: Tensor, fragments: Fragments) -> tuple[Tensor, Tensor]:
    """Return the half-edge between each pixel and its neighbours to the right and below, and where; see `_walk`."""
    (batch, height, width), device = fragments.face.shape, clip.device
    opposite = opposite_half_edges(faces)
    outlines = torch.empty(batch, len(faces), dtype=torch.int32, device=device)
    mesh = [array(clip.contiguous(), wp.vec4), array(faces), array(opposite)]
    over_images(_find_outlines, batch, len(faces), [*mesh, height, width, array(outlines)], device)
    crossed = torch.full((batch, height, width, 2), -1, dtype=torch.int32, device=device)
    share = torch.zeros(batch, height, width, 2, device=device)
    arguments = [*mesh, array(outlines), array(fragments.face), array(fragments.depth), MOST_FACES]
    over_images(_walk, batch, 2 * height * width, [*arguments, array(crossed), array(share)], device)
    return crossed, share


def antialias_reference(
    colors: Float[Tensor, "B H W C"], clip: Float[Tensor, "B V 4"], faces: Int[Tensor, "F 3"], fragments: Fragments
) -> Float[Tensor, "B H W C"]:
    """Do what ``antialias`` does in plain PyTorch."""
    opposite, result = opposite_half_edges(faces).long(), colors
    _, height, width, _ = colors.shape
    for axis in (0, 1):  # neighbours to the right, then below
        step = torch.tensor([[0, 0, 1], [0, 1, 0]][axis], device=colors.device)
        here = fragments.face[:, : height - axis, : width - 1 + axis]
        there = fragments.face[:, axis:, 1 - axis :]
        first = (here != there).nonzero()
        second = first + step
        f, g = fragments.face[first.unbind(1)], fragments.face[second.unbind(1)]
        closer = fragments.depth[second.unbind(1)] < fragments.depth[first.unbind(1)]
        swapped = (f < 0) | ((g >= 0) & closer)
        nearer = torch.where(swapped[:, None], second, first)
        other = torch.where(swapped[:, None], first, second)
        share, found = _walk_reference(clip, faces.long(), opposite, fragments, nearer, other, axis)
        nearer, other, share = nearer[found], other[found], share[found]
        inner = share < 0.5
        target, source = (torch.where(inner[:, None], *pair) for pair in ((nearer, other), (other, nearer)))
        change = (0.5 - share).abs()[:, None] * (colors[source.unbind(1)] - colors[target.unbind(1)])
        result = result.index_put(target.unbind(1), change, accumulate=True)
    return result


def _walk_reference(
    clip: Tensor, faces: Tensor, opposite: Tensor, fragments: Fragments, nearer: Tensor, other: Tensor, axis: int
) -> tuple[Tensor, Tensor]:
    """Return at which share of the way between two pixels [N, 3] an outline crosses, [N], and whether one does [N]."""
    _, height, width = fragments.face.shape
    image = nearer[:, 0]
    face, goal = (fragments.face[pixel.unbind(1)].long() for pixel in (nearer, other))
    size = clip.new_tensor([width, height])
    centre = nearer[:, [2, 1]] + 0.5
    direction = (other - nearer)[:, [2, 1]].sum(1)

    def on_screen(vertex: Tensor) -> tuple[Tensor, Tensor]:
        p = clip[image, vertex]
        visible = p[:, 2] >= 0
        return (p[:, :2] / torch.where(visible, p[:, 3], 1.0)[:, None] * 0.5 + 0.5) * size, visible

    def side(a: Tensor, b: Tensor, p: Tensor) -> Tensor:
        return (b[:, 0] - a[:, 0]) * (p[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (p[:, 0] - a[:, 0]) > 0

    share, found = clip.new_zeros(len(face)), torch.zeros_like(face, dtype=torch.bool)
    walking, came_by = torch.ones_like(found), torch.full_like(face, -1)
    for _ in range(MOST_FACES):
        if not walking.any():
            break
        corners = [on_screen(faces[face, k]) for k in range(3)]
        visible = corners[0][1] & corners[1][1] & corners[2][1]
        farthest, out = torch.full_like(share, -1e29), torch.full_like(face, -1)
        outline, used = torch.zeros_like(found), torch.zeros_like(found)
        for k in range(3):
            a, b, c = (corners[(k + i) % 3][0] for i in range(3))
            across = opposite[face, k]
            beyond, beyond_visible = on_screen(faces[across.clamp(min=0) // 3, (across + 2) % 3])
            folded = (across < 0) | (beyond_visible & (side(a, b, c) == side(a, b, beyond)))
            s, t = (p[:, 1 - axis] - centre[:, 1 - axis] for p in (a, b))
            crosses = visible & ((s < 0) != (t < 0)) & (came_by != k)
            u = s / torch.where(crosses, s - t, 1.0)
            d = direction * (a[:, axis] + u * (b[:, axis] - a[:, axis]) - centre[:, axis])
            beside, along = ((b - a)[:, i].abs() for i in (1 - axis, axis))
            across_way = beside >= along if axis == 0 else beside > along
            further = crosses & (d.detach() > farthest.detach())
            farthest, out = torch.where(further, d, farthest), torch.where(further, k, out)
            outline, used = torch.where(further, folded, outline), torch.where(further, across_way, used)
        walking = walking & (out >= 0) & (farthest >= 0) & (farthest <= 1)
        share = torch.where(walking & outline & used, farthest, share)
        found, walking = found | (walking & outline & used), walking & ~outline
        across = opposite[face, out.clamp(min=0)]
        face, came_by = torch.where(walking, across // 3, face), torch.where(walking, across % 3, came_by)
        walking = walking & (face != goal)
    return share, found
