"""Rasterisation: which triangle every pixel shows, where in it, and how silhouettes move with the vertices.

Symbols: B images of H x W pixels, V vertices, F faces, C channels; fragment = what one pixel shows.
Clip space (x, y, z, w) is Vulkan's: after division by w, x runs from -1 left to 1 right, y from -1 top to 1 bottom and
z from 0 at the near to 1 at the far plane; w is positive between the two.

Three steps, as in nvdiffrast (Laine et al. 2020, arXiv 2011.03277):
    rasterize    coverage, exact: corners are rounded to 1/256 pixel and all tests made in integers, with the top-left
                 rule for pixel centres on an edge, so that triangles which share an edge leave no pixel out and draw
                 none twice. Depth and face number share a 64-bit key whose minimum wins, whatever the order.
    interpolate  attributes of the corners, weighted with perspective-correct barycentrics
    antialias    colours blended across silhouettes, which is what gives the outline its gradient

The work is near linear in faces and in pixels covered by bounding boxes. CPU threads share it out by image.
"""

# Kernels are written in Warp's dialect: annotations are values, and int(0) declares a variable where 0 is a constant.
# mypy: disable-error-code="valid-type, misc, no-untyped-def, attr-defined, operator, index, call-overload"

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import warp as wp
from jaxtyping import Float, Int
from torch import Tensor

from dreamfusion.kernels.backend import array, grain, in_parallel, launch, uses_warp

SUBPIXELS = 256
"""Steps per pixel that corners are rounded to."""

_FARTHEST = 2.0**29
"""Subpixels from the origin that corners are held within, so that products of two fit into 64 bits."""

_NOTHING = 2**63 - 1


@dataclass(frozen=True)
class Fragments:
    """What the pixels of B images show.

    ``face`` [B, H, W] int32, -1 where there is none; ``depth`` [B, H, W], z / w in [0, 1], 1 where there is none, not
    differentiable; ``barycentric`` [B, H, W, 3], perspective-correct weights of the face's corners, which sum to one (0
    where there is no face) and are differentiable with respect to the clip-space vertices.
    """

    face: Int[Tensor, "B H W"]
    depth: Float[Tensor, "B H W"]
    barycentric: Float[Tensor, "B H W 3"]


def rasterize(clip: Float[Tensor, "B V 4"], faces: Int[Tensor, "F 3"], height: int, width: int) -> Fragments:
    """Find the nearest face at every pixel centre of B images.

    ``clip`` [B, V, 4] holds clip-space vertices, ``faces`` [F, 3] int32 their numbers; both windings are drawn. Faces
    that cross the near plane are cut at it; those beyond it, without area, or with a vertex that is not finite are left
    out, and pixels beyond the far plane stay empty. Of two faces at exactly the same depth the first wins.
    """
    screen, depth, owner, offsets = _screen_triangles(clip.detach(), faces, height, width)
    face, depth = _coverage(screen, depth, owner, offsets, height, width)
    return Fragments(face, depth, barycentrics(clip, faces, face))


# Coverage


