"""Claimed folders: what the package may write over, and which process may.

A folder that a command fills holds a hidden file, ``.dreamfusion``: it says that the folder is the package's own, gives
it a name of its own (its id, which its checkpoints repeat), and is locked while a process works there. The system takes
the lock from a process that dies, so nothing is left to clear away.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from dreamfusion.errors import DreamFusionError
from dreamfusion.io.files import MARKER, TEMPORARY_PREFIX, explain, prepare_output_dir

_NOT_HERE = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
"""What systems say that have no locks, as some disks of clusters: there only the folder's own rules protect it."""


_YOUNG_SECONDS = 600


class InUseError(DreamFusionError):
    """Another process, or another thread of this one, works in the folder."""


class NotEmptyError(DreamFusionError):
    """The folder holds something that the package did not write, or another run."""


@contextmanager
def claim(folder: Path | str, *, new: bool = False, evidence: tuple[str, ...] = ()) -> Iterator[str]:
    """Own a folder while the block lasts, creating it if need be, and give its id.

    With ``new`` it has to be empty. Otherwise it may be one that was claimed before, or that holds one of the files
    named by ``evidence``, by which folders of earlier versions are known. One that was made here and is still empty
    afterwards is removed again. Raises NotEmptyError or InUseError, and DreamFusionError if it cannot be written.
    """
    folder = Path(folder)
    _refuse_foreign(folder, new, evidence)
    made = not folder.exists()
    prepare_output_dir(folder)
    handle = _locked(folder)
    _clear_unfinished(folder)
    try:
        _refuse_foreign(folder, new, evidence)  # again: another process may have begun there a moment before
        yield _identity(handle, folder)
    finally:
        if made and _entries(folder) == []:
            with suppress(OSError):
                (folder / MARKER).unlink()
                folder.rmdir()
        handle.close()


def refuse_busy(folder: Path) -> None:
    """Raise InUseError if a process works in the folder; it is not claimed by this."""
    if (folder / MARKER).is_file():
        with suppress(OSError), (folder / MARKER).open("rb") as handle:
            if not _lock(handle):
                raise _in_use(folder)


def identity(folder: Path) -> str | None:
    """Return the id of a claimed folder, None if it has none or it cannot be read."""
    try:
        found = json.loads((folder / MARKER).read_text(encoding="utf-8"))["id"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return found if isinstance(found, str) else None


def _entries(folder: Path) -> list[str]:
    """Return the names in a folder, without its mark and what a kill has left unfinished."""
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise explain(error, folder) from error
    return [name for name in names if name != MARKER and not name.startswith(TEMPORARY_PREFIX)]


def _clear_unfinished(folder: Path) -> None:
    """Remove what a kill has left under temporary names; not what is young, which another command may be writing."""
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        with suppress(OSError):
            if time.time() - path.lstat().st_mtime > _YOUNG_SECONDS:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _refuse_foreign(folder: Path, new: bool, evidence: tuple[str, ...]) -> None:
    names = _entries(folder)
    if not names:
        return
    if "config.yaml" in names and new:
        raise NotEmptyError(
            f"{folder} already holds a run: continue it with --resume {folder}, or choose another --output."
        )
    if new or not ((folder / MARKER).is_file() or any((folder / name).exists() for name in evidence)):
        raise NotEmptyError(
            f"{folder} holds other things ({names[0]}{', ...' if len(names) > 1 else ''}), which stay as they are: "
            "choose an empty folder with --output."
        )


def _locked(folder: Path) -> IO[bytes]:
    """Return the folder's mark, open and locked."""
    path = folder / MARKER
    while True:
        try:
            handle = open(path, "a+b")  # noqa: SIM115  # held until the claim ends
        except OSError as error:
            raise explain(error, path) from error
        try:
            if not _lock(handle):
                raise _in_use(folder)
            if path.exists() and os.path.samestat(os.fstat(handle.fileno()), path.stat()):
                return handle
        except BaseException:
            handle.close()
            raise
        handle.close()  # removed between opening and locking by one who had claimed it in vain


def _in_use(folder: Path) -> InUseError:
    return InUseError(f"Another process is at work in {folder}: wait until it has ended, or stop it.")


def _lock(handle: IO[bytes]) -> bool:
    """Lock an open file without waiting and say whether it is ours; where there are no locks it always is."""
    try:
        if os.name == "posix":
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            import msvcrt

            handle.seek(1 << 30)  # far behind the content, which others may read
            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except OSError as error:
        return error.errno in _NOT_HERE
    return True


def _identity(handle: IO[bytes], folder: Path) -> str:
    """Return the id in a mark, written there now if it has none or it was damaged."""
    known = identity(folder)
    if known is None:
        known = _identity_of_checkpoints(folder) or secrets.token_hex(8)
        try:
            handle.truncate(0)
            handle.write((json.dumps({"id": known}) + "\n").encode())
            handle.flush()
            os.fsync(handle.fileno())
        except OSError as error:
            raise explain(error, folder) from error
    return known


def _identity_of_checkpoints(folder: Path) -> str | None:
    """Return the id that the checkpoints in a folder name, for a mark that was damaged."""
    for path in sorted(folder.glob("checkpoints/step_*/state.json"), reverse=True):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            found = json.loads(path.read_text(encoding="utf-8"))["run"]
            if isinstance(found, str):
                return found
    return None
