"""Files: folder names from prompts, and writes that leave either the whole new file or the old one.

Everything a run leaves on disk goes through `write_atomically` or `replace_folder`, so that no crash, full disk or
kill leaves a half-written file under its final name. Neither replaces what the package did not write: a file has to be
signed (`dreamfusion.io.signatures`), and a folder to hold exactly what its list, in the hidden file ``.dreamfusion``,
says. Inside a folder that was claimed (`dreamfusion.io.claims`) all names are the package's own: ``ours``.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dreamfusion.errors import DreamFusionError
from dreamfusion.io.signatures import is_signed, sign

MARKER = ".dreamfusion"
"""The hidden file in folders of the package's own: an id and a lock, or the list of what was written."""

TEMPORARY_PREFIX = ".tmp-"
"""How the names of unfinished files and folders begin; what a kill leaves under such a name may be deleted."""

TABLE_BEGIN, TABLE_END = "<!-- begin of the generated table -->", "<!-- end of the generated table -->"
"""The lines between which `write_table` puts a table."""

_SLUG_MAX_BYTES = 80  # With its hash and a file name behind it, far below the 255 bytes and 260 characters of systems.
_WINDOWS_DEVICES = re.compile(r"con|prn|aux|nul|(com|lpt)[0-9]")


def slugify(prompt: str) -> str:
    """Return a folder name for a prompt of any length, script and punctuation: readable, safe and at most 89 bytes.

    Letters and digits of every script stay (Latin ones without accents, lower case); all else becomes single hyphens.
    A short hash is appended when the name says less than the prompt, cut short or without its symbols (such as
    emoji), so that prompts that differ there get different folders. With nothing left: "prompt-<hash>".
    """
    text = unicodedata.normalize("NFKD", " ".join(prompt.split()).casefold())
    text = re.sub(r"(?<=[a-z])[\u0300-\u036f]+|['\u2019]", "", text)
    # Format characters (joiners, marks of direction) sit inside words; a hyphen there would tear the word apart.
    text = "".join(c for c in unicodedata.normalize("NFC", text) if unicodedata.category(c) != "Cf")
    words = "".join(c if unicodedata.category(c)[0] in "LMN" else "-" for c in text)
    slug = re.sub("-+", "-", words).strip("-")
    lost_symbols = any(unicodedata.category(c)[0] == "S" for c in text)

    short = _cut(slug, _SLUG_MAX_BYTES)
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    if not short:
        return f"prompt-{digest}"
    if short != slug or lost_symbols:
        return f"{short}-{digest}"
    return f"prompt-{short}" if _WINDOWS_DEVICES.fullmatch(short) else short


def _cut(slug: str, max_bytes: int) -> str:
    """Return the longest beginning of ``slug`` within ``max_bytes`` of UTF-8, at the end of a word if there is one."""
    encoded = slug.encode("utf-8")
    if len(encoded) <= max_bytes:
        return slug
    cut = encoded[:max_bytes].decode("utf-8", "ignore")
    whole_words = cut.rpartition("-")[0] if slug[len(cut)] != "-" else cut
    return (whole_words or cut).strip("-")


@contextmanager
def write_atomically(path: Path | str, *, ours: bool = False) -> Iterator[Path]:
    """Give a temporary path beside ``path`` to write a file to, and move it there once the block is done.

    The file is flushed to the disk before it is moved. If anything fails, the temporary file is removed and an
    earlier file stays as it was. A full disk, a folder that is missing or cannot be written and the like become a
    `DreamFusionError`, as does an earlier file that is not the package's, unless ``ours`` says that it is. The
    temporary name keeps the suffix, by which libraries choose their format.
    """
    with write_together(path, ours=ours) as (temporary,):
        yield temporary


@contextmanager
def write_together(*paths: Path | str, ours: bool = False) -> Iterator[list[Path]]:
    """Give temporary paths for files of one folder that belong together; none is moved before all are on the disk.

    The same promises as `write_atomically`; errors name the first.
    """
    targets = [Path(path) for path in paths]
    temporaries = [_temporary_sibling(path) for path in targets]
    try:
        if not ours:
            refuse_foreign_files(*targets)
        yield temporaries
        for temporary in temporaries:
            if not ours:
                sign(temporary)
            _flush(temporary)
        for temporary, path in zip(temporaries, targets, strict=True):
            os.replace(temporary, path)
        _flush_folder(targets[0].parent)
    except OSError as error:
        raise explain(error, targets[0]) from error
    finally:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)


def refuse_foreign_files(*paths: Path | str) -> None:
    """Raise `DreamFusionError` if one of the files is there and is not the package's, or was changed since.

    Writers ask this by themselves; whoever computes for minutes before it writes asks it first.
    """
    for path in map(Path, paths):
        if os.path.lexists(path) and not path.is_dir() and not is_signed(path):
            raise DreamFusionError(
                f"{path} was not written by this program, or was changed since: move it away, or choose another "
                "--output."
            )


def refuse_foreign_folder(path: Path | str) -> None:
    """Raise `DreamFusionError` if the folder is there and holds anything but what its list says was written."""
    path = Path(path)
    if not path.is_dir():
        if os.path.lexists(path):
            raise DreamFusionError(f"{path} is a file: move it away, or choose another --output.")
        return
    written = list_of_folder(path)
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path).as_posix()
        if name == MARKER or (file.is_dir() and any(known.startswith(f"{name}/") for known in written)):
            continue
        if file.is_dir() or written.get(name) != sha256_of(file):
            raise DreamFusionError(
                f"{path} holds other things ({name}), which stay as they are: choose another folder with --output."
            )


