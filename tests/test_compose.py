"""Scenes of several objects: the path tracer against known light, glTF files, placements, and the whole command."""

import json
import math
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from dreamfusion.assets.formats import save_glb
from dreamfusion.assets.gltf import Glb, Triangles, merge, parse_glb, read_glb, triangles
from dreamfusion.assets.mesh import Mesh
from dreamfusion.errors import DreamFusionError
from dreamfusion.kernels.pathtrace import Ground, Sun, Textures, trace
from dreamfusion.method.cameras import Cameras, fixed_cameras
from dreamfusion.pictures.compose import Placement, SunAndSky, compose, parse_placement, to_display

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()
BLACK = (0.0, 0.0, 0.0)


def ball(radius: float, centre: tuple[float, float, float], albedo: float = 0.5) -> Triangles:
    shape = trimesh.creation.icosphere(subdivisions=4, radius=1.0)
    vertices = (shape.vertices * radius + np.array(centre)).astype(np.float32)
    colors = np.full((len(vertices), 3), albedo, np.float32)
    none = np.full(len(vertices), -1)
    normals, uv = shape.vertices.astype(np.float32), np.zeros((len(vertices), 2), np.float32)
    return Triangles(vertices, shape.faces.astype(np.int64), normals, colors, uv, none)


def shown(mesh: Triangles, cameras: Cameras, device: str, **options) -> torch.Tensor:
    arrays = [torch.from_numpy(a).to(device) for a in (mesh.vertices, mesh.faces, mesh.normals, mesh.colors)]
    defaults = {
        "sun": Sun((0.0, 0.0, 1.0), BLACK, 0.0),
        "ground": Ground((0.5, 0.25, 0.125), 1e4),
        "sky": torch.ones(1, 1, 3),
        "backdrop": BLACK,
        "samples": 16,
    }
    return trace(*arrays, cameras, (17, 17), **(defaults | options)).cpu()


def from_above(height: float = 4.0) -> Cameras:
    return fixed_cameras(0.0, 90.0, radius=height, focal=0.5)


FAR_BALL = ball(0.1, (500.0, 500.0, 1.0))


