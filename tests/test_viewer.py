"""The viewer page in a real browser, opened from disk."""

import io
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image

from dreamfusion.assets.formats import save_glb
from dreamfusion.assets.mesh import Mesh
from dreamfusion.assets.viewer import save_viewer
from dreamfusion.errors import DreamFusionError
from dreamfusion.pictures.compare import compare

TITLE = (
    """a "red" <ball> & <img src=x onerror="document.title='taken'"> </script><script>document.title='taken'</script>"""
)


def save_ball(path: Path, color: tuple[float, float, float] = (0.8, 0.1, 0.1)) -> Path:
    """Write a ball with vertex colours."""
    ball = trimesh.creation.icosphere(subdivisions=3, radius=0.7)
    vertices = ball.vertices.astype(np.float32)
    colors = np.tile(np.float32(color), (len(vertices), 1))
    save_glb(Mesh(vertices, ball.faces.astype(np.int64), vertices / 0.7, colors), path)
    return path


def save_textured(path: Path) -> Path:
    """Write a box whose colour is in a texture alone: all blue."""
    box = trimesh.creation.box(extents=(1, 1, 1))
    texture = Image.new("RGB", (8, 8), (20, 40, 220))
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=texture, metallicFactor=0.0)
    box.visual = trimesh.visual.TextureVisuals(uv=np.full((len(box.vertices), 2), 0.5), material=material)
    path.write_bytes(trimesh.Scene(box).export(file_type="glb"))
    return path


