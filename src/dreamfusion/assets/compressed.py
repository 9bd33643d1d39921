"""glTF files whose triangles are compressed by Google's Draco (KHR_draco_mesh_compression): writing and reading them.

DracoPy does the work on the triangles, and the code here says in the file where they are. Other compressions are named
and refused. A file is its JSON (``tree``) and its binary chunk.
"""

from __future__ import annotations

import copy
from importlib.util import find_spec
from typing import Any

import numpy as np

from dreamfusion.errors import DreamFusionError

_DRACO = "KHR_draco_mesh_compression"
_READ = {_DRACO, "EXT_texture_webp", "KHR_mesh_quantization"}
_POSITION_BITS, _NORMAL_BITS, _UV_BITS = 14, 10, 14
_TYPES = {5120: np.int8, 5121: np.uint8, 5122: np.int16, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}
_PACKED, _GENERIC = ("POSITION", "NORMAL", "TEXCOORD_0", "COLOR_0"), 9
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}


def require_draco() -> None:
    """Raise `DreamFusionError` if DracoPy, which reads and writes Draco, is not installed."""
    if find_spec("DracoPy") is None:
        raise DreamFusionError("Draco compression needs DracoPy: pip install 'dreamfusion[compress]'.")


def decompressed(tree: dict[str, Any], binary: bytes, name: object) -> tuple[dict[str, Any], bytes]:
    """Return the JSON and the binary chunk of a glTF file with all triangles stored plainly.

    A file without compressed ones is returned as it is. Raises `DreamFusionError`, naming the file, if it needs an
    extension that is not read here, or DracoPy is missing, and ValueError if it is damaged.
    """
    unread = sorted(set(tree.get("extensionsRequired", [])) - _READ)
    if unread:
        raise DreamFusionError(f"{name} needs {', '.join(unread)}, which is not read here: export it again without.")
    if not any(_DRACO in primitive.get("extensions", {}) for primitive in _primitives(tree)):
        return tree, binary
    require_draco()
    tree, data = copy.deepcopy(tree), bytearray(binary)
    for primitive in _primitives(tree):
        if _DRACO in primitive.get("extensions", {}):
            _decode(tree, data, primitive)
    for key in ("extensionsUsed", "extensionsRequired"):
        tree[key] = [extension for extension in tree.get(key, []) if extension != _DRACO]
    return tree, bytes(data)


def compressed(tree: dict[str, Any], binary: bytes) -> tuple[dict[str, Any], bytes]:
    """Return a glTF file of one mesh with its triangles compressed; raises `DreamFusionError` without DracoPy.

    Vertices come in another order, and tangents are left out: viewers work them out from the texture coordinates.
    """
    require_draco()
    import DracoPy

    tree = copy.deepcopy(tree)
    (primitive,) = _primitives(tree)
    arrays = {name: _values(tree, binary, index) for name, index in primitive["attributes"].items() if name in _PACKED}
    encoded = DracoPy.encode(
        points=arrays["POSITION"],
        faces=_values(tree, binary, primitive["indices"]).reshape(-1, 3),
        quantization_bits=_POSITION_BITS,
        compression_level=7,
        normals=arrays["NORMAL"].astype(np.float64),
        normal_quantization_bits=_NORMAL_BITS,
        tex_coord=arrays["TEXCOORD_0"].astype(np.float64) if "TEXCOORD_0" in arrays else None,
        tex_coord_quantization_bits=_UV_BITS,
        generic_attributes={_GENERIC: arrays["COLOR_0"]} if "COLOR_0" in arrays else None,
    )
    # What a reader will find is known only from reading it: their order, and where quantised positions end.
    found = DracoPy.decode(encoded)
    data, views = bytearray(encoded), [{"buffer": 0, "byteOffset": 0, "byteLength": len(encoded)}]
    for image in tree.get("images", []):
        view = tree["bufferViews"][image["bufferView"]]
        data += bytes(-len(data) % 4)
        image["bufferView"] = len(views)
        views.append({"buffer": 0, "byteOffset": len(data), "byteLength": view["byteLength"]})
        data += binary[view.get("byteOffset", 0) :][: view["byteLength"]]
    tree["accessors"] = [{"componentType": 5125, "type": "SCALAR", "count": found.faces.size}]
    numbers = {}
    primitive |= {"indices": 0, "attributes": {}}
    for attribute in found.attributes:
        name = _name_of(attribute)
        values = attribute["data"]
        numbers[name], primitive["attributes"][name] = attribute["unique_id"], len(tree["accessors"])
        accessor = {"componentType": 5126, "type": f"VEC{values.shape[1]}", "count": len(values)}
        if name == "POSITION":
            accessor |= {"min": values.min(axis=0).tolist(), "max": values.max(axis=0).tolist()}
        tree["accessors"].append(accessor)
    primitive.setdefault("extensions", {})[_DRACO] = {"bufferView": 0, "attributes": numbers}
    for key in ("extensionsUsed", "extensionsRequired"):
        tree[key] = sorted({*tree.get(key, []), _DRACO})
    return tree | {"bufferViews": views, "buffers": [{"byteLength": len(data)}]}, bytes(data)


