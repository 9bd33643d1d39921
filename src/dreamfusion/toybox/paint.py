"""Painting and lighting of traced views for training, as one Warp kernel: what `render.compose` does, but faster.

A training step recolours and relights some dozens of views that were traced before. Their geometry is kept in few bits,
and every pixel is read once: point, pattern, colour, light and the average of its 2 x 2 rays, in one pass.
"""

# Kernels are written in Warp's dialect, in which annotations are values.
# mypy: disable-error-code="valid-type, misc, arg-type, no-untyped-def, attr-defined, operator, index, assignment"

from __future__ import annotations

from dataclasses import dataclass

import torch
import warp as wp
from torch import Tensor

from dreamfusion.kernels.backend import array, in_parallel, launch
from dreamfusion.method.cameras import Cameras
from dreamfusion.method.shading import Lights
from dreamfusion.toybox.kinds import ACCENT, BODY, SURFACES
from dreamfusion.toybox.render import NOTHING, SHINY, WOODEN, GeometryBuffers, Paint, grain, highlight, is_marked

SUPERSAMPLE = 2
"""Rays per pixel and axis."""


@dataclass(frozen=True)
class TracedViews:
    """Traced views in few bits, N of them with 2 S x 2 S rays.

    ``material`` uint8 [N, 2 S, 2 S], ``normal`` int8 [N, 2 S, 2 S, 3] (127 = 1), ``depth`` float16 [N, 2 S, 2 S].
    """

    material: Tensor
    normal: Tensor
    depth: Tensor

    @classmethod
    def of(cls, parts: list[GeometryBuffers]) -> TracedViews:
        """Return the views of several traces, one after the other."""
        return cls(
            torch.cat([part.material for part in parts]),
            torch.cat([(part.normal * 127).round().to(torch.int8) for part in parts]),
            torch.cat([part.depth.half() for part in parts]),
        )


@wp.struct
class _Views:
    """What a kernel reads of the picked views: which they are, cameras, lights and backdrop, one per picture; paint."""

    pick: wp.array(dtype=wp.int64)
    rotation: wp.array(dtype=wp.mat33)
    position: wp.array(dtype=wp.vec3)
    focal: wp.array(dtype=float)
    light: wp.array(dtype=wp.vec3)
    diffuse: wp.array(dtype=float)
    ambient: wp.array(dtype=float)
    surface: wp.array(dtype=wp.int64)
    palette: wp.array(dtype=wp.vec3)
    finish: wp.array(dtype=wp.int64)
    pattern: wp.array(dtype=wp.int64)
    scale: wp.array(dtype=wp.vec3)
    place: wp.array(dtype=wp.vec3)
    background: wp.array(dtype=wp.vec3)


@wp.kernel(enable_backward=False)
def _paint_kernel(
    views: _Views,
    material: wp.array(dtype=wp.uint8),
    normal: wp.array(dtype=wp.int8),
    depth: wp.array(dtype=wp.float16),
    size: int,
    rays: int,
    toys: int,
    surfaces: int,
    body: int,
    accent: int,
    nothing: int,
    first_pixel: int,
    out: wp.array(dtype=float),
):
    pixel = first_pixel + wp.tid()
    view = pixel / (size * size)
    row = (pixel / size) % size
    column = pixel % size
    side = size * rays
    begin = int(views.pick[view]) * side * side
    width = float(side)
    color = wp.vec3(0.0, 0.0, 0.0)
    for j in range(rays):
        for i in range(rays):
            y = row * rays + j
            x = column * rays + i
            at = begin + y * side + x
            kind = int(material[at])
            if kind == nothing:
                color += views.background[view]
            else:
                through = wp.vec3(
                    (float(x) + 0.5 - 0.5 * width) / width, (float(y) + 0.5 - 0.5 * width) / width, views.focal[view]
                )
                direction = views.rotation[view] * wp.normalize(through)
                point = views.position[view] + direction * float(depth[at])
                kind = int(views.surface[view * toys * surfaces + kind])
                toy = view * toys + kind / surfaces
                own = wp.cw_div(point - views.place[toy], views.scale[toy])
                if kind % surfaces == body and is_marked(int(views.pattern[toy]), own):
                    kind += accent - body
                n = wp.vec3(float(normal[3 * at]), float(normal[3 * at + 1]), float(normal[3 * at + 2])) / 127.0
                towards = wp.normalize(views.light[view] - point)
                cosine = wp.max(wp.dot(n, towards), 0.0)  # type: ignore[call-overload]
                paint = view * toys * surfaces + kind
                lit = views.palette[paint] * (views.diffuse[view] * cosine + views.ambient[view])
                if int(views.finish[paint]) == SHINY:
                    white = views.diffuse[view] * highlight(n, towards, -direction)
                    lit += wp.vec3(white, white, white)
                if int(views.finish[paint]) == WOODEN:
                    lit *= grain(own)
                color += wp.vec3(wp.clamp(lit[0], 0.0, 1.0), wp.clamp(lit[1], 0.0, 1.0), wp.clamp(lit[2], 0.0, 1.0))
    color = color / float(rays * rays)
    for channel in range(3):
        out[((view * 3 + channel) * size + row) * size + column] = color[channel]


def paint_traced(
    traced: TracedViews, picks: Tensor, cameras: Cameras, paint: Paint, lights: Lights, background: Tensor
) -> Tensor:
    """Return pictures [B, 3, S, S] in [0, 1] of the traced views ``picks`` [B], painted and lit.

    ``background`` [B, 3] is what they stand before, and ``cameras`` are those of the picked views. All tensors are on
    one device, of a kind that Warp runs on.
    """
    device, count = traced.material.device, len(picks)
    size = traced.material.shape[-1] // SUPERSAMPLE
    views = _Views()
    kept = {
        "pick": (picks, None),
        "rotation": (cameras.camera_to_world[:, :, :3].reshape(-1, 9), wp.mat33),
        "position": (cameras.position, wp.vec3),
        "focal": (cameras.focal, None),
        "light": (lights.position, wp.vec3),
        "diffuse": (lights.diffuse, None),
        "ambient": (lights.ambient, None),
        "surface": (paint.surface.reshape(-1), None),
        "palette": (paint.palette.reshape(-1, 3), wp.vec3),
        "finish": (paint.finish.reshape(-1), None),
        "pattern": (paint.pattern.reshape(-1), None),
        "scale": (paint.scale.reshape(-1, 3), wp.vec3),
        "place": (paint.place.reshape(-1, 3), wp.vec3),
        "background": (background, wp.vec3),
    }
    alive = []
    for name, (values, dtype) in kept.items():
        tensor = values.contiguous()
        if dtype is wp.mat33:
            tensor = tensor.reshape(-1, 3, 3)
        alive.append(tensor)
        setattr(views, name, wp.from_torch(tensor, dtype=dtype) if dtype else wp.from_torch(tensor))
    out = torch.empty(count, 3, size, size, device=device)
    pixels = count * size * size
    buffers = [array(traced.material.view(-1)), array(traced.normal.view(-1)), array(traced.depth.view(-1))]
    toys = paint.pattern.shape[1]
    numbers = [size, SUPERSAMPLE, toys, len(SURFACES), SURFACES.index(BODY), SURFACES.index(ACCENT), NOTHING]

    def work(part: int, parts: int) -> None:
        first, last = pixels * part // parts, pixels * (part + 1) // parts
        launch(_paint_kernel, last - first, [views, *buffers, *numbers, first, array(out.view(-1))], device)

    in_parallel(work, device)
    return out
