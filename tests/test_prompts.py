import pytest
import torch

from dreamfusion.errors import DreamFusionError
from dreamfusion.method.prompts import VIEWS, ViewTexts, perp_neg_weights, validate_prompt, view_prompts, view_weights


def weights(azimuth: float, elevation: float = 0.0, mode: str = "nearest", texts: ViewTexts | None = None):
    row = view_weights(torch.tensor([float(azimuth)]), torch.tensor([float(elevation)]), mode, texts or ViewTexts())
    return row[0].tolist()


def test_view_prompts_follow_the_order_of_views():
    assert view_prompts("a red mushroom") == [f"a red mushroom, {view} view" for view in VIEWS]


def test_own_view_texts():
    assert view_prompts("a duck", ViewTexts(back=" from behind"))[2] == "a duck from behind"


@pytest.mark.parametrize(
    ("azimuth", "elevation", "view"),
    [
        (0, 0, "front"),
        (44, 0, "front"),
        (-44, 0, "front"),
        (350, 0, "front"),
        (-350, 0, "front"),
        (720, 59, "front"),
        (46, 0, "side"),
        (90, 0, "side"),
        (-90, 0, "side"),
        (270, 0, "side"),
        (134, 0, "side"),
        (136, 0, "back"),
        (180, 0, "back"),
        (-180, 0, "back"),
        (540, 0, "back"),
        (224, -10, "back"),
        (0, 61, "overhead"),
        (180, 90, "overhead"),
    ],
)
def test_nearest_view(azimuth, elevation, view):
    assert weights(azimuth, elevation) == [float(v == view) for v in VIEWS]


def test_thresholds_are_respected():
    narrow = ViewTexts(front_deg=10, back_deg=20, overhead_deg=30)
    assert weights(15, texts=narrow) == [0, 1, 0, 0]
    assert weights(165, texts=narrow) == [0, 0, 1, 0]
    assert weights(155, texts=narrow) == [0, 1, 0, 0]
    assert weights(0, 31, texts=narrow) == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("azimuth", "expected"),
    [
        (0, [1, 0, 0, 0]),
        (45, [0.5, 0.5, 0, 0]),
        (-30, [2 / 3, 1 / 3, 0, 0]),
        (330, [2 / 3, 1 / 3, 0, 0]),
        (90, [0, 1, 0, 0]),
        (-120, [0, 2 / 3, 1 / 3, 0]),
        (180, [0, 0, 1, 0]),
    ],
)
def test_interpolated_view(azimuth, expected):
    assert weights(azimuth, mode="interpolated") == pytest.approx(expected, abs=1e-6)
    assert weights(azimuth, elevation=75, mode="interpolated") == [0, 0, 0, 1]


@pytest.mark.parametrize("mode", ["nearest", "interpolated"])
def test_rows_sum_to_one(mode):
    generator = torch.Generator().manual_seed(0)
    azimuth, elevation = 1000 * torch.randn(2, 200, generator=generator)
    rows = view_weights(azimuth, elevation / 20, mode)
    assert rows.shape == (200, 4)
    assert rows.min() >= 0
    torch.testing.assert_close(rows.sum(dim=1), torch.ones(200))


@pytest.mark.parametrize("prompt", ["", "   ", "\n\t"])
def test_empty_prompt(prompt):
    with pytest.raises(DreamFusionError, match="prompt is empty"):
        view_prompts(prompt)


def test_prompt_is_tidied():
    assert validate_prompt("  a red \n mushroom ") == "a red mushroom"


def test_overlapping_thresholds_are_refused():
    with pytest.raises(DreamFusionError, match="180"):
        ViewTexts(front_deg=100, back_deg=100)


@pytest.mark.parametrize(
    ("azimuth", "front", "side"),
    [
        (0, 0.0, 2.426 - 4),  # r = 1: 4 exp(-0.5) = 2.426, and the side's own r = 0
        (45, 2.426 - 4 * 0.778801, 2.426 - 4 * 0.778801),  # both at exp(-0.25)
        (-45, 2.426 - 4 * 0.778801, 2.426 - 4 * 0.778801),
        (90, 2.426 - 4, 0.0),
        (90.001, -0.606531 - 0.967, 0.0),  # the back half joins the front half there
        (135, -0.778801 - 0.967, 0.606 - 0.778801),  # r = 1/2
        (180, -1.967, 0.606 - 1),
        (540, -1.967, 0.606 - 1),
    ],
)
def test_perp_neg_weights_by_hand(azimuth, front, side):
    row = perp_neg_weights(torch.tensor([float(azimuth)]), torch.tensor([30.0]))[0].tolist()
    assert row == pytest.approx([front, side], abs=1e-3)


def test_perp_neg_weights_are_off_overhead_and_never_attract():
    azimuth = torch.linspace(-180, 180, 361)
    assert (perp_neg_weights(azimuth, torch.full_like(azimuth, 61.0)) == 0).all()
    assert perp_neg_weights(azimuth, torch.zeros_like(azimuth)).max() < 1e-3
