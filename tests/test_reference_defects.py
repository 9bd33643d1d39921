"""Mistakes of NVIDIA's NeMo, found by reading it, that must not come back here.

Elsewhere: textureless views keep their normals (test_renderer.py), the paper's form of the opacity loss
(test_losses.py), every loss weight changes the gradient (test_optimize.py), precisions (test_nemo.py).
"""

import pytest
import torch
from torch import Tensor

from dreamfusion.config import build_config
from dreamfusion.guidance.base import Embeddings, Guidance
from dreamfusion.method.asking import Question
from dreamfusion.method.cameras import fixed_cameras, sample_cameras
from dreamfusion.method.prompts import VIEWS
from dreamfusion.method.shading import sample_lights, shade


class ViewReader(Guidance):
    """Embeds each of the four view prompts as a unit vector, so that an embedding tells its mixture."""

    device = torch.device("cpu")

    def embed(self, prompts) -> Embeddings:
        return Embeddings(torch.eye(len(prompts))[:, None])

    def condition(self, views: Embeddings, weights: Tensor, cameras) -> Embeddings:
        return views.mix(weights)

    def encode(self, image):
        raise AssertionError("No picture is shown here.")

    def predict_noise(self, z_t, t, embeddings):
        raise AssertionError("Nothing is predicted here.")


@pytest.mark.parametrize("preset", ["default", "paper", "nemo", "threestudio-sd"])
def test_the_azimuth_reaches_the_prompt_as_azimuth(preset):
    """NeMo unpacks its cameras in another order, takes the radius for the azimuth, and always asks for the front."""
    config = build_config(preset, {"prompt": "a", "guidance": {"view_mode": "nearest"}})
    cameras = sample_cameras(10_000, config.cameras, torch.Generator().manual_seed(0))
    asked = Question(ViewReader(), config, "a").about(cameras, torch.zeros(len(cameras))).positive.tokens[:, 0, :4]
    below = cameras.elevation_deg <= config.guidance.view_texts.overhead_deg
    shares = asked[below].mean(dim=0)
    torch.testing.assert_close(shares, torch.tensor([0.25, 0.5, 0.25, 0.0]), atol=0.02, rtol=0)
    # By where cameras really stand, far from the borders between views, which jitter blurs.
    x, y = cameras.position[:, 0], cameras.position[:, 1]
    for view, there in (("front", x > 3 * y.abs()), ("back", -x > 3 * y.abs()), ("side", y.abs() > 3 * x.abs())):
        assert (asked[below & there, VIEWS.index(view)] == 1).float().mean() > 0.95, view


def test_lambertian_light_is_the_same_in_every_layout():
    """NeMo sums the product of normal and light over axis 1, which is the axis of rows for [B, H, W, 3]."""
    generator = torch.Generator().manual_seed(0)
    albedo = torch.rand(2, 4, 3, 3, generator=generator)
    normal = torch.nn.functional.normalize(torch.randn(2, 4, 3, 3, generator=generator), dim=-1)
    point, light = torch.randn(2, 2, 4, 3, 3, generator=generator)
    ambient, diffuse = torch.tensor([0.2]), torch.tensor([0.8])
    whole = shade(albedo, normal, point, light, diffuse, ambient)
    flat = shade(*(x.reshape(-1, 3) for x in (albedo, normal, point, light)), diffuse, ambient)
    torch.testing.assert_close(whole.reshape(-1, 3), flat)
    for b, row, column in ((0, 0, 0), (1, 3, 2), (0, 2, 1)):
        at = (b, row, column)
        direction = (light[at] - point[at]) / (light[at] - point[at]).norm()
        cosine = max(0.0, sum(float(n * d) for n, d in zip(normal[at], direction, strict=True)))
        torch.testing.assert_close(whole[at], albedo[at] * (0.2 + 0.8 * cosine))


def test_diffuse_and_ambient_light_add_up_to_one():
    """NeMo draws the ambient part and leaves the diffuse part at 1, so that lit surfaces clip."""
    config = build_config("nemo", {"prompt": "a"})
    lights = sample_lights(fixed_cameras(torch.zeros(5000), 0.0), config.lights, torch.Generator().manual_seed(0))
    torch.testing.assert_close(lights.ambient + lights.diffuse, torch.ones(5000))
    assert lights.ambient.min() >= 0.1
    assert lights.ambient.max() <= 1
    assert lights.ambient.mean().item() == pytest.approx(0.55, abs=0.01)  # 0.1 + 0.9 u
    to_light = torch.nn.functional.normalize(lights.position, dim=-1)
    white, origin = torch.ones(5000, 3), torch.zeros(5000, 3)
    shaded = shade(white, to_light, origin, lights.position, lights.diffuse[:, None], lights.ambient[:, None])
    torch.testing.assert_close(shaded, white)
