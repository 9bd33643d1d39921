"""Volume rendering of packed samples: weights along rays, and weighted sums over them (Max 1995; paper section 2).

Symbols: R rays, S packed samples, C channels; sample i has optical depth tau_i = sigma_i * step.
    T_i = exp(-sum of tau_j in front of i)        transmittance: the light that reaches the sample
    w_i = T_i * (1 - exp(-tau_i))                 weight: the light that stops there
"""

# Kernels are written in Warp's dialect: annotations are values, and int(0) declares a variable where 0 is a constant.
# mypy: disable-error-code="valid-type, misc, no-untyped-def, attr-defined, operator, index, call-overload"
# ruff: noqa: UP018

from typing import Any

import torch
import warp as wp
from jaxtyping import Float, Int
from torch import Tensor

from dreamfusion.kernels.backend import array, launch_over, uses_warp


@wp.kernel(enable_backward=False)
def _weights(
    sigma: wp.array(dtype=float),
    step: float,
    offsets: wp.array(dtype=int),
    weights: wp.array(dtype=float),
    transmittance: wp.array(dtype=float),
    first: int,
    last: int,
    grain: int,
):
    _lane, block = wp.tid()
    begin = first + block * grain
    for ray in range(begin, wp.min(begin + grain, last)):
        light = float(1.0)
        for i in range(offsets[ray], offsets[ray + 1]):
            passed = light * wp.exp(-sigma[i] * step)
            transmittance[i] = light
            weights[i] = light - passed
            light = passed


@wp.kernel(enable_backward=False)
def _weights_backward(
    weights: wp.array(dtype=float),
    transmittance: wp.array(dtype=float),
    weights_grad: wp.array(dtype=float),
    step: float,
    offsets: wp.array(dtype=int),
    sigma_grad: wp.array(dtype=float),
    first: int,
    last: int,
    grain: int,
):
    # dw_i / dsigma_i = step * T_(i+1); dw_j / dsigma_i = -step * w_j for every j behind i.
    _lane, block = wp.tid()
    begin = first + block * grain
    for ray in range(begin, wp.min(begin + grain, last)):
        behind = float(0.0)
        count = offsets[ray + 1] - offsets[ray]
        for back in range(count):
            i = offsets[ray + 1] - 1 - back
            sigma_grad[i] = step * (weights_grad[i] * (transmittance[i] - weights[i]) - behind)
            behind += weights_grad[i] * weights[i]


@wp.kernel(enable_backward=False)
def _sum(
    weights: wp.array(dtype=float),
    values: wp.array2d(dtype=float),
    offsets: wp.array(dtype=int),
    sums: wp.array2d(dtype=float),
    first: int,
    last: int,
    grain: int,
):
    _lane, block = wp.tid()
    begin = first + block * grain
    for ray in range(begin, wp.min(begin + grain, last)):
        for c in range(values.shape[1]):
            total = float(0.0)
            for i in range(offsets[ray], offsets[ray + 1]):
                total += weights[i] * values[i, c]
            sums[ray, c] = total


@wp.kernel(enable_backward=False)
def _sum_backward(
    weights: wp.array(dtype=float),
    values: wp.array2d(dtype=float),
    ray_index: wp.array(dtype=int),
    sums_grad: wp.array2d(dtype=float),
    weights_grad: wp.array(dtype=float),
    values_grad: wp.array2d(dtype=float),
    first: int,
    last: int,
    grain: int,
):
    _lane, block = wp.tid()
    begin = first + block * grain
    for i in range(begin, wp.min(begin + grain, last)):
        ray = ray_index[i]
        total = float(0.0)
        for c in range(values.shape[1]):
            g = sums_grad[ray, c]
            total += g * values[i, c]
            values_grad[i, c] = g * weights[i]
        weights_grad[i] = total


