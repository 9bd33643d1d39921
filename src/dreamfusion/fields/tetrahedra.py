"""A surface in a deformable grid of tetrahedra (DMTet; Shen et al. 2021, arXiv 2111.04276).

Every grid vertex has a signed distance, negative inside, and an offset; marching tetrahedra turns them into a triangle
mesh that moves smoothly with both, and changes its topology where a distance changes sign.

The grid is body-centred cubic: the corners of cubes and their centres. Two neighbouring centres and an edge of the
square between them make a tetrahedron; all have the same shape, and are less elongated than those of a cut-up cube.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from dreamfusion.config import TetrahedraConfig
from dreamfusion.errors import DreamFusionError
from dreamfusion.kernels.topology import half_edge_pairs

EDGES = torch.tensor([(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)])
"""The edges of a tetrahedron, as numbers of its corners."""


@dataclass(frozen=True)
class Surface:
    """A triangle mesh: ``vertices`` [V, 3] in world units, ``faces`` [F, 3] int32, counter-clockwise from outside."""

    vertices: Tensor
    faces: Tensor

    def face_normals(self) -> Tensor:
        """Return the faces' normals [F, 3], twice their area long."""
        a, b, c = self.vertices[self.faces.long()].unbind(1)
        return torch.linalg.cross(b - a, c - a)

    def vertex_normals(self) -> Tensor:
        """Return unit normals [V, 3]: the mean of the adjacent faces' weighted by area; zero where they cancel."""
        by_area = self.face_normals()
        total = torch.zeros_like(self.vertices)
        for corner in self.faces.long().unbind(1):
            total = total.index_add(0, corner, by_area)
        return nn.functional.normalize(total, dim=-1, eps=1e-12)

    def normal_consistency(self) -> Tensor:
        """Return the mean over inner edges of 1 - cos of the angle between their faces' normals; 0 for a plane."""
        normals = nn.functional.normalize(self.face_normals(), dim=-1, eps=1e-12)
        left, right = (half_edge_pairs(self.faces) // 3).unbind(1)
        return (1 - (normals[left] * normals[right]).sum(-1)).mean()

    def laplacian(self) -> Tensor:
        """Return the mean over vertices of |v - mean of its neighbours|^2, in world units (uniform Laplacian).

        Squared, for the length alone pulls every vertex as hard however near it is, and an optimiser that scales
        gradients, such as Adam, then shakes what it should smooth.
        """
        half_edges = half_edge_pairs(self.faces)[:, 0]
        a = self.faces.flatten().long()[half_edges]
        b = self.faces.roll(-1, 1).flatten().long()[half_edges]
        total = torch.zeros_like(self.vertices)
        total = total.index_add(0, a, self.vertices[b]).index_add(0, b, self.vertices[a])
        count = torch.bincount(torch.cat([a, b]), minlength=len(total)).clamp(min=1)
        return (total / count[:, None] - self.vertices).square().sum(-1).mean()


def tetrahedral_grid(resolution: int) -> tuple[Tensor, Tensor]:
    """Return a grid that fills the unit ball: vertices [N, 3] and tetrahedra [T, 4] int64, all wound positively.

    The cubes have sides of 2 / ``resolution``. Tetrahedra wholly outside of the ball are left out, so the outermost
    vertices lie outside of it.
    """
    cells, side = resolution + 2, 2.0 / resolution  # one more on every side: the ball touches the cube
    centre = np.stack(np.meshgrid(*[np.arange(cells)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)

    def corner(index: np.ndarray) -> np.ndarray:
        return (index * [(cells + 1) ** 2, cells + 1, 1]).sum(-1)

    def middle(index: np.ndarray) -> np.ndarray:
        return (cells + 1) ** 3 + (index * [cells**2, cells, 1]).sum(-1)

    step = np.eye(3, dtype=np.int64)
    square = ((0, 0), (1, 0), (1, 1), (0, 1))
    tetrahedra = []
    for axis in range(3):
        along, u, v = step[axis], step[(axis + 1) % 3], step[(axis + 2) % 3]
        first = centre[centre[:, axis] < cells - 1]
        corners = [corner(first + along + i * u + j * v) for i, j in square]
        for a, b in itertools.pairwise([*corners, corners[0]]):
            tetrahedra.append(np.stack([middle(first), middle(first + along), a, b], axis=1))
    lattice = np.stack(np.meshgrid(*[np.arange(cells + 1)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    vertices = np.concatenate([lattice, centre + 0.5]) * side - 1.0 - side
    all_tetrahedra = np.concatenate(tetrahedra)
    in_ball = (vertices**2).sum(1) < 1
    all_tetrahedra = all_tetrahedra[in_ball[all_tetrahedra].any(1)]
    used, numbers = np.unique(all_tetrahedra, return_inverse=True)
    return torch.from_numpy(vertices[used].astype(np.float32)), torch.from_numpy(numbers.reshape(-1, 4))


def _triangle_table() -> Tensor:
    """Return the triangles of each of the 16 cases: [16, 2, 3] numbers of `EDGES`, -1 for none.

    Bit i of a case says that corner i is inside. Worked out on one positively wound tetrahedron: the triangles join the
    middles of the edges that change sides and are turned to face outwards.
    """
    corners = np.array([(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)])
    number = {frozenset(edge): k for k, edge in enumerate(EDGES.tolist())}
    table = torch.full((16, 2, 3), -1)
    for case in range(1, 15):
        inside = [i for i in range(4) if case >> i & 1]
        outside = [i for i in range(4) if not case >> i & 1]
        if len(inside) == 2:
            (a, b), (c, d) = inside, outside
            polygon = [(a, c), (b, c), (b, d), (a, d)]
        else:
            polygon = list(itertools.product(inside, outside))
        middle = [corners[list(edge)].mean(0) for edge in polygon]
        outwards = corners[outside].mean(0) - corners[inside].mean(0)
        if np.cross(middle[1] - middle[0], middle[2] - middle[0]) @ outwards < 0:
            polygon.reverse()
        edges = [number[frozenset(edge)] for edge in polygon]
        for k in range(len(edges) - 2):
            table[case, k] = torch.tensor([edges[0], edges[k + 1], edges[k + 2]])
    return table


_TRIANGLES = _triangle_table()


def marching_tetrahedra(vertices: Tensor, distance: Tensor, tetrahedra: Tensor) -> Surface:
    """Return the surface where ``distance`` [N], negative inside, changes its sign in a grid.

    ``vertices`` [N, 3]; ``tetrahedra`` [T, 4] int64, positively wound: (b - a) x (c - a) . (d - a) > 0. The surface
    crosses an edge from a to b at (a s_b - b s_a) / (s_b - s_a), differentiably in vertices and distances. It is closed
    if no boundary of the grid is inside, and may be empty.
    """
    inside = distance.detach() < 0
    case = (inside[tetrahedra].int() << torch.arange(4, device=distance.device)).sum(1)
    active = (case > 0) & (case < 15)
    tetrahedra, case = tetrahedra[active], case[active]
    ends = tetrahedra[:, EDGES.to(distance.device)]  # [T, 6, 2]
    key = ends.min(-1).values * len(vertices) + ends.max(-1).values
    crossed, numbers = torch.unique(key, return_inverse=True)
    triangles = _TRIANGLES.to(distance.device)[case].view(-1, 6)
    faces = numbers.gather(1, triangles.clamp(min=0)).view(-1, 3)[triangles.view(-1, 3)[:, 0] >= 0]
    # Edges within one side have a number but no vertex.
    used, faces = torch.unique(faces, return_inverse=True)
    a, b = crossed[used] // len(vertices), crossed[used] % len(vertices)
    s_a, s_b = distance[a, None], distance[b, None]
    points = (vertices[a] * s_b - vertices[b] * s_a) / (s_b - s_a)
    return Surface(points, faces.view(-1, 3).int())


class TetrahedralField(nn.Module):
    """The distances and offsets that are optimised: a closed surface within the unit ball.

    What a prior of few pixels says of one vertex is mostly noise, and what it says of a region is not. So where the
    configuration asks for it, ``bulge`` [1, 1, N, N, N] over the cube [-1, 1]^3, interpolated, is taken off the
    distances: each of its samples gathers the gradients of all vertices around, and whole parts grow or shrink.
    """

    grid: Tensor
    tetrahedra: Tensor
    outer: Tensor

    def __init__(self, config: TetrahedraConfig | None = None) -> None:
        """Begin with a ball half as large as the grid, of radius 1/2 unless ``config.extent`` is less than 1."""
        super().__init__()
        self.config = config or TetrahedraConfig()
        grid, tetrahedra = tetrahedral_grid(self.config.resolution)
        at_edge = grid.norm(dim=1) >= 1 - 1e-6
        grid = grid * self.config.extent
        # Rebuilt from the resolution, not saved.
        self.register_buffer("grid", grid, persistent=False)
        self.register_buffer("tetrahedra", tetrahedra, persistent=False)
        self.register_buffer("outer", at_edge, persistent=False)
        self.distance = nn.Parameter(grid.norm(dim=1) - 0.5 * self.config.extent)
        self.offset = nn.Parameter(torch.zeros_like(grid))
        samples = self.config.bulge_resolution
        self.bulge = None if samples is None else nn.Parameter(torch.zeros(1, 1, samples, samples, samples))

    @property
    def side(self) -> float:
        """The side of the grid's cubes, in world units."""
        return 2.0 * self.config.extent / self.config.resolution

    def surface(self) -> Surface:
        """Return the surface, differentiable in distances and offsets.

        Vertices lie at most tanh(offset) half sides of a cube along each axis from their place in the grid; those
        at the edge of the ball are always outside. Raises DreamFusionError if there is no surface.
        """
        vertices = self.grid + torch.tanh(self.offset) * (self.side / 2)
        distance = torch.where(self.outer, self.side, self.distance - self._bulge_at_vertices())
        surface = marching_tetrahedra(vertices, distance, self.tetrahedra)
        if len(surface.faces) == 0:
            raise DreamFusionError(
                "The mesh has vanished: try another --seed, a lower optim.surface_lr, or a finer grid for thin objects "
                "(scene.tetrahedra.resolution)."
            )
        return surface

    def _bulge_at_vertices(self) -> Tensor | float:
        """Return by how much the bulge grid moves the surface outwards at the vertices [N], in world units."""
        if self.bulge is None:
            return 0.0
        at = self.grid.flip(1).view(1, 1, 1, -1, 3)  # grid_sample speaks of axes in the order z, y, x
        return nn.functional.grid_sample(self.bulge, at, padding_mode="border", align_corners=True).view(-1)

    @torch.no_grad()
    def fit(self, distance: Tensor) -> None:
        """Take over signed distances [N] at the vertices of `grid`; DreamFusionError if none is inside or all are."""
        inside = (distance < 0) & ~self.outer
        if not inside.any():
            raise DreamFusionError(
                "The mesh is empty on this grid: nothing of it is as large as a cell. Give a finer "
                "scene.tetrahedra.resolution, or a solid object to start from."
            )
        if inside.sum() > 0.98 * (~self.outer).sum():
            raise DreamFusionError("The mesh fills the whole scene, so there is no object to refine.")
        self.distance.copy_(distance)
        self.offset.zero_()
        if self.bulge is not None:
            self.bulge.zero_()
