"""What a sweep runs: every prompt with every variant of the settings and every seed, each in a folder of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from dreamfusion import __version__
from dreamfusion.config import Config, build_config, merged
from dreamfusion.config.presets import Preset
from dreamfusion.errors import DreamFusionError
from dreamfusion.evaluation.prompts import read_lines
from dreamfusion.io.files import slugify, write_text
from dreamfusion.method.prompts import validate_prompt
from dreamfusion.toybox.captions import parse_toy
from dreamfusion.toybox.words import understood

TRIAL = "trial.json"
"""The file in a trial's folder that says what it runs."""


@dataclass(frozen=True)
class Trial:
    """One run of a sweep: a prompt, a seed and, by dotted key, the values that `Plan.vary` sets in it."""

    prompt: str
    seed: int
    folder: Path
    steps: int
    varied: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What a sweep is asked for.

    ``changes`` are configuration keys as in `dreamfusion.generate`, for all runs. ``vary`` holds by dotted key the
    values that are tried, in all combinations.
    """

    prompts: Sequence[str]
    seeds: int = 4
    preset: Preset = "default"
    changes: Mapping[str, Any] = field(default_factory=dict)
    vary: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def variants(self) -> list[dict[str, Any]]:
        """Return every combination of the varied values, by dotted key; a single empty one if nothing varies."""
        return [dict(zip(self.vary, values, strict=True)) for values in product(*self.vary.values())]

    def changes_of(self, varied: Mapping[str, Any], seed: int) -> dict[str, Any]:
        """Return the configuration keys of one run."""
        changes = dict(self.changes)
        for key, value in varied.items():
            for part in reversed(key.split(".")):
                value = {part: value}
            changes = merged(changes, value)
        return merged(changes, {"seed": seed})

    def config_of(self, prompt: str, varied: Mapping[str, Any], seed: int = 0) -> Config:
        """Return the configuration of one run; DreamFusionError names what is wrong in it."""
        return build_config(self.preset, self.changes_of(varied, seed) | {"prompt": prompt})

    def trials(self, output: Path) -> list[Trial]:
        """Return all runs, the first seed of everything first: whoever stops early has seen every prompt.

        Raises DreamFusionError for wrong settings, and for values that give two runs the same folder.
        """
        if self.seeds < 1:
            raise DreamFusionError(f"--seeds must be at least 1 (given: {self.seeds}).")
        variants = [(varied, self.config_of(self.prompts[0], varied).steps) for varied in self.variants()]
        trials = [
            Trial(prompt, seed, output / "runs" / slugify(prompt) / _name(varied) / str(seed), steps, varied)
            for seed in range(self.seeds)
            for varied, steps in variants
            for prompt in self.prompts
        ]
        folders = [trial.folder for trial in trials]
        for trial in trials:
            if folders.count(trial.folder) > 1:
                raise DreamFusionError(f"Two runs of this sweep would share {trial.folder}: give each value once.")
        return trials


def _name(varied: Mapping[str, Any]) -> str:
    """Return the folder name of a variant; nothing if nothing varies."""
    return slugify(" ".join(f"{key} {value}" for key, value in varied.items())) if varied else ""


def parse_vary(settings: Sequence[str]) -> dict[str, list[Any]]:
    """Return the values to try of settings such as "guidance.guidance_scale=4,8", by key.

    The values are YAML: "t_max={start: 0.9, end: 0.3},0.5" has two. Raises DreamFusionError for anything else.
    """
    vary: dict[str, list[Any]] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        key = key.strip()
        try:
            values = yaml.safe_load(f"[{text}]")
        except yaml.YAMLError:
            values = None
        if not equals or not key or not isinstance(values, list) or not values:
            raise DreamFusionError(f"--set {setting} is no key with values: write for example --set steps=100,200.")
        if key in vary:
            raise DreamFusionError(f"--set names {key} twice: write all its values behind one --set.")
        if key in ("prompt", "seed"):
            raise DreamFusionError(f"--set {key} is not for that: prompts stand in the file, seeds behind --seeds.")
        vary[key] = values
    return vary


def prompts_of(path: Path) -> tuple[list[str], list[str]]:
    """Return the distinct prompts of a file, one a line, as their prior reads them, and what was noticed.

    Raises DreamFusionError for a file that cannot be read or holds no prompt.
    """
    prompts: list[str] = []
    notes = []
    for number, line in read_lines(path):
        words = " ".join(line.split())
        if not words:
            notes.append(f"line {number} is empty; left out")
        elif words in prompts:
            notes.append(f"line {number} repeats {words!r}; left out")
        else:
            prompts.append(validate_prompt(words))
    if not prompts:
        raise DreamFusionError(f"{path} holds no prompt: write one per line, for example: a red mushroom.")
    return prompts, notes


def as_toys(prompts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return distinct prompts as the embedded prior reads them, and notes of what it reads differently.

    Raises DreamFusionError for one that describes no toy.
    """
    read: list[str] = []
    notes = []
    for prompt in prompts:
        reading = understood(prompt)
        parse_toy(reading.prompt)
        if reading.notes:
            notes.append(f"{prompt!r} is read as {reading.prompt!r} ({', '.join(reading.notes)})")
        if reading.prompt not in read:
            read.append(reading.prompt)
    return read, notes


def write_trial(trial: Trial, plan: Plan, threads: int) -> None:
    """Write what a trial runs into its folder; DreamFusionError if another sweep has run there."""
    asked = {
        "prompt": trial.prompt,
        "preset": plan.preset,
        "changes": plan.changes_of(trial.varied, trial.seed),
    }
    file = trial.folder / TRIAL
    if file.exists():
        earlier = read_trial(trial.folder)
        if any(earlier.get(key) != value for key, value in json.loads(json.dumps(asked)).items()):
            raise DreamFusionError(f"{trial.folder} was run with other settings: give another --output.")
    trial.folder.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(asked | {"threads": threads, "version": __version__}, indent=1))


def take_back(trial: Trial, output: Path) -> None:
    """Remove the file of a trial that has not begun, and the folders that are empty then, below ``output``."""
    if trial.folder.is_dir() and os.listdir(trial.folder) == [TRIAL]:
        (trial.folder / TRIAL).unlink()
        for folder in (trial.folder, *trial.folder.parents):
            if folder == output or os.listdir(folder):
                break
            folder.rmdir()


def read_trial(folder: Path) -> dict[str, Any]:
    """Return what a trial runs; DreamFusionError if its file is damaged."""
    try:
        return dict(json.loads((folder / TRIAL).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        raise DreamFusionError(f"{folder / TRIAL} is damaged: delete its folder, and it is run again.") from None
