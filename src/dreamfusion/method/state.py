"""All that changes during a run, saved and restored as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dreamfusion.config import Config, leaves
from dreamfusion.config.earlier import translated
from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.base import Guidance
from dreamfusion.io.checkpoints import Checkpoint, generator_states, pack, restore_generators, unpack
from dreamfusion.method.critic import Critic
from dreamfusion.method.optimizers import build_optimizer, carry_over
from dreamfusion.scenes.build import build_scene
from dreamfusion.scenes.scene import Scene

PURPOSES = ("camera", "light", "shading", "background", "jitter", "timestep", "noise", "occupancy")
"""One random generator each, so that a change to one draw does not change the others."""


@dataclass
class State:
    """All that changes during a run; saved and restored as a whole, so that resuming is bit-equal."""

    scene: Scene
    optimizer: torch.optim.Optimizer
    generators: dict[str, torch.Generator]
    step: int = 0
    opacity: float = 0.3  # running mean over all views
    critic: Critic | None = None  # of variational score distillation, made when the prior is there
    saved_critic: dict[str, Any] | None = None  # what a checkpoint holds of it until then
    rate: float = 1.0  # factor on all learning rates: less after the scene was not finite
    left_out: int = 0  # steps in a row whose gradient was not finite
    portions: int = 1  # in which the views of a step are rendered: more where memory is short

    @staticmethod
    def fresh(config: Config, device: torch.device, scene: Scene | None = None) -> State:
        """Return the state before the first step; everything random follows from ``config.seed``.

        ``scene`` takes the place of the configured one.
        """
        scene = (scene or build_scene(config.scene, config.seed)).to(device)
        generators = {
            purpose: torch.Generator().manual_seed(config.seed * len(PURPOSES) + index)
            for index, purpose in enumerate(PURPOSES)
        }
        optim = config.optim
        optimizer = build_optimizer(
            optim.optimizer,
            scene.parameter_groups(optim),
            betas=optim.betas,
            eps=optim.eps,
            weight_decay=optim.weight_decay,
            decay_form=optim.decay_form,
        )
        return State(scene, optimizer, generators)

    def to_checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return named tensors and JSON that `restore` brings back exactly."""
        tree = {
            "scene": dict(self.scene.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "opacity": self.opacity,
            "rate": self.rate,
            "left_out": self.left_out,
            "portions": self.portions,
            "scene_config": self.scene.config.model_dump(mode="json"),
            "critic": self.critic.state_dict() if self.critic else self.saved_critic,
        }
        tensors, state = pack(tree, "state")
        return tensors | generator_states(self.generators), state

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint; DreamFusionError if it belongs to another architecture."""
        tree = unpack(checkpoint.state, checkpoint.tensors)
        if lacking := [part for part in ("scene", "optimizer", "opacity") if part not in tree]:
            raise DreamFusionError(
                f"The checkpoint of step {checkpoint.step} has no {' and no '.join(lacking)} in it: delete it and "
                "resume from an earlier one, or start the run again."
            )
        try:
            carry_over(self.optimizer, self.scene.shape_like(tree["scene"]))
            self.scene.load_state_dict(tree["scene"])
            self.optimizer.load_state_dict(tree["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            reason = self._differences(tree) or str(error).splitlines()[-1].strip()
            raise DreamFusionError(f"The checkpoint does not fit this configuration ({reason}).") from None
        restore_generators(self.generators, checkpoint.tensors)
        self.step, self.opacity = checkpoint.step, tree["opacity"]
        self.critic, self.saved_critic = None, tree.get("critic")
        self.rate, self.left_out = tree.get("rate", 1.0), tree.get("left_out", 0)
        self.portions = tree.get("portions", 1)

    def _differences(self, tree: dict[str, Any]) -> str:
        """Return which keys of the scene are others than in a checkpoint; earlier checkpoints do not tell."""
        saved = dict(leaves(translated({"scene": tree.get("scene_config", {})})["scene"]))
        mine = dict(leaves(self.scene.config.model_dump(mode="json")))
        names = [name for name in saved if mine.get(name) != saved[name]]
        return ", ".join(f"scene.{name} is {mine.get(name)} here and {saved[name]} there" for name in names)

    def open_critic(self, config: Config, guidance: Guidance, width: int) -> Critic:
        """Return the critic of variational score distillation: this state's, the checkpoint's, or a fresh one.

        ``width`` is that of the prior's text tokens.
        """
        if self.critic is None:
            rank, lr = config.loss.vsd_rank, config.loss.vsd_lr
            # A seed that none of the other generators can have.
            self.critic = Critic(guidance, width, rank=rank, lr=lr, seed=-1 - config.seed)
            if self.saved_critic is not None:
                self.critic.load_state_dict(self.saved_critic)
                self.saved_critic = None
        return self.critic

    def park_critic(self) -> None:
        """Keep what the critic has learned without it, for another prior of the same kind to come."""
        if self.critic is not None:
            self.saved_critic = self.critic.state_dict()
            self.critic = None
