import math

import pytest
import torch

from dreamfusion.errors import DreamFusionError
from dreamfusion.method.cameras import (
    CameraRange,
    fixed_cameras,
    look_at,
    orbit_cameras,
    sample_cameras,
    spherical_position,
)
from dreamfusion.method.shading import (
    LightRange,
    Lights,
    Material,
    headlights,
    phong_highlight,
    sample_backdrops,
    sample_lights,
    shade,
)


def test_azimuth_and_elevation_follow_the_conventions():
    position = spherical_position(torch.tensor([2.0] * 3), torch.tensor([0.0, 90, 0]), torch.tensor([0.0, 0, 90]))
    expected = torch.tensor([[2.0, 0, 0], [0, 2, 0], [0, 0, 2]])
    torch.testing.assert_close(position, expected, atol=1e-6, rtol=0)


def test_a_front_camera_sees_plus_y_on_its_right_and_z_up():
    pose = fixed_cameras(0.0, 0.0).camera_to_world[0]
    right, down, forward = pose[:, 0], pose[:, 1], pose[:, 2]
    torch.testing.assert_close(right, torch.tensor([0.0, 1, 0]))
    torch.testing.assert_close(down, torch.tensor([0.0, 0, -1]))
    torch.testing.assert_close(forward, torch.tensor([-1.0, 0, 0]))
    assert torch.linalg.det(pose[:, :3]).item() == pytest.approx(1.0)


def test_straight_from_above_the_front_lies_at_the_bottom_of_the_image():
    pose = fixed_cameras(0.0, 90.0).camera_to_world[0]
    torch.testing.assert_close(pose[:, 1], torch.tensor([1.0, 0, 0]), atol=1e-5, rtol=0)  # down in the image is +x


def test_looking_exactly_along_up_gives_a_finite_pose():
    pose = look_at(torch.tensor([[0.0, 0, 3]]), torch.zeros(1, 3), torch.tensor([[0.0, 0, 1]]))
    assert torch.isfinite(pose).all()
    assert torch.linalg.det(pose[0, :, :3]).item() == pytest.approx(1.0)


def test_rays_pass_through_pixel_centres():
    rays = fixed_cameras(0.0, 0.0, radius=2.0, focal=1.0).rays(2, 2)
    # Top left pixel of 2 x 2: centre at (-0.25, -0.25) image widths, one focal length away.
    expected = torch.tensor([-1.0, -0.25, 0.25]) / math.sqrt(1 + 2 * 0.25**2)
    torch.testing.assert_close(rays.directions[0, 0, 0], expected)
    torch.testing.assert_close(rays.origins[0, 1, 1], torch.tensor([2.0, 0, 0]))


def test_a_wide_image_keeps_square_pixels():
    directions = fixed_cameras(0.0, 0.0, focal=1.0).rays(1, 4).directions[0, 0]
    torch.testing.assert_close(directions[:, 1] / -directions[:, 0], torch.tensor([-0.375, -0.125, 0.125, 0.375]))


def test_sampled_cameras_stay_in_range_and_look_at_the_object():
    cameras = sample_cameras(4000, CameraRange(), torch.Generator().manual_seed(0))
    assert cameras.elevation_deg.min() >= -10
    assert cameras.elevation_deg.max() <= 90
    assert cameras.radius.min() >= 2.4
    assert cameras.radius.max() <= 2.6
    assert (cameras.position.norm(dim=1) - cameras.radius).abs().max() < 0.09  # noise of 0.05 along each axis
    to_center = torch.nn.functional.normalize(-cameras.position, dim=1)
    assert (to_center * cameras.camera_to_world[:, :, 2]).sum(1).min() > 0.95
    quadrants = torch.histc(cameras.azimuth_deg, 4, -180, 180) / len(cameras)
    assert (quadrants - 0.25).abs().max() < 0.03


def test_fields_of_view_are_uniform_in_angle():
    cameras = sample_cameras(4000, CameraRange(fov_min_deg=40, fov_max_deg=70), torch.Generator().manual_seed(0))
    fov = torch.rad2deg(2 * torch.atan(0.5 / cameras.focal))
    assert 39.99 <= fov.min() < 40.1
    assert 69.9 < fov.max() <= 70.01
    assert (fov < 50).float().mean().item() == pytest.approx(1 / 3, abs=0.03)


