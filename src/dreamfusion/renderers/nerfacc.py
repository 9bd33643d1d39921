"""Marching by nerfacc (Li et al. 2023), where it is installed with its CUDA kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from dreamfusion.errors import DreamFusionError
from dreamfusion.kernels.marching import PackedSamples, sphere_interval


def require_nerfacc() -> None:
    """Raise DreamFusionError unless nerfacc and its kernels are there."""
    try:
        from nerfacc.cuda._backend import _C
    except ImportError:
        raise DreamFusionError(
            "scene.renderer nerfacc needs that package (pip install nerfacc==0.5.3) on a CUDA machine; "
            "scene.renderer marching needs nothing."
        ) from None
    if _C is None:
        raise DreamFusionError(
            "nerfacc is installed, but not its CUDA kernels: they need a GPU and either the CUDA toolkit (nvcc) or a "
            "prebuilt wheel for this PyTorch; scene.renderer marching needs neither."
        )


@torch.no_grad()
def nerfacc_march_rays(
    origins: Tensor, directions: Tensor, grid: Tensor, step: float, jitter: Tensor, growth: float = 0.0
) -> PackedSamples:
    """Return what `march_rays` does: samples in occupied cells of the unit sphere, ``step`` apart or farther.

    ``growth`` times their distance from the camera is the least that they are apart, nerfacc's cone angle.

    nerfacc begins anew at the wall of every run of occupied cells, so its samples are not on one lattice per ray.
    Raises DreamFusionError if nerfacc or its kernels are missing. Not tried on a GPU.
    """
    require_nerfacc()
    from nerfacc.grid import traverse_grids

    near, far, meets = sphere_interval(origins, directions)
    cube = torch.tensor([[-1.0, -1.0, -1.0, 1.0, 1.0, 1.0]], device=origins.device)
    # A ray that misses the sphere gets an empty interval, at 0.
    start = torch.where(meets, (near + (jitter - 0.5) * step).clamp(min=0), 0)
    intervals, samples, _ = traverse_grids(
        origins.contiguous(),
        directions.contiguous(),
        grid[None].contiguous(),
        cube,
        near_planes=start,
        far_planes=torch.where(meets, far, 0),
        step_size=step,
        cone_angle=growth,
    )
    begin, end = intervals.vals[intervals.is_left], intervals.vals[intervals.is_right]
    held = torch.bincount(samples.ray_indices, minlength=len(origins))
    offsets = torch.nn.functional.pad(held.cumsum(0), (1, 0)).int()
    return PackedSamples(samples.ray_indices.int(), (begin + end) / 2, offsets, end - begin)
