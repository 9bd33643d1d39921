"""Proposal sampling: a small network learns where along a ray the field has matter (mip-NeRF 360, arXiv 2111.12077).

Symbols: R rays that meet the unit sphere, n intervals of a ray with n + 1 edges (distances in world units), and w, the
compositing weight of each interval; a histogram of where the light of a ray stops. Hats mark what is proposed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dreamfusion.config import ProposalConfig
from dreamfusion.fields.encodings import frequency_channels, frequency_encode
from dreamfusion.fields.nerf import mlp
from dreamfusion.kernels.compositing import ray_weights
from dreamfusion.kernels.marching import PackedSamples, sphere_interval

_UNIFORM_SHARE = 0.01
"""Part of the samples that is spread evenly, so that matter can be found anywhere."""


@dataclass(frozen=True)
class Proposed:
    """The ``samples`` of a batch of rays, one in the middle of each interval between ``edges`` [R, n + 1].

    ``histograms`` are the edges and weights of the rounds that led there, the weights with gradient.
    """

    samples: PackedSamples
    edges: Tensor
    histograms: list[tuple[Tensor, Tensor]]

    def interlevel_loss(self, weights: Tensor) -> Tensor:
        """Return the mean over rays, summed over rounds, of `interlevel_loss`; ``weights`` [S] are the field's."""
        w = weights.view(len(self.edges), self.edges.shape[1] - 1)
        losses = [interlevel_loss(self.edges, w, edges, proposed) for edges, proposed in self.histograms]
        return torch.stack(losses).sum(dim=0).sum() / max(1, len(w))

    def distortion_loss(self, weights: Tensor) -> Tensor:
        """Return the mean over rays of `distortion_loss`, the scene's diameter being 1; ``weights`` [S]."""
        w = weights.view(len(self.edges), self.edges.shape[1] - 1)
        return distortion_loss(self.edges / 2, w).sum() / max(1, len(w))


class ProposalNetwork(nn.Module):
    """A density that is only ever used to place samples."""

    def __init__(self, config: ProposalConfig | None = None, generator: torch.Generator | None = None) -> None:
        """Draw the initial parameters from ``generator`` (a CPU one; PyTorch's global one if None)."""
        super().__init__()
        self.config = c = config or ProposalConfig()
        self.network = mlp(frequency_channels(c.frequencies), 1, c.hidden_width, c.hidden_layers, generator)

    def density(self, x: Tensor) -> Tensor:
        """Return the proposed density per world unit [N] at points ``x`` [N, 3]."""
        return nn.functional.softplus(self.network(frequency_encode(x, self.config.frequencies))[:, 0])

    def propose(self, origins: Tensor, directions: Tensor, generator: torch.Generator | None = None) -> Proposed:
        """Return samples on rays ``origins``, unit ``directions`` [R', 3]; those that miss the unit sphere get none.

        ``generator`` (a CPU one) shifts each ray's samples by a random part of their spacing; without it, they are
        centred. The positions carry no gradient.
        """
        near, far, meets = sphere_interval(origins, directions)
        rays = meets.nonzero()[:, 0]
        even = torch.linspace(0, 1, self.config.proposal_samples + 1, device=near.device)
        edges = near[rays, None] + (far - near)[rays, None] * even
        histograms: list[tuple[Tensor, Tensor]] = []
        for count in [*[self.config.proposal_samples] * (self.config.rounds - 1), self.config.samples]:
            samples = _packed(edges, rays, len(origins))
            density = self.density(samples.points(origins, directions))
            weights, _ = ray_weights(density, samples.length, samples.offsets)
            histograms.append((edges, weights.view(len(rays), edges.shape[1] - 1)))
            shift = (
                torch.full((len(rays), 1), 0.5) if generator is None else torch.rand(len(rays), 1, generator=generator)
            )
            edges = resample(edges, histograms[-1][1].detach(), count, shift.to(near.device))
        return Proposed(_packed(edges, rays, len(origins)), edges, histograms)


