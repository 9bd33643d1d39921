import subprocess
import sys
from pathlib import Path

import pytest

from dreamfusion.config import Config, build_config, load_config, save_config
from dreamfusion.config.meanings import meanings
from dreamfusion.config.presets import PRESETS
from dreamfusion.config.reference import table
from dreamfusion.config.schedule import constant
from dreamfusion.config.section import walk
from dreamfusion.errors import DreamFusionError
from dreamfusion.io.files import TABLE_BEGIN, TABLE_END


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_valid_and_survives_yaml(preset, tmp_path: Path):
    config = build_config(preset, {"prompt": "ein roter Pilz 🍄"})
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config


def test_the_defaults_of_the_classes_are_the_default_preset():
    assert Config(prompt="a") == build_config("default", {"prompt": "a"})


def test_the_document_is_made_from_the_classes():
    document = (Path(__file__).parents[1] / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert document.split(TABLE_BEGIN + "\n")[1].split(TABLE_END)[0] == table()
    assert "| `cameras.focal_min` | number | > 0 | `1.35` | least focal length in image widths | 3.2 |" in document


def test_every_key_has_a_meaning():
    for key, section, _ in walk(Config):
        assert len(meanings(section)[key.rpartition(".")[2]].split()) >= 2, key


def test_a_saved_configuration_says_what_its_keys_mean(tmp_path: Path):
    save_config(Config(prompt="a"), tmp_path / "config.yaml")
    lines = (tmp_path / "config.yaml").read_text().splitlines()
    assert lines[lines.index("steps: 200") - 1] == "# optimisation steps"
    at = lines.index("    levels: 6") if "    levels: 6" in lines else lines.index("      levels: 6")
    assert lines[at - 1].strip() == "# grids, each finer than the one before"


def test_importing_the_configuration_loads_neither_torch_nor_warp():
    code = "import sys, dreamfusion.config; print(sorted({'torch', 'warp', 'numpy', 'omegaconf'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_later_sources_win(tmp_path: Path):
    (tmp_path / "mine.yaml").write_text("steps: 7\nguidance: {guidance_scale: 3, t_min: 0.1}\n")
    config = build_config("quick", {"prompt": "a", "guidance": {"t_min": 0.2}}, tmp_path / "mine.yaml")
    assert config.steps == 7
    assert config.guidance.guidance_scale == 3
    assert config.guidance.t_min == constant(0.2)
    assert config.resolution == constant(32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps: .*greater than or equal to 1"),
        ({"stepz": 3}, "stepz"),
        ({"guidance": {"guidance_scale": -1}}, "guidance.guidance_scale"),
        ({"guidance": {"kind": "diffusers"}}, "--model"),
        ({"guidance": {"t_min": 0.9}}, "guidance.t_min: t_min must never be above t_max"),
        ({"guidance": {"t_min": {"start": 0.98}}}, "guidance.t_min: t_min must never be above t_max"),
        ({"guidance": {"t_max": 1.5}}, "guidance.t_max: .*equal to 1"),
        ({"guidance": {"t_max": {"begin": 0.5}}}, "guidance.t_max.begin: .*Did you mean guidance.t_max"),
        ({"guidance": {"t_max": {"curve": "wave"}}}, "guidance.t_max.curve: .*'linear'"),
        ({"guidance": {"t_max": {"from": 2}}}, "guidance.t_max.from: .*equal to 1"),
        ({"guidance": {"t_max": {"from": 0.5, "until": 0.4}}}, "guidance.t_max.until: give from <= until"),
        ({"resolution": 32.5}, "resolution: .*whole number"),
        ({"optim": {"warmup": {"end": 0.5}}}, "optim.warmup: .*linearly to 1"),
        ({"loss": {"distortion": 0.01}}, "loss.distortion is for scene.renderer 'proposal'"),
        ({"scene": {"nerf": {"blob_std": "wide"}}}, "scene.nerf.blob_std"),
        ({"loss": 3}, "loss"),
        ({"stepz": 3}, "Did you mean steps"),
        ({"guidance_scale": 3}, "Did you mean guidance.guidance_scale"),
        ({"scene": {"nerf": {"grid": {"level": 3}}}}, "scene.nerf.grid.level: .*Did you mean scene.nerf.grid.levels"),
        ({"cameras": {"radius_man": 3}}, "Did you mean cameras.radius_m"),
        (
            {"cameras": {"radius_min": 3, "radius_max": 2}},
            "cameras.radius_min: give 0 < radius_min <= .* .given: 3",
        ),
        ({"cameras": {"radius_min": -1}}, "cameras.radius_min: .*greater than 0"),
        (
            {"cameras": {"elevation_min_deg": 50, "elevation_max_deg": 40}},
            "cameras.elevation_min_deg: .*<= elevation_max_deg",
        ),
        ({"cameras": {"elevation_max_deg": 100}}, "cameras.elevation_max_deg: .*equal to 90"),
        ({"cameras": {"azimuth_min_deg": 181}}, "azimuth_min_deg <= azimuth_max_deg"),
        ({"cameras": {"focal_min": 0}}, "cameras.focal_min: .*greater than 0"),
        ({"cameras": {"uniform_angle_probability": -2}}, "cameras.uniform_angle_probability: .*equal to 0"),
        ({"cameras": {"cameras.look_at_noise: ": -0.1}}, "look_at_noise"),
        ({"lights": {"distance_min": 4}}, "lights.distance_min: give 0 < distance_min <= distance_max"),
        ({"lights": {"ambient": 3}}, "lights.ambient: .*equal to 1"),
        ({"lights": {"ambient": 0.5, "ambient_max": 0.4}}, "lights.ambient_max: give ambient_max from ambient to 1"),
        ({"lights": {"position_noise": -1}}, "lights.position_noise: .*equal to 0"),
        (
            {"shading": {"albedo_probability": 0.7, "textureless_probability": 0.4}},
            "shading.albedo_probability: .*1 or less together",
        ),
        ({"loss": {"laplacian": 1}}, "loss.laplacian is for meshes"),
        ({"loss": {"normal_consistency": 1}}, "loss.normal_consistency is for meshes"),
        ({"loss": {"interlevel": 2}}, "loss.interlevel is for scene.renderer 'proposal'"),
        ({"loss": {"orientation": 1}, "scene": {"tetrahedra": {}}}, "loss.orientation is for volumes"),
        ({"loss": {"normal_smooth_3d": 1}, "scene": {"tetrahedra": {}}}, "loss.normal_smooth_3d is for volumes"),
        ({"loss": {"kind": "sdss"}}, "loss.kind"),
        ({"loss": {"clip_end": 2.0}}, "loss.clip_end is of an earlier version: give loss.clip"),
        ({"loss": {"clip": 0}}, "loss.clip: .*greater than 0"),
        ({"optim": {"betas": [0.9, 0.99, 0.99]}}, "optim.betas: adam takes 2 betas"),
        ({"optim": {"optimizer": "adan", "betas": [0.9, 0.99]}}, "adan takes 3 betas"),
        ({"scene": {"materials": {}}}, "scene.materials: .*Did you mean scene.material"),
        ({"scene": {"material": {"shine": 3}}}, "scene.material.shine: .*Did you mean scene.material.shininess"),
        ({"lights": {"ambience": 1}}, "lights.ambience: .*Did you mean lights.ambient"),
        ({"guidance": {"view_texts": {"top": ""}}}, "guidance.view_texts.top: Extra inputs"),
        ({"guidance": {"execution": {"compiled": True}}}, "Did you mean guidance.execution.compile"),
        ({"guidance": {"view_texts": {"front_deg": 100, "back_deg": 90}}}, "guidance.view_texts.front_deg: "),
        ({"scene": {"tetrahedra": {"resolution": 2}}}, "scene.tetrahedra.resolution: "),
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