def list_of_folder(path: Path) -> dict[str, str]:
    """Return the names of the files that `replace_folder` has written, with their SHA-256; empty if it has not."""
    try:
        files = json.loads((path / MARKER).read_text(encoding="utf-8"))["files"]
        return {str(name): str(digest) for name, digest in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


@contextmanager
def replace_folder(path: Path | str, *, ours: bool = False) -> Iterator[Path]:
    """Give a temporary folder beside ``path`` to fill, and move it there as a whole once the block is done.

    The same promises as `write_atomically`. An earlier folder of the same name is moved aside first, for no system
    replaces a folder in one step.
    """
    path = Path(path)
    temporary, aside = _temporary_sibling(path), _temporary_sibling(path)
    try:
        if not ours:
            refuse_foreign_folder(path)
        temporary.mkdir()
        yield temporary
        if not ours:
            _list_folder(temporary)
        for entry in [*temporary.rglob("*"), temporary]:
            _flush_folder(entry) if entry.is_dir() else _flush(entry)
        _swap(temporary, path, aside)
        _flush_folder(path.parent)
    except OSError as error:
        raise explain(error, path) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(aside, ignore_errors=True)


def _list_folder(path: Path) -> None:
    files = {file.relative_to(path).as_posix(): sha256_of(file) for file in sorted(path.rglob("*")) if file.is_file()}
    (path / MARKER).write_text(json.dumps({"files": files}, indent=1), encoding="utf-8")


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with file.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _swap(new: Path, path: Path, aside: Path) -> None:
    """Move ``new`` to ``path`` and what was there to ``aside``, or leave everything as it was."""
    if not path.exists():
        os.rename(new, path)
        return
    os.rename(path, aside)
    try:
        os.rename(new, path)
    except OSError:
        os.rename(aside, path)
        raise


def remove_folder(path: Path) -> None:
    """Delete a folder under a temporary name, so that a kill leaves no half of it under its own."""
    aside = _temporary_sibling(path)
    os.rename(path, aside)
    shutil.rmtree(aside, ignore_errors=True)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a log, one JSON object with a "step" a line, without those that a kill has cut short.

    There are none if there is no log. Raises DreamFusionError for what is no file, or cannot be read.
    """
    rows = []
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DreamFusionError(f"{path} cannot be read ({error.strerror}): move it away.") from error
    for line in text.splitlines():
        with suppress(ValueError, RecursionError):
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                rows.append(row)
    return rows


def write_text(path: Path | str, text: str) -> None:
    """Write a UTF-8 text file atomically into a folder of the package's own (see `write_atomically`)."""
    with write_atomically(path, ours=True) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def prepare_output_dir(path: Path | str) -> Path:
    """Create the folder and return it, after a trial that a file can be written there.

    Raises `DreamFusionError` if it cannot be created or written, or its disk is full.
    """
    path = Path(path)
    if "\0" in str(path):
        raise DreamFusionError("A folder name cannot contain a null character: choose another with --output.")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explain(error, path) from error
    # Permission bits do not tell: the disk may be full, mounted read-only, or its server away. Writing does.
    probe = _temporary_sibling(path / "probe")
    try:
        probe.write_bytes(b"\0" * 4096)
    except OSError as error:
        raise explain(error, path) from error
    finally:
        probe.unlink(missing_ok=True)
    return path


def free_disk_bytes(path: Path | str) -> int:
    """Return the free bytes of the disk that holds ``path``, which need not exist yet."""
    path = Path(path).absolute()
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    return shutil.disk_usage(existing).free


def explain(error: OSError, path: Path | str) -> Exception:
    """Return the one-line `DreamFusionError` for what the user can put right, else the error itself."""
    reasons = {
        errno.ENOSPC: "the disk is full; free some space",
        errno.EDQUOT: "your disk quota is used up; free some space",
        errno.EFBIG: "the file is too large for this disk or limit; raise the limit",
        errno.EACCES: "permission denied; make the folder writable",
        errno.EPERM: "permission denied; make the folder writable",
        errno.EROFS: "the disk is mounted read-only; remount it",
        errno.ENOENT: "the folder does not exist; create it",
        errno.ENOTDIR: "a part of that path is a file; remove it",
        errno.EEXIST: "a file of that name is in the way; remove it",
        errno.EISDIR: "a folder of that name is in the way; remove it",
        errno.ENAMETOOLONG: "the name is too long; shorten it",
        errno.EIO: "the disk reports an error; check it",
    }
    reason = reasons.get(error.errno or 0)
    if reason is None:
        return error
    return DreamFusionError(f"Cannot write {path}: {reason}, or choose another folder with --output.")


def _temporary_sibling(path: Path) -> Path:
    # The suffix is kept, the stem is not: a long one would not fit with more around it.
    return path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}{path.suffix}")


def _flush(file: Path) -> None:
    # Some systems want a file opened for writing before they flush it.
    with file.open("rb+") as handle:
        os.fsync(handle.fileno())


def _flush_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, so that a finished rename outlives a power cut, where that can be done."""
    # Windows cannot open a folder and some network disks cannot flush one; the rename itself has been done by then.
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_table(document: Path, table: str) -> None:
    """Put a table between its two marks in a document of ours; DreamFusionError if they are not there."""
    text = document.read_text(encoding="utf-8")
    found = re.search(f"(?<={TABLE_BEGIN}\n).*?(?={TABLE_END})", text, re.DOTALL)
    if found is None:
        raise DreamFusionError(f"{document} has no place for the table: put {TABLE_BEGIN} and {TABLE_END} into it.")
    write_text(document, text[: found.start()] + table.rstrip("\n") + "\n" + text[found.end() :])
