"""Signed distance from points to a closed triangle mesh, by Warp's bounding-volume tree."""

# Kernels are written in Warp's dialect: annotations are values, and int(0) declares a variable where 0 is a constant.
# mypy: disable-error-code="valid-type, misc, no-untyped-def, attr-defined, operator, index, call-overload, arg-type"

from __future__ import annotations

import torch
import warp as wp
from jaxtyping import Float, Int
from torch import Tensor

from dreamfusion.kernels.backend import array, launch_over, uses_warp


@wp.kernel(enable_backward=False)
def _signed_distance(
    mesh: wp.uint64,
    points: wp.array(dtype=wp.vec3),
    reach: float,
    distance: wp.array(dtype=float),
    first: int,
    last: int,
    grain: int,
):
    _lane, block = wp.tid()
    begin = first + block * grain
    for i in range(begin, wp.min(begin + grain, last)):
        near = wp.mesh_query_point_sign_normal(mesh, points[i], reach)
        if near.result:
            place = wp.mesh_eval_position(mesh, near.face, near.u, near.v)
            distance[i] = near.sign * wp.min(wp.length(points[i] - place), reach)
        else:
            # Far from the surface a ray tells the side: it leaves through the back of the first face it meets. It is
            # tilted, for vertices of regular meshes and grids lie above each other.
            ray = wp.mesh_query_ray(mesh, points[i], wp.vec3(0.3131, 0.1717, 0.9341), 1.0e6)
            distance[i] = reach
            if ray.result and ray.sign < 0.0:
                distance[i] = -reach


@torch.no_grad()
def mesh_distance(
    points: Float[Tensor, "N 3"], vertices: Float[Tensor, "V 3"], faces: Int[Tensor, "F 3"], reach: float
) -> Float[Tensor, " N"]:
    """Return signed distances [N] from ``points`` [N, 3] to a closed mesh, negative inside, held within +-``reach``.

    ``vertices`` [V, 3], ``faces`` [F, 3] wound counter-clockwise seen from outside; world units. Time grows with
    ``reach``, for what lies farther is only told inside from outside. Runs on the CPU where Warp does not run.
    """
    device = points.device if uses_warp(points.device) else torch.device("cpu")
    uses_warp(device)  # starts Warp
    target = points.to(device).contiguous()
    corners = wp.from_torch(vertices.to(device, torch.float32).contiguous(), dtype=wp.vec3)
    mesh = wp.Mesh(corners, wp.from_torch(faces.to(device, torch.int32).contiguous().flatten()))
    distance = torch.empty(len(target), device=device)
    launch_over(_signed_distance, len(target), [mesh.id, array(target, wp.vec3), reach, array(distance)], device)
    return distance.to(points.device)
