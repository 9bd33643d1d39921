"""Muon: momentum whose matrix is orthogonalised before the step (Keller Jordan 2024), with AdamW for the rest."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def orthogonalized(matrix: Tensor, steps: int = 5) -> Tensor:
    """Return the matrix [m, n] with its singular values pushed towards 1 by a quintic Newton-Schulz iteration.

    X <- (a + b X X^T + c (X X^T)^2) X, five times. Every factor is a polynomial of the first Gram matrix, so the
    iteration runs on [m, m] matrices alone and touches X only at its ends, which is 2 to 3 times cheaper for n >> m.
    """
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonalized(matrix.T, steps).T
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix / (matrix.norm() + 1e-7)
    gram = x @ x.T
    identity = torch.eye(len(gram), device=gram.device)
    product = identity
    for _ in range(steps):
        factor = a * identity + b * gram + c * gram @ gram
        product = factor @ product
        gram = factor @ gram @ factor
    return product @ x


def is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Tell whether Muon should update this parameter: weights of hidden layers, not embeddings nor in- and outputs."""
    return parameter.ndim >= 2 and not any(
        part in name
        for part in ("conv_in", "conv_out", "shared", "embed_tokens", "relative_attention_bias", "class_emb")
    )


class Muon(torch.optim.Optimizer):
    """Muon for parameters of two or more dimensions; convolutions count as [out, in * kernel] matrices."""

    def __init__(self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(p)
                state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                nesterov = p.grad.lerp(state["momentum"], group["momentum"])
                update = orthogonalized(nesterov.flatten(1)).view_as(p)
                rows, columns = p.shape[0], p.numel() // p.shape[0]
                p.add_(update, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)
