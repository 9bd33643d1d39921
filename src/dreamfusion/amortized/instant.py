"""``dreamfusion generate --instant``: a scene from one pass of an amortised network, as an ordinary run of 0 steps.

The folder holds config.yaml and a checkpoint of step 0, so ``--resume`` optimises it further: a warm start. Everything
else that takes a run (render, export, refine, compose) takes it, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dreamfusion.amortized.network import NetworkSize, SceneNetwork, seed_noise, text_features
from dreamfusion.amortized.training import RECORD, WEIGHTS, read_record
from dreamfusion.config import Config, build_config, load_config
from dreamfusion.config.presets import Preset
from dreamfusion.device import pick_device
from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.base import Guidance
from dreamfusion.io.files import slugify
from dreamfusion.method.prompts import validate_prompt
from dreamfusion.method.state import State
from dreamfusion.runs.beginning import save_beginning
from dreamfusion.runs.generate import RUNS, as_read, load_guidance, new_folder
from dreamfusion.runs.results import Result, write_assets
from dreamfusion.scenes.volume import VolumeScene
from dreamfusion.stopping import stop_at_once


@dataclass(frozen=True)
class Amortized:
    """A trained network, the configuration of its training, and the kinds of toys that it was trained on."""

    network: SceneNetwork
    config: Config
    kinds: tuple[str, ...]
    extra: int

    @torch.no_grad()
    def scene(self, text: Tensor, seed: int, device: torch.device) -> VolumeScene:
        """Return the scene of a text's features [D] and a seed: an ordinary one, with parameters of its own."""
        scene = VolumeScene(self.config.scene)
        for name, value in self.network(text.to("cpu"), seed_noise(seed)).items():
            scene.field.get_parameter(name).copy_(value)
        return scene.to(device)


def open_amortized(folder: Path) -> Amortized:
    """Return the network of a training; DreamFusionError if it is not finished, or damaged."""
    record = read_record(folder)
    if not (folder / WEIGHTS).exists():
        raise DreamFusionError(
            f"The training in {folder} has not ended: go on with dreamfusion amortize train --output {folder} and the "
            "options it began with."
        )
    settings = record["settings"]
    try:
        config = load_config(folder / "config.yaml")
        network = SceneNetwork(config.scene.nerf, record["text_width"], NetworkSize(**settings["size"]))
        network.load_state_dict({name: value.float() for name, value in load_file(folder / WEIGHTS).items()})
        vocabulary = settings["vocabulary"]
        return Amortized(network.eval(), config, tuple(vocabulary["kinds"]), vocabulary["extra"])
    except (OSError, SafetensorError, RuntimeError, KeyError, TypeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DreamFusionError(
            f"{folder / WEIGHTS} or {RECORD} beside it is damaged ({reason}): train again with another --output."
        ) from None


def run_config(amortized: Amortized, prompt: str, preset: Preset, changes: dict[str, Any]) -> Config:
    """Return the configuration of an instant run: a preset's, with the scene of the network's training.

    Raises DreamFusionError for changes of the scene, which the network decides.
    """
    if "scene" in changes:
        raise DreamFusionError("--instant takes its scene from the amortised network: leave out scene in --config.")
    config = build_config(preset, {"prompt": validate_prompt(prompt), **changes})
    return config.model_copy(update={"scene": amortized.config.scene})


def at_once(
    prompt: str | None,
    folder: Path,
    preset: Preset,
    output: Path | None,
    changes: dict[str, Any],
    left_out: dict[str, Any],
    on_note: Callable[[str], None],
) -> Result:
    """Return `instant` of what a command was given; DreamFusionError without a prompt, or for what does not go with it.

    ``left_out`` holds options by name that must be None.
    """
    for name, value in left_out.items():
        if value is not None:
            raise DreamFusionError(f"--instant begins a run from a network: leave out --{name}.")
    if prompt is None:
        raise DreamFusionError('--instant needs a prompt, for example "a red mushroom".')
    return instant(prompt, folder, preset=preset, output=output, on_note=on_note, **changes)


@stop_at_once()
def instant(
    prompt: str,
    folder: Path,
    *,
    preset: Preset = "default",
    output: Path | None = None,
    guidance_model: Guidance | None = None,
    assets: bool = True,
    on_note: Callable[[str], None] | None = None,
    **changes: Any,
) -> Result:
    """Make a 3D object in one pass of the network in ``folder`` and return where its files are.

    ``preset`` and ``changes`` are those of the optimisation that ``generate(resume=...)`` may go on with. Raises
    DreamFusionError for words that the prior or the network does not know.
    """
    amortized, tell = open_amortized(folder), on_note or (lambda line: None)
    config = run_config(amortized, prompt, preset, changes)
    device = pick_device(config.device)
    guidance = guidance_model or load_guidance(config, device)
    config = as_read(config, guidance, tell)
    words = guidance.understood(config.prompt).prompt
    if not any(kind in words.split() for kind in amortized.kinds):
        tell(f"the network in {folder} was trained on {', '.join(amortized.kinds)} alone: expect little of others")
    scene = amortized.scene(text_features(guidance, [words])[0], config.seed, device)
    state = State.fresh(config, device, scene)
    with new_folder(RUNS / slugify(config.prompt), output) as place:
        save_beginning(config, state, place)
        result = Result(place, config, state.scene)
        if assets:
            write_assets(result)
    return result
