"""Outlines and normals against the truth, as rendered: what a refinement must improve over the run it began with.

`geometry` compares surfaces as meshes, at their best scale and shift. This one looks at pictures, as they are, so that
a volume and a mesh are measured by the same pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dreamfusion.method.cameras import fixed_cameras
from dreamfusion.scenes.scene import Finished
from dreamfusion.standard import AZIMUTHS_DEG, ORBIT_ELEVATION_DEG
from dreamfusion.toybox.render import NOTHING, trace
from dreamfusion.toybox.world import Toy

SIZE = 96
"""Side of the views in pixels."""


@dataclass(frozen=True)
class OutlineScore:
    """How near the views of a scene are to those of the toy it should be.

    ``silhouette_iou``: intersection over union of the pixels that each covers by more than half, mean over the views.
    ``normal_error_deg``: mean angle between the normals at the pixels that both cover; 90 if there are none.
    """

    silhouette_iou: float
    normal_error_deg: float


@torch.no_grad()
def score_outlines(scene: Finished, toy: Toy, *, size: int = SIZE) -> OutlineScore:
    """Compare eight views of a finished scene, all around, with those of a toy."""
    cameras = fixed_cameras(torch.tensor(AZIMUTHS_DEG), ORBIT_ELEVATION_DEG)
    (shown,) = scene.layers(cameras, ["textureless"], (size, size), with_normals=True)
    assert shown.normal is not None, "rendered with_normals"
    truth = trace([toy] * len(cameras), cameras.rays(size, size))
    covered, should = shown.opacity[:, 0].cpu() > 0.5, truth.material != NOTHING
    both, either = covered & should, covered | should
    overlap = both.flatten(1).sum(dim=1) / either.flatten(1).sum(dim=1).clamp(min=1)
    normal = torch.nn.functional.normalize(shown.normal.cpu(), dim=1).permute(0, 2, 3, 1)
    cosine = (normal * truth.normal).sum(dim=-1)[both].clamp(-1, 1)
    angle = torch.rad2deg(cosine.acos()).mean().item() if len(cosine) else 90.0
    return OutlineScore(overlap.mean().item(), angle)
