import errno
import io
import json
import math
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from dreamfusion.assets import formats, texture
from dreamfusion.assets.formats import format_of, save_glb, save_mesh, save_obj, save_usdz
from dreamfusion.assets.mesh import Mesh, extract_mesh
from dreamfusion.assets.texture import bake, in_texture, texture_mesh, unwrap
from dreamfusion.errors import DreamFusionError
from dreamfusion.io import files
from dreamfusion.kernels.rasterize import interpolate, rasterize
from dreamfusion.method.cameras import orbit_cameras
from dreamfusion.pictures.compose import Placement, compose
from support.gltf import report
from support.readers import is_closed, read_obj, read_ply, read_stl, volume
from support.solids import Analytic, ball, figure
from support.texture import mip_levels, sample_texture

SPACING = 2 / 63
LOW, HIGH = np.array([-0.2, -0.3, -0.6]), np.array([0.5, 0.6, 0.7])
"""The bounds of `solids.figure`."""


def rainbow(x):
    """A colour that tells every place from every other."""
    return x / 2 + 0.5


@pytest.fixture(scope="module")
def plain() -> Mesh:
    field = Analytic(figure)
    field.albedo = rainbow
    return extract_mesh(field, 64, max_faces=2000)


@pytest.fixture(scope="module")
def textured(plain: Mesh) -> Mesh:
    return texture_mesh(plain, rainbow, 128)


@pytest.fixture(scope="module")
def two_colored(plain: Mesh) -> Mesh:
    return texture_mesh(plain, red_and_white, 512)


# ---------------------------------------------------------------- textures


def test_texels_belong_to_the_triangle_that_holds_their_centre():
    # In texels, v upwards: two triangles in the corners of a picture of 8 x 8, and one without area between them.
    uv = np.array([[0, 8], [4, 8], [0, 4], [5, 5], [5, 5], [5, 5], [8, 0], [8, 4], [4, 0]], np.float32) / 8
    found = in_texture(uv, np.arange(9).reshape(3, 3), 8)
    face = found.face[0].tolist()
    upper = [(row, column) for row in range(4) for column in range(4) if row + column + 1 < 4]
    for row, column in upper:
        assert face[row][column] == 0
        assert face[7 - row][7 - column] == 2
    on_the_edge = 4 + 4
    assert 2 * len(upper) <= sum(f >= 0 for line in face for f in line) <= 2 * len(upper) + on_the_edge
    assert found.barycentric[0, 0, 0].tolist() == pytest.approx([0.75, 0.125, 0.125])


def test_charts_lie_apart_in_the_picture_and_keep_their_shape(plain: Mesh):
    mesh = unwrap(plain, 256)
    assert mesh.uv.min() >= 0
    assert mesh.uv.max() <= 1
    assert len(mesh.faces) == len(plain.faces)
    assert np.array_equal(mesh.vertices[mesh.faces], plain.vertices[plain.faces])
    assert np.array_equal(mesh.normals[mesh.faces], plain.normals[plain.faces]), "seams do not show in the shading"
    used = (in_texture(mesh.uv, mesh.faces, 256).face >= 0).sum().item()
    right, down = (mesh.uv[mesh.faces][:, i] - mesh.uv[mesh.faces][:, 0] for i in (1, 2))
    area = np.abs(right[:, 0] * down[:, 1] - right[:, 1] * down[:, 0]).sum() / 2 * 256**2
    assert used == pytest.approx(area, rel=0.01), "no texel is used twice"
    assert used > 0.3 * 256**2, "much of the picture is used, for all that lies between the charts"

    def sides(corners):
        return np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2)

    stretch = sides(mesh.uv[mesh.faces]) / sides(mesh.vertices[mesh.faces])
    assert np.quantile(stretch, 0.95) < 1.5 * np.quantile(stretch, 0.05)


def looked_up(picture, uv):
    """The colours [N, 3] of a picture at uv, v upwards, by the nearest texel."""
    height, width, _ = picture.shape
    column, row = uv[:, 0] * width, (1 - uv[:, 1]) * height
    return picture[row.astype(int).clip(0, height - 1), column.astype(int).clip(0, width - 1)] / 255


