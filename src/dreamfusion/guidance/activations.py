"""What a prior's activations take while it judges one view, told without computing anything.

The prior is asked once with fake tensors, which have shapes and no numbers, while all that is alive is added up.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dreamfusion.guidance.pipeline import PipelineGuidance


def activation_bytes(prior: PipelineGuidance) -> int:
    """Return the most bytes of activations that are alive at once, for one view as the loss `sds` asks about it.

    The view goes through `encode` with a gradient, and its latents are judged twice, for the prompt and without. The
    figure is that of the precision in which the weights are, on the device on which they are.
    """
    text = prior.embed(["a", ""])
    with FakeTensorMode(allow_non_fake_inputs=True), _Alive() as alive:
        image = torch.zeros(1, 3, prior.sample_size, prior.sample_size, device=prior.device, requires_grad=True)
        z = prior.encode(image)
        t = torch.ones(2, dtype=torch.long, device=prior.device)
        prior.predict_noise(torch.cat([z, z]).detach(), t, text)
    return alive.most


class _Alive(TorchDispatchMode):
    """Adds up the sizes of all tensors that are made while it is on, and keeps the largest sum."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.most = 0, 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {_storage_of(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and _storage_of(tensor) not in given | self._known:
                self._count(tensor)
        return out

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = _storage_of(tensor), storage.nbytes()
        self._known.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._forget, key, size).atexit = False

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def _storage_of(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
