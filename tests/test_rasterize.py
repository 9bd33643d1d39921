"""The rasteriser: exact coverage, hand-worked values, gradients against finite differences, kernels against twins."""

import itertools
from fractions import Fraction

import pytest
import torch
import trimesh

from dreamfusion.kernels import rasterize as rasterize_module
from dreamfusion.kernels.antialias import antialias, antialias_reference
from dreamfusion.kernels.rasterize import (
    SUBPIXELS,
    interpolate,
    interpolate_reference,
    rasterize,
)
from dreamfusion.kernels.topology import opposite_half_edges
from support.texture import mip_levels, mip_pyramid, sample_texture

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
on_every_device = pytest.mark.parametrize("device", DEVICES)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def on_pixels(corners: list[tuple[float, float]], size: int, z: float = 0.5, device: str = "cpu") -> torch.Tensor:
    """Clip-space vertices [1, V, 4] at places in pixels of a square image, all at one depth."""
    xy = torch.tensor(corners, device=device) * (2 / size) - 1
    return torch.cat([xy, torch.full_like(xy[:, :1], z), torch.ones_like(xy[:, :1])], dim=1)[None]


def triangles(*faces: tuple[int, int, int], device: str = "cpu") -> torch.Tensor:
    return torch.tensor(faces, dtype=torch.int32, device=device)


def covers(corners: list[tuple[int, int]], x: Fraction, y: Fraction) -> bool:
    """Say by exact fractions whether a triangle of corners in subpixels covers (x, y), by the top-left rule.

    The rule's meaning is taken literally: a point on an edge is inside if it still is after a step to the right, much
    smaller than anything else, and a far smaller one downwards.
    """
    (ax, ay), (bx, by), (cx, cy) = corners
    area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    if area == 0:
        return False
    sign = 1 if area > 0 else -1
    for (sx, sy), (ex, ey) in itertools.pairwise([*corners, corners[0]]):
        # Value, then its change with a step to the right, then downwards: compared in this order.
        order = ((ex - sx) * (y - sy) - (ey - sy) * (x - sx), -(ey - sy), ex - sx)
        if tuple(sign * value for value in order) < (0, 0, 0):
            return False
    return True


@on_every_device
def test_coverage_is_that_of_exact_arithmetic(device):
    size = 12
    # Multiples of a quarter of a pixel, so that many centres lie on edges and corners.
    places = torch.randint(-8, 4 * size + 8, (60, 3, 2), generator=seeded()) / 4
    for corners in places:
        fragments = rasterize(
            on_pixels(corners.tolist(), size, device=device), triangles((0, 1, 2), device=device), size, size
        )
        exact = [tuple(int(v) for v in corner) for corner in (corners * SUBPIXELS).long().tolist()]
        expected = [
            [
                covers(exact, Fraction(SUBPIXELS * (2 * x + 1), 2), Fraction(SUBPIXELS * (2 * y + 1), 2))
                for x in range(size)
            ]
            for y in range(size)
        ]
        assert ((fragments.face[0] >= 0).cpu() == torch.tensor(expected)).all(), corners


def test_a_mesh_that_fills_the_picture_draws_every_pixel_exactly_once():
    size, cells = 16, 5
    x = torch.linspace(-1.3, 1.3, cells + 1)
    grid = torch.stack(torch.meshgrid(x, x, indexing="ij"), dim=-1)
    grid[1:-1, 1:-1] += 0.2 * (2 * torch.rand(cells - 1, cells - 1, 2, generator=seeded()) - 1)
    grid[2, 2] = torch.tensor([-1.0, -1.0]) + 2 * 5.5 / size  # a vertex on a pixel's centre
    vertices = torch.cat([grid.view(-1, 2), torch.full((36, 1), 0.5), torch.ones(36, 1)], dim=1)[None]
    faces = []
    for i, j in itertools.product(range(cells), repeat=2):
        a, b, c, d = (i * 6 + j, (i + 1) * 6 + j, (i + 1) * 6 + j + 1, i * 6 + j + 1)
        faces += [(a, b, c), (a, c, d)] if (i + j) % 2 else [(a, b, d), (d, b, c)]
    drawn = sum((rasterize(vertices, triangles(face), size, size).face >= 0).int() for face in faces)
    assert (drawn == 1).all()
    assert (rasterize(vertices, triangles(*faces), size, size).face >= 0).all()


