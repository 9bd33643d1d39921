"""Mesh files: GLB, OBJ, PLY, STL and USDZ, each the right way up and facing front where it is usually opened.

The world of the package is z up with its front at +x. GLB, OBJ and USDZ have y up and their front at +z; STL and PLY
have z up and their front at -y, towards who stands before a printer or opens them in Blender. One world unit is one
metre, as glTF wants it, unless a size is given; STL, which states no unit, is in millimetres, as slicers read it.
"""

from __future__ import annotations

import io
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import numpy as np
import trimesh
from PIL import Image
from trimesh.exchange.ply import export_ply
from trimesh.exchange.stl import export_stl
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial

from dreamfusion import __version__
from dreamfusion.assets.compressed import compressed, require_draco
from dreamfusion.assets.finish import About
from dreamfusion.assets.gltf import glb_bytes, parse_glb, to_linear
from dreamfusion.assets.mesh import Floats, Mesh, shared
from dreamfusion.errors import DreamFusionError
from dreamfusion.io.files import write_atomically, write_together
from dreamfusion.standard import Format

FORMATS: tuple[Format, ...] = get_args(Format)
TEXTURED: frozenset[Format] = frozenset({"glb", "obj", "usdz"})
STL_SIZE_MM = 100.0


def format_of(path: Path) -> Format:
    """Return the format that the suffix of a path names; raise `DreamFusionError` if it names none."""
    for name in FORMATS:
        if path.suffix.lower() == f".{name}":
            return name
    raise DreamFusionError(f"No mesh format has the suffix of {path}: end it in .{', .'.join(FORMATS)}.")


def files_of(path: Path) -> tuple[Path, ...]:
    """Return all files that are written with a mesh: an OBJ file has its material and its texture beside it."""
    return (path, path.with_suffix(".mtl"), path.with_suffix(".png")) if format_of(path) == "obj" else (path,)


def require_usd() -> None:
    """Raise `DreamFusionError` if usd-core, which writes USDZ, is not installed."""
    if find_spec("pxr") is None:
        raise DreamFusionError("USDZ needs usd-core: pip install 'dreamfusion[usd]'.")


def save_mesh(
    mesh: Mesh, path: Path, *, size_mm: float | None = None, about: About | None = None, compress: bool = False
) -> list[Path]:
    """Write a mesh in the format of the path's suffix, atomically, and return all files written.

    ``size_mm`` is its longest side in millimetres; without it one world unit is one metre, and an STL is 100 mm long.
    ``about`` is what the file says of the object; ``compress`` makes a GLB smaller (see `save_glb`).
    Raises `DreamFusionError` if a file cannot be written, or its library is missing.
    """
    kind, about = format_of(path), about or About()
    if size_mm is not None and kind != "stl":
        mesh = resized(mesh, size_mm / 1000.0)
    match kind:
        case "stl":
            save_stl(mesh, path, size_mm=size_mm or STL_SIZE_MM)
        case "ply":
            save_ply(mesh, path)
        case "glb":
            save_glb(mesh, path, about, compress=compress)
        case "usdz":
            save_usdz(mesh, path, about)
        case "obj":
            return save_obj(mesh, path, about)
    return [path]


def resized(mesh: Mesh, longest: float) -> Mesh:
    """Return the mesh with the longest side of its bounding box of this length, about the same origin."""
    return replace(mesh, vertices=mesh.vertices * np.float32(longest / np.ptp(mesh.vertices, axis=0).max()))


def save_glb(mesh: Mesh, path: Path | str, about: About | None = None, *, compress: bool = False) -> None:
    """Write a binary glTF 2.0 file, atomically: with the texture inside, or with vertex colours if it has none.

    glTF's vertex colours are linear and ours sRGB, so they are converted, and kept as floats, for eight linear bits
    would show bands in dark colours. The material is not metallic, and as rough as ``about`` says. ``compress`` stores
    the triangles by Draco, positions to 14 bits, and the pictures as WebP (see `assets.compressed`).
    Raises `DreamFusionError` if it cannot be written, or DracoPy, which compresses, is missing.
    """
    about = about or About()
    if compress:
        require_draco()
    body = trimesh.Trimesh(
        vertices=_y_up(mesh.vertices), faces=mesh.faces, vertex_normals=_y_up(mesh.normals), process=False
    )
    if mesh.texture is None:
        body.vertex_attributes["_COLOR_0"] = to_linear(mesh.colors)
    else:
        body.visual = TextureVisuals(uv=mesh.uv, material=_pbr(mesh, about))
    if mesh.tangents is not None:
        turned = _y_up(mesh.tangents[:, :3])
        body.vertex_attributes["_TANGENT"] = np.concatenate([turned, mesh.tangents[:, 3:]], axis=1)
    scene = trimesh.Scene()
    scene.add_geometry(body, geom_name=about.name, node_name=about.name)
    data = scene.export(
        file_type="glb",
        include_normals=True,
        tree_postprocessor=partial(finish_gltf, about=about),
        extension_webp=compress,
    )
    if compress:
        plain = parse_glb(data)
        data = glb_bytes(*compressed(plain.tree, plain.binary))
    with write_atomically(path) as temporary:
        temporary.write_bytes(data)


