"""The gradient of a VAE's encoder as a graph of its own, which an inference engine can run.

An engine has no way back, so the way back is made a way forward: PyTorch's autograd is traced while it computes the
vector-Jacobian product of the encoder, and what it did becomes the graph. Three of the operations in it have no
counterpart in ONNX and are written out here in those that have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._decomp import get_decompositions
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import conv1d

_ATEN: Any = torch.ops.aten


def gradient_graph(vae: Any) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """Return the way back through an AutoencoderKL's encoder, and an example of its two arguments.

    They are pixels [B, 3, H, W] and the gradient of the moments [B, 2C, h, w]; the result is the gradient of the
    pixels. All sizes stay free, as long as each level of the encoder halves them exactly.
    """
    weights = next(vae.parameters())
    scale = 2 ** (len(vae.config.block_out_channels) - 1)
    # All different, because the tracer takes sizes that are equal in the example for equal ones forever.
    pixels = torch.rand(5, 3, 7 * scale, 11 * scale).to(weights)
    gradient = torch.rand(5, 2 * vae.config.latent_channels, 7, 11).to(weights)

    def pull_back(x: Tensor, g: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(vae._encode(x), x, g)[0]

    rules: dict[Any, Callable[..., Any]] = dict(get_decompositions([_ATEN.silu_backward, _ATEN._softmax_backward_data]))
    rules[_ATEN.convolution_backward.default] = _convolution_backward
    rules[_ATEN.native_group_norm_backward.default] = _group_norm_backward
    with plain_attention(vae):
        # What is not the input, the weights, are constants of the graph.
        graph = make_fx(pull_back, rules, tracing_mode="symbolic", _allow_non_fake_inputs=True)(pixels, gradient)
    return graph, (pixels, gradient)


@contextmanager
def plain_attention(vae: Any) -> Iterator[None]:
    """Compute the attention of a VAE in products and a softmax, whose gradients can be traced at any size."""
    before = vae.attn_processors
    vae.set_attn_processor(_PlainAttention())
    try:
        yield
    finally:
        vae.set_attn_processor(before)


class _PlainAttention:
    """softmax(q k / sqrt(C)) v of all places in a picture [B, C, H, W], with one head."""

    def __call__(self, attn: Any, x: Tensor, *_: Any, **__: Any) -> Tensor:
        def linear(layer: Any, y: Tensor) -> Tensor:
            return conv1d(y, layer.weight[:, :, None], layer.bias)

        y = attn.group_norm(x.flatten(2))
        q, k, v = (linear(layer, y) for layer in (attn.to_q, attn.to_k, attn.to_v))
        attention = torch.softmax(torch.bmm(q.transpose(1, 2), k) * attn.scale, dim=-1)
        y = linear(attn.to_out[0], torch.bmm(v, attention.transpose(1, 2)))
        return (y.unflatten(2, x.shape[2:]) + x) / attn.rescale_output_factor


def _convolution_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    wanted: Sequence[bool],
) -> tuple[Tensor, None, None]:
    """Return the gradient of a convolution's input, the transposed convolution; the weights are frozen.

    Nothing is added at the edges: a stride of 2 meets an odd size here, an even one padded by one.
    """
    assert not transposed
    assert list(wanted) == [True, False, False]
    edges = [0] * (x.ndim - 2)
    return _ATEN.convolution(gradient, weight, None, stride, padding, dilation, True, edges, groups), None, None


def _group_norm_backward(
    gradient: Tensor,
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor,
    n: int,
    channels: int,
    area: int,
    groups: int,
    wanted: Sequence[bool],
) -> tuple[Tensor, None, None]:
    """Return the gradient of a group normalisation's input, r (g - mean(g) - y mean(g y)) per group.

    y is the normalised input, r the inverse deviation, and g the gradient times the weight.
    """
    assert list(wanted) == [True, False, False]
    g = (gradient * weight.reshape(1, -1, *[1] * (x.ndim - 2))).reshape(n, groups, -1)
    r = rstd[:, :, None]
    y = (x.reshape(n, groups, -1) - mean[:, :, None]) * r
    result = r * (g - g.mean(-1, keepdim=True) - y * (g * y).mean(-1, keepdim=True))
    return result.reshape(x.shape), None, None
