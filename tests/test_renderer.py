"""The renderer against closed forms, and the occupancy grid that it marches through."""

import dataclasses
import math

import pytest
import torch

from dreamfusion.errors import DreamFusionError
from dreamfusion.fields.background import LearnedBackground, StaticBackground
from dreamfusion.fields.nerf import HashGridConfig, NerfConfig, NerfField
from dreamfusion.method.cameras import Rays, fixed_cameras
from dreamfusion.method.shading import Material
from dreamfusion.renderers.occupancy import OccupancyConfig, OccupancyGrid
from dreamfusion.renderers.volume import RenderSettings, render, render_pictures
from support.balls import ALBEDO, BLACK, UniformBall, lights, one_ray, seeded

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
SMALL_GRID = HashGridConfig(levels=3, features=2, log2_size=10, base_resolution=4, max_resolution=16)


def full_grid() -> OccupancyGrid:
    return OccupancyGrid(OccupancyConfig(resolution=8))


def rough_field() -> NerfField:
    field = NerfField(NerfConfig(grid=SMALL_GRID, density_bias=-5.0, normal_epsilon=0.03), seeded())
    with torch.no_grad():
        field.table.normal_(std=0.3, generator=seeded(1))
    return field


def views(count: int, size: int) -> Rays:
    return fixed_cameras(torch.arange(count) * 70.0, 20.0).rays(size, size)


EXACT = RenderSettings(step_length=0.01, min_weight=0.0, min_transmittance=0.0)


def test_uniform_ball_by_hand():
    out = render(UniformBall(1.5), BLACK, full_grid(), one_ray(), lights(1), ["albedo"], EXACT)
    opacity = 1 - math.exp(-1.5 * 2)
    assert out.opacity.item() == pytest.approx(opacity, rel=1e-4)
    assert out.rgb.flatten().tolist() == pytest.approx([c * opacity for c in ALBEDO], rel=1e-4)
    # Mean free path inside a slab of length 2, which begins at t = 1.
    depth = 1 + 1 / 1.5 - 2 * math.exp(-3) / opacity
    assert out.depth.item() == pytest.approx(depth, abs=1e-3)
    assert out.normal is None
    assert out.orientation.tolist() == [0.0]


def test_opacity_gradient_by_hand():
    ball = UniformBall(0.8)
    render(ball, BLACK, full_grid(), one_ray(), lights(1), ["albedo"], EXACT).opacity.sum().backward()
    assert ball.value.grad.item() == pytest.approx(2 * math.exp(-1.6), rel=1e-3)  # d/ds (1 - exp(-2 s))


def test_background_shows_through_and_can_be_replaced():
    ball, transparency = UniformBall(0.5), math.exp(-1.0)
    blue = StaticBackground((0.0, 0.0, 1.0))
    out = render(ball, blue, full_grid(), one_ray(), lights(1), ["albedo"], EXACT)
    assert out.rgb[0, 2].item() == pytest.approx(ALBEDO[2] * (1 - transparency) + transparency, rel=1e-4)
    red = torch.tensor([[1.0, 0.0, 0.0]])
    out = render(ball, blue, full_grid(), one_ray(), lights(1), ["albedo"], EXACT, backdrop=red)
    assert out.rgb[0, 0].item() == pytest.approx(ALBEDO[0] * (1 - transparency) + transparency, rel=1e-4)
    assert out.rgb[0, 2].item() == pytest.approx(ALBEDO[2] * (1 - transparency), rel=1e-4)


@pytest.mark.parametrize(("shading", "base"), [("lambertian", ALBEDO), ("textureless", (1.0, 1.0, 1.0))])
def test_lit_opaque_ball_by_hand(shading, base):
    """The surface at (1, 0, 0) faces +x; the light comes from 60 degrees off, at (1 + 1, sqrt 3, 0)."""
    light = lights(1, (2.0, math.sqrt(3), 0.0))
    out = render(UniformBall(1e4), BLACK, full_grid(), one_ray(), light, [shading], EXACT, with_normals=True)
    assert out.rgb.flatten().tolist() == pytest.approx([c * (0.7 * 0.5 + 0.2) for c in base], abs=0.01)
    assert out.normal.flatten().tolist() == pytest.approx([1.0, 0.0, 0.0], abs=1e-4)
    assert out.orientation.item() == pytest.approx(0.0, abs=1e-6)


