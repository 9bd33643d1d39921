"""Proposal sampling and its losses against worked cases and slow definitions; nerfacc where it is absent."""

import math
import sys
import types

import pytest
import torch

from dreamfusion.config import SceneConfig, parse_config
from dreamfusion.errors import DreamFusionError
from dreamfusion.fields.background import StaticBackground
from dreamfusion.kernels.marching import march_rays
from dreamfusion.method.cameras import Rays, fixed_cameras
from dreamfusion.renderers import volume
from dreamfusion.renderers.nerfacc import nerfacc_march_rays, require_nerfacc
from dreamfusion.renderers.occupancy import OccupancyConfig, OccupancyGrid
from dreamfusion.renderers.proposal import (
    ProposalConfig,
    ProposalNetwork,
    distortion_loss,
    interlevel_loss,
    resample,
)
from dreamfusion.renderers.volume import RenderSettings, render, render_pictures
from dreamfusion.scenes.volume import VolumeScene
from support.balls import ALBEDO, BLACK, UniformBall, lights, one_ray, seeded

UNUSED = OccupancyGrid(OccupancyConfig(resolution=2))
"""Stands where marching would have its grid."""
HALF = torch.full((1, 1), 0.5)


def test_distortion_by_hand():
    # Middles 0.5 and 2: two pairs of 1/4 * 1/4 * 1.5; widths 1 and 2: (1/16 + 2/16) / 3.
    edges, weights = torch.tensor([[0.0, 1.0, 3.0]]), torch.tensor([[0.25, 0.25]])
    assert distortion_loss(edges, weights).item() == pytest.approx(2 * 1.5 / 16 + 3 / 16 / 3)


def test_distortion_is_its_definition_and_so_is_its_gradient():
    edges = torch.rand(5, 13, generator=seeded(), dtype=torch.float64).sort(dim=1).values
    weights = torch.rand(5, 12, generator=seeded(1), dtype=torch.float64).requires_grad_()
    middle = (edges[:, 1:] + edges[:, :-1]) / 2
    pairs = weights[:, :, None] * weights[:, None, :] * (middle[:, :, None] - middle[:, None, :]).abs()
    slow = pairs.sum(dim=(1, 2)) + (weights.square() * edges.diff()).sum(dim=1) / 3
    fast = distortion_loss(edges, weights)
    torch.testing.assert_close(fast, slow)
    torch.testing.assert_close(*(torch.autograd.grad(v.sum(), weights, retain_graph=True)[0] for v in (fast, slow)))


def test_interlevel_by_hand():
    edges, weights = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[0.6, 0.3]], requires_grad=True)
    proposed_edges = torch.tensor([[0.0, 0.5, 1.5, 2.0]])
    proposed = torch.tensor([[0.1, 0.2, 0.05]], requires_grad=True)
    # Bounds: 0.1 + 0.2 and 0.2 + 0.05; short by 0.3 of 0.6 and by 0.05 of 0.3.
    loss = interlevel_loss(edges, weights, proposed_edges, proposed)
    assert loss.item() == pytest.approx(0.3**2 / 0.6 + 0.05**2 / 0.3, rel=1e-4)
    loss.sum().backward()
    first, second = -2 * 0.3 / 0.6, -2 * 0.05 / 0.3
    assert proposed.grad.tolist() == [pytest.approx([first, first + second, second], rel=1e-4)]
    assert weights.grad is None


def test_a_proposal_that_covers_costs_nothing():
    edges, weights = torch.tensor([[0.0, 1.0, 2.0, 4.0]]), torch.tensor([[0.1, 0.5, 0.2]])
    assert interlevel_loss(edges, weights, edges, weights).item() == pytest.approx(
        0, abs=1e-9
    )  # the very same histogram
    coarse = torch.tensor([[0.0, 4.0]]), torch.tensor([[0.8]])
    assert interlevel_loss(edges, weights, *coarse).item() == pytest.approx(0, abs=1e-9)
    # An interval that only touches another does not overlap it.
    assert interlevel_loss(edges, weights, torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5]])).item() > 0


