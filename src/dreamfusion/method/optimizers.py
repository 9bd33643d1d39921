"""Optimisers of the scene, and how their learning rate moves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from dreamfusion.config import DecayForm, OptimizerName, Schedule
from dreamfusion.scenes.resized import Resized

BETAS: dict[OptimizerName, tuple[float, ...]] = {"adam": (0.9, 0.99), "adan": (0.98, 0.92, 0.99), "shampoo": (0.9, 0.9)}
EPS: dict[OptimizerName, float] = {"adam": 1e-15, "adan": 1e-8, "shampoo": 1e-6}


def build_optimizer(
    name: OptimizerName,
    parameter_groups: Iterable[dict[str, Any]],
    *,
    betas: tuple[float, ...] | None = None,
    eps: float | None = None,
    weight_decay: float = 0.0,
    decay_form: DecayForm | None = None,
) -> torch.optim.Optimizer:
    """Return the optimiser for groups of "params" and "lr"; without ``betas`` or ``eps``, those of `BETAS`, `EPS`.

    "adan" (arXiv 2208.06677) adds the momentum of gradient differences to Adam's two; its betas are its authors' and
    NeMo's, (0.98, 0.92, 0.99), and its weight decay divides by 1 + lr * weight_decay. "adam" has threestudio's betas
    (0.9, 0.99) and an eps small enough for the tiny gradients of hash grids, with weight decay as in AdamW. "shampoo"
    is `build_shampoo`. ``decay_form`` is that of `dreamfusion.config.OptimConfig`.
    """
    groups = list(parameter_groups)
    betas, eps = betas or BETAS[name], eps or EPS[name]
    match name:
        case "adan":
            # Imported here: the package brings a hundred optimisers, and most commands need none.
            from pytorch_optimizer import Adan

            # The same arithmetic one tensor at a time (foreach=False) would leave negated gradients behind.
            return Adan(
                groups,
                betas=(betas[0], betas[1], betas[2]),
                weight_decay=weight_decay,
                weight_decouple=decay_form == "decoupled",
                eps=eps,
                foreach=True,
            )
        case "adam":
            kind = torch.optim.Adam if decay_form == "l2" else torch.optim.AdamW
            return kind(groups, betas=(betas[0], betas[1]), weight_decay=weight_decay, eps=eps)
        case "shampoo":
            return build_shampoo(groups, betas, eps, weight_decay)


def build_shampoo(
    groups: list[dict[str, Any]], betas: tuple[float, ...], eps: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Return Shampoo (arXiv 1802.09568) with the settings of the paper's appendix A.2, in blocks and with grafting.

    The exponent override is 2, the block size 128, and every parameter's step has the length of one of signs (graft
    SQRT_N). Preconditioners are computed anew every 10 steps, of which the paper says nothing. As usual, parameters
    with an axis of more than 8192 entries, such as a hash grid, have none: they take steps of signs with momentum.
    """
    from pytorch_optimizer import ScalableShampoo
    from pytorch_optimizer.optimizer.utils.graft import LayerWiseGrafting

    class Shampoo(ScalableShampoo):
        """The library's Shampoo, with a state of tensors alone, so that a checkpoint can hold it."""

        def state_dict(self) -> dict[str, Any]:  # type: ignore[override]
            tree = super().state_dict()
            state = {
                index: {
                    "momentum": values["momentum"],
                    "graft": values["graft"].momentum,
                    "statistics": list(values["pre_conditioner"].statistics),
                    "pre_conditioners": list(values["pre_conditioner"].pre_conditioners),
                }
                for index, values in tree["state"].items()
            }
            return tree | {"state": state}

        def load_state_dict(self, tree: dict[str, Any]) -> None:  # type: ignore[override]
            super().load_state_dict(tree | {"state": {}})
            parameters = [p for group in self.param_groups for p in group["params"]]
            for p in parameters:
                p.grad = torch.zeros_like(p)
            for group in self.param_groups:
                self.init_group(group)
            for index, p in enumerate(parameters):
                p.grad = None
                saved = tree["state"].get(index)
                if saved is None:
                    del self.state[p]
                    continue
                kept = self.state[p]
                kept["momentum"].copy_(saved["momentum"])
                kept["graft"].momentum.copy_(saved["graft"])
                for name in ("statistics", "pre_conditioners"):
                    for mine, theirs in zip(getattr(kept["pre_conditioner"], name), saved[name], strict=True):
                        mine.copy_(theirs)

    return Shampoo(
        groups,
        betas=(betas[0], betas[1]),
        weight_decay=weight_decay,
        decoupled_weight_decay=True,
        inverse_exponent_override=2,
        preconditioning_compute_steps=10,
        block_size=128,
        graft_type=LayerWiseGrafting.SQRTN,
        matrix_eps=eps,
    )


def carry_over(optimizer: torch.optim.Optimizer, resized: Sequence[Resized]) -> None:
    """Put parameters of another number of rows in the place of those that were, with what is gathered of each row.

    New rows begin with zeros. Of state that is not kept row by row, such as Shampoo's preconditioners, nothing is left.
    """
    for change in resized:
        for group in optimizer.param_groups:
            group["params"] = [change.after if p is change.before else p for p in group["params"]]
        state = optimizer.state.pop(change.before, {})
        if all(isinstance(value, Tensor) for value in state.values()):
            optimizer.state[change.after] = {
                name: _taken(value, change.rows) if value.shape == change.before.shape else value
                for name, value in state.items()
            }


def _taken(values: Tensor, rows: Tensor) -> Tensor:
    """Return the ``rows`` [N] of ``values``, zeros for -1."""
    taken = values.new_zeros(len(rows), *values.shape[1:])
    old = rows >= 0
    taken[old] = values[rows[old]]
    return taken


def learning_rate_factor(step: int, steps: int, warmup: Schedule, decay: Schedule) -> float:
    """Return what to multiply the learning rates by at ``step`` (0 to ``steps``): a warm-up, then its decay.

    The warm-up takes whole steps. One from 0 has its 0 before the first step, which would else do nothing. The paper
    warms up from 1e-5 over 3000 of its 15,000 steps and decays to 0.01.
    """
    rising = round(warmup.until * steps) if warmup.changes else 0
    if step >= rising:
        return decay.at_step(step, steps)
    if warmup.start == 0:
        return (step + 1) / (rising + 1)
    return warmup.start + (warmup.end - warmup.start) * step / rising
