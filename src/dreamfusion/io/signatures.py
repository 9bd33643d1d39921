"""Signed files: how a file says that this package wrote it, and that nobody has changed it since.

A signature is ``dreamfusion:`` and 32 hexadecimal digits, the first of the SHA-256 of the file without those digits and
the four bytes behind them, which in a PNG are a checksum of the signature itself. It stands where the format has room
for a remark: a text chunk of a PNG, the generator of a glTF file, a comment elsewhere. Only signed files are ever
replaced, so that a picture of the user's, or a mesh that was mended by hand, stays what it is.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
import zlib
from pathlib import Path

_SIGNATURE = re.compile(rb"dreamfusion:([0-9a-f]{32})")
_BLANK = b"dreamfusion:" + b"0" * 32
_PNG, _PNG_CHUNK = b"\x89PNG\r\n\x1a\n", b"tEXtSoftware\0"


def is_signed(path: Path) -> bool:
    """Return whether a file was written by this package and is still as it was then; False if it cannot be read."""
    try:
        data = path.read_bytes()
    except OSError:
        return False
    return any(_digest(data, found) == found[1] for found in _SIGNATURE.finditer(data))


def sign(path: Path) -> None:
    """Put a signature into a finished file; one of a format that has no place for it stays as it is."""
    data = path.read_bytes()
    marked = _with_blank(data, path.suffix.lower())
    if marked is None:
        return
    # Not the first: a file may hold others, such as pictures, with signatures of their own.
    found = next(found for found in _SIGNATURE.finditer(marked) if found[0] == _BLANK)
    marked = marked[: found.start(1)] + _digest(marked, found) + marked[found.end(1) :]
    if marked.startswith(_PNG):
        chunk = marked[found.start() - len(_PNG_CHUNK) : found.end()]
        marked = marked[: found.end()] + struct.pack(">I", zlib.crc32(chunk)) + marked[found.end() + 4 :]
    path.write_bytes(marked)


def _digest(data: bytes, found: re.Match[bytes]) -> bytes:
    """Return the digits of the signature that stands at ``found``."""
    digest = hashlib.sha256(data[: found.start(1)])
    digest.update(memoryview(data)[found.end(1) + 4 :])
    return digest.hexdigest()[:32].encode()


def _with_blank(data: bytes, suffix: str) -> bytes | None:
    """Return a file with a signature of zeros where its format has room for one, None if it has none."""
    if data.startswith(_PNG):
        header_end = 33  # of the chunk that has to be the first
        length = struct.pack(">I", len(_PNG_CHUNK) - 4 + len(_BLANK))
        return data[:header_end] + length + _PNG_CHUNK + _BLANK + b"\0\0\0\0" + data[header_end:]
    if data.startswith(b"glTF"):
        return _with_generator(data)
    if data[4:8] == b"ftyp":  # MP4: a box of free space, which players pass over
        return data + struct.pack(">I", 8 + len(_BLANK)) + b"free" + _BLANK
    if data.startswith(b"\x1aE\xdf\xa3"):  # WebM: the same in EBML
        return data + b"\xec" + struct.pack(">B", 0x80 | len(_BLANK)) + _BLANK
    if data.startswith(b"GIF8") and data.endswith(b";"):
        return data[:-1] + b"\x21\xfe" + struct.pack(">B", len(_BLANK)) + _BLANK + b"\0;"
    if data.startswith(b"PK") and data.endswith(b"\0\0"):  # a zip file without a comment, as USDZ is
        return data[:-2] + struct.pack("<H", len(_BLANK)) + _BLANK
    return _with_comment(data, suffix)


def _with_comment(data: bytes, suffix: str) -> bytes | None:
    """Return a file of text, or one that begins with text, with a blank signature in a comment."""
    if data.startswith(b"ply\n"):
        line_end = data.index(b"\n", 4) + 1  # after the line of the format, which has to be the second
        return data[:line_end] + b"comment " + _BLANK + b"\n" + data[line_end:]
    match suffix:
        case ".stl" if len(data) >= 84:
            room = 80 - len(_BLANK)  # in the header, which has a fixed length
            return data[:80].rstrip(b" \0")[:room].ljust(room) + _BLANK + data[80:]
        case ".obj" | ".mtl":
            return data + b"# " + _BLANK + b"\n"
        case ".html" | ".svg" | ".md":
            return data + b"<!-- " + _BLANK + b" -->\n"
    return None


def _with_generator(data: bytes) -> bytes:
    """Return a binary glTF file with a blank signature behind the name of its generator."""
    length = struct.unpack_from("<I", data, 12)[0]
    tree = json.loads(data[20 : 20 + length])
    asset = tree.setdefault("asset", {"version": "2.0"})
    asset["generator"] = f"{asset.get('generator', 'dreamfusion')} {_BLANK.decode()}"
    text = json.dumps(tree, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 4)
    rest = data[20 + length :]
    return b"glTF" + struct.pack("<IIII", 2, 20 + len(text) + len(rest), len(text), 0x4E4F534A) + text + rest