def test_highlights_show_on_lambertian_images_alone():
    """Light and camera both lie on the normal of the surface that the ray meets: r . v = 1."""
    shiny = dataclasses.replace(EXACT, material=Material(specular=0.4))
    for shading, more in (("lambertian", 0.7 * 0.4), ("textureless", 0.0), ("albedo", 0.0)):
        plain, glossy = (
            render(UniformBall(1e4), BLACK, full_grid(), one_ray(), lights(1), [shading], settings).rgb
            for settings in (EXACT, shiny)
        )
        torch.testing.assert_close(glossy - plain, torch.full((1, 3, 1, 1), more), atol=2e-3, rtol=0)


def test_growing_steps_see_the_same_ball():
    settings = dataclasses.replace(EXACT, dt_gamma=0.02)
    out = render(UniformBall(1.5), BLACK, full_grid(), one_ray(), lights(1), ["albedo"], settings)
    exact = render(UniformBall(1.5), BLACK, full_grid(), one_ray(), lights(1), ["albedo"], EXACT)
    assert out.samples < 0.6 * exact.samples
    assert out.opacity.item() == pytest.approx(exact.opacity.item(), rel=5e-3)
    assert out.depth.item() == pytest.approx(exact.depth.item(), abs=0.01)


def test_orientation_counts_normals_that_face_away():
    """Seen from inside, outward normals look away: n . v = 1, so the loss is the opacity of the ray."""
    inside = Rays(torch.zeros(1, 1, 1, 3), torch.tensor([1.0, 0.0, 0.0]).view(1, 1, 1, 3))
    out = render(UniformBall(1.0), BLACK, full_grid(), inside, lights(1), ["lambertian"], EXACT)
    assert out.orientation.item() == pytest.approx(1 - math.exp(-1), rel=1e-2)
    two = Rays(inside.origins.expand(1, 1, 2, 3), torch.cat([inside.directions, inside.directions], dim=2))
    halved = render(UniformBall(1.0), BLACK, full_grid(), two, lights(1), ["lambertian"], EXACT)
    assert halved.orientation.item() == pytest.approx(out.orientation.item(), rel=1e-5)  # a mean over rays


def test_each_image_has_its_own_shading():
    field, rays, all_lights, settings = rough_field(), views(3, 12), lights(3), RenderSettings()
    modes = ["albedo", "lambertian", "textureless"]
    together = render(field, BLACK, full_grid(), rays, all_lights, modes, settings)
    assert together.orientation[0] == 0
    assert (together.orientation[1:] > 0).all()
    for i, mode in enumerate(modes):
        single = Rays(rays.origins[i : i + 1], rays.directions[i : i + 1])
        alone = render(field, BLACK, full_grid(), single, all_lights[i : i + 1], [mode], settings)
        torch.testing.assert_close(together.rgb[i : i + 1], alone.rgb, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(together.orientation[i : i + 1], alone.orientation, atol=1e-6, rtol=1e-4)


def test_normals_on_request_leave_colours_alone():
    field, rays, settings = rough_field(), views(2, 12), RenderSettings()
    modes = ["albedo", "lambertian"]
    plain = render(field, BLACK, full_grid(), rays, lights(2), modes, settings)
    more = render(field, BLACK, full_grid(), rays, lights(2), modes, settings, with_normals=True)
    torch.testing.assert_close(plain.rgb, more.rgb, atol=1e-6, rtol=1e-5)
    assert plain.normal is None
    assert more.normal.shape == (2, 3, 12, 12)
    assert (more.normal.norm(dim=1, keepdim=True) <= more.opacity + 1e-4).all()


@pytest.mark.parametrize("mode", ["albedo", "lambertian"])
def test_nothing_to_see_is_pure_background_with_gradients(mode):
    field, background = rough_field(), LearnedBackground(generator=seeded())
    rays = one_ray(reverse=True)
    out = render(field, background, full_grid(), rays, lights(1), [mode], RenderSettings(), with_normals=True)
    assert out.samples == 0
    torch.testing.assert_close(out.rgb[0, :, 0, 0], background(rays.directions)[0, 0, 0])
    assert out.opacity.item() == 0
    assert out.depth.item() == 0
    (out.rgb.sum() + out.opacity.sum() + out.orientation.sum()).backward()
    assert all(p.grad.abs().sum() > 0 for p in background.parameters())
    assert all(p.grad is None or torch.equal(p.grad, torch.zeros_like(p)) for p in field.parameters())


def test_dropping_negligible_samples_changes_little():
    field, rays = rough_field(), views(2, 16)
    modes = ["albedo", "lambertian"]
    exact = render(field, BLACK, full_grid(), rays, lights(2), modes, dataclasses.replace(EXACT, step_length=0.03))
    culled = render(field, BLACK, full_grid(), rays, lights(2), modes, RenderSettings(step_length=0.03))
    assert culled.samples < 0.9 * exact.samples
    assert (culled.rgb - exact.rgb).abs().max() < 0.03


def test_thin_matter_shows_however_short_the_steps_are():
    # A step of 2 sqrt(3) / 1024 of density 0.28 weighs 0.00095.
    for steps in (128, 1024):
        settings = RenderSettings(step_length=2 * math.sqrt(3) / steps, max_steps=steps)
        out = render(UniformBall(0.28), BLACK, full_grid(), one_ray(), lights(1), ["albedo"], settings)
        assert out.opacity.item() == pytest.approx(1 - math.exp(-0.56), abs=0.01)


def test_render_gradient_against_finite_differences():
    field, rays = rough_field(), views(2, 8)
    upstream = torch.randn(2, 3, 8, 8, generator=seeded(4))

    def value() -> torch.Tensor:
        settings = RenderSettings(min_weight=0.0, min_transmittance=0.0)
        modes = ["lambertian", "albedo"]
        return (render(field, BLACK, full_grid(), rays, lights(2), modes, settings).rgb * upstream).sum()

    (grad,) = torch.autograd.grad(value(), field.table)
    direction = grad / grad.norm()  # along itself the derivative is largest, so rounding matters least
    step, values = 1e-3, []
    with torch.no_grad():
        start = field.table.clone()
        for sign in (1, -1):
            field.table.copy_(start + sign * step * direction)
            values.append(value().item())
    assert grad.norm().item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=0.02)


