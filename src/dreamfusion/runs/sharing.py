"""The state of a run, from the first of several processes to the others."""

from __future__ import annotations

from dreamfusion.io.checkpoints import Checkpoint
from dreamfusion.method.ranks import Ranks
from dreamfusion.method.state import State


def send_state(ranks: Ranks, state: State) -> None:
    """Give the state of the first process to all others, which `receive_state`."""
    if ranks.count > 1:
        tensors, values = state.to_checkpoint()
        ranks.from_first((state.step, {name: tensor.detach().cpu() for name, tensor in tensors.items()}, values))


def receive_state(ranks: Ranks, state: State) -> None:
    """Take over the state of the first process, bit-equal."""
    state.restore(Checkpoint(*ranks.from_first()))
