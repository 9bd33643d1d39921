"""Checkpoints: the whole state of a run as safetensors and JSON, written so that a kill leaves it whole or absent.

    checkpoints/step_000500/tensors.safetensors     parameters, optimiser state, generator states
    checkpoints/step_000500/state.json              format, run, step, SHA-256 of the tensors and of itself, the rest

A checkpoint names the folder that it belongs to (`dreamfusion.io.claims`), and holds finite numbers only. Nothing is
pickled, so a checkpoint from a stranger cannot run code. `pack` and `unpack` turn any tree of dicts, lists, tuples,
numbers and tensors, such as an optimiser's ``state_dict()``, into named tensors and JSON, and back bit-equal.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dreamfusion.errors import DreamFusionError
from dreamfusion.io.claims import identity
from dreamfusion.io.files import TEMPORARY_PREFIX, explain, remove_folder, replace_folder, sha256_of

FORMAT = 2
"""Version of the layout on disk; raised when an older program could no longer read it. Format 1 is still read."""

_TENSORS, _STATE = "tensors.safetensors", "state.json"
_logger = logging.getLogger(__name__)


class NotFiniteError(DreamFusionError):
    """Weights or the optimiser's state hold NaN or infinity."""


@dataclass(frozen=True)
class Checkpoint:
    """What was saved: the step, the named tensors and the JSON state."""

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


def save_checkpoint(
    folder: Path | str, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], *, keep: int = 2
) -> Path:
    """Write ``folder/step_<step>`` as a whole, delete all but the newest ``keep`` checkpoints, and return its path.

    Checkpoints of later steps are deleted too: they belong to a course of the run that this one has left.
    Raises `NotFiniteError` for tensors that are not finite, and `DreamFusionError` if the disk is full or the folder
    cannot be written; earlier checkpoints then stay.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, not {keep}")
    _refuse_not_finite(tensors, f"step {step}")
    folder = Path(folder)
    path = folder / f"step_{step:06d}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(f"{TEMPORARY_PREFIX}*"):
            shutil.rmtree(leftover, ignore_errors=True)
    except OSError as error:
        raise explain(error, path) from error

    with replace_folder(path, ours=True) as temporary:
        _save_tensors(tensors, temporary / _TENSORS)
        record = {
            "format": FORMAT,
            "run": identity(folder.parent),
            "step": step,
            "threads": torch.get_num_threads(),
            "sha256": sha256_of(temporary / _TENSORS),
            "state": dict(state),
        }
        record["checksum"] = _checksum(record)
        (temporary / _STATE).write_text(json.dumps(record, indent=1), encoding="utf-8")

    steps = list_checkpoints(folder)
    kept = [other for other in steps if other <= step][-keep:]
    for other in steps.keys() - set(kept):
        remove_folder(steps[other])
    return path


def list_checkpoints(folder: Path | str) -> dict[int, Path]:
    """Return the checkpoints in ``folder`` by step, oldest first, without looking inside them."""
    steps = {}
    for path in Path(folder).glob("step_*"):
        if path.is_dir() and (match := re.fullmatch(r"step_(\d{6,})", path.name)):
            steps[int(match[1])] = path
    return dict(sorted(steps.items()))


def latest_checkpoint(folder: Path | str) -> Path | None:
    """Return the newest whole checkpoint of a run, or None if it has none yet.

    One that is damaged, or of another run, is passed over with a logged warning. Raises `DreamFusionError` if none of
    them is whole.
    """
    steps = list_checkpoints(folder)
    for path in reversed(steps.values()):
        try:
            _read_record(path)
        except DreamFusionError as error:
            _logger.warning("Passed over a checkpoint that cannot be read. %s", error)
        else:
            return path
    if steps:
        raise DreamFusionError(f"None of the {len(steps)} checkpoints in {folder} can be read: start the run again.")
    return None


def load_checkpoint(path: Path | str, device: torch.device | str = "cpu") -> Checkpoint:
    """Read a checkpoint folder, with its tensors on ``device``.

    Raises `DreamFusionError`, naming the file and what to do, if it is missing, truncated, altered, of another run or
    of a newer format.
    """
    path = Path(path)
    record = _read_record(path)
    try:
        tensors = load_file(path / _TENSORS, device=str(device))
    except (SafetensorError, OSError) as error:
        raise _damaged(path / _TENSORS, str(error)) from error
    return Checkpoint(record["step"], tensors, record["state"])


@contextmanager
def same_threads(path: Path | None) -> Iterator[None]:
    """Compute with as many threads as when the checkpoint ``path`` was saved, and say so if that changes anything.

    Sums of another number of parts are other bits. Nothing changes without a checkpoint, or with one of format 1.
    """
    now = torch.get_num_threads()
    then = None if path is None else _read_record(path).get("threads")
    if then in (None, now):
        yield
        return
    _logger.warning("Goes on with %d threads as before (not %d), so that the result is the same bits.", then, now)
    torch.set_num_threads(then)
    try:
        yield
    finally:
        torch.set_num_threads(now)


def refuse_other_settings(
    saved: Mapping[str, Any], asked: Mapping[str, Any], *, may_differ: tuple[str, ...] = ()
) -> None:
    """Raise `DreamFusionError` if a training would go on with other settings than it has begun with."""
    for name, value in saved.items():
        if name not in may_differ and name in asked and asked[name] != value:
            option = f"--{name.replace('_', '-')}"
            raise DreamFusionError(
                f"The training in this folder has {option} {value}, not {asked[name]}: give the same to go on with it, "
                "or another --output."
            )


def pack(tree: Any, name: str) -> tuple[dict[str, Tensor], Any]:
    """Split a tree of dicts, lists, tuples, numbers, strings, None and tensors into named tensors and JSON.

    The tensors are named by their place in the tree, beginning with ``name``. Tuples and keys that are no strings,
    which JSON does not have, are marked: ``{"$tuple": [...]}``, ``{"$items": [[key, value], ...]}`` and
    ``{"$tensor": "name"}``. Raises TypeError for anything else.
    `unpack` is the exact inverse.
    """
    tensors: dict[str, Tensor] = {}

    def walk(node: Any, place: str) -> Any:
        if isinstance(node, Tensor):
            if place in tensors:
                raise ValueError(f"two tensors would be named {place}: rename a key that contains a dot")
            tensors[place] = node
            return {"$tensor": place}
        if isinstance(node, dict):
            items = [(key, walk(value, f"{place}.{key}")) for key, value in node.items()]
            if all(isinstance(key, str) and not key.startswith("$") for key in node):
                return dict(items)
            return {"$items": [list(item) for item in items]}
        if isinstance(node, list | tuple):
            values = [walk(value, f"{place}.{index}") for index, value in enumerate(node)]
            return {"$tuple": values} if isinstance(node, tuple) else values
        if node is None or isinstance(node, bool | int | float | str):
            return node
        raise TypeError(f"{place} is a {type(node).__name__}, which a checkpoint cannot hold")

    return tensors, walk(tree, name)


def unpack(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Put a tree that `pack` took apart together again."""
    if isinstance(tree, list):
        return [unpack(value, tensors) for value in tree]
    if not isinstance(tree, dict):
        return tree
    if "$tensor" in tree:
        return tensors[tree["$tensor"]]
    if "$tuple" in tree:
        return tuple(unpack(value, tensors) for value in tree["$tuple"])
    if "$items" in tree:
        return {key: unpack(value, tensors) for key, value in tree["$items"]}
    return {key: unpack(value, tensors) for key, value in tree.items()}


