"""From a NeMo experiment to our configuration: compose its files, resolve references, map every key by `keys`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from re import findall
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dreamfusion.config.parse import parse_config
from dreamfusion.config.tables import leaves
from dreamfusion.errors import DreamFusionError
from dreamfusion.nemo.compose import STOCK, compose, load, parse_overrides, set_values
from dreamfusion.nemo.experiment import EXPERIMENT, LOOSE
from dreamfusion.nemo.key import Key, LeftOut, Part
from dreamfusion.nemo.keys import GROUPS, MESH_SETS, MESH_STAGE, PARTS, PLAIN_PARTS, TOP, TOP_SETS

_MESH_STAGE = "nvdiffrast_renderer"
_MESH_MAX_STEPS = 5000
"""${trainer.max_steps} of NeMo's example for dreamfusion-dmtet.yaml, where the stock config.yaml has another."""


@dataclass(frozen=True)
class NemoConfig:
    """A configuration of NeMo's as nested ``values`` of ours, and ``notes`` on what is done differently.

    ``mesh_stage`` says that it is one of NeMo's second stage, DMTet.
    """

    values: dict[str, Any]
    notes: list[str]
    mesh_stage: bool = False


def read_stage(
    path: Path, overrides: Sequence[str], preset: str, tell: Callable[[str], None], *, mesh: bool
) -> dict[str, Any]:
    """Return the values of a configuration, and tell its notes; only one of the second stage is for ``mesh``, `refine`.

    Raises DreamFusionError for one of the first stage there, and if a preset is asked for as well.
    """
    if preset != "default":
        raise DreamFusionError(f"Give --nemo-config or --preset {preset}, not both.")
    nemo = read_nemo(path, overrides)
    if mesh and not nemo.mesh_stage:
        raise DreamFusionError(f"{path} is NeMo's first stage, a NeRF: give it to dreamfusion generate.")
    if nemo.mesh_stage and not mesh:
        tell(
            f"NeMo's second stage, a mesh, begins with a ball here; dreamfusion refine RUN --nemo-config {path} begins "
            "with a run"
        )
    for note in nemo.notes:
        tell(note)
    return nemo.values


def read_nemo(path: Path, overrides: Sequence[str] = ()) -> NemoConfig:
    """Read an experiment of NeMo's DreamFusion, or the configuration of its model alone.

    Its parts may be named in defaults lists, with the group files beside it or NeMo's own, or be written out in it.
    ``overrides`` are KEY=VALUE as behind NeMo's own command, and win.
    Raises DreamFusionError, naming the key, for one that is unknown or has a value that is not possible here.
    """
    return _mapped(_experiment(path, overrides))


@cache
def _stock(file: str) -> NemoConfig:
    return read_nemo(STOCK / "model" / file)


def stock_values(file: str) -> dict[str, Any]:
    """Return what NeMo's own ``file``, dreamfusion.yaml or dreamfusion-dmtet.yaml, asks for, but for its prompt."""
    return {key: value for key, value in _stock(file).values.items() if key != "prompt"}


