"""Solids of known shape and colour, as fields, for tests of meshes."""

import torch
import trimesh


class Analytic:
    """A field of constant ``peak`` density where ``inside`` is true, red at the front and otherwise blue."""

    def __init__(self, inside, peak=100.0):
        self.inside, self.peak = inside, peak

    def density(self, x):
        return self.peak * self.inside(x).float()

    def albedo(self, x):
        front = (x[:, :1] > 0).float()
        return torch.cat([front * 0.5, torch.zeros_like(front), 1 - front], dim=1)


class Gaussian(Analytic):
    """A ball whose density falls off smoothly, ``peak`` in the middle."""

    def density(self, x):
        return self.peak * torch.exp(-x.square().sum(-1) / (2 * 0.2**2))


def ball(radius, center=(0.0, 0.0, 0.0)):
    """Return which points lie in a ball."""
    return lambda x: (x - torch.tensor(center, device=x.device)).norm(dim=-1) < radius


def box(half):
    """Return which points lie in a box of these half sides."""
    return lambda x: (x.abs() < torch.tensor(half, device=x.device)).all(-1)


def body_of(mesh):
    """Return the mesh as trimesh sees it, vertices untouched."""
    return trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)


def figure(x):
    """Return which points lie in a tall box with a nose at its front (+x) and a hat that leans to its left (+y).

    x from -0.2 to 0.5, y from -0.3 to 0.6, z from -0.6 to 0.7.
    """
    trunk = box((0.2, 0.3, 0.6))(x)
    nose = box((0.5, 0.06, 0.06))(x) & (x[:, 0] > 0)
    hat = box((0.1, 0.3, 0.2))(x - torch.tensor([0.0, 0.3, 0.5]))
    return trunk | nose | hat