def test_resampling_an_even_histogram_gives_even_intervals():
    edges = torch.linspace(1, 3, 9)[None]
    new = resample(edges, torch.full((1, 8), 0.1), 4, HALF)
    torch.testing.assert_close(new, torch.linspace(1, 3, 5)[None])
    torch.testing.assert_close(resample(edges, torch.zeros(1, 8), 4, HALF), torch.linspace(1, 3, 5)[None])


def test_resampling_concentrates_where_the_weight_is():
    edges, weights = torch.linspace(0, 1, 11)[None], torch.zeros(1, 10)
    weights[0, 3], weights[0, 7] = 0.6, 0.2
    new = resample(edges, weights, 400, HALF)
    assert (new.diff() >= 0).all()
    middle = (new[:, 1:] + new[:, :-1]) / 2
    shares = [((middle >= low) & (middle < low + 0.1)).float().mean().item() for low in (0.3, 0.7)]
    assert shares == pytest.approx([0.75, 0.25], abs=0.02)


def test_proposal_renders_a_uniform_ball_as_the_closed_form_says():
    proposal = ProposalNetwork(ProposalConfig(samples=64), seeded())
    out = render(UniformBall(1.5), BLACK, UNUSED, one_ray(), lights(1), ["albedo"], RenderSettings(), proposal=proposal)
    opacity = 1 - math.exp(-1.5 * 2)
    assert out.opacity.item() == pytest.approx(opacity, rel=0.01)
    assert out.rgb.flatten().tolist() == pytest.approx([c * opacity for c in ALBEDO], rel=0.01)
    assert out.depth.item() == pytest.approx(1 + 1 / 1.5 - 2 * math.exp(-3) / opacity, abs=0.01)
    assert out.interlevel > 0
    assert out.distortion > 0


def test_rays_that_miss_show_the_background():
    away = one_ray(reverse=True)
    both = Rays(torch.cat([away.origins, one_ray().origins], 2), torch.cat([away.directions, one_ray().directions], 2))
    blue, proposal = StaticBackground((0.0, 0.0, 1.0)), ProposalNetwork(generator=seeded())
    for rays in (away, both):
        out = render(UniformBall(9.0), blue, UNUSED, rays, lights(1), ["albedo"], RenderSettings(), proposal=proposal)
        assert out.rgb[0, :, 0, 0].tolist() == [0.0, 0.0, 1.0]
        assert out.interlevel.isfinite()


def test_the_network_learns_where_the_matter_is():
    """On rays through the middle of a small dense ball, the samples gather at its surface."""
    ball, proposal = UniformBall(30.0, radius=0.25), ProposalNetwork(ProposalConfig(samples=16), seeded())
    cameras = fixed_cameras(torch.arange(3) * 120.0, 20.0)
    rays = cameras.rays(12, 12)
    optimizer, generator = torch.optim.Adam(proposal.parameters(), lr=1e-2), seeded(1)

    def near_the_surface() -> float:
        middle = cameras.rays(1, 1)
        with torch.no_grad():
            samples = proposal.propose(middle.origins.view(3, 3), middle.directions.view(3, 3)).samples
        return ((samples.t - (2.7 - 0.25)).abs() < 0.2).float().mean().item()

    before, losses = near_the_surface(), []
    for _ in range(60):
        arguments = (ball, BLACK, UNUSED, rays, lights(3), ["albedo"] * 3, RenderSettings())
        out = render(*arguments, generator=generator, proposal=proposal)
        optimizer.zero_grad()
        out.interlevel.backward()
        optimizer.step()
        losses.append(out.interlevel.item())
    assert before < 0.3
    assert near_the_surface() > 0.6
    assert losses[-1] < 0.3 * losses[0]
    assert ball.value.grad is None  # the field is not asked to follow the proposal


def test_pictures_by_proposal_are_those_of_one_call():
    proposal, rays = ProposalNetwork(generator=seeded()), fixed_cameras(torch.arange(2) * 90.0, 20.0).rays(10, 10)
    arguments = (UniformBall(2.0), BLACK, UNUSED, rays, lights(2))
    (pictures,) = render_pictures(*arguments, ["lambertian"], RenderSettings(), proposal=proposal, rays_per_call=60)
    whole = render(*arguments, ["lambertian"] * 2, RenderSettings(), proposal=proposal)
    torch.testing.assert_close(pictures.rgb, whole.rgb, atol=1e-5, rtol=1e-4)


