"""Configurations of NVIDIA's NeMo, read and run as their users have them."""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from dreamfusion.config import build_config, load_config
from dreamfusion.errors import DreamFusionError
from dreamfusion.nemo import read_nemo
from dreamfusion.nemo.keys import precision
from dreamfusion.nemo.reader import table
from dreamfusion.run import generate
from families import SIZE, save_sd

FILES = Path(__file__).parent / "data" / "nemo"
DOCS = Path(__file__).parents[1] / "docs"
NERF, MESH = FILES / "dreamfusion.yaml", FILES / "dreamfusion-dmtet.yaml"

SMALL = """
steps: 2
resolution: 8
resolution_end: 8
scene: {step_length: 0.1, occupancy_resolution: 16, nerf: {grid: {log2_size: 10}}}
pictures: {val_every: 2, val_views: 2, val_resolution: 8}
"""
"""What makes a run of minutes on a GPU one of seconds, and changes nothing else."""


def changed(folder: Path, changes: dict[str, Any], base: Path = NERF) -> Path:
    """Write the configuration with some of its keys replaced, and return its path."""
    values = yaml.safe_load(base.read_text())
    for name, value in changes.items():
        *path, last = name.split(".")
        part = values
        for key in path:
            part = part.setdefault(key, {})
        part[last] = value
    folder.mkdir(exist_ok=True)
    (folder / "mine.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    return folder / "mine.yaml"


def chosen(folder: Path, group: str, option: str, **changes: Any) -> Path:
    """Write the configuration with another choice for one group."""
    defaults = [{group: option} if group in entry else entry for entry in yaml.safe_load(NERF.read_text())["defaults"]]
    return changed(folder, {"defaults": defaults} | changes)


def config(path: Path, **changes: Any):
    return build_config("default", changes, base=read_nemo(path).values)


def refused(path: Path) -> str:
    with pytest.raises(DreamFusionError) as caught:
        read_nemo(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_stock_file_is_the_preset():
    assert config(NERF) == build_config("nemo", {"prompt": "a hamburger"})


def test_a_group_written_out_in_the_file_is_the_same_as_its_name(tmp_path: Path):
    groups = Path(__file__).parents[1] / "src" / "dreamfusion" / "nemo" / "groups"
    inline = {"nerf": "nerf/torchngp", "renderer": "renderer/torchngp_raymarching", "optim": "optim/adan"}
    parts = {name: yaml.safe_load((groups / f"{file}.yaml").read_text()) for name, file in inline.items()}
    parts["renderer"]["bound"] = 1
    defaults = [entry for entry in yaml.safe_load(NERF.read_text())["defaults"] if not set(entry) & set(inline)]
    assert config(changed(tmp_path, {"defaults": defaults} | parts)) == config(NERF)


def test_files_beside_the_configuration_come_first_and_self_decides_the_order(tmp_path: Path):
    (tmp_path / "optim").mkdir()
    (tmp_path / "optim" / "adan.yaml").write_text("name: adan\nlr: 1e-3\nmax_grad_norm: 0\n")
    mine = config(changed(tmp_path, {"optim.lr": 7e-3}))
    assert (mine.optim.grid_lr, mine.optim.max_grad_norm) == (7e-3, None)
    defaults = ["_self_", *[entry for entry in yaml.safe_load(NERF.read_text())["defaults"] if entry != "_self_"]]
    assert config(changed(tmp_path, {"optim.lr": 7e-3, "defaults": defaults})).optim.grid_lr == 1e-3
    (tmp_path / "optim" / "adan.yaml").unlink()
    assert "adan.yaml" in refused(tmp_path / "mine.yaml")


def test_references_to_the_trainer_and_to_other_keys(tmp_path: Path):
    path = changed(tmp_path, {"iters": "${model.update_extra_interval}", "negative_prompt": "${model.prompt}"})
    assert config(path).steps == 16
    assert config(path).guidance.negative_prompt == "a hamburger"
    assert "trainer.max_epochs" in refused(changed(tmp_path, {"iters": "${trainer.max_epochs}"}))


@pytest.mark.parametrize(
    ("group", "option", "ours"),
    [
        (
            "nerf",
            "tcnn",
            {
                "scene.nerf.density_activation": "softplus",
                "scene.nerf.blob": "linear",
                "scene.nerf.blob_density": 10,
                "scene.nerf.blob_std": 0.5,
                "scene.nerf.hidden_layers": 3,
                "scene.nerf.network_bias": False,
            },
        ),
        ("background", "torchngp", {"scene.background": "learned", "scene.background_network.frequencies": 6}),
        ("background", "tcnn", {"scene.background": "learned", "scene.background_network.hidden_layers": 2}),
        (
            "background",
            "random",
            {"scene.background_random_ratio": 0.5, "scene.background_random_colors": "any"},
        ),
        ("renderer", "nerfacc", {"scene.step_length": 1e-3, "scene.dt_gamma": 0.004}),
        (
            "guidance",
            "sd_nemo",
            {"guidance.kind": "diffusers", "guidance.model": "/sd_checkpoints/nemo-1.5/sd-1.5.nemo"},
        ),
        ("guidance", "sd_trt", {"guidance.kind": "diffusers"}),
    ],
)
def test_the_other_choices_of_each_group(tmp_path: Path, group: str, option: str, ours: dict[str, Any]):
    made = config(chosen(tmp_path, group, option))
    for name, value in ours.items():
        found: Any = made
        for key in name.split("."):
            found = getattr(found, key)
        assert found == value, name


def test_plans_of_tensorrt_are_noted(tmp_path: Path):
    assert "plan_dir" in read_nemo(chosen(tmp_path, "guidance", "sd_trt")).notes[0]
    assert read_nemo(NERF).notes == []


def test_jitter_counts_only_if_it_is_on(tmp_path: Path):
    cameras = config(changed(tmp_path, {"data.train_dataset.jitter": True})).cameras
    assert (cameras.position_noise, cameras.look_at_noise, cameras.up_noise) == (0.1, 0.2, 0.02)
    cameras = config(NERF).cameras
    assert (cameras.position_noise, cameras.look_at_noise, cameras.up_noise) == (0, 0, 0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"guidance_scales": 3}, ["guidance_scales", "Did you mean guidance_scale?"]),
        ({"nerf.blob_radios": 3}, ["nerf.blob_radios", "blob_radius"]),
        ({"nerf.bound": 2}, ["nerf.bound", "2"]),
        ({"nerf._target_": "a.b.C"}, ["nerf._target_", "torchngp_nerf"]),
        ({"nerf.density_activation": "relu"}, ["nerf.density_activation", "relu"]),
        ({"data.train_dataset.width": 48}, ["train_dataset.height", "train_dataset.width", "square"]),
        ({"data.train_dataset.radius_range": 3}, ["radius_range"]),
        ({"data.train_dataset.radius_range": [1, 2, 3]}, ["radius_range"]),
        ({"update_extra_interval": 8}, ["update_extra_interval", "renderer.update_interval"]),
        ({"loss.lambda_mesh_normal": 0.5}, ["loss.lambda_mesh_normal", "mesh stage"]),
        ({"resume_from_checkpoint": "/results/last.ckpt"}, ["resume_from_checkpoint", "--resume"]),
        ({"guidance.precision": "fp8"}, ["guidance.precision", "fp8"]),
        ({"defaults": [{"nerf": "torch"}]}, ["nerf", "torch", "tcnn"]),
        ({"defaults": [{"networks": "small"}]}, ["networks"]),
        ({"defaults": 3}, ["defaults"]),
        ({"defaults": ["_self_"]}, ["nerf is missing"]),
    ],
)
def test_what_is_not_possible_is_named_in_one_line(tmp_path: Path, changes: dict[str, Any], words: list[str]):
    line = refused(changed(tmp_path, changes))
    assert all(word in line for word in words), line