def generator_states(generators: Mapping[str, torch.Generator]) -> dict[str, Tensor]:
    """Return the states of named generators as uint8 tensors named "generator.<name>"."""
    return {f"generator.{name}": generator.get_state() for name, generator in generators.items()}


def restore_generators(generators: Mapping[str, torch.Generator], tensors: Mapping[str, Tensor]) -> None:
    """Set named generators to the states that `generator_states` saved.

    Raises `DreamFusionError` if one is missing or is of another kind of device.
    """
    for name, generator in generators.items():
        try:
            generator.set_state(tensors[f"generator.{name}"].cpu())
        except KeyError:
            raise DreamFusionError(
                f'The checkpoint lacks the state of the "{name}" generator: start the run again.'
            ) from None
        except RuntimeError as error:
            raise DreamFusionError(
                f'The "{name}" generator was saved on another kind of device than {generator.device}: '
                "resume with the --device of the original run."
            ) from error


def _save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(plain, path)
    except SafetensorError as error:
        # The library reports the system's error number within its text only.
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number[1]) if number else errno.EIO, str(error)) from error


def _read_record(path: Path) -> dict[str, Any]:
    """Return the content of state.json after checking it and the hash of the tensors."""
    try:
        record = json.loads((path / _STATE).read_text(encoding="utf-8"))
        version, step, sha256, _ = (record[key] for key in ("format", "step", "sha256", "state"))
    except FileNotFoundError as error:
        raise DreamFusionError(
            f"{path} is no checkpoint (no {_STATE} in it): name a folder such as step_000500."
        ) from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(path / _STATE, str(error)) from error
    if version not in (1, FORMAT):
        raise DreamFusionError(f"{path} has format {version}, this program reads format {FORMAT}: upgrade dreamfusion.")
    if version > 1 and record.pop("checksum", None) != _checksum(record):
        raise _damaged(path / _STATE, "its content is not what was written")
    if path.name.startswith("step_") and path.name != f"step_{step:06d}":
        raise _damaged(path / _STATE, f"it is of step {step}")
    try:
        if sha256_of(path / _TENSORS) != sha256:
            raise _damaged(path / _TENSORS, "its content is not what was written")
        if version == 1:  # whose writer did not look
            _refuse_not_finite(load_file(path / _TENSORS), str(path))
    except (OSError, SafetensorError) as error:
        raise _damaged(path / _TENSORS, getattr(error, "strerror", None) or str(error)) from error
    owner = identity(path.absolute().parent.parent)
    if None not in (owner, record.get("run")) and record["run"] != owner:
        raise DreamFusionError(f"{path} belongs to another run: delete it and resume from an earlier checkpoint.")
    return record


def _checksum(record: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a record, whatever its white space."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _refuse_not_finite(tensors: Mapping[str, Tensor], what: str) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise NotFiniteError(f"The state of {what} is not finite ({name}): resume from an earlier checkpoint.")


def _damaged(file: Path, reason: str) -> DreamFusionError:
    reason = reason.splitlines()[0] if reason else "unreadable"
    return DreamFusionError(f"{file} is damaged ({reason}): delete its folder and resume from an earlier checkpoint.")