@pytest.mark.parametrize("device", DEVICES)
def test_an_open_ground_under_an_even_sky_has_its_own_colour(device: str):
    image = shown(FAR_BALL, from_above(), device)
    expected = torch.tensor([0.5, 0.25, 0.125]).view(1, 3, 1, 1).expand_as(image)
    torch.testing.assert_close(image, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("device", DEVICES)
def test_the_sun_lights_by_the_cosine_and_casts_a_shadow_where_geometry_says(device: str):
    tilt = math.radians(60)
    sun = Sun((math.cos(tilt), 0.0, math.sin(tilt)), (1.0, 1.0, 1.0), 0.0)
    # A small ball 2 above the ground: its shadow lies 2 / tan(60 deg) = 1.155 behind it, at x = -1.155.
    image = shown(ball(0.3, (0.0, 0.0, 2.0)), from_above(40.0), device, sun=sun, sky=torch.zeros(1, 1, 3), bounces=0)
    assert image[0, 0, 0, 0].item() == pytest.approx(0.5 * math.sin(tilt), abs=1e-4)

    def at(x: float, y: float) -> float:
        # A camera far above with its up towards -x: rows grow towards +x there, columns towards +y.
        pose = torch.tensor([[[0.0, 1.0, 0.0, x], [1.0, 0.0, 0.0, y], [0.0, 0.0, -1.0, 0.05]]])
        one = torch.ones(1)
        camera = Cameras(pose, 1000 * one, 0 * one, 90 * one, one)
        lit = shown(ball(0.3, (0, 0, 2.0)), camera, device, sun=sun, sky=torch.zeros(1, 1, 3), bounces=0)
        return lit[0, 0].mean().item()

    lit = 0.5 * math.sin(tilt)
    edge = 0.3 / math.sin(tilt)
    assert at(-1.155, 0.0) == 0
    assert at(-1.155 + edge - 0.03, 0.0) == 0
    assert at(-1.155 + edge + 0.03, 0.0) == pytest.approx(lit, abs=1e-3)
    assert at(-1.155, 0.27) == 0
    assert at(-1.155, 0.33) == pytest.approx(lit, abs=1e-3)


@pytest.mark.parametrize("device", DEVICES)
def test_light_between_surfaces_is_conserved(device: str):
    # A white ball in an even white sky on a white ground is invisible: every path comes back with all of its light,
    # but for those that are cut off after the last bounce.
    scene = ball(0.5, (0.0, 0.0, 1.0), albedo=1.0)
    white = Ground((1.0, 1.0, 1.0), 1e4)
    camera = fixed_cameras(0.0, 45.0, radius=4.0, focal=2.0)
    image = shown(scene, camera, device, ground=white, samples=64, bounces=12, backdrop=(1.0, 1.0, 1.0))
    assert image.mean().item() == pytest.approx(1.0, abs=0.02)
    assert image.max().item() <= 1.0001


def test_pictures_are_the_same_bits_for_any_number_of_threads():
    images = []
    for count in (1, 3):
        torch.set_num_threads(count)
        images.append(shown(ball(0.5, (0.0, 0.0, 0.5)), fixed_cameras(0.0, 30.0, radius=4.0), "cpu", samples=2))
    assert torch.equal(*images)


def test_the_sky_is_seen_where_its_picture_has_it():
    sky = torch.zeros(4, 8, 3)
    sky[:2, 4:, 0] = 1.0  # red above, to the right of the front: azimuths -180 to 0
    view = {"sky": sky, "backdrop": None, "samples": 1}

    def seen(toward_azimuth: float) -> list[float]:
        # A camera at the opposite side, below the horizon, looks up at the sky in that direction.
        camera = fixed_cameras(toward_azimuth + 180.0, -30.0, radius=1.0, focal=50.0)
        return shown(FAR_BALL, camera, "cpu", **view)[0, :, 8, 8].tolist()

    assert seen(-90.0) == [1.0, 0.0, 0.0]
    assert seen(90.0) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("device", DEVICES)
def test_textures_are_read_at_every_point_and_interpolated(device: str):
    # A square of two triangles, seen from above by a camera whose rows grow towards +x and columns towards +y. Under an
    # even white sky an albedo is what is seen, if nothing is reflected twice.
    corners = np.float32([[-1, -1, 1], [1, -1, 1], [1, 1, 1], [-1, 1, 1]])
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    picture = torch.zeros(2, 2, 3)
    picture[0, 0, 0] = picture[1, 1, 1] = 1.0  # red in the upper left, green in the lower right corner
    uv = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.0]])  # v towards +x, u towards +y
    tint = np.tile(np.float32([0.5, 1.0, 1.0]), (4, 1))
    up = np.tile(np.float32([0, 0, 1]), (4, 1))
    square = Triangles(corners, faces, up, tint, uv.numpy(), np.zeros(4, np.int64))
    pose = torch.tensor([[[0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, -1.0, 50.0]]])
    one = torch.ones(1)
    camera = Cameras(pose, 49 * 8 / 17 * one, 0 * one, 90 * one, one)  # 16 pixels a side, and half a pixel around
    textures = Textures([torch.ones(1, 1, 3), picture], torch.ones(4), uv)
    image = shown(square, camera, device, textures=textures, samples=256)[0]
    blur = 2 * 0.0625 / 2  # of a texel, half a pixel to either side along both axes
    assert image[:, 4, 4].tolist() == pytest.approx([0.5, 0.0, 0.0], abs=blur), "texel centres lie a quarter in"
    assert image[:, 12, 12].tolist() == pytest.approx([0.0, 1.0, 0.0], abs=blur)
    assert image[:, 12, 4].tolist() == pytest.approx([0.0, 0.0, 0.0], abs=blur)
    assert image[:, 8, 8].tolist() == pytest.approx([0.125, 0.25, 0.0], abs=blur), "the mean of four texels"