def test_the_texture_holds_the_colour_of_every_surface_point(textured: Mesh):
    assert textured.texture.shape == (128, 128, 3)
    weights = np.random.default_rng(0).dirichlet([1, 1, 1], size=len(textured.faces))
    points, uv = (np.einsum("nc,ncd->nd", weights, x[textured.faces]) for x in (textured.vertices, textured.uv))
    # A texel is about 0.02 wide, so half a texel is 0.005 of colour along each axis.
    assert np.abs(looked_up(textured.texture, uv) - rainbow(points)).max() < 0.02


def seen(mesh: Mesh, colors, size: int = 160) -> tuple[torch.Tensor, torch.Tensor]:
    """Four views of a mesh: pictures [4, S, S, 3] of ``colors(mesh, clip, faces, fragments)``, and where it is."""
    cameras = orbit_cameras(4, elevation_deg=20.0)
    vertices, faces = torch.from_numpy(mesh.vertices), torch.from_numpy(mesh.faces).int()
    clip = cameras.clip(vertices)
    fragments = rasterize(clip, faces, size, size)
    return colors(mesh, clip, faces, fragments), fragments.face >= 0


def of_the_field(mesh: Mesh, clip, faces, fragments):
    return stripes(interpolate(torch.from_numpy(mesh.vertices)[None], faces, fragments))


def of_the_texture(mesh: Mesh, clip, faces, fragments):
    uv = torch.from_numpy(mesh.uv * np.float32([1, -1]) + np.float32([0, 1]))[None]  # v from the upper edge down
    texture = torch.from_numpy(mesh.texture).float() / 255
    level = mip_levels(uv, clip, faces, fragments, *texture.shape[:2])
    return sample_texture(texture, interpolate(uv, faces, fragments), level)


def of_the_vertices(mesh: Mesh, clip, faces, fragments):
    return interpolate(torch.from_numpy(mesh.colors)[None], faces, fragments)


def stripes(x):
    """Colours that change along all three axes, in waves of a quarter of a unit, finer than the faces that follow."""
    return 0.5 + 0.4 * torch.sin(x * (2 * math.pi / 0.25))


def test_a_reduced_and_textured_mesh_looks_like_the_field_it_was_baked_from():
    field = Analytic(ball(0.6))
    field.albedo = stripes
    whole = extract_mesh(field, 96)
    reduced = texture_mesh(extract_mesh(field, 96, max_faces=600), stripes, 512)
    assert len(reduced.faces) <= 600
    assert len(whole.faces) > 30 * len(reduced.faces)
    expected, there = seen(whole, of_the_field)

    def psnr(colors) -> float:
        found, here = seen(reduced, colors)
        assert (here & there).sum() > 0.97 * (here | there).sum(), "their outlines are the same"
        return -10 * (found - expected)[here & there].square().mean().log10().item()

    assert psnr(of_the_texture) > 25
    assert psnr(of_the_vertices) < 15, "which the colours of so few vertices do not"


def red_and_white(x):
    """Red above, white below, with a sharp border: what a seam between charts of the two would show at once."""
    return torch.where(x[..., 2:] > 0.1, x.new_tensor([1.0, 0.0, 0.0]), x.new_tensor([1.0, 1.0, 1.0]))


@pytest.mark.parametrize("size", [128, 300])
def test_no_seam_shows_at_any_size(two_colored: Mesh, size: int):
    def of_the_surface(mesh, clip, faces, fragments):
        return red_and_white(interpolate(torch.from_numpy(mesh.vertices)[None], faces, fragments))

    expected, there = seen(two_colored, of_the_surface, size)
    found, _ = seen(two_colored, of_the_texture, size)

    def grown(mask):
        return torch.nn.functional.max_pool2d(mask[:, None].float(), 5, 1, 2)[:, 0] > 0

    white = expected[..., 1] > 0.5
    inner = there & ~grown(~there) & ~(grown(white & there) & grown(~white & there))
    assert inner.sum() > 0.6 * there.sum()
    assert (found - expected)[inner].abs().max() < 0.1, "no pixel away from the colours' border mixes them"