@pytest.mark.parametrize("content", ["a: [", "- a", "\x00", "a: ${b"])
def test_files_that_are_no_configuration(tmp_path: Path, content: str):
    (tmp_path / "bad.yaml").write_text(content)
    assert "bad.yaml" in refused(tmp_path / "bad.yaml")


def test_the_mesh_stage_is_read_and_not_generated(tmp_path: Path):
    mesh = read_nemo(MESH)
    assert mesh.mesh_stage
    assert not read_nemo(NERF).mesh_stage
    values = mesh.values
    assert (values["steps"], values["resolution"], values["resolution_end"]) == (5000, 512, 512)
    assert values["scene"]["tetrahedra"] == {"resolution": 64}
    background = {"frequencies": 6, "hidden_width": 32, "hidden_layers": 1}
    assert (values["scene"]["background"], values["scene"]["background_network"]) == ("learned", background)
    loss = values["loss"]
    assert (loss["normal_consistency"], loss["laplacian"]) == (0.5, 0.5)
    assert (loss["entropy"], loss["orientation"]) == (0, 0)
    assert (values["optim"]["surface_lr"], values["optim"]["grid_lr"]) == (5e-3, 5e-3)
    assert values["shading"]["latent_until"] == 0
    with pytest.raises(DreamFusionError, match="second stage"):
        generate("a red mushroom", nemo_config=MESH, output=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "ours"),
    [(16, "fp16"), ("16-mixed", "fp16"), ("bf16", "bf16"), ("bf16-mixed", "bf16"), (32, "fp32"), ("32-true", "fp32")],
)
def test_precisions_mean_what_they_say(given: Any, ours: str):
    assert precision(given) == ours


