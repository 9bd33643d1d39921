"""Mesh files: GLB, OBJ, PLY, STL and USDZ, each the right way up and facing front where it is usually opened.

The world of the package is z up with its front at +x. GLB, OBJ and USDZ have y up and their front at +z; STL and PLY
have z up and their front at -y, towards who stands before a printer or opens them in Blender. One world unit is one
metre, as glTF wants it, unless a size is given; STL, which states no unit, is in millimetres, as slicers read it.
"""

from __future__ import annotations

import io
import tempfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import trimesh
from PIL import Image
from trimesh.exchange.obj import export_obj
from trimesh.exchange.ply import export_ply
from trimesh.exchange.stl import export_stl
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial, SimpleMaterial

from dreamfusion.assets.gltf import to_linear
from dreamfusion.assets.mesh import Floats, Mesh
from dreamfusion.errors import DreamFusionError
from dreamfusion.io.files import write_atomically, write_together

Format = Literal["glb", "obj", "ply", "stl", "usdz"]
FORMATS: tuple[Format, ...] = get_args(Format)
TEXTURED: frozenset[Format] = frozenset({"glb", "obj", "usdz"})
STL_SIZE_MM = 100.0

_MTL = "newmtl matte\nKa 1 1 1\nKd 1 1 1\nKs 0 0 0\nillum 1\nmap_Kd {texture}\n"


def format_of(path: Path) -> Format:
    """Return the format that the suffix of a path names; raise `DreamFusionError` if it names none."""
    for name in FORMATS:
        if path.suffix.lower() == f".{name}":
            return name
    raise DreamFusionError(f"No mesh format has the suffix of {path}: end it in .{', .'.join(FORMATS)}.")


def require_usd() -> None:
    """Raise `DreamFusionError` if usd-core, which writes USDZ, is not installed."""
    if find_spec("pxr") is None:
        raise DreamFusionError("USDZ needs usd-core: pip install 'dreamfusion[usd]'.")


def save_mesh(mesh: Mesh, path: Path, *, size_mm: float | None = None) -> None:
    """Write a mesh in the format of the path's suffix, atomically.

    ``size_mm`` is its longest side in millimetres; without it one world unit is one metre, and an STL is 100 mm long.
    Raises `DreamFusionError` if the file cannot be written, or its library is missing.
    """
    kind = format_of(path)
    if kind == "stl":
        save_stl(mesh, path, size_mm=size_mm or STL_SIZE_MM)
        return
    save = {"glb": save_glb, "obj": save_obj, "ply": save_ply, "usdz": save_usdz}[kind]
    save(mesh if size_mm is None else resized(mesh, size_mm / 1000.0), path)


def resized(mesh: Mesh, longest: float) -> Mesh:
    """Return the mesh with the longest side of its bounding box of this length, about the same origin."""
    return replace(mesh, vertices=mesh.vertices * np.float32(longest / np.ptp(mesh.vertices, axis=0).max()))


def save_glb(mesh: Mesh, path: Path | str) -> None:
    """Write a binary glTF 2.0 file, atomically: with the texture inside, or with vertex colours if it has none.

    glTF's vertex colours are linear and ours sRGB, so they are converted, and kept as floats, for eight linear bits
    would show bands in dark colours. The material is neither metallic nor shiny (glTF's default is both).
    Raises `DreamFusionError` if it cannot be written.
    """
    body = trimesh.Trimesh(
        vertices=_y_up(mesh.vertices), faces=mesh.faces, vertex_normals=_y_up(mesh.normals), process=False
    )
    if mesh.texture is None:
        body.vertex_attributes["_COLOR_0"] = to_linear(mesh.colors)
    else:
        texture = Image.fromarray(mesh.texture)
        matte = PBRMaterial(name="matte", baseColorTexture=texture, metallicFactor=0.0, roughnessFactor=1.0)
        body.visual = TextureVisuals(uv=mesh.uv, material=matte)
    scene = trimesh.Scene()
    scene.add_geometry(body, geom_name="object", node_name="object")
    data = scene.export(file_type="glb", include_normals=True, tree_postprocessor=finish_gltf)
    with write_atomically(path) as temporary:
        temporary.write_bytes(data)


def save_obj(mesh: Mesh, path: Path | str) -> None:
    """Write a Wavefront OBJ file, and beside it its material (.mtl) and texture (.png): all three or none.

    Raises `DreamFusionError` if they cannot be written.
    """
    path = Path(path)
    material, picture = path.with_suffix(".mtl"), path.with_suffix(".png")
    body = trimesh.Trimesh(
        vertices=_y_up(mesh.vertices),
        faces=mesh.faces,
        vertex_normals=_y_up(mesh.normals),
        visual=TextureVisuals(uv=mesh.uv, material=SimpleMaterial(name="matte")),
        process=False,
    )
    text, _ = export_obj(
        body, include_normals=True, return_texture=True, mtl_name=material.name, header="dreamfusion: y up, front +z"
    )
    with write_together(path, material, picture) as (to_path, to_material, to_picture):
        to_path.write_text(text, encoding="utf-8", newline="\n")
        to_material.write_text(_MTL.format(texture=picture.name), encoding="utf-8", newline="\n")
        to_picture.write_bytes(_png(mesh))


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
    header = b"dreamfusion; unit: millimetre; z up, front -y".ljust(80)
    with write_atomically(path) as temporary:
        temporary.write_bytes(header + data[len(header) :])