def _pbr(mesh: Mesh, about: About) -> PBRMaterial:
    """Return the material of a textured mesh; glTF's defaults would be metallic."""
    assert mesh.texture is not None
    bumps = None if mesh.normal_map is None else Image.fromarray(mesh.normal_map)
    return PBRMaterial(
        name=about.name,
        baseColorTexture=Image.fromarray(mesh.texture),
        normalTexture=bumps,
        metallicFactor=0.0,
        roughnessFactor=round(about.roughness, 4),
    )


def save_obj(mesh: Mesh, path: Path | str, about: About | None = None) -> list[Path]:
    """Write a Wavefront OBJ file, and beside it its material (.mtl) and texture (.png): all three or none.

    Positions, texture coordinates and normals are numbered apart, so that a seam of the texture is no torn edge.
    Returns the three paths. Raises `DreamFusionError` if they cannot be written.
    """
    path, about = Path(path), about or About()
    material, picture = path.with_suffix(".mtl"), path.with_suffix(".png")
    with write_together(path, material, picture) as (to_path, to_material, to_picture):
        to_path.write_text(_obj(mesh, about, material.name), encoding="utf-8", newline="\n")
        to_material.write_text(_mtl(about, picture.name), encoding="utf-8", newline="\n")
        to_picture.write_bytes(_png(mesh))
    return [path, material, picture]


def _obj(mesh: Mesh, about: About, material: str) -> str:
    """Return the text of an OBJ file of a textured mesh, whose numbers begin at 1."""
    assert mesh.uv is not None
    lists = {"v": _y_up(mesh.vertices), "vt": mesh.uv, "vn": _y_up(mesh.normals)}
    head = [f"# dreamfusion {__version__}: y up, front +z", f"mtllib {material}", f"o {about.identifier}"]
    columns = []
    for key, values in lists.items():
        unique, index = shared(values)
        head += [f"{key} " + " ".join(f"{number:.8g}" for number in row) for row in unique.tolist()]
        columns.append(index[mesh.faces] + 1)
    corners = np.stack(columns, axis=-1).tolist()
    faces = ["f " + " ".join("/".join(map(str, corner)) for corner in face) for face in corners]
    return "\n".join([*head, f"usemtl {about.identifier}", *faces, ""])


def _mtl(about: About, texture: str) -> str:
    """Return the material file of an OBJ; the exponent of its highlight is that of a lobe about the half vector."""
    alpha_squared = about.roughness**4
    mirrored = 0.0 if about.reflectance == 0 else min(about.reflectance / (4 * alpha_squared), 1.0)
    exponent = min(max(2.0 / alpha_squared - 2.0, 0.0), 1000.0)
    lines = [f"newmtl {about.identifier}", "Ka 1 1 1", "Kd 1 1 1", f"Ks {mirrored:.4g} {mirrored:.4g} {mirrored:.4g}"]
    lines += [f"Ns {exponent:.4g}", f"illum {2 if mirrored else 1}", f"map_Kd {texture}", ""]
    return "\n".join(lines)


def save_ply(mesh: Mesh, path: Path | str) -> None:
    """Write a binary PLY file with normals and vertex colours (sRGB, 8 bits), atomically.

    Raises `DreamFusionError` if it cannot be written.
    """
    body = trimesh.Trimesh(
        vertices=_front_at_minus_y(mesh.vertices),
        faces=mesh.faces,
        vertex_normals=_front_at_minus_y(mesh.normals),
        vertex_colors=(mesh.colors * 255.0).round().astype(np.uint8),
        process=False,
    )
    with write_atomically(path) as temporary:
        temporary.write_bytes(export_ply(body, vertex_normal=True))


