"""Meshes that no kernel and no library may get: each is one line."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

from dreamfusion.assets import compressed
from dreamfusion.assets.formats import save_glb
from dreamfusion.assets.gltf import read_glb, triangles
from dreamfusion.assets.load import load_mesh
from dreamfusion.assets.mesh import Mesh, decimate
from dreamfusion.assets.texture import unwrap
from dreamfusion.errors import DreamFusionError
from support.meshes import FACES, POINTS, glb_file


def changed(array, place, value):
    copy = array.copy()
    copy[place] = value
    return copy


BAD = {
    "none": (POINTS, FACES[:0], "no triangles"),
    "nan": (changed(POINTS, (3, 0), np.nan), FACES, "no finite numbers"),
    "infinite": (changed(POINTS, (3, 0), np.inf), FACES, "no finite numbers"),
    "beyond": (POINTS, changed(FACES, (0, 0), len(POINTS) + 10**6), "not there"),
    "huge": (POINTS * np.float32(1e30), FACES, "scale it to about 1"),
    "far": (POINTS + np.float32(1e8), FACES, "scale it to about 1"),
    "tiny": (POINTS * np.float32(1e-30), FACES, "scale it to about 1"),
    "point": (POINTS * 0, FACES, "scale it to about 1"),
    "line": (POINTS * np.float32([1, 0, 0]), FACES, "no faces with an area"),
    "lines": (POINTS, changed(FACES, (slice(None), 1), FACES[:, 0]), "no faces with an area"),
}


@pytest.mark.parametrize("name", BAD)
def test_libraries_get_no_mesh_that_they_would_crash_on(name: str):
    points, faces, words = BAD[name]
    with pytest.raises(DreamFusionError, match=words):
        decimate(points, faces, 4)
    with pytest.raises(DreamFusionError, match=words):
        unwrap(Mesh(points, faces, np.zeros_like(points), np.zeros_like(points)), 64)


@pytest.mark.parametrize("name", BAD)
def test_files_of_such_meshes_are_one_line_that_names_them(name: str, tmp_path: Path):
    points, faces, _ = BAD[name]
    path = glb_file(tmp_path / "bad.glb", points, faces)
    for read in (load_mesh, lambda path: triangles(read_glb(path))):
        with pytest.raises(DreamFusionError, match=r"bad\.glb") as caught:
            read(path)
        assert "\n" not in str(caught.value)


def test_a_flat_mesh_has_no_inside(tmp_path: Path):
    cards = np.concatenate([FACES, FACES[:, ::-1]])  # closed, and without volume
    sheet = np.float32([[0, 0, 0], [1, 0, 0], [0, 1, 0]])
    path = glb_file(tmp_path / "flat.glb", sheet, np.array([[0, 1, 2], [0, 2, 1]]))
    with pytest.raises(DreamFusionError, match=r"is flat|is not closed"):
        load_mesh(path)
    with pytest.raises(DreamFusionError, match=r"is flat|is not closed"):
        load_mesh(glb_file(path, POINTS, cards))
    assert len(triangles(read_glb(glb_file(path, sheet, np.array([[0, 1, 2]])))).faces) == 1, "a card may be shown"


SQUARE = np.float32([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 2, 0]])


@pytest.mark.parametrize(
    ("mode", "corners", "expected"),
    [
        (5, [0, 1, 2, 3, 4], [[0, 1, 2], [1, 3, 2], [2, 3, 4]]),
        (5, [0, 1, 2, 2, 3, 4], [[0, 1, 2], [2, 4, 3]]),  # a vertex twice begins anew
        (6, [0, 1, 3, 2], [[0, 1, 3], [0, 3, 2]]),
    ],
)
def test_strips_and_fans_are_read(mode: int, corners: list[int], expected: list[list[int]], tmp_path: Path):
    found = triangles(read_glb(glb_file(tmp_path / "strip.glb", SQUARE, np.array(corners), mode)))
    assert found.faces.tolist() == expected


def test_draco_is_read_if_its_library_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("DracoPy", reason="DracoPy is not installed: pip install 'dreamfusion[compress]'")
    colors = np.tile(np.float32([0.5, 0.25, 1.0]), (len(POINTS), 1))
    mesh = Mesh(POINTS, FACES, POINTS / np.float32(0.6), colors)
    plain, small = tmp_path / "plain.glb", tmp_path / "small.glb"
    save_glb(mesh, plain)
    save_glb(mesh, small, compress=True)
    assert b"KHR_draco_mesh_compression" in small.read_bytes()
    wanted, found = triangles(read_glb(plain)), triangles(read_glb(small))
    assert found.faces.shape == wanted.faces.shape
    distance, nearest = cKDTree(wanted.vertices).query(found.vertices)
    assert distance.max() < 1.2 / 2**14, "14 bits of the longest side"
    assert len(set(nearest)) == len(wanted.vertices)
    np.testing.assert_allclose(found.normals, wanted.normals[nearest], atol=0.02)
    np.testing.assert_allclose(found.colors, wanted.colors[nearest], atol=1e-6)
    assert len(load_mesh(small).faces) == len(FACES)
    monkeypatch.setattr(compressed, "find_spec", lambda name: None)
    with pytest.raises(DreamFusionError, match=r"pip install 'dreamfusion\[compress\]'"):
        read_glb(small)


def test_other_compressions_are_named(tmp_path: Path):
    path = glb_file(tmp_path / "other.glb", POINTS, FACES)
    glb = read_glb(path)
    tree = {**glb.tree, "extensionsRequired": ["EXT_meshopt_compression"]}
    changed = dataclasses.replace(glb, tree=tree)
    with pytest.raises(DreamFusionError, match=r"other\.glb needs EXT_meshopt_compression"):
        compressed.decompressed(changed.tree, changed.binary, path)
