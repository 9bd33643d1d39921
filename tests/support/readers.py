"""Readers of OBJ, binary PLY and binary STL files after their specifications, for what a library has written."""

from pathlib import Path

import numpy as np


def read_obj(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return vertices [V, 3], texture coordinates [T, 2], normals [N, 3] and their numbers [F, 3, 3] at corners."""
    lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    numbers = [np.array([words[1:] for words in lines if words[:1] == [key]], float) for key in ("v", "vt", "vn")]
    corners = [[corner.split("/") for corner in words[1:]] for words in lines if words[:1] == ["f"]]
    return numbers[0], numbers[1], numbers[2], np.array(corners, int) - 1  # numbers begin at 1


def read_ply(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return a little-endian file's vertices, as records with a field per property, and its triangles [F, 3]."""
    kinds = {
        "float": "<f4",
        "double": "<f8",
        "uchar": "u1",
        "uint": "<u4",
        "int": "<i4",
        "uint8": "u1",
        "float32": "<f4",
    }
    head, data = path.read_bytes().split(b"end_header\n", 1)
    lines = [line.split() for line in head.decode("ascii").splitlines()]
    assert lines[:2] == [["ply"], ["format", "binary_little_endian", "1.0"]]
    (vertices, faces) = (int(words[2]) for words in lines if words[0] == "element")
    point = [(words[2], kinds[words[1]]) for words in lines if words[0] == "property" and words[1] != "list"]
    ((_, _, count, index, _),) = (words for words in lines if words[:2] == ["property", "list"])
    face = np.dtype([("count", kinds[count]), ("index", kinds[index], 3)])
    assert len(data) == vertices * np.dtype(point).itemsize + faces * face.itemsize
    corners = np.frombuffer(data, face, faces, vertices * np.dtype(point).itemsize)
    assert (corners["count"] == 3).all()
    return np.frombuffer(data, np.dtype(point), vertices), corners["index"].astype(int)


def read_stl(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the normals [F, 3] and the corners [F, 3, 3] of the triangles."""
    data = path.read_bytes()
    triangle = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("extra", "<u2")])
    assert not data.startswith(b"solid"), "that is how the other, written kind begins"
    assert len(data) == 84 + triangle.itemsize * int.from_bytes(data[80:84], "little")
    triangles = np.frombuffer(data, triangle, offset=84)
    return triangles["normal"].astype(float), triangles["corners"].astype(float)


def volume(corners: np.ndarray) -> float:
    """Return the volume that triangles [F, 3, 3] enclose, positive if they are wound outwards."""
    return float(np.einsum("fc,fc->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6)


def is_closed(faces: np.ndarray) -> bool:
    """Return whether every edge of triangles [F, 3] is run along once in each direction."""
    edges = {(a, b) for face in faces.tolist() for a, b in zip(face, face[1:] + face[:1], strict=True)}
    return len(edges) == 3 * len(faces) and all((b, a) in edges for a, b in edges)