def test_display_values_are_srgb():
    torch.testing.assert_close(
        to_display(torch.tensor([0.0, 0.002, 0.214, 1.0, 7.0])),
        torch.tensor([0.0, 0.02584, 0.5, 1, 1]),
        atol=1e-3,
        rtol=0,
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two run folders: a red ball with vertex colours, and a box with a blue texture."""
    folder = tmp_path_factory.mktemp("runs")
    shape = ball(0.5, (0.1, 0.0, 0.2))
    colors = np.tile(np.float32([0.8, 0.1, 0.1]), (len(shape.vertices), 1))
    (folder / "ball").mkdir()
    save_glb(Mesh(shape.vertices, shape.faces, shape.normals, colors), folder / "ball/mesh.glb")
    box = trimesh.creation.box(extents=(1.0, 0.5, 0.8))
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=Image.new("RGB", (4, 4), (20, 40, 220)))
    box.visual = trimesh.visual.TextureVisuals(uv=np.full((len(box.vertices), 2), 0.5), material=material)
    (folder / "box").mkdir()
    (folder / "box/mesh.glb").write_bytes(trimesh.Scene(box).export(file_type="glb"))
    return [folder / "ball", folder / "box"]


def test_triangles_come_back_in_our_world_and_in_linear_light(runs: list[Path]):
    shape = triangles(read_glb(runs[0] / "mesh.glb"))
    np.testing.assert_allclose(shape.vertices.mean(axis=0), [0.1, 0.0, 0.2], atol=1e-3)
    np.testing.assert_allclose(shape.colors[0], [0.6038, 0.0100, 0.0100], atol=1e-3)
    box = triangles(read_glb(runs[1] / "mesh.glb"))
    assert np.ptp(box.vertices, axis=0) == pytest.approx([0.8, 1.0, 0.5]), "glTF's x, y, z are our y, z, x"
    assert box.colors[0].tolist() == [1.0, 1.0, 1.0]
    assert (box.texture == 0).all()
    np.testing.assert_allclose(box.textures[0][2, 2], [0.00699, 0.02122, 0.71569], atol=1e-4)


def spoiled(path: Path, change: Any) -> Glb:
    """The content of a file with a change to its JSON and, if that returns bytes, another binary chunk."""
    glb = read_glb(path)
    return replace(glb, binary=change(glb.tree) or glb.binary)


def with_texture(tree: dict[str, Any], binary: bytes, picture: bytes) -> bytes:
    """Put a picture in the place of the one texture and return the binary chunk."""
    view = tree["bufferViews"][tree["images"][0]["bufferView"]]
    view["byteOffset"], view["byteLength"] = len(binary), len(picture)
    return binary + picture


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG file with that header and, where its pixels should be, ``data``, with right checksums."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


BROKEN_CHUNK = png(4, 4)[:33] + b"\0\0\0\4\0\0\0\0" + bytes(8)


@pytest.mark.parametrize(
    "picture",
    [BROKEN_CHUNK, png(40_000, 40_000), png(4, 4, b"no deflated pixels"), b"", b"no picture at all"],
    ids=["chunk", "bomb", "pixels", "empty", "text"],
)
def test_a_corrupt_texture_gets_one_line_that_names_the_file(runs: list[Path], picture: bytes):
    path = runs[1] / "mesh.glb"
    glb = spoiled(path, lambda tree: with_texture(tree, read_glb(path).binary, picture))
    with pytest.raises(DreamFusionError, match=r"is damaged.*texture") as caught:
        triangles(glb)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def cycle(tree: dict[str, Any]) -> None:
    tree["nodes"].append({"children": [0]})
    tree["nodes"][0]["children"] = [len(tree["nodes"]) - 1]


def twice(tree: dict[str, Any]) -> None:
    tree["nodes"].append({"children": [0, 0]})
    tree["scenes"][0]["nodes"] = [len(tree["nodes"]) - 1]


def few_normals(tree: dict[str, Any]) -> None:
    tree["accessors"][tree["meshes"][0]["primitives"][0]["attributes"]["NORMAL"]]["count"] -= 1


def few_vertices(tree: dict[str, Any]) -> None:
    for accessor in tree["meshes"][0]["primitives"][0]["attributes"].values():
        tree["accessors"][accessor]["count"] -= 1


def a_list(tree: dict[str, Any]) -> None:
    tree["nodes"][0] = []


def not_finite(tree: dict[str, Any]) -> None:
    tree["nodes"][0]["scale"] = [1e308, 1e308, 1e308]
    tree["nodes"].append({"children": [0], "scale": [1e308, 1.0, 1.0]})
    tree["scenes"][0]["nodes"] = [len(tree["nodes"]) - 1]


@pytest.mark.parametrize("change", [cycle, twice, few_normals, few_vertices, a_list, not_finite])
def test_a_damaged_file_gets_one_line_that_names_it(runs: list[Path], change: Any):
    path = runs[0] / "mesh.glb"
    with pytest.raises(DreamFusionError, match="is damaged") as caught:
        triangles(spoiled(path, change))
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_deep_trees_of_nodes_are_read(runs: list[Path]):
    def deepen(tree: dict[str, Any]) -> None:
        first = len(tree["nodes"])
        tree["nodes"] += [{"children": [first + i + 1]} for i in range(3000)]
        tree["nodes"][-1]["children"] = tree["scenes"][0]["nodes"]
        tree["scenes"][0]["nodes"] = [first]

    deep, plain = triangles(spoiled(runs[0] / "mesh.glb", deepen)), triangles(read_glb(runs[0] / "mesh.glb"))
    np.testing.assert_array_equal(deep.vertices, plain.vertices)


def test_json_nested_without_end_is_no_gltf(tmp_path: Path):
    text = b"[" * 200_000
    chunk = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", 0, b"BIN\0")
    (tmp_path / "deep.glb").write_bytes(struct.pack("<4sII", b"glTF", 2, 12 + len(chunk)) + chunk)
    with pytest.raises(DreamFusionError, match=r"deep\.glb is not a binary glTF"):
        read_glb(tmp_path / "deep.glb")


def test_what_a_merge_cannot_read_is_named_before_anything_is_written(runs: list[Path], tmp_path: Path):
    glb = read_glb(runs[0] / "mesh.glb")
    glb.tree["meshes"].append({"primitives": [{"attributes": {"POSITION": "none"}}]})  # in no scene
    (tmp_path / "odd.glb").write_bytes(packed(glb))
    with pytest.raises(DreamFusionError, match=r"odd\.glb is damaged"):
        compose([Placement(tmp_path / "odd.glb")], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def packed(glb: Glb) -> bytes:
    """The file of a content."""
    text = json.dumps(glb.tree).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(glb.binary), b"BIN\0")
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks) + len(glb.binary)) + chunks + glb.binary


def test_a_merged_file_keeps_meshes_textures_and_places(runs: list[Path]):
    moved = np.eye(4)
    moved[:3, 3] = 1.0, 2.0, 3.0
    parts = [read_glb(run / "mesh.glb") for run in runs]
    merged = parse_glb(merge([(parts[0], np.eye(4)), (parts[1], moved), (parts[1], np.eye(4))]))
    assert len(merged.tree["images"]) == 2
    assert len(merged.tree["meshes"]) == 3
    separate = Triangles.joined([triangles(parts[0]), triangles(parts[1]).moved(moved), triangles(parts[1])])
    together = triangles(merged)
    np.testing.assert_allclose(together.vertices, separate.vertices, atol=1e-5)
    np.testing.assert_array_equal(together.faces, separate.faces)
    np.testing.assert_allclose(together.colors, separate.colors)
    np.testing.assert_array_equal(together.uv, separate.uv)
    assert [sorted({*together.texture.tolist()}), len(together.textures)] == [[-1, 0, 1], 2]
    assert len(Triangles.joined([triangles(parts[1])] * 2).textures) == 1, "the same picture is kept once"
    loaded = trimesh.load(trimesh.util.wrap_as_stream(merge([(parts[0], moved)])), file_type="glb")
    assert loaded.bounds.mean(axis=0) == pytest.approx([2.0, 3.2, 1.1], abs=1e-3)


@pytest.mark.parametrize(
    ("text", "placement"),
    [
        ("runs/a-car", Placement(Path("runs/a-car"))),
        ("runs/a-car:1,-2.5", Placement(Path("runs/a-car"), 1.0, -2.5)),
        ("runs/a-car:0,1e-1,2,90", Placement(Path("runs/a-car"), 0.0, 0.1, 2.0, 90.0)),
        ("C:\\runs\\a-car:1,2", Placement(Path("C:\\runs\\a-car"), 1.0, 2.0)),
        ("runs/odd:name", Placement(Path("runs/odd:name"))),
    ],
)
def test_placements_are_read(text: str, placement: Placement):
    assert parse_placement(text) == placement


@pytest.mark.parametrize("text", ["run:1", "run:1,2,3,4,5", "run:1,2,0", "run:1e9,0"])
def test_odd_placements_get_one_line(text: str):
    with pytest.raises(DreamFusionError, match="run:"):
        parse_placement(text)


def test_a_scene_stands_on_the_ground_and_is_written_whole(runs: list[Path], tmp_path: Path):
    picture = compose(
        [Placement(runs[0]), Placement(runs[1], scale=0.5, azimuth_deg=90.0)],
        tmp_path / "scene",
        size=(96, 54),
        samples=4,
    )
    assert {path.name for path in (tmp_path / "scene").iterdir()} == {"scene.png", "scene.glb", "viewer.html"}
    pixels = np.asarray(Image.open(picture)).astype(int)
    assert pixels.shape == (54, 96, 3)
    red = (pixels[..., 0] - pixels[..., 2]) > 60
    blue = (pixels[..., 2] - pixels[..., 0]) > 60
    assert red.sum() > 100
    assert blue.sum() > 50
    assert red.nonzero()[1].mean() < blue.nonzero()[1].mean(), "in their order from left to right"
    corner = pixels[0, 0]
    assert abs(corner - np.array([219, 219, 222])).max() <= 1
    shadow = pixels.sum(axis=-1) < 3 * 190
    assert (shadow & ~red & ~blue).sum() > 20

    glb = read_glb(tmp_path / "scene/scene.glb")
    roots = [glb.tree["nodes"][index] for index in glb.tree["scenes"][0]["nodes"]]
    assert len(roots) == 3
    low = []
    for index in range(2):
        alone = json.loads(json.dumps(glb.tree))
        alone["scenes"][0]["nodes"] = [glb.tree["scenes"][0]["nodes"][index]]
        low.append(triangles(type(glb)(alone, glb.binary)).vertices.min(axis=0)[2])
    assert low == pytest.approx([0.0, 0.0], abs=1e-5)


def test_an_environment_lights_a_scene_and_is_seen_behind_it(runs: list[Path], tmp_path: Path):
    sky = np.zeros((8, 16, 3), np.uint8)
    sky[:4] = (255, 0, 0)
    Image.fromarray(sky).save(tmp_path / "red.png")
    view = {"size": (64, 64), "samples": 16, "azimuths_deg": (0.0,), "elevation_deg": 2.0}
    ball = [Placement(runs[0])]

    def composed(**light: Any) -> np.ndarray:
        sky = SunAndSky(environment=tmp_path / "red.png", **light)
        return np.asarray(Image.open(compose(ball, tmp_path / "scene", light=sky, **view))).astype(int)

    dark = composed()
    assert dark[0, 0].tolist() == [255, 0, 0], "the sky is seen"
    assert dark[..., 1:].max() == 0, "no other light"
    assert 100 < dark[60, 32, 0] < 255, "the ground is lit by it"
    assert composed(azimuth_deg=0.0)[60, 32, 1] > 50, "there is a sun where one is asked for"
    with pytest.raises(DreamFusionError, match="no such file"):
        compose(ball, tmp_path / "out", light=SunAndSky(environment=tmp_path / "absent.hdr"))
    assert not (tmp_path / "out").exists()


def test_bad_scenes_get_one_line(runs: list[Path], tmp_path: Path):
    with pytest.raises(DreamFusionError, match="no run"):
        compose([Placement(tmp_path / "absent")], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DreamFusionError, match=r"has no mesh\.glb"):
        compose([Placement(tmp_path / "empty")], tmp_path / "out")
    (tmp_path / "bad.glb").write_bytes(struct.pack("<4sII", b"glTF", 2, 12))
    with pytest.raises(DreamFusionError, match="not a binary glTF"):
        compose([Placement(tmp_path / "bad.glb")], tmp_path / "out")
    with pytest.raises(DreamFusionError, match="for every object, or for none"):
        compose([Placement(runs[0], 0.0, 0.0), Placement(runs[1])], tmp_path / "out")
    with pytest.raises(DreamFusionError, match="--samples"):
        compose([Placement(runs[0])], tmp_path / "out", samples=0)
    assert not (tmp_path / "out").exists()
