from pathlib import Path

import pytest

from dreamfusion.config import build_config, load_config, save_config
from dreamfusion.errors import DreamFusionError
from dreamfusion.presets import PRESETS


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_valid_and_survives_yaml(preset, tmp_path: Path):
    config = build_config(preset, {"prompt": "ein roter Pilz 🍄"})
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config


def test_later_sources_win(tmp_path: Path):
    (tmp_path / "mine.yaml").write_text("steps: 7\nguidance: {guidance_scale: 3, t_min: 0.1}\n")
    config = build_config("quick", {"prompt": "a", "guidance": {"t_min": 0.2}}, tmp_path / "mine.yaml")
    assert config.steps == 7
    assert config.guidance.guidance_scale == 3
    assert config.guidance.t_min == 0.2
    assert config.resolution_end == PRESETS["quick"]["resolution_end"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps: .*greater than or equal to 1"),
        ({"stepz": 3}, "stepz"),
        ({"guidance": {"guidance_scale": -1}}, "guidance.guidance_scale"),
        ({"guidance": {"kind": "diffusers"}}, "--model"),
        ({"guidance": {"t_min": 0.9, "t_max_end": 0.5}}, "t_min must be below"),
        ({"guidance": {"t_min_start": 0.99}}, "t_min_start must be from t_min to below t_max"),
        ({"loss": {"distortion": 0.01}}, "loss.distortion is for scene.renderer 'proposal'"),
        ({"scene": {"nerf": {"blob_std": "wide"}}}, "scene.nerf.blob_std"),
        ({"loss": 3}, "loss"),
        ({"loss": {"kind": "sdss"}}, "loss.kind"),
        ({"loss": {"clip_end": 2.0}}, "clip_end needs clip"),
        ({"optim": {"betas": [0.9, 0.99, 0.99]}}, "adam takes 2 betas"),
        ({"optim": {"optimizer": "adan", "betas": [0.9, 0.99]}}, "adan takes 3 betas"),
    ],
)
def test_wrong_values_name_their_key(changes, message):
    with pytest.raises(DreamFusionError, match=message) as caught:
        build_config("default", {"prompt": "a"} | changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["- a\n- b\n", "steps: [", "\x00", ""])
def test_files_that_hold_no_configuration(content, tmp_path: Path):
    path = tmp_path / "config.yaml"
    path.write_text(content)
    with pytest.raises(DreamFusionError, match=r"config\.yaml"):
        load_config(path)


def test_a_missing_file(tmp_path: Path):
    with pytest.raises(DreamFusionError, match="Cannot read"):
        load_config(tmp_path / "none.yaml")