def save_stl(mesh: Mesh, path: Path | str, *, size_mm: float = STL_SIZE_MM) -> None:
    """Write a binary STL file, atomically: in millimetres, its longest side ``size_mm``, standing on z = 0.

    Raises `DreamFusionError` if it cannot be written.
    """
    vertices = _front_at_minus_y(resized(mesh, size_mm).vertices)
    vertices[:, 2] -= vertices[:, 2].min()
    data = export_stl(trimesh.Trimesh(vertices, mesh.faces, process=False))
    header = b"unit: millimetre; z up, front -y".ljust(80)  # the signature follows
    with write_atomically(path) as temporary:
        temporary.write_bytes(header + data[len(header) :])


def save_usdz(mesh: Mesh, path: Path | str, about: About | None = None) -> None:
    """Write a USDZ package as AR Quick Look wants it, atomically: y up, in metres, textured, standing on y = 0.

    Raises `DreamFusionError` if it cannot be written or usd-core is missing.
    """
    require_usd()
    from dreamfusion.assets.usd import packed

    vertices = _y_up(mesh.vertices)
    vertices[:, 1] -= vertices[:, 1].min()
    data = packed(replace(mesh, vertices=vertices, normals=_y_up(mesh.normals)), _png(mesh), about or About())
    if data is None:
        raise DreamFusionError(f"Cannot write {path}: usd-core could not pack it.")
    with write_atomically(path) as temporary:
        temporary.write_bytes(data)


def finish_gltf(tree: dict[str, Any], about: About | None = None) -> None:
    """Add to a tree of one mesh, as trimesh exports it, what that leaves out.

    Vertex colours and tangents get their standard names (trimesh writes colours as bytes only), buffer views their
    purpose, which the standard's validator asks for, and the file says what made it and what it shows.
    """
    about = about or About(name="matte")
    (primitive,) = tree["meshes"][0]["primitives"]
    attributes = primitive["attributes"]
    for own in ("_TANGENT", "_COLOR_0"):
        if own in attributes:
            attributes[own[1:]] = attributes.pop(own)
    if "COLOR_0" in attributes:
        factors = {"metallicFactor": 0.0, "roughnessFactor": round(about.roughness, 4)}
        tree["materials"] = [{"name": about.name, "pbrMetallicRoughness": factors}]
        primitive["material"] = 0
    if about.reflectance > 0:
        _add_specular(tree, about.reflectance)
    array_buffer, element_array_buffer = 34962, 34963
    purposes = [(accessor, array_buffer) for accessor in attributes.values()]
    for accessor, purpose in [*purposes, (primitive["indices"], element_array_buffer)]:
        tree["bufferViews"][tree["accessors"][accessor]["bufferView"]]["target"] = purpose
    asset = tree["asset"]
    asset["generator"] = f"dreamfusion {__version__}"
    if about.licence:
        asset["copyright"] = about.licence
    if about.extras:
        asset["extras"] = about.extras


def _add_specular(tree: dict[str, Any], reflectance: float) -> None:
    """Give the material what it mirrors (KHR_materials_specular), as a factor on glTF's 4 %."""
    extension = "KHR_materials_specular"
    specular = {"specularFactor": 1.0, "specularColorFactor": [round(reflectance / 0.04, 4)] * 3}
    tree["materials"][0].setdefault("extensions", {})[extension] = specular
    tree["extensionsUsed"] = sorted({*tree.get("extensionsUsed", []), extension})


def _png(mesh: Mesh) -> bytes:
    if mesh.texture is None:
        raise ValueError("this format needs a mesh with a texture")
    data = io.BytesIO()
    Image.fromarray(mesh.texture).save(data, format="PNG")
    return data.getvalue()


def _y_up(vectors: Floats) -> Floats:
    """Turn z up, front +x into y up, front +z."""
    return np.ascontiguousarray(vectors[:, [1, 2, 0]])


def _front_at_minus_y(vectors: Floats) -> Floats:
    """Turn the front from +x to -y; z stays up."""
    return np.stack([vectors[:, 1], -vectors[:, 0], vectors[:, 2]], axis=1)


def from_file(vectors: Floats, path: Path) -> Floats:
    """Turn the axes of a mesh file [N, 3] into those of the package: the way back from what is written here.

    STL and PLY have z up and their front at -y; all others, which are glTF, OBJ and their like, y up and +z.
    """
    if path.suffix.lower() in (".stl", ".ply"):
        return np.stack([-vectors[:, 1], vectors[:, 0], vectors[:, 2]], axis=1)
    return np.ascontiguousarray(vectors[:, [2, 0, 1]])