def test_same_generator_gives_the_same_bits():
    results = []
    for _ in range(2):
        field, background = rough_field(), LearnedBackground(generator=seeded())
        modes = ["lambertian", "albedo"]
        rays, settings = views(2, 24), RenderSettings()
        out = render(field, background, full_grid(), rays, lights(2), modes, settings, generator=seeded(9))
        (out.rgb.square().sum() + out.orientation.sum()).backward()
        grads = [p.grad for module in (field, background) for p in module.parameters()]
        results.append([out.rgb, out.opacity, out.depth, out.orientation, *grads])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_jitter_moves_samples_and_its_absence_does_not():
    field, rays, settings = rough_field(), views(1, 16), RenderSettings()
    first, second, other = (
        render(field, BLACK, full_grid(), rays, lights(1), ["albedo"], settings, generator=g).rgb
        for g in (None, None, seeded())
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert (first - other).abs().max() < 0.05


def test_pictures_in_rows_and_all_shadings_are_what_render_gives():
    field, background = rough_field(), LearnedBackground(generator=seeded())
    settings, rays, modes = RenderSettings(), views(2, 20), ["lambertian", "albedo", "textureless"]
    pictures = render_pictures(
        field, background, full_grid(), rays, lights(2), modes, settings, with_normals=True, rays_per_call=300
    )
    for mode, strips in zip(modes, pictures, strict=True):
        whole = render(field, background, full_grid(), rays, lights(2), [mode] * 2, settings, with_normals=True)
        assert whole.samples == strips.samples
        assert not strips.rgb.requires_grad
        for name in ("rgb", "opacity", "depth", "normal", "orientation"):
            torch.testing.assert_close(getattr(strips, name), getattr(whole, name), atol=1e-5, rtol=1e-4)


def test_mismatched_lights_and_impossible_settings_are_refused():
    with pytest.raises(DreamFusionError, match="one per image"):
        render(rough_field(), BLACK, full_grid(), views(2, 4), lights(1), ["albedo"] * 2, RenderSettings())
    with pytest.raises(DreamFusionError, match="step_length"):
        RenderSettings(step_length=0.0)
    with pytest.raises(DreamFusionError, match="resolution"):
        OccupancyConfig(resolution=1)
    with pytest.raises(DreamFusionError, match="alpha_threshold"):
        OccupancyConfig(alpha_threshold=0.0)


@pytest.mark.parametrize("device", DEVICES)
def test_training_step_on_every_device(device):
    field, background = rough_field().to(device), LearnedBackground(generator=seeded()).to(device)
    grid = full_grid().to(device)
    grid.update(field, seeded())
    rays = views(2, 12)
    rays = Rays(rays.origins.to(device), rays.directions.to(device))
    modes = ["lambertian", "albedo"]
    out = render(field, background, grid, rays, lights(2).to(device), modes, RenderSettings(), generator=seeded())
    out.rgb.sum().backward()
    assert all(p.grad.isfinite().all() for p in field.parameters())
    assert field.table.grad.abs().sum() > 0


# Occupancy


def test_fresh_grid_holds_the_sphere_and_nothing_else():
    grid = OccupancyGrid(OccupancyConfig(resolution=32))
    assert grid.occupied_fraction == 1.0
    assert grid.occupied.float().mean().item() == pytest.approx(math.pi / 6, abs=0.08)
    assert not grid.occupied[0, 0, 0]
    assert grid.occupied[16, 16, 16]


def test_first_update_prunes_empty_space_and_keeps_all_matter():
    grid = OccupancyGrid(OccupancyConfig(resolution=32))
    grid.update(UniformBall(5.0, radius=0.5), seeded())
    assert 0.125 < grid.occupied_fraction < 0.25  # half the radius is an eighth of the volume; dilation adds a shell
    x = torch.rand(20000, 3, generator=seeded(1)) * 2 - 1
    x = x[x.norm(dim=-1) < 0.5]
    cell = ((x + 1) * 16).long()
    assert grid.occupied[cell[:, 0], cell[:, 1], cell[:, 2]].all()


def test_matter_that_vanishes_is_forgotten_and_new_matter_is_found():
    config = OccupancyConfig(resolution=16, decay=0.5, full_updates=100, dilate=False)
    grid, generator = OccupancyGrid(config), seeded()
    grid.update(UniformBall(1.0, radius=0.5), generator)
    small = grid.occupied_fraction
    grid.update(UniformBall(1.0, radius=0.9), generator)
    assert grid.occupied_fraction > 3 * small
    for _ in range(8):  # 2^-8 is below the threshold of 0.03, and the mean of what is left above it
        grid.update(UniformBall(1.0, radius=0.5), generator)
    # Not equal: cells on the surface are found or missed by where in them the update looks.
    assert 0.9 * small < grid.occupied_fraction < 1.5 * small


def test_refresh_forgets_at_once():
    grid, generator = OccupancyGrid(OccupancyConfig(resolution=16)), seeded()
    grid.update(UniformBall(1.0, radius=0.4), generator)
    small = grid.occupied_fraction
    grid.update(UniformBall(1.0, radius=0.9), generator)
    grid.refresh(UniformBall(1.0, radius=0.4), generator)
    assert 0.9 * small < grid.occupied_fraction < 1.5 * small


def test_later_updates_look_at_a_part_of_the_cells():
    class Counting(UniformBall):
        asked = 0

        def density(self, x: torch.Tensor) -> torch.Tensor:
            Counting.asked += len(x)
            return super().density(x)

    grid, generator = OccupancyGrid(OccupancyConfig(resolution=16, full_updates=1, fraction=0.25)), seeded()
    cells = int(grid.inside.sum())
    grid.update(Counting(1.0), generator)
    assert Counting.asked == cells
    grid.update(Counting(1.0), generator)
    assert Counting.asked - cells == pytest.approx(0.25 * cells, rel=0.1)


def test_pruned_render_is_the_unpruned_one():
    field, rays = NerfField(NerfConfig(grid=SMALL_GRID), seeded()), views(2, 24)
    pruned = OccupancyGrid(OccupancyConfig(resolution=32))
    pruned.update(field, seeded())
    assert pruned.occupied_fraction < 0.7
    images = [
        render(field, BLACK, grid, rays, lights(2), ["albedo"] * 2, RenderSettings()).rgb
        for grid in (full_grid(), pruned)
    ]
    assert (images[0] - images[1]).abs().max() < 0.01


def test_a_given_density_is_the_threshold():
    """A tenth of the sphere has density 20, the rest 2: the mean is 3.8, and takes the place of a threshold of 10."""

    class TwoDensities(UniformBall):
        def density(self, x: torch.Tensor) -> torch.Tensor:
            return torch.where(x.norm(dim=-1) < 0.1 ** (1 / 3), 20.0, 2.0) * (x.norm(dim=-1) < 1)

    for threshold, share in ((1.0, 1.0), (10.0, 0.1)):
        grid = OccupancyGrid(OccupancyConfig(resolution=32, dilate=False, density=threshold))
        grid.update(TwoDensities(1.0), seeded())
        assert grid.occupied_fraction == pytest.approx(share, abs=0.13)  # cells at the rim may be missed


def test_grid_survives_a_checkpoint():
    grid = OccupancyGrid(OccupancyConfig(resolution=16))
    grid.update(UniformBall(1.0, radius=0.5), seeded())
    again = OccupancyGrid(OccupancyConfig(resolution=16))
    again.load_state_dict(grid.state_dict())
    generators = seeded(1), seeded(1)
    for g, generator in zip((grid, again), generators, strict=True):
        g.update(UniformBall(1.0, radius=0.7), generator)
    assert torch.equal(grid.density, again.density)
    assert torch.equal(grid.occupied, again.occupied)
    assert int(again.updates) == 2