def _packed(edges: Tensor, rays: Tensor, count: int) -> PackedSamples:
    """Return the middles of the intervals between ``edges`` [R, n + 1] of the rays with indices ``rays`` of all."""
    intervals = edges.shape[1] - 1
    held = torch.zeros(count, dtype=torch.int32, device=edges.device)
    held[rays] = intervals
    offsets = nn.functional.pad(held.cumsum(0, dtype=torch.int32), (1, 0))
    ray_index = rays.int().repeat_interleave(intervals)
    middle = (edges[:, 1:] + edges[:, :-1]) / 2
    return PackedSamples(ray_index, middle.flatten(), offsets, edges.diff().flatten())


@torch.no_grad()
def resample(
    edges: Float[Tensor, "R _"], weights: Float[Tensor, "R _"], count: int, shift: Float[Tensor, "R 1"]
) -> Float[Tensor, "R _"]:
    """Return the edges [R, count + 1] of new intervals, narrow where the histogram has much weight.

    Their middles have, as nearly as edges halfway between can, equal shares of the weights [R, n] between them;
    ``shift`` [R, 1] in [0, 1) moves them by a part of such a share (mip-NeRF 360's code samples so, too).
    """
    n = weights.shape[1]
    total = weights.sum(dim=1, keepdim=True).clamp(min=1e-6)
    share = (1 - _UNIFORM_SHARE) * weights / total + _UNIFORM_SHARE * edges.diff() / (edges[:, -1:] - edges[:, :1])
    below = nn.functional.pad(share.cumsum(dim=1), (1, 0))
    below = below / below[:, -1:]  # a ray without weight has the even share alone
    u = (torch.arange(count, device=edges.device) + shift) / count
    at = (torch.searchsorted(below, u, right=True) - 1).clamp(0, n - 1)
    low, high = below.gather(1, at), below.gather(1, at + 1)
    within = (u - low) / (high - low).clamp(min=1e-9)
    middle = edges.gather(1, at) + within * edges.diff().gather(1, at)
    between = (middle[:, 1:] + middle[:, :-1]) / 2
    first, last = 2 * middle[:, :1] - between[:, :1], 2 * middle[:, -1:] - between[:, -1:]
    return torch.cat([first.maximum(edges[:, :1]), between, last.minimum(edges[:, -1:])], dim=1)


def interlevel_loss(
    edges: Float[Tensor, "R _"],
    weights: Float[Tensor, "R _"],
    proposed_edges: Float[Tensor, "R _"],
    proposed_weights: Float[Tensor, "R _"],
) -> Float[Tensor, " R"]:
    """Return sum_i max(0, w_i - bound_i)^2 / w_i for each ray, [R] (mip-NeRF 360, equations 11 and 13).

    bound_i is the weight of all proposed intervals that overlap interval i: a proposal with the same shape, but any
    other edges, has at least that much there. The gradient flows to the proposed weights alone.
    """
    w = weights.detach()
    below = nn.functional.pad(proposed_weights.cumsum(dim=1), (1, 0))
    last = proposed_weights.shape[1]
    inner = proposed_edges.contiguous()
    first = (torch.searchsorted(inner, edges[:, :-1].contiguous(), right=True) - 1).clamp(0, last)
    behind = torch.searchsorted(inner, edges[:, 1:].contiguous()).clamp(0, last)
    bound = below.gather(1, behind) - below.gather(1, first)
    return ((w - bound).clamp(min=0).square() / (w + 1e-7)).sum(dim=1)


def distortion_loss(edges: Float[Tensor, "R _"], weights: Float[Tensor, "R _"]) -> Float[Tensor, " R"]:
    """Return sum_ij w_i w_j |m_i - m_j| + 1/3 sum_i w_i^2 (length of i) for each ray, [R], m being the middles.

    mip-NeRF 360, equation 15: it is small if the weights lie close together. In O(n), because the middles are sorted:
    each pair counts twice, and |m_i - m_j| is m_i - m_j for all j in front of i.
    """
    middle = (edges[:, 1:] + edges[:, :-1]) / 2
    in_front = weights.cumsum(dim=1) - weights
    moment = (weights * middle).cumsum(dim=1) - weights * middle
    pairs = 2 * (weights * (middle * in_front - moment)).sum(dim=1)
    return pairs + (weights.square() * edges.diff()).sum(dim=1) / 3