class _RayWeights(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sigma: Tensor, step: float, offsets: Tensor) -> tuple[Tensor, Tensor]:
        sigma = sigma.contiguous()
        weights, transmittance = torch.empty_like(sigma), torch.empty_like(sigma)
        arguments = [array(sigma), step, array(offsets), array(weights), array(transmittance)]
        launch_over(_weights, len(offsets) - 1, arguments, sigma.device)
        ctx.save_for_backward(weights, transmittance, offsets)
        ctx.step = step
        ctx.mark_non_differentiable(transmittance)
        return weights, transmittance

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, weights_grad: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        weights, transmittance, offsets = ctx.saved_tensors
        sigma_grad, weights_grad = torch.empty_like(weights), weights_grad.contiguous()
        arguments = [array(weights), array(transmittance), array(weights_grad), ctx.step, array(offsets)]
        launch_over(_weights_backward, len(offsets) - 1, [*arguments, array(sigma_grad)], weights.device)
        return sigma_grad, None, None


class _RaySum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, values: Tensor, ray_index: Tensor, offsets: Tensor) -> Tensor:
        weights, values = weights.contiguous(), values.contiguous()
        sums = values.new_empty(len(offsets) - 1, values.shape[1])
        arguments = [array(weights), array(values), array(offsets), array(sums)]
        launch_over(_sum, len(sums), arguments, values.device)
        ctx.save_for_backward(weights, values, ray_index)
        return sums

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, sums_grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        weights, values, ray_index = ctx.saved_tensors
        weights_grad, values_grad = torch.empty_like(weights), torch.empty_like(values)
        sums_grad = sums_grad.contiguous()
        arguments = [array(weights), array(values), array(ray_index), array(sums_grad)]
        arguments += [array(weights_grad), array(values_grad)]
        launch_over(_sum_backward, len(weights), arguments, values.device)
        return weights_grad, values_grad, None, None


def ray_weights(
    sigma: Float[Tensor, " S"], step: float | Float[Tensor, " S"], offsets: Int[Tensor, " _"]
) -> tuple[Float[Tensor, " S"], Float[Tensor, " S"]]:
    """Return weights w and transmittance T of packed samples, both [S].

    ``sigma`` [S] is density per world unit, ``step`` the length each sample stands for, one number or [S], ``offsets``
    [R + 1] int32 where each ray's samples begin (see ``PackedSamples``). The weights are differentiable once with
    respect to sigma; the transmittance is not differentiable.

    Example: sigma = [ln 2, ln 2], step = 1, one ray: w = [1/2, 1/4], T = [1, 1/2].
    """
    if isinstance(step, Tensor):
        sigma, step = sigma * step, 1.0
    if uses_warp(sigma.device):
        return _RayWeights.apply(sigma, step, offsets)
    return ray_weights_reference(sigma, step, offsets)


def ray_sum(
    weights: Float[Tensor, " S"], values: Float[Tensor, "S C"], ray_index: Int[Tensor, " S"], offsets: Int[Tensor, " _"]
) -> Float[Tensor, "R C"]:
    """Return the weighted sums of ``values`` [S, C] along each ray, [R, C]; zero for rays without samples.

    ``weights`` [S]; ``ray_index`` [S] and ``offsets`` [R + 1] as in ``PackedSamples``. Differentiable once with
    respect to weights and values.
    """
    if uses_warp(values.device):
        return _RaySum.apply(weights, values, ray_index, offsets)
    return ray_sum_reference(weights, values, ray_index, offsets)


def ray_weights_reference(
    sigma: Float[Tensor, " S"], step: float, offsets: Int[Tensor, " _"]
) -> tuple[Float[Tensor, " S"], Float[Tensor, " S"]]:
    """Do what ``ray_weights`` does in plain PyTorch, on rays padded to the longest."""
    counts = offsets.diff().long()
    longest = int(counts.max()) if len(counts) else 0
    held = torch.arange(longest, device=sigma.device) < counts[:, None]
    depth = sigma.new_zeros(held.shape).masked_scatter(held, sigma * step)
    in_front = torch.nn.functional.pad(depth, (1, 0))[:, :-1].cumsum(1)
    transmittance = torch.exp(-in_front)
    weights = transmittance * (1 - torch.exp(-depth))
    return weights[held], transmittance[held].detach()


def ray_sum_reference(
    weights: Float[Tensor, " S"], values: Float[Tensor, "S C"], ray_index: Int[Tensor, " S"], offsets: Int[Tensor, " _"]
) -> Float[Tensor, "R C"]:
    """Do what ``ray_sum`` does in plain PyTorch."""
    sums = values.new_zeros(len(offsets) - 1, values.shape[1])
    return sums.index_add(0, ray_index, weights[:, None] * values)
