"""What changes over a run, and keys of earlier versions."""

from pathlib import Path

import pytest

from dreamfusion.config import build_config, load_config, merged, parse_config, save_config
from dreamfusion.config.earlier import translated
from dreamfusion.config.schedule import Schedule, constant
from dreamfusion.errors import DreamFusionError

EARLIER = Path(__file__).parent / "data" / "earlier" / "config.yaml"
"""What a run of `default` left before there were schedules."""


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ("linear", [2, 2, 3, 6, 6]),  # at 0.25 a quarter of the way from 2 to 6
        ("sqrt", [2, 2, 4, 6, 6]),
        ("cosine", [2, 2, 2.5857864376269049, 6, 6]),  # 4 + 2 cos(pi / 4), from the other end
        ("ramp", [2, 2, 2, 6, 6]),  # 6 / 4 is below 2
        ("stairs", [2, 3, 3, 6, 6]),  # four stairs at 0, 1/3, 2/3 and 1 of the way
        ("step", [2, 6, 6, 6, 6]),
    ],
)
def test_curves_by_hand(curve, expected):
    schedule = Schedule(start=2, end=6, from_=0.2, until=0.4, curve=curve)
    assert [schedule.at(share) for share in (0.1, 0.2, 0.25, 0.4, 0.9)] == pytest.approx(expected)


def test_a_number_is_a_schedule_that_does_not_change():
    config = parse_config({"prompt": "a", "loss": {"entropy": 3}})
    assert config.loss.entropy == constant(3)
    assert [config.loss.entropy.at(share) for share in (0.0, 0.5, 1.0)] == [3, 3, 3]
    assert config.model_dump(mode="json")["loss"]["entropy"] == 3
    assert Schedule(start=1, end=1, from_=0.5, curve="step") == constant(1), "one form of what does not change"


def test_both_ends_at_one_share_are_a_jump():
    assert [Schedule(start=0, end=1, from_=0.5, until=0.5).at(share) for share in (0.4, 0.5)] == [0, 1]


def test_shares_are_rounded_to_whole_steps():
    schedule = Schedule(start=0, end=1, from_=0.26, until=0.74)
    assert [schedule.at_step(step, 10) for step in (2, 3, 5, 7, 9)] == [0, 0, 0.5, 1, 1]


def test_parts_that_are_not_given_stay_as_they_were():
    config = build_config("default", {"prompt": "a", "guidance": {"t_max": {"end": 0.4}}})
    assert str(config.guidance.t_max) == "{start: 0.97, end: 0.4, from: 0.5, until: 1, curve: linear}"
    assert merged({"clip": 2.0}, {"clip": {"end": 3.0}}) == {
        "clip": {"start": 2.0, "end": 3.0, "from": 0.0, "until": 1.0, "curve": "linear"}
    }
    config = build_config("paper", {"prompt": "a", "guidance": {"t_max": {"end": 0.5}}})
    assert [config.guidance.t_max.at(share) for share in (0.0, 0.5, 1.0)] == pytest.approx([0.98, 0.74, 0.5])


def test_more_steps_stretch_everything():
    for steps in (200, 1000):
        config = build_config("default", {"prompt": "a", "steps": steps})
        assert round(config.optim.warmup.until * steps) == steps / 20


def test_a_configuration_of_an_earlier_version_is_todays_default(tmp_path: Path):
    assert load_config(EARLIER) == build_config("default", {"prompt": "a red mushroom"})
    save_config(load_config(EARLIER), tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == load_config(EARLIER)
    assert "t_max_end" not in (tmp_path / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("old", "today"),
    [
        (
            {"guidance": {"t_min": 0.02, "t_min_start": None, "t_max": 0.98, "t_max_end": 0.3, "anneal": "hifa"}},
            {"guidance": {key: {"start": 0.98, "end": 0.3, "curve": "sqrt"} for key in ("t_min", "t_max")}},
        ),
        (
            {"guidance": {"t_min": 0.02, "t_min_start": None, "t_max": 0.9, "t_max_end": 0.3, "anneal": "none"}},
            {"guidance": {"t_min": 0.02, "t_max": 0.9}},
        ),
        ({"guidance": {"t_max_end": 0.4}}, {"guidance": {"t_min": {}, "t_max": {"end": 0.4}}}),
        (
            {"resolution": 32, "resolution_end": 48, "resolution_from": 0.5},
            {"resolution": {"start": 32, "end": 48, "from": 0.5, "curve": "step"}},
        ),
        ({"collapse_from": 0.5}, {"collapse_check": {"start": 0, "end": 1, "from": 0.5, "curve": "step"}}),
        ({"collapse_from": 0.0}, {"collapse_check": 1}),
        (
            {"shading": {"latent_until": 0.2}},
            {"shading": {"latent": {"start": 1, "end": 0, "from": 0.2, "curve": "step"}}},
        ),
        (
            {"shading": {"albedo_until": 0.3, "albedo_probability": 0.25}},
            {"shading": {"albedo_probability": {"start": 1, "end": 0.25, "from": 0.3, "curve": "step"}}},
        ),
        (
            {"loss": {"entropy": 2.0, "entropy_ramp": 0.5}},
            {"loss": {"entropy": {"start": 0, "end": 2.0, "from": 0, "until": 0.5, "curve": "linear"}}},
        ),
        ({"loss": {"entropy": 2.0, "entropy_ramp": 0.0}}, {"loss": {"entropy": 2.0}}),
        (
            {"loss": {"orientation": 2.0, "orientation_ramp": 0.25, "orientation_start": 0.5}},
            {"loss": {"orientation": {"start": 1.0, "end": 2.0, "from": 0, "until": 0.25, "curve": "ramp"}}},
        ),
        ({"loss": {"clip": 1.0, "clip_end": None}}, {"loss": {"clip": 1.0}}),
        (
            {"steps": 100, "optim": {"warmup_steps": 10, "warmup_start": None, "final_lr": 0.1}},
            {
                "steps": 100,
                "optim": {
                    "warmup": {"start": 0, "end": 1, "from": 0, "until": 0.1},
                    "decay": {"start": 1, "end": 0.1, "curve": "cosine", "from": 0.1},
                },
            },
        ),
        (
            {"scene": {"nerf": {"grid": {"levels": 8, "max_level": 1.0, "start_level": 4, "progressive_from": 0.25}}}},
            {
                "scene": {
                    "nerf": {
                        "grid": {
                            "levels": 8,
                            "levels_used": {"start": 4, "end": 8, "from": 0.25, "until": 0.4, "curve": "stairs"},
                        }
                    }
                }
            },
        ),
        (
            {"scene": {"mip": {"variance": 0.1, "variance_end": 0.2, "variance_until": 0.5}}},
            {"scene": {"mip": {"variance": {"start": 0.1, "end": 0.2, "until": 0.5}}}},
        ),
    ],
)
def test_keys_of_earlier_versions(old, today):
    assert translated(old) == today
    assert translated(today) == today


def test_an_earlier_warm_up_counts_the_steps_of_its_preset():
    config = build_config("high", {"prompt": "a", "optim": {"warmup_steps": 100}})
    assert (config.optim.warmup.until, config.optim.decay.from_) == (0.1, 0.1)


def test_keys_of_earlier_versions_that_cannot_be_read_say_what_to_do():
    with pytest.raises(DreamFusionError, match="warmup_steps is of an earlier version: give steps beside it"):
        translated({"optim": {"warmup_steps": 3}})
    with pytest.raises(DreamFusionError, match=r"must be numbers as they were then: .*loss\.orientation"):
        translated({"loss": {"orientation": "much", "orientation_ramp": 0.5}})
