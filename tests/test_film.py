"""Pictures of the finished mesh, and the film of how it grew."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import trimesh

from dreamfusion.assets.images import save_png
from dreamfusion.assets.mesh import Mesh
from dreamfusion.method.cameras import orbit_cameras
from dreamfusion.method.shading import Material
from dreamfusion.pictures.film import framing_camera, growth_frames, level_with, mesh_pictures
from dreamfusion.scenes.scene import PICTURE_BACKDROP


def red(points: torch.Tensor) -> torch.Tensor:
    return torch.tensor([0.8, 0.1, 0.1]).expand(len(points), 3)


def test_a_mesh_is_drawn_as_large_as_it_is_and_in_the_colours_of_its_field():
    ball = trimesh.creation.icosphere(subdivisions=4, radius=0.6)
    points = torch.tensor(ball.vertices, dtype=torch.float32).numpy()
    mesh = Mesh(points, ball.faces, points / points.dtype.type(0.6), points)
    config = SimpleNamespace(material=Material(), rasterizer="warp")
    scene = SimpleNamespace(device=torch.device("cpu"), field=SimpleNamespace(albedo=red), config=config)
    pictures = list(mesh_pictures(scene, mesh, orbit_cameras(2, radius=2.7, focal=1.35), "albedo", 64))
    backdrop = torch.tensor(PICTURE_BACKDROP)
    # A ball of radius r at distance d is seen under asin(r / d); its outline has focal * size * tan of that, in pixels.
    radius = 1.35 * 64 * math.tan(math.asin(0.6 / 2.7))
    for picture in pictures:
        assert picture[:, 32, 32].tolist() == pytest.approx([0.8, 0.1, 0.1], abs=1e-5)
        assert torch.allclose(picture[:, 0, 0], backdrop)
        share = (backdrop[1] - picture[1]) / (backdrop[1] - 0.1)  # edges are smoothed: a pixel may be half covered
        assert share.sum().item() == pytest.approx(math.pi * radius**2, rel=0.01)


def column(low: float, high: float) -> Mesh:
    """Return a column of 0.4 x 0.4, off the middle."""
    box = trimesh.creation.box(extents=(0.4, 0.4, high - low))
    points = (box.vertices + np.array([0.1, 0.0, (low + high) / 2])).astype("float32")
    return Mesh(points, box.faces, points, points)


@pytest.mark.parametrize("stretch", [1.0, 0.1])
def test_a_camera_frames_all_of_a_mesh(stretch: float):
    mesh = column(-0.6 * stretch, 1.2 * stretch)
    camera = framing_camera(mesh, 30.0, 15.0)
    x, y, _, w = camera.clip(torch.from_numpy(mesh.vertices))[0].unbind(-1)
    assert max((x / w).abs().max(), (y / w).abs().max()) < 1 / 1.08
    middle = torch.tensor([[0.1, 0.0, 0.3 * stretch]])
    assert camera.clip(middle)[0, 0, :2].tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    # Half the angle of view has the sine 0.5 / sqrt(0.5^2 + 1.35^2); a corner is 0.943 (or 0.297) from the middle.
    reach = math.sqrt(0.2**2 + 0.2**2 + (0.9 * stretch) ** 2)
    assert (camera.position[0] - middle[0]).norm().item() == pytest.approx(1.08 * reach / 0.34733, rel=1e-4)


def test_an_orbit_is_raised_to_the_middle_of_a_mesh():
    before = orbit_cameras(3, radius=2.7)
    after = level_with(before, column(-0.6, 1.2))
    assert (after.position - before.position).tolist() == [pytest.approx([0.0, 0.0, 0.3], abs=1e-6)] * 3
    assert torch.equal(after.camera_to_world[:, :, :3], before.camera_to_world[:, :, :3])


def test_growth_fades_from_preview_to_preview_with_the_step_beneath(tmp_path: Path):
    colors = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    paths = [tmp_path / f"step_{step:06d}.png" for step in (25, 50)]
    for color, path in zip(colors, paths, strict=True):
        save_png(color[:, None, None].expand(3, 24, 96), path)
    frames = list(growth_frames(paths))
    assert len(frames) == 6 + 15
    assert {frame.shape for frame in frames} == {(3, frames[0].shape[1], 288)}
    assert frames[0].shape[1] > 72, "there is room beneath"
    assert torch.equal(frames[0][:, 36, 144], colors[0])
    assert torch.allclose(frames[3][:, 36, 144], colors.mean(0))
    assert torch.equal(frames[-1][:, 36, 144], colors[1])
    first, last = frames[0][:, 72:], frames[-1][:, 72:]
    assert first.min() < 0.3
    assert not torch.equal(first, last), "another number is written"
    assert list(growth_frames([])) == []
