"""From a NeMo model configuration to ours: compose the groups, resolve references, map every key by `keys`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from dreamfusion.config import Config
from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.base import Guidance
from dreamfusion.nemo.keys import GROUPS, MESH_STAGE, PARTS, PLAIN_PARTS, TOP, TOP_SETS, Key, Part

_MESH_STAGE = "nvdiffrast_renderer"
_MAX_STEPS, _MESH_MAX_STEPS = 10000, 5000
"""${trainer.max_steps} of NeMo's own configuration, for dreamfusion.yaml and dreamfusion-dmtet.yaml."""


@dataclass(frozen=True)
class NemoConfig:
    """A configuration of NeMo's as nested ``values`` of ours, and ``notes`` on what is done differently.

    ``mesh_stage`` says that it is one of NeMo's second stage, DMTet, whose values are for `refine`.
    """

    values: dict[str, Any]
    notes: list[str]
    mesh_stage: bool = False


def read_stage(path: Path, preset: str, tell: Callable[[str], None], *, mesh: bool) -> dict[str, Any]:
    """Return the values of a configuration of the first stage, or of the second, ``mesh``, and tell its notes.

    Raises DreamFusionError for one of the other stage, and if a preset is asked for as well.
    """
    if preset != "default":
        raise DreamFusionError(f"Give --nemo-config or --preset {preset}, not both.")
    nemo = read_nemo(path)
    if mesh and not nemo.mesh_stage:
        raise DreamFusionError(f"{path} is NeMo's first stage, a NeRF: give it to dreamfusion generate.")
    if nemo.mesh_stage and not mesh:
        raise DreamFusionError(
            f"{path} is NeMo's second stage, a mesh (renderer nvdiffrast): generate a run first, then "
            f"dreamfusion refine RUN --nemo-config {path}."
        )
    for note in nemo.notes:
        tell(note)
    return nemo.values


def read_nemo(path: Path) -> NemoConfig:
    """Read a model configuration of NeMo's DreamFusion.

    Its parts may be named in a defaults list, with the group files beside it or NeMo's own, or be written out in it.
    Raises DreamFusionError, naming the key, for one that is unknown or has a value that is not possible here.
    """
    return _mapped(_resolved(_composed(path), path))


def fit_device(config: Config, device: torch.device, tell: Callable[[str], None]) -> Config:
    """Return the configuration with fp32 in place of fp16 on a CPU, and tell: there, fp16 is slow and not better."""
    if device.type != "cpu" or config.guidance.precision != "fp16":
        return config
    tell("guidance.precision fp16 is for GPUs: the prior runs in fp32 on this CPU")
    return config.model_copy(update={"guidance": config.guidance.model_copy(update={"precision": "fp32"})})


def fit_prior(config: Config, guidance: Guidance, tell: Callable[[str], None]) -> Config:
    """Return the configuration without its latent phase if the prior works on pixels, and tell."""
    if guidance.latent_shape is not None or config.shading.latent_until == 0:
        return config
    tell("the latent phase (latent_iter_ratio) is left out: this prior works on pixels")
    return config.model_copy(update={"shading": config.shading.model_copy(update={"latent_until": 0.0})})