def test_a_package_that_is_absent_or_without_kernels_is_named(monkeypatch):
    for name in ("nerfacc", "nerfacc.cuda", "nerfacc.cuda._backend"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DreamFusionError, match="pip install nerfacc") as error:
        VolumeScene(SceneConfig(renderer="nerfacc"))
    assert "\n" not in str(error.value)
    # nerfacc without its compiled part imports, and leaves this name at None.
    for name in ("nerfacc", "nerfacc.cuda", "nerfacc.cuda._backend"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["nerfacc.cuda._backend"]._C = None
    with pytest.raises(DreamFusionError, match="not its CUDA kernels") as error:
        require_nerfacc()
    assert "\n" not in str(error.value)


def test_marching_by_a_stand_in_for_nerfacc(monkeypatch):
    """What the library is asked, as its traverse_grids has it, and what is made of its answer."""
    asked = {}

    def traverse_grids(origins, directions, binaries, aabbs, near_planes, far_planes, step_size, cone_angle=0.0):
        asked.update(near=near_planes, far=far_planes, step=step_size, cone=cone_angle, cells=tuple(binaries.shape))
        # Two pieces of the first ray and one of the third, by their walls: left, right, left, right.
        walls = torch.tensor([1.0, 1.5, 1.5, 2.5, 1.0, 1.25])
        left = torch.tensor([True, False, True, False, True, False])
        intervals = types.SimpleNamespace(vals=walls, is_left=left, is_right=~left)
        return intervals, types.SimpleNamespace(ray_indices=torch.tensor([0, 0, 2])), None

    for name in ("nerfacc", "nerfacc.cuda", "nerfacc.cuda._backend", "nerfacc.grid"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["nerfacc.cuda._backend"]._C = object()
    sys.modules["nerfacc.grid"].traverse_grids = traverse_grids
    origins = torch.tensor([[2.0, 0.0, 0.0], [2.0, 3.0, 0.0], [2.0, 0.0, 0.0]])
    directions = torch.tensor([[-1.0, 0.0, 0.0]]).repeat(3, 1)
    grid = torch.ones(4, 4, 4, dtype=torch.bool)
    samples = nerfacc_march_rays(origins, directions, grid, 0.5, torch.full((3,), 0.5), growth=0.004)
    assert (asked["step"], asked["cone"], asked["cells"]) == (0.5, 0.004, (1, 4, 4, 4))
    assert asked["near"].tolist() == [1, 0, 1]
    assert asked["far"].tolist() == [3, 0, 3]
    assert samples.t.tolist() == [1.25, 2.0, 1.125]
    assert samples.length.tolist() == [0.5, 1.0, 0.25]
    assert samples.ray_index.tolist() == [0, 0, 2]
    assert samples.offsets.tolist() == [0, 2, 2, 3]


def test_spacing_that_grows_reaches_nerfacc(monkeypatch):
    asked = {}

    def march(*arguments, growth=0.0):
        asked["growth"] = growth
        return march_rays(*arguments)

    monkeypatch.setattr(volume, "nerfacc_march_rays", march)
    grid = OccupancyGrid(OccupancyConfig(resolution=2))
    rays = fixed_cameras(0.0, 0.0).rays(4, 4)
    render(UniformBall(2.0), BLACK, grid, rays, lights(1), ["albedo"], RenderSettings(marcher="nerfacc", dt_gamma=0.01))
    assert asked["growth"] == 0.01
    parse_config({"prompt": "a", "scene": {"renderer": "nerfacc", "dt_gamma": 0.01}})


def test_impossible_configurations_are_refused():
    with pytest.raises(DreamFusionError, match=r"^rounds: "):
        ProposalConfig(rounds=0)
    with pytest.raises(DreamFusionError, match=r"^frequencies: "):
        ProposalConfig(frequencies=0)
    with pytest.raises(DreamFusionError, match="dt_gamma"):
        parse_config({"prompt": "a", "scene": {"renderer": "proposal", "dt_gamma": 0.01}})