def _experiment(path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Return plain values of an experiment: a file's, what it leaves out around its model, and then the overrides'."""
    asked = parse_overrides(overrides)
    composed = compose(path, asked)
    around = load(STOCK / "config.yaml")
    del around["defaults"]
    if _MESH_STAGE in str(OmegaConf.select(composed.model, "renderer._target_", default="")):
        around.trainer.max_steps = _MESH_MAX_STEPS
    try:
        whole = OmegaConf.merge(around, composed)
        assert isinstance(whole, DictConfig)
        set_values(whole, asked, path)
        values = OmegaConf.to_container(whole, resolve=True)
    except (TypeError, ValueError, OmegaConfBaseException) as error:
        raise DreamFusionError(f"Cannot resolve {path}: {str(error).splitlines()[0]}.") from None
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _module(part: Any) -> str:
    """Return the module of a part's _target_, a.b.MODULE.Class."""
    names = str(part.get("_target_", "")).split(".") if isinstance(part, dict) else []
    return names[-2] if len(names) > 1 else ""


def _mapped(experiment: dict[str, Any]) -> NemoConfig:
    """Map every key; DreamFusionError for one that is unknown, impossible, missing, or at odds with another."""
    model = experiment.pop("model")
    around = {name: value for name, value in leaves(experiment) if not _is_loose(name)}
    mesh_stage = _module(model.get("renderer")) == _MESH_STAGE
    later = MESH_STAGE if mesh_stage else {}
    mapping = _Mapping(dict(TOP_SETS), around | dict(leaves(model)))
    mapping.take("", EXPERIMENT, around)
    for group in GROUPS:
        if group not in model:
            raise DreamFusionError(f"{group} is missing: name it in the defaults list or write it out.")
        part = _part(group, model[group])
        mapping.sets |= part.sets
        mapping.notes += [part.note] if part.note else []
        content = dict(leaves(model[group]))
        if group in PARTS:
            content.pop("_target_", None)
        mapping.take(f"{group}.", part.keys | later.get(group, {}), content)
    mapping.take("", TOP | later.get("", {}), {name: value for name, value in model.items() if name not in GROUPS})
    if mesh_stage:
        mapping.sets |= MESH_SETS
    else:
        mapping.notes += _per_ray(model["loss"])
    if mapping.told:
        mapping.notes.append(f"without effect here, docs/nemo.md says why: {', '.join(mapping.told)}")
    return NemoConfig(mapping.values(), mapping.notes, mesh_stage)


def _is_loose(name: str) -> bool:
    """Whether a key around the model belongs to a table of which only a few keys are read."""
    return name.startswith(LOOSE) and name not in EXPERIMENT


def _per_ray(loss: Mapping[str, Any]) -> list[str]:
    """Return the note that two losses are means over rays here and over samples there, if they count."""
    names = [f"loss.{name}" for name in ("lambda_orientation", "lambda_entropy") if loss.get(name)]
    if not names:
        return []
    return [f"per ray here and per sample with NeMo, where the same number is weaker: {', '.join(names)}"]


class _Mapping:
    """Ours, as they become known: what parts set, what NeMo takes for keys that are left out, and what is given.

    Of ``left_out`` and ``given`` each value of ours stands with the name and the value of the key of theirs that says
    so. Later ones of these three win; ``told`` are names of keys without effect. ``whole`` has every value of the
    experiment by its full name (the model's without "model."), for keys that depend on other parts.
    """

    def __init__(self, sets: dict[str, Any], whole: Mapping[str, Any]) -> None:
        self.sets = sets
        self.whole = whole
        self.left_out: dict[str, tuple[Any, str, Any]] = {}
        self.given: dict[str, tuple[Any, str, Any]] = {}
        self.notes: list[str] = []
        self.told: list[str] = []

    def take(self, prefix: str, keys: Mapping[str, Key], content: dict[str, Any]) -> None:
        """Take over one part, whose names get ``prefix``."""
        for name, value in content.items():
            if any(key.startswith(f"{name}.") for key in keys):
                raise _no_table(prefix + name, value)
            if name not in keys:
                raise _unknown(prefix + name, list(keys) if prefix else [*keys, *GROUPS])
        absent = {name: key for name, key in keys.items() if name not in content}
        missing = [prefix + name for name, key in absent.items() if key.left_out is LeftOut.REFUSED]
        if missing:
            raise DreamFusionError(f"{', '.join(missing)}: missing, and NeMo has no default. Give a value.")
        defaults = {name: key.left_out for name, key in absent.items() if not isinstance(key.left_out, LeftOut)}
        part = {**self.whole, **defaults, **content}
        for name, value in content.items():
            self._take(self.given, prefix + name, keys[name], value, part)
            self.told += [prefix + name] if keys[name].told and value else []
        for name, value in defaults.items():
            self._take(self.left_out, prefix + name, keys[name], value, part)

    def _take(
        self, found: dict[str, tuple[Any, str, Any]], name: str, key: Key, value: Any, part: Mapping[str, Any]
    ) -> None:
        if key.allowed is not None and not any(_equal(value, one) for one in key.allowed):
            accepted = " or ".join(dict.fromkeys(_short(one) for one in key.allowed))
            because = "" if key.ours else f" ({key.remark})"
            raise DreamFusionError(f"{name} cannot be {_short(value)} here{because}: give {accepted}.")
        for ours, mine in zip(key.ours, _values(name, key, value, part), strict=True):
            other = found.get(ours)
            if other is not None and other[0] != mine:
                raise DreamFusionError(f"{name} and {other[1]} must be equal here ({key.remark}).")
            found[ours] = (mine, name, value)

    def values(self) -> dict[str, Any]:
        """Return all values as nested tables; DreamFusionError, with their names, for one that ours cannot have."""
        origin = self.left_out | self.given
        values = _nested(self.sets | {ours: value for ours, (value, _, _) in origin.items()})
        try:
            parse_config(values | {"prompt": "a"})  # which prompt is no business of the file's alone
        except DreamFusionError as error:
            key, words = getattr(error, "key", ""), set(findall(r"\w+", str(error).split("(given")[0]))
            meant = [theirs for ours, (_, *theirs) in origin.items() if _meant(ours, key, words)]
            if not meant:
                raise
            names = dict.fromkeys(f"{name} = {_short(value)}" for name, value in meant)
            raise DreamFusionError(f"{', '.join(names)} is not possible here. {error}") from None
        return values


def _meant(ours: str, key: str, words: set[str]) -> bool:
    """Whether a message about ``key``, a part of a value or a whole section, is about the value ``ours``."""
    return f"{key}.".startswith(f"{ours}.") or (ours.startswith(key) and ours.rsplit(".", 1)[-1] in words)


def _equal(a: Any, b: Any) -> bool:
    """Compare values, telling true from 1."""
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)


