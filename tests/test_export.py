"""What a mesh file gets at last: origin, size, names, surface, normal map, compression."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from dreamfusion.assets.finish import About, faces_at, placed, surface_of, texels_at
from dreamfusion.assets.formats import save_glb, save_obj, shared
from dreamfusion.assets.mesh import Mesh, extract_mesh, vertex_normals
from dreamfusion.assets.normal_map import vertex_tangents, with_normal_map
from dreamfusion.assets.texture import texture_mesh
from support.gltf import report
from support.solids import Analytic, figure


def tree_of(path: Path) -> dict:
    data = path.read_bytes()
    return json.loads(data[20 : 20 + int.from_bytes(data[12:16], "little")])


def test_the_origin_is_put_below_or_within():
    box = Mesh(np.float32([[1, 2, 3], [3, 2, 3], [1, 6, 7]]), np.array([[0, 1, 2]]), np.zeros((3, 3)), np.zeros((3, 3)))
    assert np.array_equal(placed(box).vertices, box.vertices)
    assert placed(box, "base").vertices.tolist() == [[-1, -2, 0], [1, -2, 0], [-1, 2, 4]]
    assert placed(box, "center").vertices.tolist() == [[-1, -2, -2], [1, -2, -2], [-1, 2, 2]]
    assert placed(box, "base", 0.5).vertices[2].tolist() == [-0.125, 0.25, 0.5]
    assert placed(box, None, 2.0).vertices[0].tolist() == [0.5, 1, 1.5], "without a pivot the origin stays"


def test_levels_halve_the_detail():
    assert [faces_at(20_000, level) for level in range(3)] == [20_000, 5000, 1250]
    assert [texels_at(256, level, 64) for level in range(4)] == [256, 128, 64, 64]


def test_a_phong_highlight_becomes_a_rough_surface():
    assert surface_of(0.0, 32.0) == (1.0, 0.0)
    # 4 n + 2 = 130: alpha^2 = 2 / 130, roughness its fourth root, reflectance 4 alpha^2 times the weight.
    roughness, reflectance = surface_of(0.5, 32.0)
    assert roughness == pytest.approx((2 / 130) ** 0.25)
    assert reflectance == pytest.approx(4 * 2 / 130 * 0.5)


def test_names_of_strict_formats_are_words():
    assert About("a red mushroom").identifier == "a_red_mushroom"
    assert About("2 ducks").identifier == "object_2_ducks"
    assert About("\u86d9").identifier == "object"


def test_the_file_says_what_it_is(tmp_path: Path):
    mesh = texture_mesh(extract_mesh(Analytic(figure), 24), lambda x: x * 0 + 0.5, 64)
    about = About("a red mushroom", 0.4, 0.02, "CC0", {"prompt": "a red mushroom", "seed": 3})
    save_glb(mesh, tmp_path / "toy.glb", about)
    tree = tree_of(tmp_path / "toy.glb")
    (material,) = tree["materials"]
    assert {tree["meshes"][0]["name"], material["name"], tree["nodes"][-1]["name"]} == {"a red mushroom"}
    assert material["pbrMetallicRoughness"]["roughnessFactor"] == 0.4
    assert material["extensions"]["KHR_materials_specular"]["specularColorFactor"] == [0.5, 0.5, 0.5]
    assert tree["asset"]["copyright"] == "CC0"
    assert tree["asset"]["generator"].startswith("dreamfusion ")
    assert tree["asset"]["extras"]["seed"] == 3
    assert report(tmp_path / "toy.glb")["issues"]["messages"] == []
    paths = save_obj(mesh, tmp_path / "toy.obj", about)
    lines = paths[1].read_text().splitlines()
    assert "newmtl a_red_mushroom" in lines
    assert "Ks 0.1953 0.1953 0.1953" in lines, "0.02 / (4 * 0.4^4)"
    assert "Ns 76.12" in lines, "2 / 0.4^4 - 2"


def test_different_rows_are_kept_once_in_their_order():
    rows, index = shared(np.float32([[2, 0], [1, 0], [2, 0], [0, 5]]))
    assert rows.tolist() == [[2, 0], [1, 0], [0, 5]]
    assert index.tolist() == [0, 1, 0, 2]


def flat_square() -> Mesh:
    """A square facing +z whose u grows along +y and whose v grows along -x."""
    points = np.float32([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0]])
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    uv = np.float32([[0, 0], [1, 0], [1, 1], [0, 1]])
    return Mesh(points, faces, vertex_normals(points, faces), np.zeros_like(points), uv=uv)


def test_tangents_follow_the_picture():
    square = flat_square()
    assert vertex_tangents(square).tolist() == [[0, 1, 0, 1]] * 4  # z cross y is -x, along which v grows
    mirrored = Mesh(square.vertices, square.faces, square.normals, square.colors, uv=square.uv * [1, -1] + [0, 1])
    assert vertex_tangents(mirrored).tolist() == [[0, 1, 0, -1]] * 4


def test_a_normal_map_holds_what_the_faces_left_out():
    square = flat_square()
    leaning = np.float32([math.sin(0.5), 0, math.cos(0.5)])  # towards +x: against v, so green is low
    grid = np.stack(np.meshgrid(np.linspace(0, 1, 9), np.linspace(0, 1, 9)), -1).reshape(-1, 2)
    points = np.concatenate([grid, np.zeros((81, 1))], axis=1).astype(np.float32)
    dense = Mesh(points, np.zeros((0, 3), np.int64), np.tile(leaning, (81, 1)), points)
    baked = with_normal_map(square, dense, 64)
    expected = np.array([0.5, 0.5 - 0.5 * math.sin(0.5), 0.5 + 0.5 * math.cos(0.5)]) * 255
    assert np.abs(baked.normal_map - expected).max() <= 1


def bumpy(points):
    """The normals of a ball with fine bumps."""
    return unit(points / np.linalg.norm(points, axis=1, keepdims=True) + 0.3 * np.sin(8 * points)).astype(np.float32)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_a_light_mesh_with_a_normal_map_is_lit_like_the_dense_one(tmp_path: Path):
    fine, coarse = (trimesh.creation.icosphere(subdivisions=n, radius=0.6) for n in (5, 2))
    points = fine.vertices.astype(np.float32)
    dense = Mesh(points, fine.faces.astype(np.int64), bumpy(points), points)
    points = coarse.vertices.astype(np.float32)
    light = Mesh(points, coarse.faces.astype(np.int64), unit(points), np.zeros_like(points))
    baked = with_normal_map(texture_mesh(light, torch.zeros_like, 256), dense, 256)
    weights = np.random.default_rng(0).dirichlet([3, 3, 3], size=len(baked.faces))

    def at(values):
        return np.einsum("nc,ncd->nd", weights, values[baked.faces])

    uv = at(baked.uv)
    texel = baked.normal_map[((1 - uv[:, 1]) * 256).astype(int), (uv[:, 0] * 256).astype(int)] / 127.5 - 1
    normal = unit(at(baked.normals))
    along = unit(at(baked.tangents[:, :3]))
    across = np.cross(normal, along) * at(baked.tangents[:, 3:])
    found = unit(texel[:, :1] * along + texel[:, 1:2] * across + texel[:, 2:] * normal)
    true = bumpy(0.6 * normal)

    def degrees(normals):
        return np.degrees(np.arccos((normals * true).sum(1).clip(-1, 1))).mean()

    assert degrees(normal) > 10
    assert degrees(found) < 2
    save_glb(baked, tmp_path / "toy.glb")
    assert report(tmp_path / "toy.glb")["issues"]["messages"] == []
    assert {"TANGENT", "NORMAL"} <= set(tree_of(tmp_path / "toy.glb")["meshes"][0]["primitives"][0]["attributes"])


def test_a_compressed_file_is_small_and_the_same(tmp_path: Path):
    pytest.importorskip("DracoPy", reason="DracoPy is not installed: pip install 'dreamfusion[compress]'")
    mesh = texture_mesh(extract_mesh(Analytic(figure), 48), lambda x: x / 2 + 0.5, 256)
    for name in ("plain", "small"):
        save_glb(mesh, tmp_path / f"{name}.glb", compress=name == "small")
    plain, small = (tmp_path / f"{name}.glb" for name in ("plain", "small"))
    assert small.stat().st_size < 0.3 * plain.stat().st_size
    assert report(small)["issues"]["numErrors"] == 0
    bodies = [trimesh.load(path, force="mesh", process=False) for path in (plain, small)]
    assert len(bodies[1].faces) == len(bodies[0].faces)
    step = 1.3 / 2**14
    assert bodies[1].bounds == pytest.approx(bodies[0].bounds, abs=step)
    assert bodies[1].volume == pytest.approx(bodies[0].volume, rel=1e-3)
    picture = np.asarray(bodies[1].visual.material.baseColorTexture.convert("RGB"), float) / 255
    uv = np.asarray(bodies[1].visual.uv)  # trimesh has v upwards
    colors = picture[((1 - uv[:, 1]) * 256).astype(int).clip(0, 255), (uv[:, 0] * 256).astype(int).clip(0, 255)]
    assert np.abs(colors - (bodies[1].vertices[:, [2, 0, 1]] / 2 + 0.5)).mean() < 0.02