@pytest.mark.parametrize(("low", "high"), [(40, None), (70, 40), (0, 9), (9, 180)])
def test_impossible_fields_of_view_are_refused(low, high):
    with pytest.raises(DreamFusionError, match=r"^fov_m.*_deg: "):
        CameraRange(fov_min_deg=low, fov_max_deg=high)


def test_lights_around_the_position_of_the_camera():
    cameras = fixed_cameras(torch.zeros(4000), 0.0, radius=2.0)
    near, by_direction = (
        sample_lights(cameras, lights, torch.Generator().manual_seed(0)).position
        for lights in (LightRange(position_noise=0.5), LightRange(direction_noise=0.25))
    )
    torch.testing.assert_close(near, by_direction)  # 0.5 at a distance of 2 leans as much as 0.25 at 1


def test_backdrops_of_any_colour_for_a_share_of_the_views():
    grey = sample_backdrops(2000, torch.Generator().manual_seed(0))
    assert (grey.max(dim=1).values - grey.min(dim=1).values).max() <= 0.2
    dark = grey.mean(dim=1) < 0.5
    assert dark.float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert grey[dark].max() <= 0.45
    assert grey[~dark].min() >= 0.7
    generator = torch.Generator().manual_seed(0)
    mixed = sample_backdrops(2000, generator, "any", ratio=0.25, base=(0.0, 0.0, 1.0))
    plain = (mixed == torch.tensor([0.0, 0.0, 1.0])).all(dim=1)
    assert plain.float().mean().item() == pytest.approx(0.75, abs=0.03)
    assert mixed[~plain].mean(dim=0).tolist() == pytest.approx([0.5] * 3, abs=0.05)


def test_elevations_mix_uniform_angle_and_uniform_area():
    everywhere = {"elevation_min_deg": 0.0, "elevation_max_deg": 90.0}
    by_angle = CameraRange(**everywhere, uniform_angle_probability=1.0)
    by_area = CameraRange(**everywhere, uniform_angle_probability=0.0)
    for camera_range, share_below_30 in ((by_angle, 1 / 3), (by_area, 0.5)):
        cameras = sample_cameras(6000, camera_range, torch.Generator().manual_seed(1))
        assert (cameras.elevation_deg < 30).float().mean().item() == pytest.approx(share_below_30, abs=0.025)


