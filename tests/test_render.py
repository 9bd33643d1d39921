"""Pictures of a finished run: light from everywhere against known values, and every option of `render`."""

import json
import math
import shutil
import subprocess
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from PIL import Image

from dreamfusion.assets.video import find_ffmpeg
from dreamfusion.errors import DreamFusionError
from dreamfusion.method.shading import environment_light, harmonics
from dreamfusion.pictures.environment import directions, irradiance_coefficients, load_environment, look_up
from dreamfusion.pictures.render import Light, read_cameras, render_run
from dreamfusion.runs.generate import generate
from support.worlds import SHORT, toy_prior


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two steps: still the ball that every run starts from."""
    folder = tmp_path_factory.mktemp("runs") / "mushroom"
    torch.set_num_threads(1)
    prior = toy_prior("mushroom", views=8, size=16)
    return generate("a red mushroom", output=folder, guidance_model=prior, assets=False, **SHORT | {"steps": 2}).folder


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(float)


def test_harmonics_are_orthonormal():
    values = harmonics(directions(64, 128))
    edges = torch.cos(torch.linspace(0, math.pi, 65))
    weight = ((edges[:-1] - edges[1:]) * 2 * math.pi / 128)[:, None, None]
    gram = torch.einsum("hwi,hwj->ij", values * weight, values)
    torch.testing.assert_close(gram, torch.eye(9), atol=2e-3, rtol=0)


def test_an_even_environment_lights_every_normal_alike():
    coefficients = irradiance_coefficients(torch.full((16, 32, 3), 0.5))
    normals = torch.nn.functional.normalize(torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    light = environment_light(coefficients, normals)
    torch.testing.assert_close(light, torch.full((20, 3), 0.5 ** (1 / 2.2)), atol=1e-3, rtol=0)


def test_half_a_sky_lights_by_the_view_factor():
    # A surface turned by an angle a from the zenith sees (1 + cos a) / 2 of a bright upper half.
    sky = torch.zeros(64, 128, 3)
    sky[:32] = 1.0
    angle = torch.tensor([0.0, 60.0, 90.0, 150.0]).deg2rad()
    normals = torch.stack([angle.sin(), torch.zeros(4), angle.cos()], dim=-1)
    linear = harmonics(normals) @ irradiance_coefficients(sky)
    expected = ((1 + angle.cos()) / 2)[:, None].expand(-1, 3)
    torch.testing.assert_close(linear, expected, atol=0.04, rtol=0)


def test_pictures_of_the_sky_are_looked_up_where_they_are():
    sky = torch.rand(8, 16, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(look_up(sky, directions(8, 16)), sky, atol=1e-5, rtol=0)
    front_left = torch.nn.functional.normalize(torch.tensor([1.0, 0.1, 0.0]), dim=0)
    column = int((0.5 - math.atan2(0.1, 1.0) / (2 * math.pi)) * 16)
    assert column == 7, "towards +y is left of the middle"
    assert look_up(sky, front_left).shape == (3,)


@pytest.mark.parametrize("suffix", [".hdr", ".exr"])
def test_high_range_pictures_keep_their_range(tmp_path: Path, suffix: str):
    # Rows of a PFM file come from the bottom: the upper row is ten times white, the lower one is red.
    rows = np.float32([[[0.5, 0.0, 0.0]] * 4, [[10.0, 10.0, 10.0]] * 4])
    (tmp_path / "a.pfm").write_bytes(b"PF\n4 2\n-1.0\n" + rows.tobytes())
    path = tmp_path / f"a{suffix}"
    subprocess.run([find_ffmpeg(), "-v", "error", "-i", tmp_path / "a.pfm", path], check=True)
    loaded = load_environment(path)
    expected = torch.from_numpy(rows[::-1].copy())
    torch.testing.assert_close(loaded, expected, atol=0.05, rtol=0)


def test_several_cameras_give_a_strip_and_light_falls_where_it_stands(run: Path, tmp_path: Path):
    strip = render_run(run, output=tmp_path / "a.png", azimuths_deg=(0.0, 90.0), size=(24,), shading="albedo")
    assert Image.open(strip).size == (48, 24)
    lit = [
        pixels(render_run(run, output=tmp_path / f"{a}.png", size=(24,), light=Light(a), azimuths_deg=(0.0,))).sum()
        for a in (0.0, 180.0)
    ]
    assert lit[0] > lit[1], "a light behind the object leaves it darker"
    red = pixels(
        render_run(run, output=tmp_path / "r.png", size=(24,), shading="textureless", light=Light(color="red"))
    )
    middle = red[12, 12]
    assert middle[0] > 1.5 * middle[1]
    dark = {"output": tmp_path / "i.png", "size": (24,), "background": "black"}
    half, full = (pixels(render_run(run, light=Light(intensity=value), **dark))[12, 12] for value in (0.5, 1.0))
    np.testing.assert_allclose(2 * half, full, atol=4)


@pytest.mark.parametrize("name", ["studio", "sunset", "overcast"])
def test_skies_that_ship_are_as_bright_as_white_paper(name: str):
    sky = load_environment(Path(name))
    assert sky.shape == (128, 256, 3)
    assert sky.isfinite().all()
    assert sky.min() >= 0
    lit = harmonics(directions(8, 16)) @ irradiance_coefficients(sky)
    assert lit.mean(-1).max() == pytest.approx(1.0, abs=0.1), "nine numbers hold a small sun to 6 percent"
    assert lit[0].mean() > lit[-1].mean(), "it comes from above"
    front, back = lit[4, 8].mean(), lit[4, 0].mean()  # the middle of a picture is azimuth 0
    assert (front > 1.3 * back) == (name != "overcast")


def test_a_sunset_is_red_where_the_sun_is_and_blue_above():
    sky = load_environment(Path("sunset"))
    toward_sun, above = look_up(sky, torch.tensor([[0.57, 0.81, 0.14], [0.0, 0.0, 1.0]]))
    assert toward_sun[0] > 3 * toward_sun[2]
    assert above[2] > 2 * above[0]


def test_an_environment_lights_and_is_seen(run: Path, tmp_path: Path):
    # Blue from above, dark below: the upper side of the ball becomes blue, and what is behind it too.
    sky = np.zeros((16, 32, 3), np.uint8)
    sky[:8] = (0, 0, 255)
    Image.fromarray(sky).save(tmp_path / "sky.png")
    light = Light(environment=tmp_path / "sky.png")
    options = {"light": light, "size": (32,), "shading": "textureless", "elevations_deg": (0.0,)}
    picture = pixels(render_run(run, output=tmp_path / "a.png", background="environment", **options))
    assert abs(picture[2, 16] - [0, 0, 255]).max() <= 2
    assert abs(picture[-2, 16]).max() <= 2
    upper, lower = picture[11, 16], picture[21, 16]
    assert upper[2] > lower[2] + 30
    assert upper[0] == pytest.approx(0, abs=2)


def test_backgrounds(run: Path, tmp_path: Path):
    clear = pixels(render_run(run, output=tmp_path / "t.png", size=(24,), background="transparent"))
    assert clear.shape == (24, 24, 4)
    assert clear[0, 0, 3] == 0
    assert clear[12, 12, 3] > 128
    named = pixels(render_run(run, output=tmp_path / "n.png", size=(24,), background="orange"))
    assert named[0, 0].tolist() == [255, 165, 0]
    # Over its own background, the transparent picture is the other one.
    share = clear[..., 3:] / 255
    np.testing.assert_allclose(clear[..., :3] * share + [255, 165, 0] * (1 - share), named, atol=2)
    wide = np.zeros((10, 40, 3), np.uint8)
    wide[:, 20:] = (0, 200, 0)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    picture = pixels(render_run(run, output=tmp_path / "p.png", size=(24,), background=str(tmp_path / "wide.png")))
    assert picture[0, 0].tolist() == [0, 0, 0]
    assert picture[0, -1].tolist() == [0, 200, 0]


def test_normals_point_at_the_camera_in_the_middle(run: Path, tmp_path: Path):
    options = {"azimuths_deg": (90.0,), "elevations_deg": (0.0,), "size": (25,), "background": "transparent"}
    picture = pixels(render_run(run, output=tmp_path / "n.png", shading="normal", **options))
    # The ball is young and a little uneven.
    np.testing.assert_allclose(picture[12, 12, :3], [128, 255, 128], atol=48)


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif"])
def test_films(run: Path, tmp_path: Path, suffix: str):
    film = render_run(run, output=tmp_path / f"a{suffix}", size=(32, 16), turntable_frames=3, fps=10)
    frames = list(imageio.imiter(film, plugin="pillow" if suffix == ".gif" else "FFMPEG"))
    assert len(frames) == 3
    assert frames[0].shape[:2] == (16, 32)


def test_a_transparent_turntable_is_a_folder_of_pictures(run: Path, tmp_path: Path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    path = render_run(copy, size=(16,), turntable_frames=3, background="transparent")
    assert path == copy / "render"
    assert [pixels(path / f"{index:04d}.png").shape for index in range(3)] == [(16, 16, 4)] * 3
    assert render_run(copy, size=(16,), turntable_frames=3).name == "render.mp4"
    assert render_run(copy, size=(16,), background="transparent").name == "render.png"


def test_a_list_of_cameras_makes_a_folder_of_pictures(run: Path, tmp_path: Path):
    pose = [[0, 0, -1, 2.7], [1, 0, 0, 0], [0, -1, 0, 0]]
    views = [{"azimuth_deg": 0, "elevation_deg": 0}, {"camera_to_world": pose}, {"elevation_deg": 80, "focal": 0.5}]
    (tmp_path / "cameras.json").write_text(json.dumps(views))
    folder = render_run(run, output=tmp_path / "frames", size=(16,), cameras_file=tmp_path / "cameras.json")
    assert sorted(path.name for path in folder.glob("*.png")) == ["0000.png", "0001.png", "0002.png"]
    assert (pixels(folder / "0000.png") == pixels(folder / "0001.png")).all(), "the pose is that of the front view"
    assert (pixels(folder / "0000.png") != pixels(folder / "0002.png")).any()
    with pytest.raises(DreamFusionError, match="exists already"):
        render_run(run, output=folder, size=(16,))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "not JSON"),
        ("{}", "list"),
        ("[]", "no camera"),
        ('[{"azimut": 1}]', "azimut"),
        ('[{"radius": 0}]', "radius"),
        ('[{"camera_to_world": [[1, 2], [3, 4]]}]', "camera_to_world"),
    ],
)
def test_odd_lists_of_cameras_get_one_line(tmp_path: Path, text: str, message: str):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(DreamFusionError, match=message) as caught:
        read_cameras(tmp_path / "c.json", None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": (4,)}, "--size"),
        ({"size": (16, 16, 16)}, "--size"),
        ({"light": Light(ambient=2.0)}, "--ambient"),
        ({"light": Light(intensity=-1.0)}, "--light-intensity"),
        ({"light": Light(color="reddish")}, "--light-color"),
        ({"radius": 0.0}, "--radius"),
        ({"turntable_frames": 1}, "--turntable"),
        ({"fps": 0.0}, "--fps"),
        ({"azimuths_deg": (0, 1, 2), "elevations_deg": (0, 1)}, "--elevation"),
        ({"background": "no-such-thing"}, "--background"),
        ({"background": "environment"}, "needs --environment"),
        ({"background": "transparent", "output": Path("a.mp4")}, "no transparency"),
        ({"output": Path("a.tiff")}, r"a\.tiff: write"),
        ({"light": Light(environment=Path("absent.hdr"))}, "no such file"),
        ({"light": Light(environment=Path(__file__))}, "damaged or of an unknown format"),
        ({"background": __file__}, "damaged or of an unknown format"),
    ],
)
def test_rendering_refuses_bad_input_in_one_line(run: Path, in_tmp: Path, arguments: dict, message: str):
    with pytest.raises(DreamFusionError, match=message) as caught:
        render_run(run, **arguments)
    assert "\n" not in str(caught.value)
    assert list(in_tmp.iterdir()) == []
    (in_tmp / "bad.exr").write_bytes(b"no picture")
    with pytest.raises(DreamFusionError, match="damaged"):
        load_environment(in_tmp / "bad.exr")
