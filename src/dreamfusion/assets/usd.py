"""USDZ packages, by usd-core: one mesh with its texture, as Apple's viewers and Blender open them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from dreamfusion.assets.finish import About
from dreamfusion.assets.mesh import Mesh, shared


def packed(mesh: Mesh, texture: bytes, about: About) -> bytes | None:
    """Return a USDZ package of a mesh that is already as USD wants it (y up, in metres) and of its picture, a PNG.

    None if usd-core could not pack it.
    """
    from pxr import UsdUtils

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "texture.png").write_bytes(texture)
        _write(mesh, folder / "mesh.usdc", "texture.png", about)
        package = folder / "mesh.usdz"
        if not UsdUtils.CreateNewUsdzPackage(str(folder / "mesh.usdc"), str(package)):
            return None
        return package.read_bytes()


def _write(mesh: Mesh, path: Path, texture: str, about: About) -> None:
    """Write the stage: points are shared across the seams of the texture, whose coordinates belong to the corners."""
    from pxr import Sdf, Usd, UsdGeom, UsdShade, Vt

    assert mesh.uv is not None
    both, index = shared(np.concatenate([mesh.vertices, mesh.normals], axis=1))
    points, normals = np.ascontiguousarray(both[:, :3]), np.ascontiguousarray(both[:, 3:])
    uv, uv_index = shared(mesh.uv)
    stage = Usd.Stage.CreateNew(str(path))
    UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.y)
    UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    root = f"/{about.identifier}"
    stage.SetDefaultPrim(UsdGeom.Xform.Define(stage, root).GetPrim())
    stage.GetRootLayer().customLayerData = {"creator": "dreamfusion", "licence": about.licence, "name": about.name}

    body = UsdGeom.Mesh.Define(stage, f"{root}/mesh")
    body.CreatePointsAttr(Vt.Vec3fArray.FromNumpy(points))
    body.CreateExtentAttr(Vt.Vec3fArray.FromNumpy(np.stack([points.min(axis=0), points.max(axis=0)])))
    body.CreateFaceVertexCountsAttr(Vt.IntArray.FromNumpy(np.full(len(mesh.faces), 3, np.int32)))
    body.CreateFaceVertexIndicesAttr(Vt.IntArray.FromNumpy(index[mesh.faces].ravel().astype(np.int32)))
    body.CreateNormalsAttr(Vt.Vec3fArray.FromNumpy(normals))
    body.SetNormalsInterpolation(UsdGeom.Tokens.vertex)
    body.CreateSubdivisionSchemeAttr(UsdGeom.Tokens.none)
    primvars = UsdGeom.PrimvarsAPI(body)
    st = primvars.CreatePrimvar("st", Sdf.ValueTypeNames.TexCoord2fArray, UsdGeom.Tokens.faceVarying)
    st.Set(Vt.Vec2fArray.FromNumpy(np.ascontiguousarray(uv)))
    st.SetIndices(Vt.IntArray.FromNumpy(uv_index[mesh.faces].ravel().astype(np.int32)))
    UsdShade.MaterialBindingAPI.Apply(body.GetPrim()).Bind(_material(stage, f"{root}/material", texture, about))
    stage.GetRootLayer().Save()


def _material(stage: Any, path: str, texture: str, about: About) -> Any:
    """Define the surface with its picture and return it."""
    from pxr import Sdf, UsdShade

    types = Sdf.ValueTypeNames

    def shader(name: str, kind: str) -> Any:
        made = UsdShade.Shader.Define(stage, f"{path}/{name}")
        made.CreateIdAttr(kind)
        return made

    material = UsdShade.Material.Define(stage, path)
    where = shader("st", "UsdPrimvarReader_float2")
    where.CreateInput("varname", types.String).Set("st")
    picture = shader("texture", "UsdUVTexture")
    picture.CreateInput("file", types.Asset).Set(texture)
    picture.CreateInput("sourceColorSpace", types.Token).Set("sRGB")
    picture.CreateInput("st", types.Float2).ConnectToSource(where.CreateOutput("result", types.Float2))
    surface = shader("surface", "UsdPreviewSurface")
    surface.CreateInput("roughness", types.Float).Set(about.roughness)
    surface.CreateInput("metallic", types.Float).Set(0.0)
    if about.reflectance > 0:
        surface.CreateInput("useSpecularWorkflow", types.Int).Set(1)
        surface.CreateInput("specularColor", types.Color3f).Set((about.reflectance,) * 3)
    surface.CreateInput("diffuseColor", types.Color3f).ConnectToSource(picture.CreateOutput("rgb", types.Float3))
    material.CreateSurfaceOutput().ConnectToSource(surface.CreateOutput("surface", types.Token))
    return material
