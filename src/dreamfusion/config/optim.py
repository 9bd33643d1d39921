"""The optimiser of the scene: `optim`."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from dreamfusion.config.schedule import PositiveSchedule, Schedule, ShareSchedule
from dreamfusion.config.section import Fraction, NonNegative, Positive, Section, wrong

OptimizerName = Literal["adam", "adan", "shampoo"]
DecayForm = Literal["decoupled", "proximal", "l2"]


class OptimConfig(Section):
    """The optimiser of the scene."""

    optimizer: OptimizerName = "adam"
    """adam, adan (NeMo's choice) or shampoo (the paper's)"""
    grid_lr: Positive = 1e-2
    """learning rate of the hash grid"""
    network_lr: Positive = 2e-3
    """learning rate of the small networks"""
    surface_lr: Positive = 1e-3
    """meshes: learning rate of the distances, in world units, and of the offsets, in half sides of the grid's cubes"""
    offset_lr: Positive | None = None
    """meshes: learning rate of the offsets alone (null: surface_lr)"""
    bulge_lr: Positive = 1e-3
    """meshes: learning rate of scene.tetrahedra.bulge_resolution's grid, in world units"""
    background_lr: Positive | None = None
    """learning rate of a learned background (null: network_lr)"""
    betas: tuple[Fraction, ...] | None = None
    """decay rates of the optimiser's averages, three for adan, else two (null: adam 0.9, 0.99; adan 0.98, 0.92, 0.99;
    shampoo 0.9, 0.9)"""
    eps: Positive | None = None
    """the optimiser's small number (null: adam 1e-15, adan 1e-8, shampoo 1e-6)"""
    weight_decay: NonNegative = 0.0
    """decay of the parameters per unit of learning rate"""
    decay_form: DecayForm | None = None
    """how weight_decay acts: decoupled: parameters times 1 - lr weight_decay; proximal: divided by 1 + lr weight_decay
    (adan); l2: added to the gradient (adam); null: proximal for adan, else decoupled"""
    warmup: ShareSchedule = Schedule(start=0.0, end=1.0, until=0.05)
    """factor on the learning rates at the beginning of the run, linear; 0 is before the first step (paper: A.2)"""
    decay: PositiveSchedule = Schedule(start=1.0, end=0.03, from_=0.05, curve="cosine")
    """another factor on the learning rates (paper: A.2)"""
    max_grad_norm: Positive | None = 5.0
    """gradients are scaled down to this norm (null: never)"""

    @model_validator(mode="after")
    def _check(self) -> OptimConfig:
        if self.warmup.end != 1 or self.warmup.from_ != 0 or self.warmup.curve != "linear":
            raise wrong("warmup", "a warm-up goes linearly to 1 and begins with the run: give start and until")
        only = {"proximal": "adan", "l2": "adam"}.get(self.decay_form or "", self.optimizer)
        if only != self.optimizer:
            raise wrong("decay_form", f"decay_form '{self.decay_form}' is for optimizer '{only}'")
        count = 3 if self.optimizer == "adan" else 2
        if self.betas is not None and (len(self.betas) != count or max(self.betas) >= 1):
            raise wrong("betas", f"{self.optimizer} takes {count} betas below 1")
        return self
