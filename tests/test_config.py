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
        ({"stepz": 3}, "Did you mean steps"),
        ({"guidance_scale": 3}, "Did you mean guidance.guidance_scale"),
        ({"scene": {"nerf": {"grid": {"level": 3}}}}, "scene.nerf.grid.level: .*Did you mean scene.nerf.grid.levels"),
        ({"cameras": {"radius_man": 3}}, "Did you mean cameras.radius_m"),
        ({"cameras": {"radius_min": 3, "radius_max": 2}}, "0 < radius_min <= radius_max"),
        ({"cameras": {"radius_min": -1}}, "0 < radius_min"),
        ({"cameras": {"elevation_min_deg": 50, "elevation_max_deg": 40}}, "elevation_min_deg <= elevation_max_deg"),
        ({"cameras": {"elevation_max_deg": 100}}, "elevation_max_deg <= 90"),
        ({"cameras": {"azimuth_min_deg": 181}}, "azimuth_min_deg <= azimuth_max_deg"),
        ({"cameras": {"focal_min": 0}}, "0 < focal_min"),
        ({"cameras": {"uniform_angle_probability": -2}}, "uniform_angle_probability from 0 to 1"),
        ({"cameras": {"look_at_noise": -0.1}}, "look_at_noise"),
        ({"lights": {"distance_min": 4}}, "distance_min <= distance_max"),
        ({"lights": {"ambient": 3}}, "ambient from 0 to 1"),
        ({"lights": {"ambient": 0.5, "ambient_max": 0.4}}, "ambient_max from ambient to 1"),
        ({"lights": {"position_noise": -1}}, "position_noise of at least 0"),
        ({"shading": {"albedo_probability": 0.7, "textureless_probability": 0.4}}, "add up to 1 or less"),
        ({"loss": {"laplacian": 1}}, "loss.laplacian is for meshes"),
        ({"loss": {"normal_consistency": 1}}, "loss.normal_consistency is for meshes"),
        ({"loss": {"interlevel": 2}}, "loss.interlevel is for scene.renderer 'proposal'"),
        ({"loss": {"orientation": 1}, "scene": {"tetrahedra": {}}}, "loss.orientation is for volumes"),
        ({"loss": {"normal_smooth_3d": 1}, "scene": {"tetrahedra": {}}}, "loss.normal_smooth_3d is for volumes"),
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


def test_weights_without_effect_are_refused_only_where_somebody_asks_for_them(tmp_path: Path):
    plain = build_config("default", {"prompt": "a", "loss": {"laplacian": 0}})
    save_config(plain, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == plain, "a saved configuration holds every key"
    assert build_config("quick", {"prompt": "a"}, tmp_path / "config.yaml") == plain
    build_config("default", {"prompt": "a", "scene": {"renderer": "proposal"}, "loss": {"interlevel": 2}})
    build_config("default", {"prompt": "a", "scene": {"tetrahedra": {}}, "loss": {"laplacian": 2}})
    mesh = build_config("default", {"prompt": "a", "scene": {"tetrahedra": {}}})
    save_config(mesh, tmp_path / "mesh.yaml")
    assert build_config("default", {"prompt": "a"}, tmp_path / "mesh.yaml") == mesh
    (tmp_path / "mine.yaml").write_text("loss: {laplacian: 2}\n")
    with pytest.raises(DreamFusionError, match=r"loss\.laplacian"):
        build_config("default", {"prompt": "a"}, tmp_path / "mine.yaml")


@pytest.mark.parametrize("content", ["- a\n- b\n", "steps: [", "\x00", ""])
def test_files_that_hold_no_configuration(content, tmp_path: Path):
    path = tmp_path / "config.yaml"
    path.write_text(content)
    with pytest.raises(DreamFusionError, match=r"config\.yaml"):
        load_config(path)


def test_a_missing_file(tmp_path: Path):
    with pytest.raises(DreamFusionError, match="Cannot read"):
        load_config(tmp_path / "none.yaml")
