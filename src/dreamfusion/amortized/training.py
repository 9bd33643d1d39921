"""``dreamfusion amortize train``: the ordinary loop, on a network in a scene's place and another prompt at every step.

OUTPUT holds what a run leaves (config.yaml, metrics.jsonl, previews, checkpoints), amortized.json, which says what the
network is, and at the end network.safetensors, its weights in half precision.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from dreamfusion.amortized.curriculum import Vocabulary
from dreamfusion.amortized.network import NetworkSize, SceneNetwork, text_features
from dreamfusion.amortized.scene import AmortizedScene
from dreamfusion.config import Config, build_config, merged
from dreamfusion.device import pick_device
from dreamfusion.errors import DreamFusionError, refuse_small
from dreamfusion.guidance.base import Guidance
from dreamfusion.io.checkpoints import latest_checkpoint, refuse_other_settings, same_threads
from dreamfusion.io.claims import claim
from dreamfusion.io.files import write_atomically, write_text
from dreamfusion.method.optimize import Step
from dreamfusion.runs.generate import carry_out, load_guidance
from dreamfusion.runs.results import open_state
from dreamfusion.stopping import stop_at_once

RECORD, WEIGHTS = "amortized.json", "network.safetensors"

_RECIPE: dict[str, Any] = {
    "collapse_check": 0.0,
    "views": 2,
    "optim": {"grid_lr": 2e-3, "network_lr": 1e-3, "warmup": {"until": 0.02}, "decay": {"from": 0.3}},
}
"""What a training changes of a run's defaults: an empty scene among many is no reason to stop, and each table belongs
to all prompts, so that steps are smaller."""


@dataclass(frozen=True)
class AmortizeSettings:
    """Everything that decides the weights; ``guidance_scale`` is that of a run."""

    steps: int = 20_000
    vocabulary: Vocabulary = field(default_factory=Vocabulary)
    size: NetworkSize = field(default_factory=NetworkSize)
    guidance_scale: float = 3.0
    seed: int = 0

    def check(self) -> None:
        """Raise DreamFusionError for numbers out of range."""
        size = self.size
        refuse_small({"steps": self.steps, "basis": size.basis, "levels": size.levels, "width": size.width})
        fewest = len(self.vocabulary.captions())
        if self.steps < fewest:
            raise DreamFusionError(
                f"--steps must be at least {fewest}, one for each prompt (given: {self.steps}), or give fewer --kinds "
                "and a smaller --extra."
            )

    def config(self, changes: dict[str, Any] | None = None) -> Config:
        """Return the configuration of the training as a run: the prompt changes at every step."""
        first, *rest = self.vocabulary.prompts(self.steps)
        own = {
            "prompt": first,
            "later_prompts": dict(enumerate(rest, 1)),
            "steps": self.steps,
            "seed": self.seed,
            "guidance": {"guidance_scale": self.guidance_scale},
            "checkpoint_every": 500,
            "preview_every": 250,
        }
        return build_config("default", merged(_RECIPE, merged(own, changes or {})))


@stop_at_once()
def train_amortized(
    output: Path,
    settings: AmortizeSettings,
    *,
    guidance_model: Guidance | None = None,
    changes: dict[str, Any] | None = None,
    on_start: Callable[[Path, Config, int], None] | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> Path:
    """Train the network, or go on exactly where an earlier call stopped, and return the file of its weights.

    ``changes`` are keys of `Config` beside the recipe's, ``guidance_model`` a prior that is loaded already. Raises
    DreamFusionError for other settings than the training in ``output`` has begun with, and `Stopped`.
    """
    settings.check()
    config = settings.config(changes)
    device = pick_device(config.device)
    with claim(output, evidence=(RECORD,)):
        record = json.loads(json.dumps(asdict(settings) | {"changes": changes or {}}))
        if (output / RECORD).exists():
            refuse_other_settings(read_record(output)["settings"], record)
        guidance = guidance_model or load_guidance(config, device)
        prompts = settings.vocabulary.captions()
        features = text_features(guidance, prompts)
        network = SceneNetwork(config.scene.nerf, features.shape[1], settings.size, settings.seed)
        write_text(
            output / RECORD,
            json.dumps({"settings": record, "text_width": features.shape[1], "kind": config.guidance.kind}, indent=1),
        )
        places = {prompt: index for index, prompt in enumerate(prompts)}
        order = [places[prompt] for prompt in settings.vocabulary.prompts(settings.steps)]
        seeds = [settings.seed + 1 + step for step in range(settings.steps)]
        scene = AmortizedScene(config.scene, network, features[order].cpu(), seeds)
        state = open_state(output, config, device, scene)
        with same_threads(latest_checkpoint(output / "checkpoints")):
            carry_out(
                config, guidance, state, output, own_prior=False, assets=False, on_start=on_start, on_step=on_step
            )
        half = {name: value.detach().half().cpu().contiguous() for name, value in network.state_dict().items()}
        with write_atomically(output / WEIGHTS, ours=True) as path:
            save_file(half, path)
    return output / WEIGHTS


def read_record(folder: Path) -> dict[str, Any]:
    """Return what a training wrote down of its network; DreamFusionError if the folder holds none."""
    try:
        record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return record | {"settings": dict(record["settings"])}
    except (OSError, ValueError, KeyError, TypeError):
        raise DreamFusionError(
            f"{folder} holds no amortised network: train one with dreamfusion amortize train --output {folder}."
        ) from None
