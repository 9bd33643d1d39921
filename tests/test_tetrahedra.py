"""The tetrahedral grid, marching tetrahedra and signed distances: hand-worked values and gradients."""

import math

import pytest
import torch
import trimesh

from dreamfusion.errors import DreamFusionError
from dreamfusion.fields.tetrahedra import (
    Surface,
    TetrahedraConfig,
    TetrahedralField,
    marching_tetrahedra,
    tetrahedral_grid,
)
from dreamfusion.kernels.distance import mesh_distance

CORNERS = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
ONE = torch.tensor([[0, 1, 2, 3]])


@pytest.mark.parametrize("case", range(16))
def test_a_single_tetrahedron(case: int):
    inside = torch.tensor([bool(case >> i & 1) for i in range(4)])
    distance = torch.where(inside, -1.0, 3.0)
    surface = marching_tetrahedra(CORNERS, distance, ONE)
    count = int(inside.sum())
    assert len(surface.faces) == {0: 0, 1: 1, 2: 2, 3: 1, 4: 0}[count]
    assert len(surface.vertices) == {0: 0, 1: 3, 2: 4, 3: 3, 4: 0}[count]
    # A quarter of the way from every corner inside to every corner outside.
    expected = {
        tuple((0.75 * CORNERS[i] + 0.25 * CORNERS[j]).tolist())
        for i in range(4)
        for j in range(4)
        if inside[i] and not inside[j]
    }
    assert {tuple(v.tolist()) for v in surface.vertices} == expected
    if 0 < count < 4:
        outwards = CORNERS[~inside].mean(0) - CORNERS[inside].mean(0)
        assert (surface.face_normals() @ outwards > 0).all()
    if count == 2:  # both triangles together are the quad, whose corners are all used, its diagonal twice
        assert sorted(torch.bincount(surface.faces.flatten()).tolist()) == [1, 1, 2, 2]


def test_the_grid_fills_the_ball_without_gaps_or_overlaps():
    vertices, tetrahedra = tetrahedral_grid(6)
    a, b, c, d = vertices[tetrahedra].unbind(1)
    volume = (torch.linalg.cross(b - a, c - a) * (d - a)).sum(-1) / 6
    torch.testing.assert_close(volume, torch.full_like(volume, (2 / 6) ** 3 / 12))
    # Every inner face is shared by two, every other one lies outside of the ball.
    faces = torch.cat([tetrahedra[:, [i for i in range(4) if i != left_out]] for left_out in range(4)])
    unique, counts = torch.unique(faces.sort(1).values, dim=0, return_counts=True)
    assert counts.max() == 2
    assert (vertices[unique[counts == 1]].norm(dim=-1) >= 1).all()
    assert len(vertices) == len(torch.unique(vertices, dim=0))


def sphere(resolution: int, radius: float = 0.6) -> tuple[TetrahedralField, trimesh.Trimesh]:
    field = TetrahedralField(TetrahedraConfig(resolution=resolution))
    field.fit(field.grid.norm(dim=1) - radius)
    surface = field.surface()
    return field, trimesh.Trimesh(surface.vertices.detach(), surface.faces, process=False)


def test_a_sphere_is_closed_manifold_and_faces_outwards():
    _, mesh = sphere(24)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.euler_number == 2
    assert mesh.volume == pytest.approx(4 / 3 * math.pi * 0.6**3, rel=0.02)
    assert len(mesh.split()) == 1


def test_a_surface_that_reaches_the_edge_of_the_ball_is_closed_there():
    field = TetrahedralField(TetrahedraConfig(resolution=8))
    with torch.no_grad():
        field.distance.fill_(-1.0)
    surface = field.surface()
    mesh = trimesh.Trimesh(surface.vertices.detach(), surface.faces, process=False)
    assert mesh.is_watertight
    assert mesh.volume > 2


def test_random_distances_give_a_closed_manifold():
    field = TetrahedralField(TetrahedraConfig(resolution=6))
    with torch.no_grad():
        field.distance.copy_(torch.randn(len(field.grid), generator=torch.Generator().manual_seed(0)))
        field.offset.copy_(torch.randn(field.grid.shape, generator=torch.Generator().manual_seed(1)))
    surface = field.surface()
    mesh = trimesh.Trimesh(surface.vertices.detach(), surface.faces, process=False)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent


