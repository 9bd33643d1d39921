import math
import os

import imageio_ffmpeg
import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from dreamfusion.assets import mesh as meshes
from dreamfusion.assets import video
from dreamfusion.assets.images import contact_sheet, save_png, to_uint8
from dreamfusion.assets.mesh import decimate, extract_mesh, surface_level, vertex_normals
from dreamfusion.assets.video import save_video
from dreamfusion.errors import DreamFusionError
from support.solids import Analytic, Gaussian, ball, body_of, box

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]

# ---------------------------------------------------------------- pictures


def test_bytes_are_rounded_and_clipped():
    image = torch.tensor([-1.0, 0.0, 0.5, 254.4 / 255, 1.0, 2.0, math.nan, math.inf]).view(1, 1, 8)
    assert to_uint8(image).ravel().tolist() == [0, 0, 128, 254, 255, 255, 0, 255]
    assert to_uint8(torch.zeros(5, 3, 2, 4)).shape == (5, 2, 4, 3)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_png_holds_the_pixels(channels, mode, tmp_path):
    image = torch.rand(channels, 5, 7, generator=torch.Generator().manual_seed(0))
    save_png(image, tmp_path / "image.png")
    picture = Image.open(tmp_path / "image.png")
    assert (picture.mode, picture.size) == (mode, (7, 5))
    assert np.array_equal(np.array(picture).reshape(5, 7, channels), to_uint8(image))
    assert os.listdir(tmp_path) == ["image.png"]


def test_png_of_another_shape_is_refused(tmp_path):
    for shape in ((2, 4, 4), (4, 4), (1, 3, 4, 4)):
        with pytest.raises(ValueError, match="an image is"):
            save_png(torch.zeros(shape), tmp_path / "image.png")


def test_contact_sheet_holds_every_picture_and_label():
    red, blue = torch.zeros(2, 3, 32, 40), torch.zeros(1, 3, 32, 40)
    red[:, 0], blue[:, 2] = 1, 1
    plain = contact_sheet({"": red, " ": blue}, gap=6)
    pixels = to_uint8(plain)
    is_red = (pixels == [255, 0, 0]).all(-1)
    assert is_red.sum() == 2 * 32 * 40
    assert (pixels == [0, 0, 255]).all(-1).sum() == 32 * 40
    assert (pixels == [255, 255, 255]).all(-1).sum() == pixels.shape[0] * pixels.shape[1] - 3 * 32 * 40
    starts = np.flatnonzero(np.diff(is_red[6].astype(int)) == 1)
    assert np.diff(starts).tolist() == [46]

    labelled = to_uint8(contact_sheet({"albedo": red, "shaded": blue}, ["front", "back"], gap=6))
    is_red = (labelled == [255, 0, 0]).all(-1)
    top, left = np.argwhere(is_red)[0]
    assert (labelled[:top] < 128).any(), "column labels are above"
    assert (labelled[top : top + 32, :left] < 128).any(), "row labels are on the left"
    assert is_red.sum() == 2 * 32 * 40, "labels cover no picture"


# ---------------------------------------------------------------- video


def read_video(path):
    reader = imageio_ffmpeg.read_frames(str(path))
    about = next(reader)
    width, height = about["size"]
    return about, [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]


@pytest.mark.parametrize(("height", "width"), [(64, 48), (33, 51)])
def test_video_reads_back(height, width, tmp_path):
    colors = torch.tensor([[1.0, 0.1, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 1.0], [0.5, 0.5, 0.5]])
    frames = (color[:, None, None].expand(3, height, width) for color in colors)
    save_video(frames, tmp_path / "film.mp4", fps=12)
    about, found = read_video(tmp_path / "film.mp4")
    assert about["size"] == (width + width % 2, height + height % 2)
    assert about["fps"] == 12
    assert about["codec"] == "h264"
    assert about["pix_fmt"].startswith("yuv420p(tv, bt709")
    assert len(found) == 4
    for frame, color in zip(found, colors, strict=True):
        assert np.abs(frame / 255 - color.numpy()).max() < 0.03
    assert os.listdir(tmp_path) == ["film.mp4"]