@on_every_device
def test_the_nearest_face_wins_whatever_the_order(device):
    near, far = (on_pixels([(0, 0), (8, 0), (0, 8)], 8, z, device) for z in (0.25, 0.75))
    clip = torch.cat([near, far], dim=1)
    for faces, nearest in ((((0, 1, 2), (3, 4, 5)), 0), (((3, 4, 5), (0, 2, 1)), 1)):
        fragments = rasterize(clip, triangles(*faces, device=device), 8, 8)
        assert fragments.face[0, 2, 2] == nearest
        assert fragments.depth[0, 2, 2] == pytest.approx(0.25)
    assert fragments.face[0, 7, 7] == -1
    assert fragments.depth[0, 7, 7] == 1
    tied = rasterize(torch.cat([near, near], dim=1), triangles((3, 4, 5), (0, 1, 2), device=device), 8, 8)
    assert tied.face[0, 2, 2] == 0


def test_barycentrics_are_perspective_correct():
    # The middle of the picture of an edge from (-1, 0) at distance 1 to (1, 0) at distance 3 is a quarter along it:
    # there x / w = (-1 + 2 t) / (1 + 2 t) is -1/3; in the picture's middle, x = 0, it is half along.
    clip = torch.tensor([[[-1.0, -0.01, 0.5, 1.0], [1.0, -0.01, 1.5, 3.0], [0.0, 5.0, 1.0, 2.0]]])
    fragments = rasterize(clip, triangles((0, 1, 2)), 3, 3)
    weights = fragments.barycentric[0, 1]
    assert weights[1, 0] == pytest.approx(0.5, abs=0.01)
    assert weights[1, 1] == pytest.approx(0.5, abs=0.01)
    assert weights.sum(-1)[1] == pytest.approx(1.0)


def test_a_triangle_through_the_near_plane_is_cut_there():
    """A floor from behind the camera to far away: what is in front shows, as if its corners had been in front."""

    def floor(behind: float) -> torch.Tensor:
        # Camera at the origin, looking along z, near plane at 0.1; the floor lies 0.5 below (y is down).
        points = torch.tensor([[-9.0, 0.5, behind], [9.0, 0.5, behind], [9.0, 0.5, 9.0], [-9.0, 0.5, 9.0]])
        x, y, z = points.T
        return torch.stack([x, y, (z - 0.1) * 10 / 9.9, z], dim=1)[None]

    faces = triangles((0, 1, 2), (0, 2, 3))
    cut, whole = (rasterize(floor(behind), faces, 16, 16) for behind in (-4.0, 0.11))
    assert ((cut.face >= 0) == (whole.face >= 0)).all()
    assert (cut.face >= 0).any()
    torch.testing.assert_close(cut.depth, whole.depth, atol=1e-4, rtol=0)
    # Barycentrics are those of the uncut face: they give back the place on the floor.
    z = interpolate(floor(-4.0)[..., 3:], faces, cut)[..., 0]
    torch.testing.assert_close(z, interpolate(floor(0.11)[..., 3:], faces, whole)[..., 0], atol=1e-3, rtol=1e-3)
    assert (rasterize(floor(-4.0) * torch.tensor([1, 1, -1, 1]), faces, 16, 16).face == -1).sum() > 100
    wholly_behind = floor(-4.0).clone()
    wholly_behind[..., 2] = -1
    assert (rasterize(wholly_behind, faces, 16, 16).face == -1).all()


