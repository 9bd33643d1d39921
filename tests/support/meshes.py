"""Meshes by hand: a ball, and GLB files of whatever is asked for."""

import json
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import trimesh

BALL = trimesh.creation.icosphere(subdivisions=2, radius=0.6)
POINTS, FACES = BALL.vertices.astype(np.float32), BALL.faces.astype(np.int64)


def glb_file(
    path: Path, points: np.ndarray, corners: np.ndarray, mode: int = 4, nodes: Sequence[dict] = ({"mesh": 0},)
) -> Path:
    """Write a GLB file by hand, so that nothing looks at what is in it."""
    data = points.astype("<f4").tobytes() + corners.astype("<u4").tobytes()
    size = 12 * len(points)
    views = [{"buffer": 0, "byteLength": size}, {"buffer": 0, "byteOffset": size, "byteLength": 4 * corners.size}]
    accessors = [
        {"bufferView": 0, "componentType": 5126, "count": len(points), "type": "VEC3"},
        {"bufferView": 1, "componentType": 5125, "count": corners.size, "type": "SCALAR"},
    ]
    tree = {"asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": [0]}], "nodes": list(nodes)}
    tree["meshes"] = [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1, "mode": mode}]}]
    tree |= {"accessors": accessors, "bufferViews": views, "buffers": [{"byteLength": len(data)}]}
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(data), b"BIN\0") + data
    path.write_bytes(struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks)
    return path
