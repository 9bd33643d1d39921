"""Reading a stranger's checkpoint without trusting it: NeMo archives, pickled weights and safetensors.

A ``.nemo`` file is a tar, possibly gzipped, with ``model_config.yaml`` and the pickled weights ``model_weights.ckpt``
among its members (NeMo's ``SaveRestoreConnector.save_to``). Nothing is unpacked under a name that the archive chooses,
and unpickling is limited to tensors and plain containers, so that opening a file can neither write elsewhere nor run
code.
"""

from __future__ import annotations

import errno
import gzip
import io
import pickle
import re
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dreamfusion.errors import DreamFusionError

CONFIG_NAME = "model_config.yaml"
WEIGHTS_NAME = "model_weights.ckpt"

# Far above Stable Diffusion (kilobytes, 5 GB in float32, two members), far below what exhausts a machine by surprise.
_MAX_CONFIG_BYTES = 1 << 20
_MAX_BYTES = 32 << 30
_MAX_MEMBERS = 1000

_GZIP = b"\x1f\x8b"
_MAX_PADDING_BYTES = 1 << 20  # tar fills its last record, 10 KiB unless told otherwise, with zeros.


def read_archive(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the configuration and the named tensors (on the CPU) of a ``.nemo`` archive.

    A gzipped archive needs temporary disk space for its weights. Raises DreamFusionError if the file is missing, no
    tar, truncated or too large, lacks a member, or has one that leaves the archive, is a link or a device, or pickles
    more than tensors.
    """
    with _archive_errors(path), path.open("rb") as file:
        if file.read(2) != _GZIP:
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                found = _find_members(tar, path)
                return _parse_members(found, path)
        file.seek(0)
        # Read once from front to back, for going back means decompressing again; tarfile would not check the sum.
        with gzip.GzipFile(fileobj=file) as stream, tempfile.TemporaryFile() as copy:
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                found = _find_members(tar, path, copy)
            if len(stream.read(_MAX_PADDING_BYTES)) == _MAX_PADDING_BYTES:
                raise DreamFusionError(f"{path} is refused: more follows the end of its archive.")
            return _parse_members(found, path)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the named tensors (on the CPU) of a ``.safetensors`` file or a pickled checkpoint of any other name.

    Raises DreamFusionError if the file is missing, damaged or pickles more than tensors.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with path.open("rb") as file:
            return unpickle(file, path)
    except (OSError, SafetensorError) as error:
        raise DreamFusionError(f"{path} cannot be read ({_first_line(error)}): check the path.") from None


def unpickle(file: IO[bytes], path: Path) -> dict[str, Tensor]:
    """Return the named tensors (on the CPU) of a file by ``torch.save``: a state_dict, or a checkpoint that has one.

    Raises DreamFusionError, naming ``path``, if it is damaged or holds anything that could run code.
    """
    _check_zip(file, path)
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"it pickles {found[1]}, which could run code" if found else "its pickle is damaged or unsafe"
        raise DreamFusionError(f"{path} is refused: {reason}; save its weights alone, or as .safetensors.") from None
    except (RuntimeError, ValueError, TypeError, KeyError, EOFError, MemoryError) as error:
        raise DreamFusionError(f"The weights of {path} cannot be read ({_first_line(error)}).") from None
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(_is_named_tensor(*item) for item in content.items()):
        raise DreamFusionError(f"{path} is refused: its weights are not a table of names and plain tensors.")
    return dict(content)


def yaml_mapping(text: str, what: str) -> dict[str, Any]:
    """Return the mapping of a YAML text; DreamFusionError, which begins with ``what``, if it is none."""
    try:
        config = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise DreamFusionError(f"{what} is no YAML ({_first_line(error)}).") from None
    if not isinstance(config, dict):
        raise DreamFusionError(f"{what} holds no configuration.")
    return config


@contextmanager
def _archive_errors(path: Path) -> Iterator[None]:
    """Turn what can go wrong in reading an archive into one line."""
    try:
        yield
    except FileNotFoundError:
        raise DreamFusionError(f"There is no file {path}: check the path.") from None
    except (tarfile.TarError, OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise DreamFusionError(
                f"No space left in {tempfile.gettempdir()} for the weights of {path}: free some, or set TMPDIR."
            ) from None
        raise DreamFusionError(
            f"{path} is no NeMo archive, or is truncated ({_first_line(error)}): copy or download it again."
        ) from None


def _find_members(tar: tarfile.TarFile, path: Path, copy: IO[bytes] | None = None) -> dict[str, IO[bytes]]:
    """Return seekable files with the configuration and the weights, after a check of every member.

    The weights are read where they lie in the archive, or are copied to ``copy`` if there is no going back in it.
    """
    found: dict[str, IO[bytes]] = {}
    total = 0
    for count, member in enumerate(tar):
        name = _safe_name(member, path)
        total += member.size
        if name in found or count >= _MAX_MEMBERS or total > _MAX_BYTES:
            raise DreamFusionError(
                f"{path} is refused: it has {name} twice, more than {_MAX_MEMBERS} members or {_MAX_BYTES} bytes."
            )
        if name in (CONFIG_NAME, WEIGHTS_NAME):
            file = tar.extractfile(member)
            if file is None or (name == CONFIG_NAME and member.size > _MAX_CONFIG_BYTES):
                raise DreamFusionError(
                    f"{path} is refused: its {name} is a folder or exceeds {_MAX_CONFIG_BYTES} bytes."
                )
            if name == CONFIG_NAME:
                file = io.BytesIO(file.read())
            elif copy:
                shutil.copyfileobj(file, copy, 1 << 20)
                file = copy
            found[name] = file
    return found


def _parse_members(found: dict[str, IO[bytes]], path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if name not in found:
            raise DreamFusionError(
                f"{path} has no {name}: it is truncated, or no NeMo archive of a model that one GPU holds."
            )
    config = yaml_mapping(found[CONFIG_NAME].read().decode("utf-8"), f"The {CONFIG_NAME} of {path}")
    return config, unpickle(found[WEIGHTS_NAME], path)


def _safe_name(member: tarfile.TarInfo, path: Path) -> str:
    """Return the member's name without a leading "./"; DreamFusionError for all but plain files and folders inside."""
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or "\\" in member.name or ":" in member.name:
        raise DreamFusionError(f"{path} is refused: its member {member.name!r} points outside the archive.")
    # A sparse member is a few bytes that claim any size.
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise DreamFusionError(f"{path} is refused: its member {member.name!r} is a link, a device or sparse.")
    return str(name)


def _check_zip(file: IO[bytes], path: Path) -> None:
    """Refuse what is not the uncompressed zip that ``torch.save`` writes: older pickles, bombs, half a file."""
    try:
        with zipfile.ZipFile(file) as archive:
            plain = all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        plain = False
    if not plain:
        raise DreamFusionError(f"The weights of {path} are truncated, or were not written by PyTorch 1.6 or newer.")
    file.seek(0)


def _is_named_tensor(name: Any, tensor: Any) -> bool:
    return isinstance(name, str) and isinstance(tensor, Tensor) and tensor.is_cpu and tensor.layout == torch.strided


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(" .:") if lines else type(error).__name__