def save_usdz(mesh: Mesh, path: Path | str) -> None:
    """Write a USDZ package as AR Quick Look wants it, atomically: y up, in metres, textured, standing on y = 0.

    Raises `DreamFusionError` if it cannot be written or usd-core is missing.
    """
    require_usd()
    from pxr import UsdUtils

    with tempfile.TemporaryDirectory() as name, write_atomically(path) as temporary:
        folder = Path(name)
        (folder / "texture.png").write_bytes(_png(mesh))
        _write_usd(mesh, folder / "mesh.usdc", "texture.png")
        package = folder / "mesh.usdz"
        if not UsdUtils.CreateNewUsdzPackage(str(folder / "mesh.usdc"), str(package)):
            raise DreamFusionError(f"Cannot write {path}: usd-core could not pack it.")
        temporary.write_bytes(package.read_bytes())


def _write_usd(mesh: Mesh, path: Path, texture: str) -> None:
    from pxr import Sdf, Usd, UsdGeom, UsdShade, Vt

    vertices = _y_up(mesh.vertices)
    vertices[:, 1] -= vertices[:, 1].min()
    stage = Usd.Stage.CreateNew(str(path))
    UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.y)
    UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    stage.SetDefaultPrim(UsdGeom.Xform.Define(stage, "/object").GetPrim())

    body = UsdGeom.Mesh.Define(stage, "/object/mesh")
    body.CreatePointsAttr(Vt.Vec3fArray.FromNumpy(vertices))
    body.CreateExtentAttr(Vt.Vec3fArray.FromNumpy(np.stack([vertices.min(axis=0), vertices.max(axis=0)])))
    body.CreateFaceVertexCountsAttr(Vt.IntArray.FromNumpy(np.full(len(mesh.faces), 3, np.int32)))
    body.CreateFaceVertexIndicesAttr(Vt.IntArray.FromNumpy(mesh.faces.ravel().astype(np.int32)))
    body.CreateNormalsAttr(Vt.Vec3fArray.FromNumpy(_y_up(mesh.normals)))
    body.SetNormalsInterpolation(UsdGeom.Tokens.vertex)
    body.CreateSubdivisionSchemeAttr(UsdGeom.Tokens.none)
    st = UsdGeom.PrimvarsAPI(body).CreatePrimvar("st", Sdf.ValueTypeNames.TexCoord2fArray, UsdGeom.Tokens.vertex)
    st.Set(Vt.Vec2fArray.FromNumpy(mesh.uv))

    def shader(name: str, kind: str) -> Any:
        made = UsdShade.Shader.Define(stage, f"/object/matte/{name}")
        made.CreateIdAttr(kind)
        return made

    types = Sdf.ValueTypeNames
    matte = UsdShade.Material.Define(stage, "/object/matte")
    where = shader("st", "UsdPrimvarReader_float2")
    where.CreateInput("varname", types.String).Set("st")
    picture = shader("texture", "UsdUVTexture")
    picture.CreateInput("file", types.Asset).Set(texture)
    picture.CreateInput("sourceColorSpace", types.Token).Set("sRGB")
    picture.CreateInput("st", types.Float2).ConnectToSource(where.CreateOutput("result", types.Float2))
    surface = shader("surface", "UsdPreviewSurface")
    surface.CreateInput("roughness", types.Float).Set(1.0)
    surface.CreateInput("metallic", types.Float).Set(0.0)
    surface.CreateInput("diffuseColor", types.Color3f).ConnectToSource(picture.CreateOutput("rgb", types.Float3))
    matte.CreateSurfaceOutput().ConnectToSource(surface.CreateOutput("surface", types.Token))
    UsdShade.MaterialBindingAPI.Apply(body.GetPrim()).Bind(matte)
    stage.GetRootLayer().Save()


def finish_gltf(tree: dict[str, Any]) -> None:
    """Add to a tree of one mesh, as trimesh exports it, what that leaves out.

    Vertex colours get their standard name (trimesh writes those as bytes only) and a material, and buffer views their
    purpose, which the standard's validator asks for.
    """
    (primitive,) = tree["meshes"][0]["primitives"]
    attributes = primitive["attributes"]
    if "_COLOR_0" in attributes:
        attributes["COLOR_0"] = attributes.pop("_COLOR_0")
        material = {"name": "matte", "pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0}}
        tree["materials"] = [material]
        primitive["material"] = 0
    array_buffer, element_array_buffer = 34962, 34963
    for accessor in attributes.values():
        tree["bufferViews"][tree["accessors"][accessor]["bufferView"]]["target"] = array_buffer
    tree["bufferViews"][tree["accessors"][primitive["indices"]]["bufferView"]]["target"] = element_array_buffer


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