def test_gradients_against_finite_differences():
    vertices, tetrahedra = tetrahedral_grid(4)
    vertices = vertices.double()
    distance = (vertices - torch.tensor([0.1, 0.05, 0.0])).norm(dim=1) - 0.63
    generator = torch.Generator().manual_seed(0)
    distance = distance + 0.02 * torch.randn(distance.shape, generator=generator, dtype=torch.float64)
    assert distance.abs().min() > 1e-4, "no step changes a sign"
    offset = 0.1 * torch.randn(vertices.shape, generator=generator, dtype=torch.float64)
    up = torch.randn(4000, 3, generator=generator, dtype=torch.float64)

    def value(distance: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
        surface = marching_tetrahedra(vertices + torch.tanh(offset) / 4, distance, tetrahedra)
        shape = surface.normal_consistency() + surface.laplacian()
        return (surface.vertices * up[: len(surface.vertices)]).sum() + 100 * shape

    distance, offset = distance.requires_grad_(), offset.requires_grad_()
    gradients = torch.autograd.grad(value(distance, offset), (distance, offset))
    for number, gradient in enumerate(gradients):
        for i in gradient.abs().flatten().topk(12).indices.tolist():
            ends = []
            for step in (1e-6, -1e-6):
                inputs = [distance.detach().clone(), offset.detach().clone()]
                inputs[number].view(-1)[i] += step
                ends.append(value(*inputs))
            slope = float(ends[0] - ends[1]) / 2e-6
            assert gradient.flatten()[i].item() == pytest.approx(slope, rel=1e-4)


def test_a_bulge_moves_the_surface_outwards_where_it_is():
    field = TetrahedralField(TetrahedraConfig(resolution=8, bulge_resolution=3))
    field.fit(field.grid.norm(dim=1) - 0.5)
    with torch.no_grad():
        field.bulge[0, 0, 2] = 0.2  # at x = 1, whatever y and z: so 0.2 x for x > 0, nothing for x < 0
    reference = TetrahedralField(TetrahedraConfig(resolution=8))
    reference.fit(field.grid.norm(dim=1) - 0.5 - 0.2 * field.grid[:, 0].clamp(min=0))
    vertices = field.surface().vertices
    torch.testing.assert_close(vertices, reference.surface().vertices)
    assert vertices[:, 0].max().item() > 0.58
    assert vertices[:, 0].min().item() == pytest.approx(-0.5, abs=0.02)
    (gradient,) = torch.autograd.grad(vertices[:, 0].max(), field.bulge)
    assert gradient[0, 0, 2, 1, 1] > 0
    assert (gradient[0, 0, 0] == 0).all()
    field.fit(field.grid.norm(dim=1) - 0.5)
    assert not field.bulge.any(), "a new shape begins without"


def test_losses_of_a_surface_by_hand():
    """An octahedron: faces meet at acos(1/3) and every vertex is 1 from the mean of its four neighbours."""
    vertices = torch.cat([torch.eye(3), -torch.eye(3)])
    faces = [(0, 1, 2), (1, 3, 2), (3, 4, 2), (4, 0, 2), (1, 0, 5), (3, 1, 5), (4, 3, 5), (0, 4, 5)]
    surface = Surface(vertices, torch.tensor(faces, dtype=torch.int32))
    assert trimesh.Trimesh(vertices, faces).volume > 0
    assert surface.normal_consistency().item() == pytest.approx(1 - 1 / 3, rel=1e-5)
    assert surface.laplacian().item() == pytest.approx(1.0, rel=1e-5)
    torch.testing.assert_close(surface.vertex_normals(), vertices)
    square = Surface(torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]), torch.tensor([[0, 1, 2], [0, 2, 3]]))
    assert square.normal_consistency().item() == 0


def test_distance_to_a_mesh():
    ball = trimesh.creation.icosphere(4, radius=0.5)
    points = 2 * torch.rand(2000, 3, generator=torch.Generator().manual_seed(0)) - 1
    vertices, faces = torch.tensor(ball.vertices), torch.tensor(ball.faces)
    distance = mesh_distance(points, vertices, faces, 0.2)
    expected = (points.norm(dim=1) - 0.5).clamp(-0.2, 0.2)
    torch.testing.assert_close(distance, expected, atol=2e-3, rtol=0)
    # A ring: from its hole a ray along an axis meets nothing; from within its tube it does.
    ring = trimesh.creation.torus(0.6, 0.25)
    points = torch.tensor([[0.0, 0.0, 0.0], [0.6, 0.0, 0.0], [0.0, -0.6, 0.1], [0.0, 0.0, 0.9]])
    distance = mesh_distance(points, torch.tensor(ring.vertices), torch.tensor(ring.faces), 0.05)
    assert distance.tolist() == pytest.approx([0.05, -0.05, -0.05, 0.05])


def test_nothing_and_everything_are_refused():
    field = TetrahedralField(TetrahedraConfig(resolution=8))
    with pytest.raises(DreamFusionError, match="empty on this grid"):
        field.fit(torch.ones(len(field.grid)))
    with pytest.raises(DreamFusionError, match="fills the whole scene"):
        field.fit(-torch.ones(len(field.grid)))
    with torch.no_grad():
        field.distance.fill_(1.0)
    with pytest.raises(DreamFusionError, match="vanished"):
        field.surface()
    with pytest.raises(DreamFusionError, match=r"^resolution: .*4"):
        TetrahedraConfig(resolution=2)
    with pytest.raises(DreamFusionError, match=r"^bulge_resolution: .*2"):
        TetrahedraConfig(resolution=8, bulge_resolution=1)


def test_a_smaller_grid_is_finer_and_holds_a_smaller_ball():
    field = TetrahedralField(TetrahedraConfig(resolution=12, extent=0.5))
    assert field.side == pytest.approx(2 * 0.5 / 12)
    radii = field.surface().vertices.norm(dim=1)
    torch.testing.assert_close(radii, torch.full_like(radii, 0.25), atol=0.005, rtol=0)
    with torch.no_grad():
        field.distance.fill_(-1.0)
    assert field.surface().vertices.norm(dim=1).max() < 0.5 + field.side, "its edge is outside"
    whole = TetrahedralField(TetrahedraConfig(resolution=12))
    assert len(whole.distance) == len(field.distance)