def _name_of(attribute: dict[str, Any]) -> str:
    """Return glTF's name of an attribute that Draco has decoded."""
    import DracoPy

    kinds = DracoPy.AttributeType
    names = {kinds.POSITION: "POSITION", kinds.NORMAL: "NORMAL", kinds.TEX_COORD: "TEXCOORD_0"}
    return names.get(attribute["attribute_type"], "COLOR_0")


def _values(tree: dict[str, Any], binary: bytes, index: int) -> Any:
    """Return the values of an accessor of a file of our own, in which they lie one after the other."""
    accessor = tree["accessors"][index]
    view, width = tree["bufferViews"][accessor["bufferView"]], _WIDTHS[accessor["type"]]
    start = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
    kind = _TYPES[accessor["componentType"]]
    return np.frombuffer(binary, kind, accessor["count"] * width, start).reshape(-1, width)


def _primitives(tree: dict[str, Any]) -> list[dict[str, Any]]:
    return [primitive for mesh in tree.get("meshes", []) for primitive in mesh["primitives"]]


def _decode(tree: dict[str, Any], data: bytearray, primitive: dict[str, Any]) -> None:
    """Decode one primitive in place and append what it held to the binary chunk."""
    import DracoPy

    draco = primitive["extensions"].pop(_DRACO)
    view = tree["bufferViews"][draco["bufferView"]]
    start = view.get("byteOffset", 0)
    try:
        found = DracoPy.decode(bytes(data[start : start + view["byteLength"]]))
    except Exception as error:  # the library's own kinds
        raise ValueError(f"its Draco data: {error}") from None
    names = {number: name for name, number in draco["attributes"].items()}
    for attribute in found.attributes:
        if (name := names.get(attribute["unique_id"])) is not None:
            _store(tree, data, primitive["attributes"][name], attribute["data"])
    tree["accessors"][primitive["indices"]]["count"] = found.faces.size
    _store(tree, data, primitive["indices"], found.faces)
    primitive["mode"] = 4  # strips come out as triangles


def _store(tree: dict[str, Any], data: bytearray, index: int, values: Any) -> None:
    """Append the values of an accessor to the binary chunk, as it says that they are."""
    accessor = tree["accessors"][index]
    stored = np.ascontiguousarray(values, dtype=_TYPES[accessor["componentType"]])
    if stored.size != accessor["count"] * _WIDTHS[accessor["type"]]:
        raise ValueError("its Draco data hold another number of values than the file says")
    data += bytes(-len(data) % 4)
    tree["bufferViews"].append({"buffer": 0, "byteOffset": len(data), "byteLength": stored.nbytes})
    data += stored.tobytes()
    accessor.pop("byteOffset", None)
    accessor["bufferView"] = len(tree["bufferViews"]) - 1