def test_what_cannot_be_drawn_is_left_out():
    good = [(1.0, 1.0), (7.0, 1.0), (1.0, 7.0)]
    clip = torch.cat([on_pixels(good, 8), on_pixels([(0, 0), (4, 4), (8, 8)], 8), on_pixels(good, 8)], dim=1)
    clip[0, 8, 1] = float("nan")
    faces = triangles((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 0, 1))
    fragments = rasterize(clip.requires_grad_(), faces, 8, 8)
    assert set(fragments.face.unique().tolist()) == {-1, 0}
    image = antialias(interpolate(torch.ones(1, 9, 1), faces, fragments), clip, faces, fragments)
    (grad,) = torch.autograd.grad(image.sum() + fragments.barycentric.square().sum(), clip)
    assert grad.isfinite().all()
    assert (rasterize(on_pixels(good, 8, z=1.5), triangles((0, 1, 2)), 8, 8).face == -1).all()  # beyond the far plane
    nothing = rasterize(clip.detach(), torch.zeros(0, 3, dtype=torch.int32), 8, 8)
    assert (nothing.face == -1).all()


def soup(device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """Random faces, some of which cross the near plane or each other, two images of them."""
    clip = torch.rand(2, 40, 4, generator=seeded()) * torch.tensor([2.4, 2.4, 0.8, 0.8])
    clip = clip - torch.tensor([1.2, 1.2, -0.1, -0.6])
    clip[:, :4, 2] = -0.3
    return clip.to(device), torch.randint(0, 40, (60, 3), generator=seeded(1), dtype=torch.int32).to(device)


@on_every_device
def test_rasterize_agrees_with_its_twin(device, monkeypatch):
    clip, faces = soup(device)
    clip.requires_grad_()
    ours = rasterize(clip, faces, 20, 24)
    monkeypatch.setattr(rasterize_module, "uses_warp", lambda device: False)
    twin = rasterize(clip, faces, 20, 24)
    assert (ours.face == twin.face).all()
    torch.testing.assert_close(ours.depth, twin.depth)
    torch.testing.assert_close(ours.barycentric, twin.barycentric)
    upstream = torch.randn(ours.barycentric.shape, generator=seeded(2)).to(device)
    ours_grad, twin_grad = (torch.autograd.grad(f.barycentric, clip, upstream)[0] for f in (ours, twin))
    torch.testing.assert_close(ours_grad, twin_grad, atol=1e-3, rtol=1e-4)


@on_every_device
def test_interpolate_and_antialias_agree_with_their_twins(device):
    clip, faces = soup(device)
    clip.requires_grad_()
    attributes = torch.rand(2, 40, 5, generator=seeded(3)).to(device).requires_grad_()
    fragments = rasterize(clip, faces, 20, 24)
    inputs = (attributes, clip)
    results = []
    for mix, smooth in ((interpolate, antialias), (interpolate_reference, antialias_reference)):
        image = smooth(mix(attributes, faces, fragments), clip, faces, fragments)
        upstream = torch.randn(image.shape, generator=seeded(4)).to(device)
        results.append((image, *torch.autograd.grad(image, inputs, upstream, retain_graph=True)))
    for ours, twin in zip(*results, strict=True):
        torch.testing.assert_close(ours, twin, atol=1e-3, rtol=1e-4)
    assert (results[0][0] != interpolate(attributes, faces, fragments)).any()


def test_kernels_give_the_same_bits_with_more_threads():
    clip, faces = soup()
    clip.requires_grad_()
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        fragments = rasterize(clip, faces, 20, 24)
        image = antialias(interpolate(clip, faces, fragments), clip, faces, fragments)
        results.append((image, *torch.autograd.grad(image.square().sum(), clip)))
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


def test_gradients_of_interpolation_against_finite_differences():
    vertices = torch.tensor(
        [[[-0.8, -0.7, 0.3, 1.0], [1.8, -1.2, 0.9, 2.0], [0.1, 1.4, 0.6, 1.5]]], dtype=torch.float64
    )
    attributes = torch.randn(1, 3, 2, generator=seeded(), dtype=torch.float64)
    faces = triangles((0, 1, 2))
    upstream = torch.randn(1, 6, 6, 2, generator=seeded(1))

    def value(clip: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        fragments = rasterize(clip.float(), faces, 6, 6)
        return (interpolate(values.float(), faces, fragments) * upstream).sum().double()

    check_gradient(value, vertices, attributes, step=2e-3, tolerance=2e-2)


def check_gradient(value, *inputs: torch.Tensor, step: float, tolerance: float) -> None:
    """Compare the gradient of ``value`` with central differences, in every element."""
    inputs = tuple(x.clone().requires_grad_() for x in inputs)
    gradients = torch.autograd.grad(value(*inputs), inputs)
    with torch.no_grad():
        for x, gradient in zip(inputs, gradients, strict=True):
            flat = x.view(-1)
            for i in range(flat.numel()):
                before = flat[i].item()
                flat[i] = before + step
                up = value(*inputs)
                flat[i] = before - step
                down = value(*inputs)
                flat[i] = before
                expected = ((up - down) / (2 * step)).item()
                assert gradient.view(-1)[i].item() == pytest.approx(expected, abs=tolerance, rel=tolerance)


def test_antialiasing_by_hand():
    """A white rectangle from x = 2.25 to 5.75 on black: its edge pixels hold what they are covered by."""
    clip = on_pixels([(2.25, -1), (5.75, -1), (5.75, 9), (2.25, 9)], 8).requires_grad_()
    faces = triangles((0, 1, 2), (0, 2, 3))
    fragments = rasterize(clip, faces, 8, 8)
    assert (fragments.face[0, 4] >= 0).tolist() == [False, False, True, True, True, True, False, False]
    image = antialias((fragments.face >= 0).float()[..., None], clip, faces, fragments)
    assert image[0, 4, :, 0].tolist() == pytest.approx([0, 0, 0.75, 1, 1, 0.75, 0, 0], abs=1e-5)
    # Its light grows with the right side moving right: 8 rows by one pixel, which is 1/4 in clip space.
    (grad,) = torch.autograd.grad(image.sum(), clip)
    assert (grad[0, [1, 2], 0].sum()).item() == pytest.approx(8 * 4, rel=1e-4)
    assert (grad[0, [0, 3], 0].sum()).item() == pytest.approx(-8 * 4, rel=1e-4)


def test_gradients_of_antialiasing_against_finite_differences():
    """Two overlapping triangles and a background, all of one colour each: only outlines move."""
    places = [(1.3, 2.2), (9.1, 1.6), (4.2, 9.7), (3.2, 6.1), (10.4, 4.3), (8.2, 10.6)]
    clip = on_pixels(places, 12).double()
    clip[0, 3:, 2] = 0.8
    clip[..., 3] = torch.tensor([1.0, 1.3, 0.8, 1.1, 0.9, 1.2])
    clip[..., :3] *= clip[..., 3:]
    faces = triangles((0, 1, 2), (3, 4, 5))
    palette = torch.tensor([[0.2, 0.1], [1.0, -0.4], [-0.3, 0.9]])
    upstream = torch.randn(1, 12, 12, 2, generator=seeded(1))

    def value(clip: torch.Tensor) -> torch.Tensor:
        clip = clip.float()
        fragments = rasterize(clip, faces, 12, 12)
        colors = palette[fragments.face.long() + 1]
        return (antialias(colors, clip, faces, fragments) * upstream).sum().double()

    check_gradient(value, clip, step=1e-3, tolerance=5e-2)


def test_inner_edges_of_a_smooth_surface_are_no_outlines():
    clip = on_pixels([(0, 0), (8, 0), (8, 8), (0, 8)], 8)
    faces = triangles((0, 1, 2), (0, 2, 3))
    fragments = rasterize(clip, faces, 8, 8)
    colors = torch.rand(1, 8, 8, 3, generator=seeded())
    assert torch.equal(antialias(colors, clip, faces, fragments), colors)
    # Folded over, the same edge is one: both faces lie on one side of it.
    folded = on_pixels([(1, 1), (7.3, 1), (7.3, 7.3), (7, 2)], 8)
    folded[0, 3, 2] = 0.9
    fragments = rasterize(folded, faces, 8, 8)
    assert not torch.equal(antialias(colors, folded, faces, fragments), colors)


def test_opposite_half_edges_by_hand():
    assert opposite_half_edges(triangles((0, 1, 2), (0, 2, 3))).tolist() == [[-1, -1, 3], [2, -1, -1]]
    three_on_one_edge = triangles((0, 1, 2), (1, 0, 3), (0, 1, 4))
    assert opposite_half_edges(three_on_one_edge).tolist() == [[-1, -1, -1]] * 3


@pytest.mark.parametrize("subdivisions", [1, 4])
def test_outlines_of_coarse_and_fine_meshes_have_their_gradient(subdivisions):
    """The area of a ball's picture grows with the radius as it must, even where faces are thinner than a pixel."""
    ball = trimesh.creation.icosphere(subdivisions)
    points, faces = torch.tensor(ball.vertices).float(), torch.tensor(ball.faces, dtype=torch.int32)

    def area(radius: torch.Tensor) -> torch.Tensor:
        x, y, z = (0.6 * radius * points).unbind(1)
        clip = torch.stack([x, y, z * 0.1 + 0.5, torch.ones_like(x)], dim=1)[None]
        fragments = rasterize(clip, faces, 40, 40)
        return antialias((fragments.face >= 0).float()[..., None], clip, faces, fragments).sum()

    radius = torch.tensor(1.0, requires_grad=True)
    (slope,) = torch.autograd.grad(area(radius), radius)
    # In both, the area grows with the square of the radius.
    assert slope.item() == pytest.approx(2 * area(radius).item(), rel=0.1)


def test_bilinear_texture_by_hand_and_by_finite_differences():
    texture = torch.tensor([[[0.0], [1.0]], [[2.0], [3.0]]])
    uv = torch.tensor([[0.25, 0.25], [0.5, 0.5], [0.75, 0.5], [-1.0, 2.0]])
    assert sample_texture(texture, uv)[:, 0].tolist() == pytest.approx([0.0, 1.5, 2.0, 2.0])
    texture = torch.randn(3, 5, 2, generator=seeded(), dtype=torch.float64).requires_grad_()
    uv = torch.tensor([[0.33, 0.41], [0.83, 0.77], [0.52, 0.12]], dtype=torch.float64).requires_grad_()
    level = torch.tensor([0.0, 0.6, 1.7], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda t, x: sample_texture(t, x), (texture, uv))
    assert torch.autograd.gradcheck(lambda t, x: sample_texture(t, x, level), (texture, uv))


def test_mip_levels():
    pyramid = mip_pyramid(torch.arange(6.0).view(2, 3, 1))
    assert [tuple(image.shape) for image in pyramid] == [(2, 3, 1), (1, 2, 1), (1, 1, 1)]
    assert pyramid[1].flatten().tolist() == [2.0, 3.5]
    # One level up, every place of a checkerboard is grey.
    board = (torch.arange(8)[:, None] + torch.arange(8)).remainder(2).float()[..., None]
    assert sample_texture(board, torch.rand(9, 2, generator=seeded()), torch.ones(9)).flatten().tolist() == [0.5] * 9
    # A square of 8 pixels that shows a texture of 32 texels has 4 texels to a pixel: level 2.
    clip = on_pixels([(0, 0), (8, 0), (8, 8), (0, 8)], 8)
    faces, uv = triangles((0, 1, 2), (0, 2, 3)), torch.tensor([[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]])
    levels = mip_levels(uv, clip, faces, rasterize(clip, faces, 8, 8), 32, 32)
    torch.testing.assert_close(levels, torch.full((1, 8, 8), 2.0), atol=1e-3, rtol=0)