class Page:
    """An open page, which must not complain."""

    def __init__(self, browser: Any, html: Path, **viewport: int) -> None:
        self.complaints: list[str] = []
        self.page = browser.new_page(viewport=viewport or {"width": 360, "height": 560}, offline=True)
        self.page.set_default_timeout(3_600_000)
        self.page.on("console", lambda m: self.complaints.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda e: self.complaints.append(str(e)))
        self.page.on("request", lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else self._fetched(r))
        self.page.goto(html.as_uri())
        self.page.wait_for_selector("body[data-ready]", timeout=3_600_000)

    def _fetched(self, request: Any) -> None:
        self.complaints.append(f"fetched {request.url}")

    def pixels(self) -> np.ndarray:
        """Return the picture on the canvas, [H, W, 3], without its edge, where focus and the panel's shadow show."""
        png = self.page.locator("#canvas").screenshot(timeout=3_600_000)
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)[12:-12, 12:-12]

    def middle(self) -> np.ndarray:
        """Return the colour in the middle of the canvas."""
        picture = self.pixels()
        return picture[picture.shape[0] // 2, picture.shape[1] // 2]

    def set(self, name: str, value: str) -> None:
        """Move a slider or choose a colour."""
        self.page.locator(f"#{name}").fill(value)

    def extent(self) -> tuple[float, float, float, float]:
        """Return left, right, top and bottom of what is not background, in pixels of the canvas."""
        picture = self.pixels()
        inside = abs(picture - picture[-1, 0]).max(axis=-1) > 30
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        return columns[0] + 12, columns[-1] + 13, rows[0] + 12, rows[-1] + 13

    def mode(self, name: str) -> None:
        """Choose how the object is shown."""
        self.page.locator(f"input[value={name}]").check(force=True)


@pytest.fixture(scope="module")
def page(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("viewer")
    save_viewer(save_ball(folder / "ball.glb"), folder / "a page.html", TITLE)
    opened = Page(browser, folder / "a page.html")
    yield opened
    opened.page.close()


def test_the_object_is_seen_under_its_title(page: Page):
    picture = page.pixels()
    red, green, _ = page.middle()
    assert red > 80 > green, "the ball is red"
    assert abs(picture[-1, 0] - [0xD9, 0xDC, 0xE1]).max() <= 2, "the corner shows the background"
    assert page.page.title() == page.page.locator("h1").inner_text() == TITLE
    assert page.page.locator("#canvas").get_attribute("aria-label").startswith(TITLE)
    assert page.page.locator("img").count() == 0
    assert page.complaints == []


def test_light_and_background_change_the_picture(page: Page):
    page.set("azimuth", "30")
    lit = page.middle()
    page.set("azimuth", "-150")
    unlit = page.middle()
    assert unlit[0] < lit[0] - 20, "a light behind the ball leaves its front darker"
    page.set("background", "#102030")
    assert abs(page.pixels()[-1, 0] - [0x10, 0x20, 0x30]).max() <= 2
    assert page.complaints == []


def test_every_mode_shows_something_else(page: Page):
    middles = {}
    for mode in ("shaded", "albedo", "textureless", "normals"):
        page.mode(mode)
        middles[mode] = page.middle()
    assert abs(middles["albedo"] - np.array([204, 26, 26])).max() <= 3, "albedo is the colour of the mesh itself"
    assert np.ptp(middles["textureless"]) <= 12, "textureless is grey"
    assert abs(middles["normals"] - np.array([128, 128, 255])).max() <= 12, "the normal faces the camera"
    page.mode("albedo")
    solid = page.pixels()
    page.mode("wireframe")
    wires = page.pixels()
    background = (abs(wires - wires[-1, 0]).max(axis=-1) < 8).sum()
    assert background > (abs(solid - solid[-1, 0]).max(axis=-1) < 8).sum() + 200, "one sees through a wireframe"
    page.mode("shaded")
    assert page.complaints == []


def test_mouse_wheel_and_keys_move_the_camera(page: Page):
    page.mode("shaded")
    start = page.pixels()
    canvas = page.page.locator("#canvas")

    def moved(picture: np.ndarray) -> bool:
        return bool((abs(picture - start).max(axis=-1) > 12).sum() > 50)

    canvas.focus()
    page.page.keyboard.press("-")
    assert moved(page.pixels())
    page.page.keyboard.press("Home")
    assert not moved(page.pixels())
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.page.mouse.move(x, y)
    page.page.mouse.wheel(0, 600)
    assert moved(page.pixels())
    page.page.locator("#home").click()
    page.page.mouse.move(x, y)
    page.page.mouse.down()
    page.page.mouse.move(x + 90, y + 40, steps=3)
    page.page.mouse.up()
    assert moved(page.pixels())
    page.page.locator("#home").click()
    assert not moved(page.pixels())
    assert page.complaints == []


def test_textures_are_shown(browser: Any, tmp_path: Path):
    save_viewer(save_textured(tmp_path / "box.glb"), tmp_path / "box.html", "a blue box")
    opened = Page(browser, tmp_path / "box.html")
    opened.mode("albedo")
    assert abs(opened.middle() - np.array([20, 40, 220])).max() <= 3
    assert opened.complaints == []
    opened.page.close()


@pytest.mark.parametrize(("width", "height"), [(360, 640), (768, 1024), (1280, 720), (1920, 1080)])
def test_the_object_stands_in_the_middle_of_what_the_panel_leaves(
    browser: Any, tmp_path: Path, width: int, height: int
):
    save_viewer(save_ball(tmp_path / "ball.glb"), tmp_path / "v.html", "a ball")
    opened = Page(browser, tmp_path / "v.html", width=width, height=height)
    opened.page.add_style_tag(content="h1, #controls { opacity: 0 }")
    opened.mode("albedo")  # no shadow
    left, right, top, bottom = opened.extent()
    canvas, panel = (opened.page.locator(name).bounding_box() for name in ("#canvas", "#controls"))
    free = panel["x"] if panel["y"] < canvas["height"] and panel["x"] > 0 else canvas["width"]
    assert (left + right) / 2 == pytest.approx(free / 2, abs=3)
    assert (top + bottom) / 2 == pytest.approx(canvas["height"] / 2, abs=3)
    assert 0.5 * min(free, canvas["height"]) < right - left < free
    assert opened.complaints == []
    opened.page.close()


def test_a_dark_page_has_a_dark_backdrop_until_another_is_chosen(browser: Any, tmp_path: Path):
    save_viewer(save_ball(tmp_path / "ball.glb"), tmp_path / "v.html", "a ball")
    opened = Page(browser, tmp_path / "v.html")
    paper = "getComputedStyle(document.getElementById('controls')).backgroundColor"
    light = opened.page.evaluate(paper)
    opened.page.locator("#theme").click()
    assert opened.page.evaluate(paper) != light
    assert abs(opened.pixels()[-1, 0] - [0x23, 0x27, 0x2E]).max() <= 2
    opened.set("background", "#406080")
    opened.page.locator("#theme").click()
    assert opened.page.evaluate(paper) == light
    assert abs(opened.pixels()[-1, 0] - [0x40, 0x60, 0x80]).max() <= 2
    assert opened.complaints == []
    opened.page.close()


def test_a_page_around_it_may_say_the_theme(browser: Any, tmp_path: Path):
    save_viewer(save_ball(tmp_path / "ball.glb"), tmp_path / "v.html", "a ball")
    opened = Page(browser, tmp_path / "v.html")
    theme = "document.documentElement.dataset.theme"
    assert opened.page.evaluate(theme) == "light"
    for asked, shown in [("dark", "dark"), ("purple", "dark"), ("light", "light")]:
        opened.page.evaluate(f"location.hash = '{asked}'")
        opened.page.wait_for_function(f"location.hash === '#{asked}' && {theme} === '{shown}'")
    opened.page.close()
    assert opened.complaints == []


def test_it_turns_slowly_and_stops(browser: Any, tmp_path: Path):
    save_viewer(save_textured(tmp_path / "box.glb"), tmp_path / "v.html", "a box")
    opened = Page(browser, tmp_path / "v.html")
    start = opened.pixels()
    opened.page.locator("#turn").click()
    assert opened.page.locator("#turn").get_attribute("aria-pressed") == "true"
    opened.page.evaluate("async () => { for (let i = 0; i < 20; i++) await new Promise(requestAnimationFrame) }")
    opened.page.locator("#turn").click()
    turned = opened.pixels()
    assert (abs(turned - start).max(axis=-1) > 12).sum() > 50
    assert np.array_equal(opened.pixels(), turned)
    assert opened.complaints == []
    opened.page.close()


def test_the_object_and_its_picture_can_be_taken_away(browser: Any, tmp_path: Path):
    glb = save_ball(tmp_path / "ball.glb")
    save_viewer(glb, tmp_path / "v.html", "a red ball")
    opened = Page(browser, tmp_path / "v.html")
    with opened.page.expect_download() as taken:
        opened.page.locator("#download").click()
    assert taken.value.suggested_filename == "a-red-ball.glb"
    assert Path(taken.value.path()).read_bytes() == glb.read_bytes()
    with opened.page.expect_download() as taken:
        opened.page.locator("#picture").click()
    assert taken.value.suggested_filename == "a-red-ball.png"
    picture = np.asarray(Image.open(taken.value.path()).convert("RGB")).astype(int)
    red, green, _ = picture[picture.shape[0] // 2, picture.shape[1] // 2]
    assert red > 80 > green
    opened.page.close()


def test_two_objects_stand_side_by_side_and_turn_together(browser: Any, tmp_path: Path):
    red, blue = save_ball(tmp_path / "<img src=x onerror=alert(1)>.glb"), save_textured(tmp_path / "blue.glb")
    page = compare(red, blue)
    assert page == tmp_path / "compare.html"
    opened = Page(browser, page, width=1000, height=500)
    opened.page.add_style_tag(content="h1, #controls, .label { opacity: 0 }")
    opened.mode("albedo")
    free = opened.page.locator("#controls").bounding_box()["x"]
    picture = opened.pixels()
    row = picture[picture.shape[0] // 2]
    assert abs(row[round(free / 4) - 12] - [204, 26, 26]).max() <= 3
    assert abs(row[round(free * 3 / 4) - 12] - [20, 40, 220]).max() <= 3
    opened.page.locator("#canvas").focus()
    opened.page.keyboard.press("-")
    both = abs(opened.pixels() - picture).max(axis=-1) > 12
    half = round(free / 2) - 12
    assert both[:, :half].any()
    assert both[:, half:].any()
    assert [label.inner_text() for label in opened.page.locator(".label").all()] == [red.name, blue.name]
    assert opened.page.locator("img").count() == 0
    assert opened.complaints == []
    opened.page.close()


def test_a_comparison_needs_two_meshes(tmp_path: Path):
    red = save_ball(tmp_path / "red.glb")
    with pytest.raises(DreamFusionError, match="There is no run"):
        compare(red, tmp_path / "absent")
    with pytest.raises(DreamFusionError, match=r"end its name in \.html"):
        compare(red, red, tmp_path / "page")


def test_a_page_is_one_small_file_that_names_no_other(tmp_path: Path):
    save_viewer(save_ball(tmp_path / "ball.glb"), tmp_path / "v.html", TITLE)
    text = (tmp_path / "v.html").read_text()
    assert len(text) < 2_000_000
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=\"(?!data:)", text)
    assert "<ball>" not in text
    assert "<img" not in text


def test_a_page_runs_no_script_but_its_own_and_fetches_nothing(browser: Any, tmp_path: Path):
    save_viewer(save_ball(tmp_path / "ball.glb"), tmp_path / "v.html", "a ball")
    page = (tmp_path / "v.html").read_text()
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        source = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/x"
        other = f"<script>document.title='taken'</script><img src={source} onerror=\"document.title='taken'\">"
        (tmp_path / "v.html").write_text(page.replace("<h1>", f"{other}<h1>"))
        opened = Page(browser, tmp_path / "v.html")
        assert opened.page.title() == "a ball"
        assert "Content Security Policy" in " ".join(opened.complaints)
        opened.page.close()
        elsewhere.setblocking(False)
        with pytest.raises(BlockingIOError):
            elsewhere.accept()


def test_a_mesh_that_is_not_there_gets_one_line(tmp_path: Path):
    with pytest.raises(DreamFusionError, match="Cannot read the mesh"):
        save_viewer(tmp_path / "no.glb", tmp_path / "v.html", "nothing")
    assert list(tmp_path.iterdir()) == []
