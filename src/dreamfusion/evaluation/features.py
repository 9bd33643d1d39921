"""How far sets of pictures are apart and spread out, in the features of a judge."""

from __future__ import annotations

import torch
from torch import Tensor


def principal_directions(features: Tensor, count: int) -> Tensor:
    """Return the ``count`` directions [D, count] in which features [n, D] vary most, orthonormal."""
    centred = (features - features.mean(dim=0)).double()
    return torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -count:].to(features)


def frechet_distance(features: Tensor, others: Tensor) -> float:
    """Return the Frechet distance of the normal distributions of features [n, D] and [m, D] (Heusel et al. 2017).

    |mean - mean'|^2 + tr(C + C' - 2 (C^1/2 C' C^1/2)^1/2) with covariances C and C'. It is too large for few pictures:
    compare only what has as many, and with true pictures against others of them.
    """
    x, y = features.double(), others.double()
    root = _square_root(torch.cov(x.T))
    cross = _square_root(root @ torch.cov(y.T) @ root)
    spread = torch.cov(x.T).trace() + torch.cov(y.T).trace() - 2 * cross.trace()
    return float((x.mean(dim=0) - y.mean(dim=0)).square().sum() + spread)


def _square_root(matrix: Tensor) -> Tensor:
    """Return the symmetric square root of a positive semidefinite matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def mean_pair_distance(features: Tensor) -> float:
    """Return the mean distance of two different pictures of a set, over sets [k, m, D] of m pictures each."""
    distance = torch.cdist(features, features)
    sets, size, _ = features.shape
    return float(distance.sum() / (sets * size * (size - 1)))