def test_the_same_seed_gives_the_same_cameras():
    a, b = (sample_cameras(3, CameraRange(), torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(a.camera_to_world, b.camera_to_world)


def test_orbit_starts_at_the_front_and_goes_counter_clockwise():
    assert orbit_cameras(4).azimuth_deg.tolist() == [0, 90, -180, -90]


def test_sampled_lights_stand_around_the_camera_at_the_stated_distance():
    cameras = fixed_cameras(torch.zeros(4000), 0.0)
    lights = sample_lights(cameras, LightRange(), torch.Generator().manual_seed(0))
    distance = lights.position.norm(dim=1)
    assert distance.min() >= 1.6 - 1e-5
    assert distance.max() <= 3.0 + 1e-5
    assert lights.position[:, 0].mean() > 0.5
    assert lights.position[:, 1:].mean(0).abs().max() < 0.1


def test_headlights_light_what_the_camera_sees():
    cameras = orbit_cameras(8)
    lights = headlights(cameras)
    facing = (torch.nn.functional.normalize(lights.position, dim=1) * cameras.position).sum(1)
    assert (facing > 0).all()


def test_shading_by_hand():
    # Light 60 degrees off the normal: cosine 0.5, so albedo * (0.9 * 0.5 + 0.1).
    light = torch.tensor([[math.sin(math.radians(60)), 0.0, math.cos(math.radians(60))]])
    color = shade(
        torch.tensor([[1.0, 0.5, 0.0]]),
        torch.tensor([[0.0, 0.0, 1.0]]),
        torch.zeros(1, 3),
        light,
        torch.tensor([[0.9]]),
        torch.tensor([[0.1]]),
    )
    torch.testing.assert_close(color, torch.tensor([[0.55, 0.275, 0.0]]))


def test_a_light_behind_the_surface_leaves_the_ambient_light_only():
    color = shade(
        torch.ones(1, 3),
        torch.tensor([[0.0, 0, 1]]),
        torch.zeros(1, 3),
        torch.tensor([[0.0, 0, -2]]),
        torch.tensor([[0.9]]),
        torch.tensor([[0.1]]),
    )
    torch.testing.assert_close(color, torch.full((1, 3), 0.1))


def highlight(normal: list[float], light: list[float], direction: list[float], **material: float) -> float:
    """The highlight at the origin."""
    vectors = [torch.nn.functional.normalize(torch.tensor([v]), dim=-1) for v in (normal, light, direction)]
    return phong_highlight(vectors[0], torch.zeros(1, 3), vectors[1], vectors[2], Material(**material)).item()


def test_highlight_by_hand():
    # The light comes in along (1, 0, 1) and leaves along (-1, 0, 1); a camera straight above sees it 45 degrees off.
    up, light = [0.0, 0, 1], [1.0, 0, 1]
    assert highlight(up, light, [1.0, 0, -1], specular=0.5, shininess=10) == pytest.approx(0.5, rel=1e-5)
    assert highlight(up, light, [0.0, 0, -1], specular=0.5, shininess=10) == pytest.approx(0.5 * 2**-5, rel=1e-5)
    assert highlight(up, light, [-1.0, 0, 1], specular=0.5, shininess=10) == 0  # from the other side of the mirror
    assert highlight([0.0, 0, -1], light, [1.0, 0, -1], specular=0.5, shininess=10) == 0  # a light behind the surface


def test_highlights_are_white_and_added_to_the_scattered_light():
    normal, light = torch.tensor([[0.0, 0, 1]]), torch.tensor([[0.0, 0, 2]])
    red, diffuse, ambient = torch.tensor([[1.0, 0, 0]]), torch.tensor([[0.6]]), torch.tensor([[0.1]])
    color = shade(red, normal, torch.zeros(1, 3), light, diffuse, ambient, torch.tensor([[0.5]]))
    torch.testing.assert_close(color, torch.tensor([[0.7 + 0.3, 0.3, 0.3]]))


def test_gradient_of_the_highlight_is_finite_where_it_vanishes():
    normal = torch.tensor([[0.0, 0, 1], [1.0, 0, 0]], requires_grad=True)
    light = torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]])
    value = phong_highlight(
        normal, torch.zeros(2, 3), light, torch.tensor([[0.0, 1, 0]] * 2), Material(specular=0.5, shininess=2.5)
    )
    value.sum().backward()
    assert normal.grad.isfinite().all()


def test_impossible_materials_are_refused():
    with pytest.raises(DreamFusionError, match=r"^specular: "):
        Material(specular=-0.1)


def test_random_backdrops_in_a_share_of_the_views():
    every = sample_backdrops(2000, torch.Generator().manual_seed(0))
    some = sample_backdrops(2000, torch.Generator().manual_seed(0), ratio=0.3, base=(0.0, 0.5, 1.0))
    plain = (some == torch.tensor([0.0, 0.5, 1.0])).all(dim=1)
    assert plain.float().mean().item() == pytest.approx(0.7, abs=0.03)
    assert torch.equal(some[~plain], every[~plain])


def test_slicing_lights_and_cameras():
    lights = Lights(torch.zeros(4, 3), torch.arange(4.0), torch.ones(4))
    assert lights[1:3].diffuse.tolist() == [1.0, 2.0]
    assert len(orbit_cameras(4)[1:3]) == 2


def test_a_square_frame_of_oblong_pixels():
    camera = fixed_cameras(0.0, 0.0, focal=0.5)
    rays = camera.rays(2, 4, 1.0).directions[0]
    # Looking along -x: right is +y, down is -z; the frame reaches 1 to every side at distance 1.
    towards = rays / -rays[..., :1]
    assert towards[0, :, 1].tolist() == pytest.approx([-0.75, -0.25, 0.25, 0.75])
    assert towards[:, 0, 2].tolist() == pytest.approx([0.5, -0.5])
    square = camera.rays(2, 4).directions[0]
    assert (square / -square[..., :1])[:, 0, 2].tolist() == pytest.approx([0.25, -0.25])