@torch.no_grad()
def _screen_triangles(clip: Tensor, faces: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return what remains of the faces in front of the near plane: N triangles, image by image.

    Corners [N, 3, 2] int64 in subpixels, their depths [N, 3], the face [N] int32 each is of, and where the triangles of
    each image begin, [B + 1] int64. Faces that are not to be drawn become triangles without area.
    """
    batch, count = len(clip), len(faces)
    corners = clip[:, faces.long()]  # [B, F, 3, 4]
    finite = corners.isfinite().all(-1).all(-1)
    in_front = corners[..., 2] >= 0
    whole = finite & in_front.all(-1)
    cut = finite & in_front.any(-1) & ~whole
    owner = torch.arange(count, dtype=torch.int32, device=clip.device).repeat(batch)
    corners = torch.where(whole[..., None, None], corners, corners.new_tensor([0.0, 0.0, 0.0, 1.0])).view(-1, 3, 4)
    if not cut.any():
        offsets = count * torch.arange(batch + 1, device=clip.device)
        return *_to_screen(corners, height, width), owner, offsets
    image, face = cut.nonzero(as_tuple=True)
    pieces, parent = _cut_at_near_plane(clip[image[:, None], faces[face].long()])
    images = torch.cat([torch.arange(batch, device=clip.device).repeat_interleave(count), image[parent]])
    order = torch.sort(images, stable=True).indices
    corners = torch.cat([corners, pieces])[order]
    owner = torch.cat([owner, face[parent].int()])[order]
    offsets = torch.nn.functional.pad(torch.bincount(images, minlength=batch).cumsum(0), (1, 0))
    return *_to_screen(corners, height, width), owner, offsets


def _cut_at_near_plane(corners: Tensor) -> tuple[Tensor, Tensor]:
    """Cut triangles [N, 3, 4] that cross z = 0; return the pieces in front [M, 3, 4] and which each is of [M].

    A cut is always computed from the corner in front to the one behind, so two faces share the cut of their edge.
    """
    inside = corners[..., 2] >= 0
    alone = torch.where(inside.sum(1) == 1, inside.int().argmax(1), (~inside).int().argmax(1))
    turned = corners.gather(
        1, ((alone[:, None] + torch.arange(3, device=corners.device)) % 3)[..., None].expand(-1, -1, 4)
    )
    lone, others = turned[:, :1], turned[:, 1:]
    one_inside = (lone[..., 2:3] >= 0).expand_as(others)
    front, back = torch.where(one_inside, lone, others), torch.where(one_inside, others, lone)
    t = front[..., 2:3] / (front[..., 2:3] - back[..., 2:3])
    cuts = front + t * (back - front)  # on the edges to the second and to the third corner
    tip = one_inside[:, 0, 0]
    tips = torch.stack([lone[:, 0], cuts[:, 0], cuts[:, 1]], dim=1)
    first = torch.stack([cuts[:, 0], others[:, 0], others[:, 1]], dim=1)
    second = torch.stack([cuts[:, 0], others[:, 1], cuts[:, 1]], dim=1)
    number = torch.arange(len(corners), device=corners.device)
    return torch.cat([tips[tip], first[~tip], second[~tip]]), torch.cat([number[tip], number[~tip], number[~tip]])


def _to_screen(corners: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    size = corners.new_tensor([width, height], dtype=torch.float64)
    position = (corners[..., :2].double() / corners[..., 3:] * 0.5 + 0.5) * size * SUBPIXELS
    screen = position.nan_to_num().round().clamp(-_FARTHEST, _FARTHEST).long()
    return screen.contiguous(), (corners[..., 2] / corners[..., 3]).contiguous()


@wp.func
def _edge(ax: wp.int64, ay: wp.int64, bx: wp.int64, by: wp.int64, px: wp.int64, py: wp.int64):
    # Twice the area of (a, b, p): positive where p lies to the right of the way from a to b, seen on the screen.
    return (bx - ax) * (py - ay) - (by - ay) * (px - ax)


@wp.func
def _tie(ax: wp.int64, ay: wp.int64, bx: wp.int64, by: wp.int64):
    # Pixel centres on a top or left edge belong to the triangle, on others not: those need an edge function of 1.
    if by < ay or (by == ay and bx > ax):
        return wp.int64(0)
    return wp.int64(1)


@wp.func
def _first_pixel(low: wp.int64):
    # The first pixel whose centre (at 128 subpixels) is at or above `low`; >> rounds down, also below zero.
    return int((low + wp.int64(127)) >> wp.int64(8))


@wp.kernel(enable_backward=False)
def _draw(
    screen: wp.array3d(dtype=wp.int64),
    depth: wp.array2d(dtype=float),
    owner: wp.array(dtype=int),
    offsets: wp.array(dtype=wp.int64),
    height: int,
    width: int,
    keys: wp.array3d(dtype=wp.int64),
    first_image: int,
    grain: int,
):
    lane, block = wp.tid()
    image = first_image + lane
    begin = int(offsets[image]) + block * grain
    for n in range(begin, wp.min(begin + grain, int(offsets[image + 1]))):
        a, b, c = 0, 1, 2
        area = _edge(
            screen[n, 0, 0], screen[n, 0, 1], screen[n, 1, 0], screen[n, 1, 1], screen[n, 2, 0], screen[n, 2, 1]
        )
        if area < wp.int64(0):
            b, c = 2, 1
            area = -area
        ax, ay = screen[n, a, 0], screen[n, a, 1]
        bx, by = screen[n, b, 0], screen[n, b, 1]
        cx, cy = screen[n, c, 0], screen[n, c, 1]
        left = wp.max(_first_pixel(wp.min(ax, wp.min(bx, cx))), 0)
        right = wp.min(_first_pixel(wp.max(ax, wp.max(bx, cx)) + wp.int64(1)), width)
        top = wp.max(_first_pixel(wp.min(ay, wp.min(by, cy))), 0)
        bottom = wp.min(_first_pixel(wp.max(ay, wp.max(by, cy)) + wp.int64(1)), height)
        if area == wp.int64(0) or left >= right:
            bottom = top
        tie_a, tie_b, tie_c = _tie(bx, by, cx, cy), _tie(cx, cy, ax, ay), _tie(ax, ay, bx, by)
        scale = 1.0 / float(area)
        for y in range(top, bottom):
            py = wp.int64(y) * wp.int64(256) + wp.int64(128)
            px = wp.int64(left) * wp.int64(256) + wp.int64(128)
            ea, eb, ec = _edge(bx, by, cx, cy, px, py), _edge(cx, cy, ax, ay, px, py), _edge(ax, ay, bx, by, px, py)
            for x in range(left, right):
                if ea >= tie_a and eb >= tie_b and ec >= tie_c:
                    z = (float(ea) * depth[n, a] + float(eb) * depth[n, b] + float(ec) * depth[n, c]) * scale
                    if z <= 1.0:
                        bits = wp.int64(wp.cast(wp.max(z, 0.0), wp.int32))
                        wp.atomic_min(keys, image, y, x, (bits << wp.int64(32)) | wp.int64(owner[n]))
                ea -= (cy - by) * wp.int64(256)
                eb -= (ay - cy) * wp.int64(256)
                ec -= (by - ay) * wp.int64(256)


def _coverage(
    screen: Tensor, depth: Tensor, owner: Tensor, offsets: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """Return the nearest face [B, H, W] (-1: none) and its depth [B, H, W] at every pixel centre."""
    device, batch = screen.device, len(offsets) - 1
    keys = torch.full((batch, height, width), _NOTHING, device=device)
    if uses_warp(device):
        most = int(offsets.diff().max()) if batch else 0
        arguments = [array(screen), array(depth), array(owner), array(offsets), height, width, array(keys)]
        over_images(_draw, batch, most, arguments, device)
    else:
        for image, (first, last) in enumerate(zip(offsets.tolist(), offsets.tolist()[1:], strict=False)):
            for n in range(first, last):
                _draw_reference(screen[n], depth[n], int(owner[n]), keys[image])
    empty = keys == _NOTHING
    face = torch.where(empty, -1, keys & 0xFFFFFFFF).int()
    return face, torch.where(empty, 1.0, (keys >> 32).int().view(torch.float32))


def _draw_reference(screen: Tensor, depth: Tensor, owner: int, keys: Tensor) -> None:
    """Draw one triangle into the keys [H, W] of an image, by looking at every pixel."""
    height, width = keys.shape
    a, b, c = screen.unbind(0)

    def edge(a: Tensor, b: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return (b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])

    area = edge(a, b, c[0], c[1])
    if area == 0:
        return
    if area < 0:
        b, c, area, depth = c, b, -area, depth[[0, 2, 1]]
    centre = torch.arange(max(height, width), device=keys.device) * SUBPIXELS + SUBPIXELS // 2
    y, x = torch.meshgrid(centre[:height], centre[:width], indexing="ij")
    inside, z = torch.ones_like(x, dtype=torch.bool), torch.zeros(height, width, device=keys.device)
    for (start, end), corner in zip(((b, c), (c, a), (a, b)), depth, strict=True):
        value = edge(start, end, x, y)
        top_or_left = end[1] < start[1] or (end[1] == start[1] and end[0] > start[0])
        inside &= value >= (0 if top_or_left else 1)
        z += value.float() * corner
    z *= 1.0 / area.float()
    key = (z.clamp(min=0).view(torch.int32).long() << 32) | owner
    keys.copy_(torch.where(inside & (z <= 1) & (key < keys), key, keys))


def over_images(kernel: wp.Kernel, batch: int, items: int, arguments: Sequence[Any], device: torch.device) -> None:
    """Launch ``kernel`` over ``items`` of each image, the images split over the CPU threads.

    So no two threads add to the same image's vertices, and sums are in order. The kernel's last two arguments are
    ``first_image`` and ``grain``; its launch index is (image - first_image, block), a block being ``grain`` items.
    """
    step = grain(device)

    def work(part: int, parts: int) -> None:
        first, last = batch * part // parts, batch * (part + 1) // parts
        if last > first and items > 0:
            launch(kernel, (last - first, -(-items // step)), [*arguments, first, step], device)

    in_parallel(work, device)


# Barycentrics


@wp.func
def _ray_corner(clip: wp.array2d(dtype=wp.vec4), image: int, vertex: int, x: float, y: float):
    # The corner moved so that the pixel lies at the origin, before the division by w (Olano and Greer 1997).
    p = clip[image, vertex]
    return wp.vec2(p[0] - x * p[3], p[1] - y * p[3])


@wp.func
def _cross(a: wp.vec2, b: wp.vec2):
    return a[0] * b[1] - a[1] * b[0]


@wp.func
def _weights(a: wp.vec2, b: wp.vec2, c: wp.vec2):
    # Perspective-correct barycentrics of the origin, and the inverse of the sum that they are divided by.
    e = wp.vec3(_cross(b, c), _cross(c, a), _cross(a, b))
    total = e[0] + e[1] + e[2]
    if total == 0.0:
        return wp.vec4(1.0, 0.0, 0.0, 0.0)
    return wp.vec4(e[0] / total, e[1] / total, e[2] / total, 1.0 / total)


@wp.kernel(enable_backward=False)
def _barycentric(
    clip: wp.array2d(dtype=wp.vec4),
    faces: wp.array2d(dtype=int),
    face: wp.array3d(dtype=int),
    result: wp.array3d(dtype=wp.vec3),
    first_image: int,
    grain: int,
):
    lane, block = wp.tid()
    image = first_image + lane
    height, width = face.shape[1], face.shape[2]
    for pixel in range(block * grain, wp.min((block + 1) * grain, height * width)):
        row, column = pixel // width, pixel % width
        f = face[image, row, column]
        if f >= 0:
            x = (2.0 * float(column) + 1.0) / float(width) - 1.0
            y = (2.0 * float(row) + 1.0) / float(height) - 1.0
            w = _weights(
                _ray_corner(clip, image, faces[f, 0], x, y),
                _ray_corner(clip, image, faces[f, 1], x, y),
                _ray_corner(clip, image, faces[f, 2], x, y),
            )
            # Coverage rounds corners, so a pixel may lie a little outside; a sliver would extrapolate without bound.
            inside = wp.vec3(wp.max(w[0], 0.0), wp.max(w[1], 0.0), wp.max(w[2], 0.0))
            result[image, row, column] = inside / (inside[0] + inside[1] + inside[2])


@wp.kernel(enable_backward=False)
def _barycentric_backward(
    clip: wp.array2d(dtype=wp.vec4),
    faces: wp.array2d(dtype=int),
    face: wp.array3d(dtype=int),
    result_grad: wp.array3d(dtype=wp.vec3),
    clip_grad: wp.array2d(dtype=wp.vec4),
    first_image: int,
    grain: int,
):
    # With e_i = a_j x a_k and b_i = e_i / sum: dL/de_i = (g_i - sum_k g_k b_k) / sum.
    lane, block = wp.tid()
    image = first_image + lane
    height, width = face.shape[1], face.shape[2]
    for pixel in range(block * grain, wp.min((block + 1) * grain, height * width)):
        row, column = pixel // width, pixel % width
        f = face[image, row, column]
        if f >= 0:
            x = (2.0 * float(column) + 1.0) / float(width) - 1.0
            y = (2.0 * float(row) + 1.0) / float(height) - 1.0
            a = _ray_corner(clip, image, faces[f, 0], x, y)
            b = _ray_corner(clip, image, faces[f, 1], x, y)
            c = _ray_corner(clip, image, faces[f, 2], x, y)
            w = _weights(a, b, c)
            g = result_grad[image, row, column]
            if w[0] >= 0.0 and w[1] >= 0.0 and w[2] >= 0.0:  # a pixel that was moved inside does not tell
                d = (g - wp.vec3(1.0, 1.0, 1.0) * (g[0] * w[0] + g[1] * w[1] + g[2] * w[2])) * w[3]
                da = wp.vec2(c[1], -c[0]) * -d[1] + wp.vec2(b[1], -b[0]) * d[2]
                db = wp.vec2(c[1], -c[0]) * d[0] + wp.vec2(a[1], -a[0]) * -d[2]
                dc = wp.vec2(b[1], -b[0]) * -d[0] + wp.vec2(a[1], -a[0]) * d[1]
                wp.atomic_add(clip_grad, image, faces[f, 0], wp.vec4(da[0], da[1], 0.0, -x * da[0] - y * da[1]))
                wp.atomic_add(clip_grad, image, faces[f, 1], wp.vec4(db[0], db[1], 0.0, -x * db[0] - y * db[1]))
                wp.atomic_add(clip_grad, image, faces[f, 2], wp.vec4(dc[0], dc[1], 0.0, -x * dc[0] - y * dc[1]))


class _Barycentrics(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, clip: Tensor, faces: Tensor, face: Tensor) -> Tensor:
        clip, faces, face = clip.contiguous(), faces.contiguous(), face.contiguous()
        result = clip.new_zeros(*face.shape, 3)
        arguments = [array(clip, wp.vec4), array(faces), array(face), array(result, wp.vec3)]
        over_images(_barycentric, len(clip), face[0].numel(), arguments, clip.device)
        ctx.save_for_backward(clip, faces, face)
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, result_grad: Tensor) -> tuple[Tensor, None, None]:
        clip, faces, face = ctx.saved_tensors
        clip_grad, result_grad = torch.zeros_like(clip), result_grad.contiguous()
        arguments = [array(clip, wp.vec4), array(faces), array(face)]
        arguments += [array(result_grad, wp.vec3), array(clip_grad, wp.vec4)]
        over_images(_barycentric_backward, len(clip), face[0].numel(), arguments, clip.device)
        return clip_grad, None, None


def barycentrics(
    clip: Float[Tensor, "B V 4"], faces: Int[Tensor, "F 3"], face: Int[Tensor, "B H W"]
) -> Float[Tensor, "B H W 3"]:
    """Return perspective-correct barycentrics [B, H, W, 3] of the pixel centres in ``face`` [B, H, W]; 0 where -1.

    Differentiable once with respect to ``clip`` [B, V, 4]. Pixels a rounding outside of their face are moved to its
    edge.
    """
    if uses_warp(clip.device):
        return _Barycentrics.apply(clip, faces, face)
    return barycentrics_reference(clip, faces, face)


def barycentrics_reference(
    clip: Float[Tensor, "B V 4"], faces: Int[Tensor, "F 3"], face: Int[Tensor, "B H W"]
) -> Float[Tensor, "B H W 3"]:
    """Do what ``barycentrics`` does in plain PyTorch."""
    image, row, column = (face >= 0).nonzero(as_tuple=True)
    _, height, width = face.shape
    corners = clip[image[:, None], faces[face[image, row, column].long()].long()]
    pixel = torch.stack([(2 * column + 1) / width - 1, (2 * row + 1) / height - 1], dim=-1)
    weights = perspective_weights(corners, pixel)
    outside = (weights < 0).any(-1, keepdim=True)
    moved = weights.detach().clamp(min=0)
    weights = torch.where(outside, moved / moved.sum(-1, keepdim=True), weights)
    return clip.new_zeros(*face.shape, 3).index_put((image, row, column), weights)


def perspective_weights(corners: Float[Tensor, "*n 3 4"], position: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n 3"]:
    """Return the barycentrics [..., 3] of ``position`` [..., 2] in triangles [..., 3, 4], in clip space.

    The position is (x, y) in [-1, 1], not necessarily inside. A triangle seen edge-on gives (1, 0, 0).
    """
    a, b, c = (corners[..., :2] - position[..., None, :] * corners[..., 3:]).unbind(-2)

    def cross(a: Tensor, b: Tensor) -> Tensor:
        return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]

    edges = torch.stack([cross(b, c), cross(c, a), cross(a, b)], dim=-1)
    total = edges.sum(-1, keepdim=True)
    flat = total == 0
    return torch.where(
        flat, edges.new_tensor([1.0, 0.0, 0.0]), edges / torch.where(flat, torch.ones_like(total), total)
    )


# Interpolation


@wp.kernel(enable_backward=False)
def _interpolate(
    attributes: wp.array3d(dtype=float),
    faces: wp.array2d(dtype=int),
    face: wp.array3d(dtype=int),
    barycentric: wp.array3d(dtype=wp.vec3),
    result: wp.array4d(dtype=float),
    first_image: int,
    grain: int,
):
    lane, block = wp.tid()
    image = first_image + lane
    height, width = face.shape[1], face.shape[2]
    for pixel in range(block * grain, wp.min((block + 1) * grain, height * width)):
        row, column = pixel // width, pixel % width
        f = face[image, row, column]
        if f >= 0:
            w = barycentric[image, row, column]
            a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
            for k in range(attributes.shape[2]):
                result[image, row, column, k] = (
                    w[0] * attributes[image, a, k] + w[1] * attributes[image, b, k] + w[2] * attributes[image, c, k]
                )


@wp.kernel(enable_backward=False)
def _interpolate_backward(
    attributes: wp.array3d(dtype=float),
    faces: wp.array2d(dtype=int),
    face: wp.array3d(dtype=int),
    barycentric: wp.array3d(dtype=wp.vec3),
    result_grad: wp.array4d(dtype=float),
    attributes_grad: wp.array3d(dtype=float),
    barycentric_grad: wp.array3d(dtype=wp.vec3),
    first_image: int,
    grain: int,
):
    lane, block = wp.tid()
    image = first_image + lane
    height, width = face.shape[1], face.shape[2]
    for pixel in range(block * grain, wp.min((block + 1) * grain, height * width)):
        row, column = pixel // width, pixel % width
        f = face[image, row, column]
        if f >= 0:
            w = barycentric[image, row, column]
            a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
            total = wp.vec3(0.0, 0.0, 0.0)
            for k in range(attributes.shape[2]):
                g = result_grad[image, row, column, k]
                total += g * wp.vec3(attributes[image, a, k], attributes[image, b, k], attributes[image, c, k])
                wp.atomic_add(attributes_grad, image, a, k, g * w[0])
                wp.atomic_add(attributes_grad, image, b, k, g * w[1])
                wp.atomic_add(attributes_grad, image, c, k, g * w[2])
            barycentric_grad[image, row, column] = total


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, attributes: Tensor, faces: Tensor, face: Tensor, barycentric: Tensor) -> Tensor:
        attributes, faces, barycentric = attributes.contiguous(), faces.contiguous(), barycentric.contiguous()
        result = attributes.new_zeros(*face.shape, attributes.shape[-1])
        arguments = [array(attributes), array(faces), array(face), array(barycentric, wp.vec3), array(result)]
        over_images(_interpolate, len(face), face[0].numel(), arguments, face.device)
        ctx.save_for_backward(attributes, faces, face, barycentric)
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, result_grad: Tensor) -> tuple[Tensor, None, None, Tensor]:
        attributes, faces, face, barycentric = ctx.saved_tensors
        attributes_grad, barycentric_grad = torch.zeros_like(attributes), torch.zeros_like(barycentric)
        result_grad = result_grad.contiguous()
        arguments = [array(attributes), array(faces), array(face), array(barycentric, wp.vec3), array(result_grad)]
        arguments += [array(attributes_grad), array(barycentric_grad, wp.vec3)]
        over_images(_interpolate_backward, len(face), face[0].numel(), arguments, face.device)
        return attributes_grad, None, None, barycentric_grad


def interpolate(
    attributes: Float[Tensor, "_ V C"], faces: Int[Tensor, "F 3"], fragments: Fragments
) -> Float[Tensor, "B H W C"]:
    """Return attributes [B, H, W, C] at the fragments, from those of the vertices [B or 1, V, C]; 0 where nothing is.

    Differentiable once with respect to the attributes and, through the barycentrics, the clip-space vertices.
    """
    # One copy for each image, for which the gradient is summed without threads in each other's way.
    attributes = attributes.expand(len(fragments.face), -1, -1)
    if uses_warp(attributes.device):
        return _Interpolate.apply(attributes, faces, fragments.face, fragments.barycentric)
    return interpolate_reference(attributes, faces, fragments)


def interpolate_reference(
    attributes: Float[Tensor, "B V C"], faces: Int[Tensor, "F 3"], fragments: Fragments
) -> Float[Tensor, "B H W C"]:
    """Do what ``interpolate`` does in plain PyTorch, on attributes [B, V, C]."""
    image, row, column = (fragments.face >= 0).nonzero(as_tuple=True)
    corners = attributes[image[:, None], faces[fragments.face[image, row, column].long()].long()]
    values = (corners * fragments.barycentric[image, row, column, :, None]).sum(1)
    return attributes.new_zeros(*fragments.face.shape, attributes.shape[-1]).index_put((image, row, column), values)
