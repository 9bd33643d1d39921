"""Binary glTF 2.0 files: reading their triangles, and putting several into one scene without touching their content.

The merge copies every byte of geometry and texture as it is and only renumbers what refers to it, so nothing that an
export has written is lost. Matrices are 4 x 4 in the world of the package (z up, front +x).
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dreamfusion.assets.checks import check_triangles
from dreamfusion.assets.compressed import decompressed
from dreamfusion.errors import DreamFusionError

Floats = NDArray[np.float32]

_FROM_GLTF = np.array([[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]], dtype=np.float64)
"""glTF's x, y, z (y up, front +z) are our y, z, x."""

_TYPES = {5120: np.int8, 5121: np.uint8, 5122: np.int16, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
_DAMAGED = (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError, RecursionError)
"""What the code here raises where a file says something else than glTF may."""
_LISTS = ("accessors", "bufferViews", "images", "samplers", "textures", "materials", "meshes", "nodes")


@dataclass(frozen=True)
class Glb:
    """The JSON of a binary glTF file, its binary chunk, and how complaints call it: its path, if it has one."""

    tree: dict[str, Any]
    binary: bytes
    name: str = "The mesh"


@dataclass(frozen=True)
class Triangles:
    """Triangles in the world of the package: unit ``normals`` and linear ``colors`` at ``vertices`` [V, 3].

    ``textures`` are pictures [H, W, 3] in linear light, by which colours are multiplied: at a vertex the one whose
    number is in ``texture`` [V] (-1: none), looked up at ``uv`` [V, 2], (0, 0) being its upper left corner.
    """

    vertices: Floats
    faces: NDArray[np.int64]
    normals: Floats
    colors: Floats
    uv: Floats
    texture: NDArray[np.int64]
    textures: tuple[Floats, ...] = ()

    def moved(self, matrix: NDArray[np.float64]) -> Triangles:
        """Return them moved by a 4 x 4 matrix of rotation, uniform scale and translation."""
        vertices = self.vertices @ matrix[:3, :3].T + matrix[:3, 3]
        return replace(self, vertices=vertices.astype(np.float32), normals=_turned(self.normals, matrix))

    @staticmethod
    def joined(parts: Sequence[Triangles]) -> Triangles:
        """Return several as one; textures that are the same object are kept once."""
        textures = list({id(texture): texture for part in parts for texture in part.textures}.values())
        number = {id(texture): index for index, texture in enumerate(textures)}
        first, faces, texture = 0, [], []
        for part in parts:
            faces.append(part.faces + first)
            first += len(part.vertices)
            texture.append(np.array([*(number[id(t)] for t in part.textures), -1])[part.texture])
        names = ("vertices", "normals", "colors", "uv")
        stacked = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        joined = {"faces": np.concatenate(faces), "texture": np.concatenate(texture)}
        return Triangles(**stacked, **joined, textures=tuple(textures))


def read_glb(path: Path | str) -> Glb:
    """Read a binary glTF 2.0 file, its compressed triangles stored plainly (see `assets.compressed`).

    Raises DreamFusionError if it is missing, is none, is damaged, or needs what is not read here.
    """
    try:
        glb = replace(parse_glb(Path(path).read_bytes()), name=str(path))
    except OSError as error:
        raise DreamFusionError(f"Cannot read the mesh {path}: {error.strerror}.") from None
    except (ValueError, struct.error, RecursionError):
        raise DreamFusionError(f"{path} is not a binary glTF 2.0 file: export the mesh again as GLB.") from None
    with _naming(glb):
        tree, binary = decompressed(glb.tree, glb.binary, path)
    return replace(glb, tree=tree, binary=binary)


def parse_glb(data: bytes) -> Glb:
    """Return the content of a binary glTF 2.0 file; ValueError or struct.error if it is none."""
    magic, version, _, length, kind = struct.unpack_from("<4sIII4s", data)
    if (magic, version, kind) != (b"glTF", 2, b"JSON"):
        raise ValueError("not binary glTF 2.0")
    size, _ = struct.unpack_from("<I4s", data, 20 + length)
    return Glb(json.loads(data[20 : 20 + length]), data[28 + length : 28 + length + size])


def triangles(glb: Glb) -> Triangles:
    """Return all triangles of a file's scene, with the colours of vertices and materials, and their textures.

    Raises DreamFusionError, naming the file, if it holds none, is damaged, or cannot be computed with.
    """
    pictures: dict[int, Floats] = {}
    with _naming(glb), np.errstate(over="ignore", invalid="ignore"):
        parts = [part for node, matrix in _nodes(glb.tree) for part in _of_node(glb, node, matrix, pictures)]
    if not parts:
        raise DreamFusionError(f"{glb.name} has no triangles: export it again as GLB.")
    joined = Triangles.joined(parts)
    check_triangles(joined.vertices, joined.faces, glb.name)
    return joined


def merge(parts: Sequence[tuple[Glb, NDArray[np.float64]]]) -> bytes:
    """Return a binary glTF file of one scene with each part moved by its matrix.

    Raises DreamFusionError, naming the file, if one is damaged.
    """
    merged: dict[str, Any] = {name: [] for name in _LISTS}
    extensions: dict[str, set[str]] = {"extensionsUsed": set(), "extensionsRequired": set()}
    binary, roots = bytearray(), []
    for glb, matrix in parts:
        counts = {name: len(merged[name]) for name in _LISTS}
        with _naming(glb):
            for name in _LISTS:
                merged[name] += [_renumbered(item, name, counts) for item in glb.tree.get(name, [])]
            for view in merged["bufferViews"][counts["bufferViews"] :]:
                view["buffer"], view["byteOffset"] = 0, view.get("byteOffset", 0) + len(binary)
            for name, found in extensions.items():
                found.update(glb.tree.get(name, []))
            children = [node + counts["nodes"] for node in _scene_of(glb.tree)["nodes"]]
        binary += glb.binary + bytes(-len(glb.binary) % 4)
        in_gltf = np.linalg.inv(_FROM_GLTF) @ matrix @ _FROM_GLTF
        roots.append(len(merged["nodes"]))
        moved = {} if np.array_equal(in_gltf, np.eye(4)) else {"matrix": in_gltf.T.ravel().tolist()}
        merged["nodes"].append({"children": children} | moved)
    tree = {"asset": {"version": "2.0", "generator": "dreamfusion"}, "scene": 0, "scenes": [{"nodes": roots}]}
    tree |= {name: items for name, items in merged.items() if items}
    tree |= {name: sorted(found) for name, found in extensions.items() if found}
    tree["buffers"] = [{"byteLength": len(binary)}]
    return glb_bytes(tree, bytes(binary))


def glb_bytes(tree: dict[str, Any], binary: bytes) -> bytes:
    """Return the binary glTF file of a JSON tree and its binary chunk."""
    text = json.dumps(tree, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    binary += bytes(-len(binary) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(binary), b"BIN\0") + binary
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


@contextmanager
def _naming(glb: Glb) -> Iterator[None]:
    """Turn what a damaged file makes the block raise into a line that names the file."""
    try:
        yield
    except _DAMAGED as error:
        raise DreamFusionError(f"{glb.name} is damaged ({error!r:.80}): export it again as GLB.") from None


def _renumbered(item: Any, kind: str, counts: dict[str, int]) -> Any:
    """Return a copy of an entry of the list ``kind`` whose references are moved on by the entries before it."""
    refers = {
        "accessors": {"bufferView": "bufferViews"},
        "images": {"bufferView": "bufferViews"},
        "textures": {"source": "images", "sampler": "samplers"},
        "meshes": {"indices": "accessors", "material": "materials"},
        "nodes": {"mesh": "meshes", "children": "nodes"},
    }.get(kind, {})

    def walk(node: Any, key: str) -> Any:
        if isinstance(node, list):
            return [walk(value, key) for value in node]
        if not isinstance(node, dict):
            return node + counts[refers[key]] if key in refers else node
        if kind == "meshes" and key in ("attributes", "targets"):  # by names that anybody may choose
            return {name: value + counts["accessors"] for name, value in node.items()}
        moved = {name: value if name == "extras" else walk(value, name) for name, value in node.items()}
        if kind == "materials" and key.endswith("Texture"):
            moved["index"] += counts["textures"]
        return moved

    return walk(item, "")


def _scene_of(tree: dict[str, Any]) -> dict[str, Any]:
    return tree["scenes"][tree.get("scene", 0)]


def _nodes(tree: dict[str, Any]) -> Iterator[tuple[dict[str, Any], NDArray[np.float64]]]:
    """Yield the nodes of the scene with their matrices, parents first; ValueError if one is met twice (a cycle)."""
    met: set[int] = set()
    waiting = [(root, np.eye(4)) for root in reversed(_scene_of(tree)["nodes"])]
    while waiting:
        index, above = waiting.pop()
        if index in met:
            raise ValueError(f"node {index} has more than one parent")
        met.add(index)
        node = tree["nodes"][index]
        matrix = above @ _local_matrix(node)
        yield node, matrix
        waiting += [(child, matrix) for child in reversed(node.get("children", []))]


def _of_node(
    glb: Glb, node: dict[str, Any], matrix: NDArray[np.float64], pictures: dict[int, Floats]
) -> list[Triangles]:
    primitives = glb.tree["meshes"][node["mesh"]]["primitives"] if "mesh" in node else []
    surfaces = [primitive for primitive in primitives if primitive.get("mode", 4) in (4, 5, 6)]
    parts = [_of_primitive(glb, primitive, pictures).moved(_FROM_GLTF @ matrix) for primitive in surfaces]
    if not all(np.isfinite(part.vertices).all() for part in parts):
        raise ValueError("vertices that are no finite numbers")
    return parts


def _local_matrix(node: dict[str, Any]) -> NDArray[np.float64]:
    """Return the 4 x 4 matrix of a node, which gives it whole (by columns) or as translation, rotation and scale."""
    if "matrix" in node:
        return np.array(node["matrix"], dtype=np.float64).reshape(4, 4).T
    x, y, z, w = node.get("rotation", (0.0, 0.0, 0.0, 1.0))
    turn = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    matrix = np.eye(4)
    matrix[:3, :3] = turn * np.array(node.get("scale", (1.0, 1.0, 1.0)))
    matrix[:3, 3] = node.get("translation", (0.0, 0.0, 0.0))
    return matrix


def _of_primitive(glb: Glb, primitive: dict[str, Any], pictures: dict[int, Floats]) -> Triangles:
    attributes = primitive["attributes"]
    vertices = _accessor(glb, attributes["POSITION"])
    corners = _accessor(glb, primitive["indices"]) if "indices" in primitive else np.arange(len(vertices))
    faces = _faces(corners.astype(np.int64), primitive.get("mode", 4))
    if not ((faces >= 0) & (faces < len(vertices))).all():  # kernels would read them unasked
        raise ValueError("faces of vertices that are not there")
    if "NORMAL" in attributes:
        normals = _accessor(glb, attributes["NORMAL"])
        if normals.shape != vertices.shape:
            raise ValueError("not one normal for each vertex")
    else:
        from dreamfusion.assets.mesh import vertex_normals

        normals = vertex_normals(vertices, faces)
    colors = np.ones_like(vertices)
    if "COLOR_0" in attributes:
        colors = colors * _accessor(glb, attributes["COLOR_0"])[:, :3]
    pbr = {}
    if "material" in primitive:
        pbr = glb.tree["materials"][primitive["material"]].get("pbrMetallicRoughness", {})
    colors = (colors * pbr.get("baseColorFactor", (1.0, 1.0, 1.0, 1.0))[:3]).astype(np.float32)
    none = np.full(len(vertices), -1)
    plain = Triangles(vertices, faces, normals, colors, np.zeros((len(vertices), 2), np.float32), none)
    if "baseColorTexture" not in pbr:
        return plain
    reference = pbr["baseColorTexture"]
    uv = _accessor(glb, attributes[f"TEXCOORD_{reference.get('texCoord', 0)}"])
    if uv.shape != plain.uv.shape:
        raise ValueError("not one place in the texture for each vertex")
    entry = glb.tree["textures"][reference["index"]]
    index = entry.get("extensions", {}).get("EXT_texture_webp", entry)["source"]
    if index not in pictures:
        pictures[index] = to_linear(_pixels(_view(glb, glb.tree["images"][index]["bufferView"])))
    return replace(plain, uv=uv.astype(np.float32), texture=none + 1, textures=(pictures[index],))


def _faces(corners: NDArray[np.int64], mode: int) -> NDArray[np.int64]:
    """Return the triangles [F, 3] that corners [N] list: each of its own (mode 4), in a strip (5) or in a fan (6).

    In a strip every other triangle runs backwards; those with two corners at one vertex only lead to the next.
    """
    if mode == 4:
        return corners.reshape(-1, 3)
    first = np.arange(max(len(corners) - 2, 0))
    odd = first % 2
    places = [first, first + 1 + odd, first + 2 - odd] if mode == 5 else [0 * first, first + 1, first + 2]
    faces = corners[np.stack(places, axis=1)]
    return faces[(faces != np.roll(faces, 1, axis=1)).all(axis=1)]


def _pixels(data: bytes) -> Floats:
    """Return the colours [H, W, 3] of a picture in a file; ValueError if it is damaged or too large to be one."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return np.asarray(picture.convert("RGB"), dtype=np.float32) / np.float32(255.0)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"its texture: {error}") from None


def to_linear(srgb: Floats) -> Floats:
    """Return linear light for sRGB values in [0, 1] (IEC 61966-2-1)."""
    srgb = srgb.clip(0.0, 1.0)
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4).astype(np.float32)


def _accessor(glb: Glb, index: int) -> Any:
    """Return the values of an accessor, [N] or [N, components], as floats where the file says so."""
    accessor = glb.tree["accessors"][index]
    kind: Any = np.dtype(_TYPES[accessor["componentType"]])
    width, count = _WIDTHS[accessor["type"]], accessor["count"]
    view = glb.tree["bufferViews"][accessor["bufferView"]]
    data, start = _view(glb, accessor["bufferView"]), accessor.get("byteOffset", 0)
    stride = view.get("byteStride", kind.itemsize * width)
    values = np.ndarray((count, width), kind, data, start, (stride, kind.itemsize))
    if accessor.get("normalized"):
        return (values / np.iinfo(kind).max).astype(np.float32)
    return values.copy() if width > 1 else values[:, 0].copy()


def _view(glb: Glb, index: int) -> bytes:
    view = glb.tree["bufferViews"][index]
    start = view.get("byteOffset", 0)
    return glb.binary[start : start + view["byteLength"]]


def _turned(normals: Floats, matrix: NDArray[np.float64]) -> Floats:
    turned = normals @ matrix[:3, :3].T
    return (turned / np.maximum(np.linalg.norm(turned, axis=1, keepdims=True), 1e-12)).astype(np.float32)