def test_baking_in_pieces_makes_the_same_texture(plain: Mesh, monkeypatch: pytest.MonkeyPatch):
    mesh = unwrap(plain, 64)
    whole = bake(mesh, rainbow, 64).texture
    monkeypatch.setattr(texture, "_CHUNK", 100)
    assert np.array_equal(bake(mesh, rainbow, 64).texture, whole)


def test_no_empty_texel_is_left_around_the_charts(plain: Mesh):
    def white(x):
        return torch.ones_like(x)

    mesh = unwrap(plain, 128)
    assert (bake(mesh, white, 128).texture == 255).all()
    assert (bake(mesh, lambda x: white(x) * math.nan, 128).texture == 0).all(), "colours that are no numbers are black"


def test_textures_of_impossible_sizes_are_refused(plain: Mesh):
    for size in (32, 8192):
        with pytest.raises(DreamFusionError, match="--texture-size"):
            unwrap(plain, size)
    with pytest.raises(ValueError, match="unwrap it first"):
        bake(plain, rainbow, 128)


def test_a_missing_library_is_named(textured: Mesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(texture, "find_spec", lambda name: None)
    with pytest.raises(DreamFusionError, match="pip install xatlas"):
        unwrap(textured, 128)
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    with pytest.raises(DreamFusionError, match=r"dreamfusion\[usd\]"):
        save_usdz(textured, tmp_path / "mesh.usdz")
    assert os.listdir(tmp_path) == []


# ---------------------------------------------------------------- files


def y_up(points):
    return points[:, [1, 2, 0]]


def front_at_minus_y(points):
    return points[:, [1, 0, 2]] * [1, -1, 1]


def bounds(turn, scale=1.0):
    corners = turn(np.stack([LOW, HIGH])) * scale
    return np.stack([corners.min(axis=0), corners.max(axis=0)])


def read_glb(path):
    """Return the JSON and the binary chunk of a GLB file, read by hand from the specification."""
    data = path.read_bytes()
    magic, version, length, json_length, json_type = struct.unpack_from("<4sIII4s", data)
    assert (magic, version, length, json_type) == (b"glTF", 2, len(data), b"JSON")
    return json.loads(data[20 : 20 + json_length]), data[28 + json_length :]


def attribute(path, name, kind="VEC3"):
    tree, binary = read_glb(path)
    accessor = tree["accessors"][tree["meshes"][0]["primitives"][0]["attributes"][name]]
    assert (accessor["componentType"], accessor["type"]) == (5126, kind)
    view = tree["bufferViews"][accessor["bufferView"]]
    start, width = view.get("byteOffset", 0) + accessor.get("byteOffset", 0), int(kind[-1])
    return np.frombuffer(binary, "<f4", accessor["count"] * width, start).reshape(-1, width)


def test_a_textured_glb_stands_upright_and_faces_the_viewer(textured: Mesh, tmp_path: Path):
    path = tmp_path / "mesh.glb"
    save_glb(textured, path)
    assert os.listdir(tmp_path) == ["mesh.glb"]
    positions, normals = attribute(path, "POSITION"), attribute(path, "NORMAL")
    uv = attribute(path, "TEXCOORD_0", "VEC2")
    assert np.stack([positions.min(axis=0), positions.max(axis=0)]) == pytest.approx(bounds(y_up), abs=SPACING)
    assert np.linalg.norm(normals, axis=1) == pytest.approx(1, abs=1e-5)
    tree, binary = read_glb(path)
    (material,) = tree["materials"]
    matte = material["pbrMetallicRoughness"]
    assert (matte["metallicFactor"], matte["roughnessFactor"]) == (0, 1)
    image = tree["images"][tree["textures"][matte["baseColorTexture"]["index"]]["source"]]
    view = tree["bufferViews"][image["bufferView"]]
    picture = Image.open(io.BytesIO(binary[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]))
    assert (picture.format, picture.size) == ("PNG", (128, 128))
    # glTF measures v from the top of the picture.
    colors = looked_up(np.asarray(picture), uv * [1, -1] + [0, 1])
    assert np.abs(colors - rainbow(positions[:, [2, 0, 1]])).max() < 0.04
    body = trimesh.load(path, force="mesh")
    assert body.volume > 0, "faces are wound outwards"


def test_a_glb_without_texture_has_linear_vertex_colors(tmp_path: Path):
    mesh = extract_mesh(Analytic(figure), 64)
    save_glb(mesh, tmp_path / "mesh.glb")
    positions, colors = (attribute(tmp_path / "mesh.glb", name) for name in ("POSITION", "COLOR_0"))
    # sRGB 0.5 is 0.2140 in linear light (IEC 61966-2-1); the back's full blue stays.
    assert np.abs(colors[positions[:, 2] > 0.05] - [0.2140, 0, 0]).max() < 1e-4
    assert np.abs(colors[positions[:, 2] < -0.05] - [0, 0, 1]).max() < 1e-6
    (material,) = read_glb(tmp_path / "mesh.glb")[0]["materials"]
    assert material["pbrMetallicRoughness"] == {"metallicFactor": 0, "roughnessFactor": 1}


def test_glb_files_pass_the_khronos_validator(textured: Mesh, plain: Mesh, tmp_path: Path):
    for name, mesh in (("textured", textured), ("plain", plain)):
        save_glb(mesh, tmp_path / f"{name}.glb")
        found = report(tmp_path / f"{name}.glb")
        assert found["issues"]["messages"] == []
        assert found["info"]["totalTriangleCount"] == len(mesh.faces)
        assert found["info"]["hasTextures"] == (name == "textured")
    broken = (tmp_path / "textured.glb").read_bytes().replace(b'"POSITION"', b'"POSITIOM"')
    (tmp_path / "broken.glb").write_bytes(broken)
    assert report(tmp_path / "broken.glb")["issues"]["numErrors"] > 0, "the validator looks at what it is given"


def test_the_file_of_a_composed_scene_passes_the_khronos_validator(textured: Mesh, plain: Mesh, tmp_path: Path):
    save_glb(textured, tmp_path / "textured.glb")
    save_glb(plain, tmp_path / "plain.glb")
    objects = [Placement(tmp_path / "textured.glb", scale=0.5), Placement(tmp_path / "plain.glb", azimuth_deg=90.0)]
    compose([*objects, objects[0]], tmp_path / "scene", size=(16, 16), samples=1)
    found = report(tmp_path / "scene/scene.glb")
    assert found["issues"]["messages"] == []
    assert found["info"]["drawCallCount"] == 4
    assert found["info"]["hasTextures"]


def test_an_obj_comes_with_its_material_and_picture(textured: Mesh, tmp_path: Path):
    save_obj(textured, tmp_path / "a toy.obj")
    assert sorted(os.listdir(tmp_path)) == ["a toy.mtl", "a toy.obj", "a toy.png"]
    body = trimesh.load(tmp_path / "a toy.obj", force="mesh", process=False)
    assert body.bounds == pytest.approx(bounds(y_up), abs=SPACING)
    assert body.volume > 0
    assert len(body.faces) == len(textured.faces)
    material = body.visual.material
    assert material.diffuse.tolist() == [255, 255, 255, 255], "the picture is not darkened"
    colors = looked_up(np.asarray(material.image.convert("RGB")), np.asarray(body.visual.uv))
    assert np.abs(colors - rainbow(body.vertices[:, [2, 0, 1]])).max() < 0.04


def test_a_ply_has_the_colors_at_its_vertices(plain: Mesh, tmp_path: Path):
    save_mesh(plain, tmp_path / "mesh.ply")
    body = trimesh.load(tmp_path / "mesh.ply", process=False)
    assert body.is_watertight
    assert body.bounds == pytest.approx(bounds(front_at_minus_y), abs=SPACING)
    assert body.volume > 0
    world = body.vertices[:, [1, 0, 2]] * [-1, 1, 1]
    assert np.abs(body.visual.vertex_colors[:, :3] / 255 - rainbow(world)).max() < 0.003


def test_an_stl_is_closed_and_in_millimetres(plain: Mesh, tmp_path: Path):
    save_mesh(plain, tmp_path / "mesh.stl")
    save_mesh(plain, tmp_path / "small.stl", size_mm=26)
    body = trimesh.load(tmp_path / "mesh.stl")
    assert body.is_watertight
    assert body.volume > 0
    assert body.extents.max() == pytest.approx(100, abs=1e-3)
    assert body.bounds[0, 2] == 0, "it stands on the plate"
    expected = bounds(front_at_minus_y, 100 / 1.3)
    assert body.bounds[:, :2] == pytest.approx(expected[:, :2], abs=SPACING * 100)
    assert trimesh.load(tmp_path / "small.stl").extents.max() == pytest.approx(26, abs=1e-3)
    assert b"millimetre" in (tmp_path / "mesh.stl").read_bytes()[:80]


def test_an_obj_says_the_same_to_another_reader(textured: Mesh, tmp_path: Path):
    save_obj(textured, tmp_path / "mesh.obj")
    vertices, uv, normals, corners = read_obj(tmp_path / "mesh.obj")
    assert corners.shape == (len(textured.faces), 3, 3)
    assert is_closed(corners[..., 0]), "seams of the texture tear no edge"
    assert len(vertices) == len(np.unique(textured.vertices, axis=0)) < len(uv)
    places, pictured, upright = (values[corners[..., i]] for i, values in enumerate((vertices, uv, normals)))
    np.testing.assert_allclose(places, textured.vertices[textured.faces][..., [1, 2, 0]], atol=1e-6)
    np.testing.assert_allclose(pictured, textured.uv[textured.faces], atol=1e-6)
    across = np.cross(places[:, 1] - places[:, 0], places[:, 2] - places[:, 0])
    assert (np.einsum("fc,fc->f", upright.mean(1), across) > 0).mean() > 0.99, "normals look where faces do"
    assert volume(places) == pytest.approx(volume(textured.vertices[textured.faces]), rel=1e-4)
    assert volume(places) > 0
    picture = np.asarray(Image.open(tmp_path / "mesh.png").convert("RGB"))
    middles = places.mean(1)[:, [2, 0, 1]]
    assert np.abs(looked_up(picture, pictured.mean(1)) - rainbow(middles)).max() < 0.02
    material = dict(line.split(maxsplit=1) for line in (tmp_path / "mesh.mtl").read_text().splitlines())
    assert material["map_Kd"] == "mesh.png"
    lines = (tmp_path / "mesh.obj").read_text().splitlines()
    assert {"mtllib mesh.mtl", f"usemtl {material['newmtl']}"} <= set(lines)


def test_a_ply_says_the_same_to_another_reader(plain: Mesh, tmp_path: Path):
    save_mesh(plain, tmp_path / "mesh.ply")
    points, faces = read_ply(tmp_path / "mesh.ply")
    vertices, normals, colors = (
        np.stack([points[name] for name in names], axis=1)
        for names in (("x", "y", "z"), ("nx", "ny", "nz"), ("red", "green", "blue"))
    )
    np.testing.assert_array_equal(faces, plain.faces)
    np.testing.assert_allclose(vertices, front_at_minus_y(plain.vertices), atol=1e-6)
    np.testing.assert_allclose(normals, front_at_minus_y(plain.normals), atol=1e-6)
    np.testing.assert_allclose(colors / 255, plain.colors, atol=0.5 / 255 + 1e-6)
    assert is_closed(faces)
    assert volume(vertices[faces]) > 0, "faces are wound outwards"


def test_an_stl_says_the_same_to_another_reader(plain: Mesh, tmp_path: Path):
    save_mesh(plain, tmp_path / "mesh.stl", size_mm=130)
    normals, corners = read_stl(tmp_path / "mesh.stl")
    vertices, faces = np.unique(corners.reshape(-1, 3), axis=0, return_inverse=True)
    assert is_closed(faces.reshape(-1, 3)), "corners that are one place are the same numbers"
    assert [len(vertices), len(faces.reshape(-1, 3))] == [len(plain.vertices), len(plain.faces)]
    scale = 130 / np.ptp(plain.vertices, axis=0).max()
    assert volume(corners) == pytest.approx(scale**3 * volume(plain.vertices[plain.faces]), rel=1e-4)
    assert volume(corners) > 0, "faces are wound outwards"
    across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert (np.einsum("fc,fc->f", normals, across) > 0).all(), "and their normals say the same"
    assert np.ptp(vertices, axis=0) == pytest.approx([90, 70, 130], abs=100 * SPACING)


def test_other_formats_take_a_size_too(plain: Mesh, tmp_path: Path):
    save_mesh(plain, tmp_path / "mesh.glb", size_mm=130)
    assert np.ptp(attribute(tmp_path / "mesh.glb", "POSITION"), axis=0).max() == pytest.approx(0.13)


def test_a_usdz_is_what_quick_look_opens(textured: Mesh, tmp_path: Path):
    pytest.importorskip("pxr", reason="usd-core is not installed: pip install 'dreamfusion[usd]'")
    from pxr import Usd, UsdGeom, UsdShade, UsdValidation

    path = tmp_path / "mesh.usdz"
    save_usdz(textured, path)
    assert os.listdir(tmp_path) == ["mesh.usdz"]
    data = path.read_bytes()
    with zipfile.ZipFile(path) as package:
        entries = package.infolist()
        picture = np.asarray(Image.open(io.BytesIO(package.read(entries[1]))))
    assert [Path(entry.filename).suffix for entry in entries] == [".usdc", ".png"]
    for entry in entries:
        name_length, extra_length = struct.unpack_from("<HH", data, entry.header_offset + 26)
        assert (entry.header_offset + 30 + name_length + extra_length) % 64 == 0
        assert entry.compress_type == zipfile.ZIP_STORED

    stage = Usd.Stage.Open(str(path))
    registry = UsdValidation.ValidationRegistry()
    assert UsdValidation.ValidationContext(registry.GetOrLoadAllValidators()).Validate(stage) == []
    assert UsdGeom.GetStageUpAxis(stage) == "Y"
    assert UsdGeom.GetStageMetersPerUnit(stage) == 1
    body = UsdGeom.Mesh(stage.GetDefaultPrim().GetChild("mesh"))
    points = np.array(body.GetPointsAttr().Get())
    assert np.stack([points.min(0), points.max(0)]) == pytest.approx(bounds(y_up) + np.array([0, 0.6, 0]), abs=SPACING)
    assert points[:, 1].min() == 0, "it stands on the ground"
    corners = np.array(body.GetFaceVertexIndicesAttr().Get()).reshape(-1, 3)
    assert is_closed(corners), "seams of the texture tear no edge"
    lifted = y_up(textured.vertices) + np.float32([0, 0.6, 0])
    np.testing.assert_allclose(points[corners], lifted[textured.faces], atol=SPACING)
    st = UsdGeom.PrimvarsAPI(body).GetPrimvar("st")
    assert st.GetInterpolation() == UsdGeom.Tokens.faceVarying
    uv = np.array(st.ComputeFlattened()).reshape(-1, 3, 2)
    np.testing.assert_array_equal(uv, textured.uv[textured.faces])
    assert (
        np.abs(looked_up(picture, uv.reshape(-1, 2)) - rainbow(textured.vertices[textured.faces.ravel()])).max() < 0.04
    )
    material, _ = UsdShade.MaterialBindingAPI(body).ComputeBoundMaterial()
    surface = UsdShade.Shader(material.ComputeSurfaceSource()[0])
    (source,) = surface.GetInput("diffuseColor").GetConnectedSources()[0]
    file = UsdShade.Shader(source.source.GetPrim()).GetInput("file").Get()
    assert file.resolvedPath.endswith(entries[1].filename + "]")


def test_suffixes_name_formats():
    assert [format_of(Path(name)) for name in ("a.glb", "b.OBJ", "c.d.stl")] == ["glb", "obj", "stl"]
    for name in ("mesh.fbx", "mesh", ".glb"):
        with pytest.raises(DreamFusionError, match=r"end it in \.glb, \.obj, \.ply, \.stl, \.usdz"):
            format_of(Path(name))


@pytest.mark.parametrize("name", formats.FORMATS)
def test_a_full_disk_keeps_the_earlier_files(
    name: str, textured: Mesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    if name == "usdz":
        pytest.importorskip("pxr")
    save_mesh(textured, tmp_path / f"mesh.{name}")
    earlier = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    calls = []

    def full(handle):
        calls.append(handle)
        if len(calls) == len(earlier):  # the last file of those that belong together
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(DreamFusionError, match="disk is full"):
        save_mesh(textured, tmp_path / f"mesh.{name}")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == earlier