def _load(source: Path | Any) -> DictConfig:
    """Read a YAML file; OmegaConf's loader also reads 1e-3 as a number, which YAML 1.1 does not."""
    try:
        loaded = OmegaConf.create(source.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        raise DreamFusionError(f"Cannot read the configuration {source}: {str(error).splitlines()[0]}.") from None
    if not isinstance(loaded, DictConfig):
        raise DreamFusionError(f"{source} is no NeMo configuration: it must be a YAML table of keys and values.")
    return loaded


def _composed(path: Path) -> DictConfig:
    """Return the file with the groups of its defaults list, each list entry overriding those before it.

    ``_self_`` stands for the file itself, which comes last if the list leaves it out, as in Hydra.
    """
    own = _load(path)
    listed = own.pop("defaults", OmegaConf.create([]))
    if not isinstance(listed, ListConfig):
        raise DreamFusionError(f"defaults in {path} must be a list, such as [nerf: torchngp, _self_].")
    entries = OmegaConf.to_container(listed)
    assert isinstance(entries, list)
    layers = []
    for entry in entries if "_self_" in entries else [*entries, "_self_"]:
        if entry == "_self_":
            layers.append(own)
        elif isinstance(entry, dict) and len(entry) == 1 and set(entry) <= set(GROUPS):
            ((group, option),) = entry.items()
            layers.append(OmegaConf.create({group: _group(path, group, str(option))}))
        else:
            raise DreamFusionError(f"defaults in {path}: {entry!r} is none of {', '.join(GROUPS)} with a choice.")
    merged = OmegaConf.merge(*layers)
    assert isinstance(merged, DictConfig)
    return merged


def _group(path: Path, group: str, option: str) -> DictConfig:
    """Return the file of one choice: that beside the configuration if it has a folder for the group, else NeMo's."""
    beside = path.parent / group
    if beside.is_dir():
        return _load(beside / f"{option}.yaml")
    shipped = resources.files("dreamfusion.nemo") / "groups" / group
    if not (shipped / f"{option}.yaml").is_file():
        known = sorted(file.name.removesuffix(".yaml") for file in shipped.iterdir())
        raise DreamFusionError(f"defaults: {group} has no choice {option!r} in NeMo, only {', '.join(known)}.")
    return _load(shipped / f"{option}.yaml")


def _resolved(model: DictConfig, path: Path) -> dict[str, Any]:
    """Return plain values, with ${model...} and ${trainer...} replaced."""
    target = str(OmegaConf.select(model, "renderer._target_", default=""))
    steps = _MESH_MAX_STEPS if _MESH_STAGE in target else _MAX_STEPS
    whole = OmegaConf.create({"trainer": {"max_steps": steps, "precision": 16}, "model": model})
    try:
        values = OmegaConf.to_container(whole.model, resolve=True)
    except OmegaConfBaseException as error:
        raise DreamFusionError(f"Cannot resolve {path}: {str(error).splitlines()[0]}.") from None
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _module(part: Any) -> str:
    """Return the module of a part's _target_, a.b.MODULE.Class."""
    names = str(part.get("_target_", "")).split(".") if isinstance(part, dict) else []
    return names[-2] if len(names) > 1 else ""


def _mapped(model: dict[str, Any]) -> NemoConfig:
    """Map every key; DreamFusionError for one that is unknown, impossible, or at odds with another."""
    found: dict[str, tuple[Any, str]] = {}  # our key: its value, and the key of theirs that says so
    given: dict[str, Any] = dict(TOP_SETS)
    notes: list[str] = []
    mesh_stage = _module(model.get("renderer")) == _MESH_STAGE
    later = MESH_STAGE if mesh_stage else {}

    def take(name: str, key: Key, value: Any) -> None:
        if key.allowed is not None and not any(_equal(value, one) for one in key.allowed):
            raise DreamFusionError(
                f"{name} cannot be {_short(value)} here ({key.remark}): give {_short(key.allowed[0])}."
            )
        if key.note:
            notes.append(key.note)
        for ours, mine in zip(key.ours, _values(name, key, value), strict=True):
            other = found.get(ours)
            if other is not None and other[0] != mine:
                raise DreamFusionError(f"{name} and {other[1]} must be equal here ({key.remark}).")
            found[ours] = (mine, name)

    for group in GROUPS:
        if group not in model:
            raise DreamFusionError(f"{group} is missing: name it in the defaults list or write it out.")
        part = _part(group, model[group])
        given |= part.sets
        keys = part.keys | later.get(group, {})
        content = model[group] if isinstance(model[group], dict) else {}
        for name, value in _leaves(_without_jitter(content) if group == "data" else content):
            if name == "_target_" and group in PARTS:
                continue
            if name not in keys:
                raise _unknown(f"{group}.{name}", list(keys))
            take(f"{group}.{name}", keys[name], value)
    for name, value in model.items():
        if name not in GROUPS:
            if name not in TOP:
                raise _unknown(name, [*TOP, *GROUPS])
            take(name, (TOP | later.get("", {}))[name], value)
    values = _nested(given | {ours: value for ours, (value, _) in found.items()})
    return NemoConfig(values, notes, mesh_stage)


def _equal(a: Any, b: Any) -> bool:
    """Compare values, telling true from 1."""
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)


def _part(group: str, content: Any) -> Part:
    if group in PLAIN_PARTS:
        return PLAIN_PARTS[group]
    module = _module(content)
    if module not in PARTS[group]:
        raise DreamFusionError(f"{group}._target_ is none that is known here: {', '.join(PARTS[group])} are.")
    return PARTS[group][module]


def _values(name: str, key: Key, value: Any) -> tuple[Any, ...]:
    try:
        values = key.put(value)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError):
        raise DreamFusionError(f"{name} cannot be {value!r}.") from None
    if key.ours and len(values) != len(key.ours):
        raise DreamFusionError(f"{name} needs {len(key.ours)} values (given: {value!r}).")
    return values if key.ours else ()


def _without_jitter(data: dict[str, Any]) -> dict[str, Any]:
    """Return the data part with jitters of 0 if it switches them off."""
    train = data.get("train_dataset")
    if not isinstance(train, dict) or train.get("jitter", False):
        return data
    return data | {"train_dataset": train | {"jitter_center": 0.0, "jitter_target": 0.0, "jitter_up": 0.0}}


def _leaves(tree: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the value of everything in a tree of tables."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    """Return dotted keys as nested tables."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *path, last = name.split(".")
        table = tree
        for key in path:
            table = table.setdefault(key, {})
        table[last] = value
    return tree


def _unknown(name: str, known: list[str]) -> DreamFusionError:
    close = get_close_matches(name.split(".", 1)[-1], known, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    return DreamFusionError(f"{name} is no key of a NeMo DreamFusion model that is known here.{hint}")


def table() -> str:
    """Return the Markdown tables of docs/nemo.md, one per part, made from the code."""
    parts = [("", "", Part(TOP, TOP_SETS))]
    parts += [(group, module, part) for group, choices in PARTS.items() for module, part in choices.items()]
    parts += [(group, "", part) for group, part in PLAIN_PARTS.items()]
    parts += [(f"{group or 'the model'}, in the mesh stage", "", Part(keys)) for group, keys in MESH_STAGE.items()]
    return "\n\n".join(_section(*part) for part in parts) + "\n"


def _section(group: str, module: str, part: Part) -> str:
    title = f"### {group or 'the model'}{f' (`{module}`)' if module else ''}"
    lines = [title, "", *([f"{part.remark[0].upper()}{part.remark[1:]}.", ""] if part.remark else [])]
    if part.sets:
        sets = ", ".join(f"`{ours}: {_short(value)}`" for ours, value in part.sets.items())
        lines += [f"Sets {sets}.", ""]
    if part.keys:
        lines += ["| NeMo's key | here | remark |", "|---|---|---|"]
    for name, key in part.keys.items():
        here = ", ".join(f"`{ours}`" for ours in key.ours) or "no effect"
        if key.allowed is not None:
            here = "must be " + " or ".join(f"`{_short(value)}`" for value in key.allowed)
        lines.append(f"| `{name}` | {here} | {key.remark} |")
    return "\n".join(lines).rstrip()


def _short(value: Any) -> str:
    if value is None:
        return "null"
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