def test_the_field_of_view_of_pictures(tmp_path: Path):
    path = changed(tmp_path, {"data.val_dataset.default_fovx": 90, "data.test_dataset.default_polar": 60})
    assert config(path).pictures.focal == pytest.approx(0.5)
    assert config(path).pictures.elevation_deg == 30


@pytest.mark.slow
def test_the_stock_file_runs_with_the_embedded_prior(tmp_path: Path):
    (tmp_path / "small.yaml").write_text(SMALL)
    notes: list[str] = []
    result = generate(
        "a red mushroom",
        nemo_config=NERF,
        config_file=tmp_path / "small.yaml",
        output=tmp_path / "run",
        on_note=notes.append,
        assets=False,  # two steps leave fog, of which there is no mesh
        guidance={"kind": "toybox"},
        device="cpu",
    )
    assert len(notes) == 2
    assert "fp32" in notes[0]
    assert "latent phase" in notes[1]
    saved = load_config(result.folder / "config.yaml")
    assert (saved.prompt, saved.guidance.kind, saved.shading.latent_until) == ("a red mushroom", "toybox", 0)
    assert (saved.guidance.guidance_scale, saved.pictures.video) == (100, False)
    assert (result.folder / "validation" / "step_000002.png").is_file()


def test_the_stock_file_runs_with_its_latent_phase(tmp_path: Path):
    (tmp_path / "small.yaml").write_text(SMALL)
    notes: list[str] = []
    result = generate(
        nemo_config=NERF,
        config_file=tmp_path / "small.yaml",
        output=tmp_path / "run",
        on_note=notes.append,
        assets=False,
        guidance={"kind": "diffusers", "model": str(save_sd(tmp_path / "sd")), "image_size": SIZE},
        device="cpu",
    )
    assert len(notes) == 1, "fp32 in place of fp16"
    saved = load_config(result.folder / "config.yaml")
    assert (saved.prompt, saved.shading.latent_until) == ("a hamburger", 0.2)
    assert len((result.folder / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_preset_beside_it_is_refused():
    with pytest.raises(DreamFusionError, match="not both"):
        generate("a red mushroom", nemo_config=NERF, preset="quick", device="cpu")
    with pytest.raises(DreamFusionError, match="leave out --nemo-config"):
        generate(resume="anywhere", nemo_config=NERF)


def test_the_documents_table_is_the_codes():
    assert (DOCS / "nemo.md").read_text(encoding="utf-8").endswith(table())


def test_the_diagonal_of_the_cube_has_max_steps(tmp_path: Path):
    made = config(changed(tmp_path, {"renderer.max_steps": 512}))
    assert made.scene.step_length * 512 == pytest.approx(math.dist((-1, -1, -1), (1, 1, 1)))
