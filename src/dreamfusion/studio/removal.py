"""Deleting a run: only a folder that the package wrote, and only while it holds nothing of anybody else."""

from __future__ import annotations

import os
import re
from pathlib import Path

from dreamfusion.errors import DreamFusionError
from dreamfusion.io.claims import identity, refuse_busy
from dreamfusion.io.files import MARKER, TEMPORARY_PREFIX, list_of_folder, remove_folder, sha256_of
from dreamfusion.io.signatures import is_signed

_OURS = re.compile(
    r"config\.yaml|metrics\.jsonl|preview\.png|rating\.json|requests/\w+|checkpoints/step_\d+/[^/]+"
    rf"|(previews|validation)/step_\d+(_depth)?\.\w+|(.*/)?({re.escape(MARKER)}|{re.escape(TEMPORARY_PREFIX)}.*)"
)
"""What a run writes and does not sign. All else in its folder is signed, or on the list of a folder of pictures."""


def remove_run(folder: Path) -> None:
    """Delete the folder of a run; DreamFusionError if it is not the package's alone, or a process works there."""
    if folder.is_symlink() or identity(folder) is None:
        raise DreamFusionError(f"{folder.name} was not made by this program, and stays as it is.")
    refuse_busy(folder)
    for path in _files(folder):
        if not _is_ours(path, folder):
            name = path.relative_to(folder).as_posix()
            raise DreamFusionError(
                f"{folder.name} holds {name}, which this program did not write or which was changed since: "
                "move it away first."
            )
    try:
        remove_folder(folder)
    except OSError as error:
        raise DreamFusionError(f"Cannot delete {folder.name}: {error.strerror}.") from None


def _files(folder: Path) -> list[Path]:
    """Return all that is not a folder; what a link leads to is not followed."""
    found = []
    for where, folders, files in os.walk(folder):
        links = [name for name in folders if (Path(where) / name).is_symlink()]
        found += [Path(where) / name for name in [*files, *links]]
    return sorted(found)


def _is_ours(path: Path, folder: Path) -> bool:
    if path.is_symlink():
        return False
    if _OURS.fullmatch(path.relative_to(folder).as_posix()) or is_signed(path):
        return True
    listed = list_of_folder(path.parent).get(path.name)
    return listed is not None and listed == sha256_of(path)