def _part(group: str, content: Any) -> Part:
    if not isinstance(content, dict):
        raise _no_table(group, content)
    if group in PLAIN_PARTS:
        return PLAIN_PARTS[group]
    key, choice = ("name", str(content.get("name"))) if group == "optim" else ("_target_", _module(content))
    if choice not in PARTS[group]:
        raise DreamFusionError(f"{group}.{key} is none that is known here: {', '.join(PARTS[group])} are.")
    return PARTS[group][choice]


def _values(name: str, key: Key, value: Any, part: Mapping[str, Any]) -> tuple[Any, ...]:
    try:
        values = key.put(value, part)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, ArithmeticError):
        raise DreamFusionError(f"{name} cannot be {value!r}.") from None
    if key.ours and len(values) != len(key.ours):
        raise DreamFusionError(f"{name} needs {len(key.ours)} values (given: {value!r}).")
    return values if key.ours else ()


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


def _no_table(name: str, value: Any) -> DreamFusionError:
    return DreamFusionError(f"{name} must be a table of keys and values (given: {_short(value)}).")


def _unknown(name: str, known: list[str]) -> DreamFusionError:
    close = get_close_matches(name.split(".", 1)[-1], known, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    return DreamFusionError(f"{name} is no key of a NeMo DreamFusion model that is known here.{hint}")


def table() -> str:
    """Return the Markdown tables of docs/nemo.md, one per part, made from the code."""
    parts = [("the experiment", "", Part(EXPERIMENT)), ("", "", Part(TOP, TOP_SETS))]
    parts += [(group, module, part) for group, choices in PARTS.items() for module, part in choices.items()]
    parts += [(group, "", part) for group, part in PLAIN_PARTS.items()]
    parts += [
        (f"{group or 'the model'}, in the mesh stage", "", Part(keys, {} if group else MESH_SETS))
        for group, keys in MESH_STAGE.items()
    ]
    return "\n\n".join(_section(*part) for part in parts) + "\n"


def _section(group: str, module: str, part: Part) -> str:
    title = f"### {group or 'the model'}{f' (`{module}`)' if module else ''}"
    lines = [title, "", *([f"{part.remark[0].upper()}{part.remark[1:]}.", ""] if part.remark else [])]
    if part.sets:
        sets = ", ".join(f"`{ours}: {_short(value)}`" for ours, value in part.sets.items())
        lines += [f"Sets {sets}.", ""]
    if part.keys:
        lines += ["| NeMo's key | here | left out | remark |", "|---|---|---|---|"]
    for name, key in part.keys.items():
        here = ", ".join(f"`{ours}`" for ours in key.ours) or "no effect"
        if key.allowed is not None and not key.ours:
            here = "must be " + " or ".join(f"`{_short(value)}`" for value in key.allowed)
        lines.append(f"| `{name}` | {here} | {_left_out(key)} | {key.remark} |")
    return "\n".join(lines).rstrip()


def _left_out(key: Key) -> str:
    match key.left_out:
        case LeftOut.HARMLESS:
            return ""
        case LeftOut.REFUSED:
            return "refused"
        case value:
            return f"`{_short(value)}`"


def _short(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {_short(part)}' for name, part in value.items())}}}"
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