def test_video_starts_before_it_is_whole(tmp_path):
    save_video([torch.zeros(3, 16, 16)] * 3, tmp_path / "film.mp4")
    data = (tmp_path / "film.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_failing_frames_keep_the_earlier_video(tmp_path):
    def frames():
        yield torch.zeros(3, 16, 16)
        raise ZeroDivisionError

    save_video([torch.ones(3, 16, 16)], tmp_path / "film.mp4")
    earlier = (tmp_path / "film.mp4").read_bytes()
    with pytest.raises(ZeroDivisionError):
        save_video(frames(), tmp_path / "film.mp4")
    with pytest.raises(ValueError, match="at least one"):
        save_video([], tmp_path / "film.mp4")
    with pytest.raises(ValueError, match="differ in size"):
        save_video([torch.zeros(3, 16, 16), torch.zeros(3, 18, 16)], tmp_path / "film.mp4")
    assert (tmp_path / "film.mp4").read_bytes() == earlier
    assert os.listdir(tmp_path) == ["film.mp4"]


def test_ffmpeg_failures_are_one_line(tmp_path, monkeypatch):
    with pytest.raises(DreamFusionError, match="ffmpeg could not write the video"):
        save_video([torch.zeros(3, 16, 16)], tmp_path / "absent" / "film.mp4")

    complaints = tmp_path / "ffmpeg"
    complaints.write_text("#!/bin/sh\necho 'av_interleaved_write_frame(): No space left on device' >&2\nexit 1\n")
    complaints.chmod(0o755)
    monkeypatch.setattr(video, "find_ffmpeg", lambda: str(complaints))
    big = torch.zeros(3, 512, 512)  # more than a pipe holds, so that writing to it fails as well
    with pytest.raises(DreamFusionError, match="disk is full"):
        save_video([big, big], tmp_path / "film.mp4")


def test_missing_ffmpeg_is_named(tmp_path, monkeypatch):
    def missing():
        raise RuntimeError("No ffmpeg exe could be found.")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", missing)
    with pytest.raises(DreamFusionError, match="imageio-ffmpeg"):
        save_video([torch.zeros(3, 16, 16)], tmp_path / "film.mp4")


# ---------------------------------------------------------------- meshes


@pytest.mark.parametrize("device", DEVICES)
def test_ball_has_its_volume_and_faces_outwards(device):
    mesh = extract_mesh(Analytic(ball(0.6)), 64, device=device)
    body = body_of(mesh)
    assert body.is_watertight
    assert body.volume == pytest.approx(4 / 3 * math.pi * 0.6**3, rel=0.03)  # positive only if wound outwards
    radius = np.linalg.norm(mesh.vertices, axis=1)
    assert radius.min() > 0.6 - 2 / 63
    assert radius.max() < 0.6 + 2 / 63
    assert np.linalg.norm(mesh.normals, axis=1) == pytest.approx(1, abs=1e-5)
    assert ((mesh.normals * mesh.vertices).sum(1) / radius).min() > 0.7
    assert np.array_equal(np.unique(mesh.colors[mesh.vertices[:, 0] > 0.02], axis=0), [[0.5, 0, 0]])
    assert np.array_equal(np.unique(mesh.colors[mesh.vertices[:, 0] < -0.02], axis=0), [[0, 0, 1]])


def test_box_has_its_extents():
    mesh = extract_mesh(Analytic(box((0.5, 0.3, 0.2))), 64)
    spacing = 2 / 63
    assert mesh.vertices.max(0) == pytest.approx([0.5, 0.3, 0.2], abs=spacing / 2 + 1e-5)
    assert mesh.vertices.min(0) == pytest.approx([-0.5, -0.3, -0.2], abs=spacing / 2 + 1e-5)


def test_smooth_surface_is_exact_below_the_spacing():
    mesh = extract_mesh(Gaussian(None, peak=100.0), 64, level=100.0 * math.exp(-2.0))
    assert np.linalg.norm(mesh.vertices, axis=1) == pytest.approx(0.4, abs=0.002)


def test_smoothing_takes_bumps_off_and_leaves_the_size():
    def bumpy(x: torch.Tensor) -> torch.Tensor:
        return x.norm(dim=1) < 0.5 + 0.05 * (40 * x).sin().prod(dim=1)

    radii = [
        np.linalg.norm(extract_mesh(Analytic(bumpy), 64, smoothing=smoothing).vertices, axis=1)
        for smoothing in (0.0, 0.05)
    ]
    assert radii[1].std() < 0.5 * radii[0].std()
    # The outline that it must keep is that of the bumps, whose tops reach 0.55.
    assert 0.5 < radii[1].mean() < 0.525


def test_smoothing_keeps_thin_things_as_thick_as_they_look():
    mesh = extract_mesh(Analytic(box((0.6, 0.08, 0.08))), 96, smoothing=0.05)
    middle = mesh.vertices[np.abs(mesh.vertices[:, 0]) < 0.3]
    # At one half, the level without a blur, it would be a rod of 0.068; samples are 0.021 apart.
    assert np.abs(middle[:, 1:]).max(0) == pytest.approx([0.085, 0.085], abs=0.0105)
    assert mesh.vertices[:, 0].max() == pytest.approx(0.6, abs=0.02)


@pytest.mark.parametrize("peak", [3.0, 20.0, 1e3, 1e4])
def test_level_follows_the_scene(peak):
    """The radius at which a ray past a smooth ball is half opaque, worked out by hand, is that of the mesh."""
    mesh = extract_mesh(Gaussian(None, peak=peak), 64)
    radius = np.linalg.norm(mesh.vertices, axis=1).mean()
    # Integral along a ray at distance r: peak * 0.2 sqrt(2 pi) exp(-r^2 / (2 * 0.2^2)) = ln 2.
    half_opaque = 0.2 * math.sqrt(2 * math.log(peak * 0.2 * math.sqrt(2 * math.pi) / math.log(2)))
    assert radius == pytest.approx(half_opaque, abs=0.03)


def test_level_of_a_sharp_edge_is_half_opaque_in_a_step():
    density = np.zeros((32, 32, 32), np.float32)
    density[8:24, 8:24, 8:24] = 1e4
    assert surface_level(density, 0.05) == pytest.approx(math.log(2) / 0.05, rel=0.1)


def test_haze_is_no_part_of_the_object():
    solid = ball(0.5)
    field = Analytic(solid)
    field.density = lambda x: 100.0 * solid(x).float() + 0.05
    assert np.linalg.norm(extract_mesh(field, 48).vertices, axis=1).max() < 0.55


def test_floaters_are_dropped_and_hollows_filled():
    shell, floater, twin = ball(0.5), ball(0.08, (0.7, 0.0, 0.0)), ball(0.3, (0.0, 0.0, 0.65))
    hollow = Analytic(lambda x: (shell(x) & (x.norm(dim=-1) > 0.3)) | floater(x))
    body = body_of(extract_mesh(hollow, 64))
    assert body.body_count == 1
    assert body.volume == pytest.approx(4 / 3 * math.pi * 0.5**3, rel=0.05)
    both = extract_mesh(Analytic(lambda x: ball(0.25, (0.0, 0.0, -0.4))(x) | twin(x)), 64)
    assert body_of(both).body_count == 2, "large pieces stay"
    assert body_of(extract_mesh(hollow, 64, min_share=0.0)).body_count == 2


def test_object_at_the_edge_is_closed():
    body = body_of(extract_mesh(Analytic(lambda x: x[:, 2] < -0.2), 48))
    assert body.is_watertight
    assert body.volume > 0


@pytest.mark.parametrize(
    ("field", "words"),
    [
        (Analytic(lambda x: torch.zeros(len(x)), 1.0), "scene is empty"),
        (Analytic(ball(0.3), 0.5), "scene is empty"),
        (Analytic(ball(0.3), math.nan), "scene is empty"),
        (Analytic(lambda x: torch.ones(len(x)), 0.6), "scene is full"),
        (Analytic(lambda x: torch.ones(len(x)), 1e4), "scene is full"),
        (Analytic(lambda x: x.norm(dim=-1) > 0.85), "scene is full"),
    ],
)
def test_collapsed_scenes_are_told(field, words):
    with pytest.raises(DreamFusionError, match=words) as caught:
        extract_mesh(field, 32)
    assert "\n" not in str(caught.value)


def test_level_above_everything_is_an_empty_scene():
    with pytest.raises(DreamFusionError, match="empty"):
        extract_mesh(Analytic(ball(0.5)), 32, level=1e6)


def test_vertex_normals_are_weighted_by_area():
    vertices = np.array([[0, 0, 0], [2, 0, 0], [0, 2, 0], [0, 0, 1], [9, 9, 9]], np.float32)
    faces = np.array([[0, 1, 2], [0, 2, 3]])  # areas 2 (facing +z) and 1 (facing +x)
    normals = vertex_normals(vertices, faces)
    assert normals[0] == pytest.approx([1 / math.sqrt(5), 0, 2 / math.sqrt(5)])
    assert normals[1] == pytest.approx([0, 0, 1])
    assert normals[4] == pytest.approx([0, 0, 1]), "a vertex without faces has a unit normal still"


@pytest.mark.parametrize("max_faces", [500, 5000])
def test_decimated_surfaces_keep_their_shape_and_stay_closed(max_faces):
    # A ring: the budget must not close its hole.
    ring = Analytic(lambda x: (x[:, :2].norm(dim=-1) - 0.6).square() + x[:, 2].square() < 0.2**2)
    whole, mesh = extract_mesh(ring, 64), extract_mesh(ring, 64, max_faces=max_faces)
    assert len(whole.faces) > 10_000
    assert 0.9 * max_faces <= len(mesh.faces) <= max_faces
    body = body_of(mesh)
    assert body.is_watertight
    assert body.euler_number == 0
    assert body.volume == pytest.approx(body_of(whole).volume, rel=0.02)
    assert np.linalg.norm(mesh.normals, axis=1) == pytest.approx(1, abs=1e-5)
    assert len(mesh.colors) == len(mesh.vertices)


def test_a_surface_within_its_budget_is_left_alone():
    mesh = extract_mesh(Analytic(ball(0.5)), 32)
    vertices, faces = decimate(mesh.vertices, mesh.faces, len(mesh.faces))
    assert vertices is mesh.vertices
    assert faces is mesh.faces


def test_a_reduction_that_tears_the_surface_is_not_taken(monkeypatch):
    mesh = extract_mesh(Analytic(ball(0.5)), 32)

    def torn(vertices, faces, **_):
        return vertices, faces[1:500]

    def flat(vertices, faces, **_):
        # A tetrahedron with its corner 3 split in two (3 and 4), and a fin: two faces back to back.
        corners = np.array([[0, 1, 2], [0, 3, 1], [0, 2, 4], [1, 3, 2], [0, 4, 3], [3, 4, 2], [5, 6, 7], [7, 6, 5]])
        points = np.array([[0, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 1], [5, 0, 0], [6, 0, 0], [5, 1, 0]])
        return points, corners

    monkeypatch.setattr(meshes.fast_simplification, "simplify", torn)
    assert decimate(mesh.vertices, mesh.faces, 1000)[1] is mesh.faces
    monkeypatch.setattr(meshes.fast_simplification, "simplify", flat)
    body = trimesh.Trimesh(*decimate(mesh.vertices, mesh.faces, 1000), process=False)
    assert (body.vertices.shape, body.faces.shape) == ((4, 3), (4, 3))
    assert body.volume == pytest.approx(1 / 6)
