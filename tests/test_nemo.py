"""Configurations of NVIDIA's NeMo, read and run as their users have them."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from dreamfusion.config import build_config, load_config
from dreamfusion.config.schedule import constant
from dreamfusion.errors import DreamFusionError
from dreamfusion.nemo import read_nemo
from dreamfusion.nemo.reader import table
from dreamfusion.runs.generate import generate
from support.families import SIZE, save_sd

DOCS = Path(__file__).parents[1] / "docs"
FILES = Path(__file__).parents[1] / "src" / "dreamfusion" / "nemo" / "stock" / "model"
GROUPS = FILES
NERF, MESH = FILES / "dreamfusion.yaml", FILES / "dreamfusion-dmtet.yaml"

SMALL = """
steps: 2
resolution: 8
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
    inline = {"nerf": "nerf/torchngp", "renderer": "renderer/torchngp_raymarching", "optim": "optim/adan"}
    parts = {name: yaml.safe_load((GROUPS / f"{file}.yaml").read_text()) for name, file in inline.items()}
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
    (tmp_path / "optim" / "other.yaml").touch()
    assert config(changed(tmp_path, {})).optim.grid_lr == 5e-3, "what is not beside the file is NeMo's own"


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
    assert "plan_dir" in read_nemo(chosen(tmp_path, "guidance", "sd_trt")).notes[-1]
    (note,) = read_nemo(NERF).notes
    assert "per ray here and per sample with NeMo" in note
    silent = {"loss.lambda_orientation": 0, "loss.lambda_entropy": 0}
    assert read_nemo(changed(tmp_path, silent)).notes == []


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
        ({"data.val_dataset.width": 48}, ["val_dataset.height", "val_dataset.width", "square"]),
        ({"data.train_dataset.radius_range": 3}, ["radius_range"]),
        ({"data.train_dataset.radius_range": [1, 2, 3]}, ["radius_range"]),
        ({"data.val_dataset._target_": "a.random_poses.RandomPoses"}, ["_target_", "random_poses", "circle_poses"]),
        ({"data.train_dataset._target_": "a.circle_poses.CirclePoses"}, ["_target_", "random_poses"]),
        ({"resume_from_checkpoint": "/results/last.ckpt"}, ["resume_from_checkpoint", "--resume"]),
        ({"guidance.precision": "fp8"}, ["guidance.precision", "fp8", "16 or", "bf16", "32"]),
        ({"nerf.density_activation": "relu"}, ["nerf.density_activation", "relu", "exp or softplus"]),
        ({"nerf.normal_type": "up"}, ["nerf.normal_type", "backward_finite_difference"]),
        ({"nerf.encoder_cfg.encoder_type": "tiledgrid"}, ["tiledgrid", "hashgrid or frequency or frequency_torch"]),
        ({"background.background": [0, 0, 3]}, ["background.background = [0, 0, 3]", "scene.background_color.2"]),
        ({"optim.betas": [0.9, 0.9, 2]}, ["optim.betas = [0.9, 0.9, 2]"]),
        ({"iters": "many"}, ["iters = many is not possible here", "steps", "valid integer"]),
        ({"renderer.max_steps": 40960}, ["renderer.max_steps = 40960", "scene.step_length"]),
        ({"data.train_dataset.radius_range": [3, 2]}, ["data.train_dataset.radius_range = [3, 2]", "radius_min <="]),
        (
            {"data.train_dataset.radius_range": [-3, 2]},
            ["radius_range = [-3, 2]", "cameras.radius_min", "greater than 0"],
        ),
        ({"data.train_dataset.uniform_sphere_rate": 3}, ["data.train_dataset.uniform_sphere_rate = 3 is not"]),
        (
            {"data.train_dataset.fovx_range": [0, 30], "data.train_dataset.fovy_range": [0, 30]},
            ["fovy_range = [0, 30]"],
        ),
        ({"data.val_dataset.default_fovx": 0}, ["data.val_dataset.default_fovx"]),
        ({"min_ambient_ratio": 3}, ["min_ambient_ratio = 3 is not possible here", "ambient"]),
        ({"textureless_ratio": 1.5}, ["textureless_ratio = 1.5"]),
        ({"nerf.encoder_cfg.log2_hashmap_size": 99}, ["nerf.encoder_cfg.log2_hashmap_size = 99"]),
        ({"nerf.encoder_cfg.interpolation": "cubic"}, ["nerf.encoder_cfg.interpolation = cubic", "'smoothstep'"]),
        ({"optim.name": "sgd"}, ["optim.name", "adan, adamw, adam"]),
        ({"optim.name": "adamw", "optim.max_grad_norm": 5}, ["optim.max_grad_norm"]),
        ({"data": [1]}, ["do not go together"]),
        ({"renderer": 3}, ["renderer must be a table"]),
        ({"nerf.encoder_cfg": 3}, ["nerf.encoder_cfg must be a table"]),
        ({"optim.name": ["adan"]}, ["optim.name", "adan, adamw, adam"]),
        ({"data.train_dataset.default_azimuth": 90}, ["data.train_dataset.default_azimuth", "give 0"]),
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


def test_the_mesh_stage_is_read():
    mesh = read_nemo(MESH)
    assert mesh.mesh_stage
    assert not read_nemo(NERF).mesh_stage
    values = mesh.values
    assert (values["steps"], values["resolution"]) == (5000, 512)
    assert values["scene"]["tetrahedra"] == {"resolution": 64, "fitted": True}
    background = {"frequencies": 6, "hidden_width": 32, "hidden_layers": 1}
    assert (values["scene"]["background"], values["scene"]["background_network"]) == ("learned", background)
    loss = values["loss"]
    assert (loss["normal_consistency"], loss["laplacian"]) == (0.5, 0.5)
    assert (loss["entropy"], loss["orientation"]) == (0, 0)
    rates = [values["optim"][name] for name in ("surface_lr", "offset_lr", "grid_lr")]
    assert rates == [5e-3 / 128, 5e-3 / 2, 5e-3], "theirs goes from -1 to 1 within an edge of 2 / 128"
    assert values["shading"]["latent"] == 0


def test_the_stock_file_of_the_mesh_stage_runs_from_a_ball_with_the_embedded_prior(tmp_path: Path):
    (tmp_path / "small.yaml").write_text(SMALL)
    notes: list[str] = []
    result = generate(
        "a red mushroom",
        nemo_config=MESH,
        config_file=tmp_path / "small.yaml",
        output=tmp_path / "run",
        on_note=notes.append,
        guidance={"kind": "toybox"},
        scene={"tetrahedra": {"resolution": 16}},
        device="cpu",
    )
    assert any("ball" in note and f"refine RUN --nemo-config {MESH}" in note for note in notes)
    assert len((result.folder / "metrics.jsonl").read_text().splitlines()) == 2
    assert result.mesh.is_file()
    radii = np.linalg.norm(result.scene.mesh(0).vertices, axis=1)
    assert radii.std() < 0.1 * radii.mean(), "two steps leave the ball"


def inline(folder: Path, group: str, content: dict[str, Any]) -> Path:
    """Write the configuration with one part written out in it, and nothing else of that part."""
    defaults = [entry for entry in yaml.safe_load(NERF.read_text())["defaults"] if group not in entry]
    return changed(folder, {"defaults": defaults, group: content})


MODULES = "nemo.collections.multimodal.modules.nerf"


def test_what_an_encoder_leaves_out_is_as_nemos_code_has_it(tmp_path: Path):
    nerf = yaml.safe_load((GROUPS / "nerf" / "torchngp.yaml").read_text())
    grid = config(inline(tmp_path, "nerf", nerf | {"encoder_cfg": {"encoder_type": "hashgrid"}})).scene.nerf.grid
    assert (grid.levels, grid.features, grid.log2_size, grid.base_resolution) == (16, 2, 19, 16)
    assert (grid.max_resolution, grid.interpolation, grid.levels_used) == (2048, "linear", None)
    nerf = yaml.safe_load((GROUPS / "nerf" / "tcnn.yaml").read_text())
    networks = {"sigma_net_cfg": {"otype": "FullyFusedMLP"}, "features_net_cfg": {"otype": "FullyFusedMLP"}}
    made = config(inline(tmp_path, "nerf", nerf | networks | {"encoder_cfg": {"otype": "HashGrid"}})).scene.nerf
    assert (made.grid.log2_size, made.grid.max_resolution, made.grid.interpolation) == (19, 2048, "linear")
    assert (made.hidden_width, made.hidden_layers) == (128, 5), "tiny-cuda-nn's"


@pytest.mark.parametrize(
    ("content", "ours"),
    [
        ({"name": "adan"}, ("adan", 1e-3, None, 1e-8, 0, None)),
        ({"name": "adan", "max_grad_norm": 3, "lr": 2e-3}, ("adan", 2e-3, None, 1e-8, 0, 3)),
        ({"name": "adamw"}, ("adam", 1e-3, (0.9, 0.999), 1e-8, 1e-2, None)),
        ({"name": "adamw", "betas": [0.8, 0.9], "eps": 1e-15}, ("adam", 1e-3, (0.8, 0.9), 1e-15, 1e-2, None)),
        ({"name": "adam", "lr": 1e-4}, ("adam", 1e-4, (0.9, 0.999), 1e-8, 0, None)),
    ],
)
def test_what_an_optimiser_leaves_out_is_its_own(tmp_path: Path, content: dict[str, Any], ours: tuple[Any, ...]):
    made = config(inline(tmp_path, "optim", content)).optim
    assert (made.optimizer, made.grid_lr, made.betas, made.eps, made.weight_decay, made.max_grad_norm) == ours
    assert (made.network_lr, made.background_lr, made.warmup, made.decay) == (
        made.grid_lr,
        made.grid_lr,
        constant(1),
        constant(1),
    )


def test_what_other_parts_leave_out(tmp_path: Path):
    prior = {"_target_": f"{MODULES}.guidance.stablediffusion_huggingface_pipeline.StableDiffusion"}
    guidance = config(inline(tmp_path, "guidance", prior)).guidance
    assert (guidance.kind, guidance.model, guidance.precision) == ("sd", None, "fp16")
    assert (guidance.t_min, guidance.t_max) == (constant(0.02), constant(0.98))
    marching = {"_target_": f"{MODULES}.renderers.nerfacc_volume_renderer.NerfaccVolumeBaseRenderer"}
    scene = config(inline(tmp_path, "renderer", marching | {"grid_resolution": 64, "grid_levels": 3})).scene
    assert (scene.step_length, scene.dt_gamma, scene.occupancy_interval, scene.occupancy_density) == (
        1e-3,
        0.004,
        16,
        10,
    )
    around = {"_target_": "nemo.collections.multimodal.data.nerf.circle_poses.CirclePosesDataset"}
    drawn = {"_target_": "nemo.collections.multimodal.data.nerf.random_poses.RandomPosesDataset", "jitter": True}
    data = {"train_dataset": drawn, "val_dataset": around | {"size": 4}, "test_dataset": around}
    made = config(inline(tmp_path, "data", data))
    assert (made.views, made.cameras.radius_min, made.cameras.radius_max) == (1, 3, 3.5)
    assert (made.cameras.elevation_min_deg, made.cameras.elevation_max_deg) == (-15, 45)
    assert (made.cameras.fov_min_deg, made.cameras.fov_max_deg, made.cameras.uniform_angle_probability) == (10, 30, 1)
    assert (made.cameras.position_noise, made.cameras.look_at_noise, made.cameras.up_noise) == (0.1, 0.2, 0.02)
    assert (made.pictures.val_views, made.pictures.video_frames, made.pictures.radius) == (4, 100, 3.2)


@pytest.mark.parametrize(
    ("group", "left_out"),
    [
        ("", ["iters", "guidance_scale", "latent_iter_ratio", "min_ambient_ratio", "front_prompt"]),
        ("nerf/torchngp", ["blob_radius", "normal_type", "density_activation"]),
        ("renderer/torchngp_raymarching", ["max_steps", "dt_gamma", "grid_resolution"]),
        ("background/static", ["background"]),
        ("loss/dreamfusion", ["lambda_sds", "lambda_orientation"]),
        ("guidance/sd_nemo", ["checkpoint"]),
        ("data/data", ["train_dataset", "val_dataset"]),
    ],
)
def test_what_nemo_needs_is_needed_here(tmp_path: Path, group: str, left_out: list[str]):
    name = group.split("/")[0]
    for key in left_out:
        if group:
            part = yaml.safe_load((GROUPS / f"{group}.yaml").read_text().replace("${model.nerf.bound}", "1"))
            path = inline(tmp_path, name, {k: v for k, v in part.items() if k != key})
        else:
            path = tmp_path / "mine.yaml"
            path.write_text(yaml.safe_dump({k: v for k, v in yaml.safe_load(NERF.read_text()).items() if k != key}))
        line = refused(path)
        assert f"{name}.{key}".removeprefix(".") in line, line
        assert "missing" in line


@pytest.mark.parametrize(
    ("changes", "finest"),
    [
        ({}, 2048),
        ({"base_resolution": 8, "n_levels": 12}, 281),  # 8 * 2^(11 * 7/15) = 280.8
        ({"per_level_scale": 2.0, "n_levels": 5}, 256),
    ],
)
def test_levels_of_tiny_cuda_nn_grow_as_nemo_says(tmp_path: Path, changes: dict[str, Any], finest: int):
    nerf = yaml.safe_load((GROUPS / "nerf" / "tcnn.yaml").read_text())
    made = config(inline(tmp_path, "nerf", nerf | {"encoder_cfg": nerf["encoder_cfg"] | changes}))
    assert made.scene.nerf.grid.max_resolution == finest


def test_other_encoders_and_normals_of_nemo(tmp_path: Path):
    made = config(changed(tmp_path, {"nerf.normal_type": "backward_finite_difference"}))
    assert (made.scene.nerf.normal_method, made.scene.nerf.normal_epsilon) == ("backward", 0.01)
    made = config(changed(tmp_path, {"nerf.encoder_cfg": {"encoder_type": "frequency", "multires": 10}}))
    assert (made.scene.nerf.encoding, made.scene.nerf.frequencies) == ("frequency", 10)
    sizes = {"num_levels": 8, "level_dim": 4, "base_resolution": 32}
    grid = config(changed(tmp_path, {f"nerf.encoder_cfg.{key}": value for key, value in sizes.items()})).scene.nerf.grid
    assert (grid.levels, grid.features, grid.base_resolution, grid.log2_size) == (8, 4, 32, 19)


def test_keys_that_nemo_does_not_read_have_any_value(tmp_path: Path):
    changes = {"update_extra_interval": 8, "data.val_dataset.default_azimuth": 90}
    assert config(changed(tmp_path, changes)) == config(NERF)


def test_what_matters_with_nemo_and_not_here_is_told(tmp_path: Path):
    note = read_nemo(chosen(tmp_path, "renderer", "nerfacc")).notes[-1]
    assert "renderer.near_plane, renderer.alpha_thre" in note
    assert any("sines" in note for note in read_nemo(chosen(tmp_path, "background", "tcnn")).notes)
    note = read_nemo(changed(tmp_path, {"loss.lambda_mesh_normal": 0.5})).notes[-1]
    assert "loss.lambda_mesh_normal" in note


def test_a_configuration_beside_the_file_is_a_base_whose_choices_can_be_overridden(tmp_path: Path):
    (tmp_path / "dreamfusion.yaml").write_text(NERF.read_text())
    mine = tmp_path / "mine.yaml"
    mine.write_text("defaults: [dreamfusion, {override nerf: tcnn}, _self_]\niters: 7\n")
    made = config(mine)
    assert (made.steps, made.prompt, made.scene.nerf.grid.staggered) == (7, "a hamburger", True)
    mine.write_text("defaults: [dreamfusion]\n")
    assert config(mine) == config(NERF)
    (tmp_path / "outer.yaml").write_text("defaults: [mine, {override background: torchngp}]\n")
    mine.write_text("defaults: [dreamfusion, {override background: random}]\n")
    assert config(mine).scene.background == "random"
    assert config(tmp_path / "outer.yaml").scene.background == "learned", "the outermost file decides"
    mine.write_text("defaults: [base]\n")
    assert "base.yaml" in refused(mine)
    mine.write_text("defaults: [mine]\n")
    assert "leads back to itself" in refused(mine)
    mine.write_text("defaults: [{nerf: tcnn}, {override background: random}]\n")
    assert "override background" in refused(mine)


@pytest.mark.parametrize(
    ("given", "ours"),
    [(16, "fp16"), ("16-mixed", "fp16"), ("bf16", "bf16"), ("bf16-mixed", "bf16"), (32, "fp32"), ("32-true", "fp32")],
)
def test_precisions_mean_what_they_say(given: Any, ours: str, tmp_path: Path):
    assert config(changed(tmp_path, {"guidance.precision": given})).guidance.precision == ours


def test_the_field_of_view_of_pictures(tmp_path: Path):
    val = {"data.val_dataset.default_fovx": 90, "data.val_dataset.default_fovy": 90}
    made = config(changed(tmp_path, val | {"data.test_dataset.default_polar": 60})).pictures
    assert (made.val_focal, made.focal) == (pytest.approx(0.5), pytest.approx(0.5 / math.tan(math.radians(10))))
    assert (made.val_elevation_deg, made.elevation_deg) == (0, 30), "a value of one is none of the other's"


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
        guidance={"kind": "toybox"},
        device="cpu",
    )
    assert len(notes) == 3
    assert "fp32" in notes[1]
    assert "latent phase" in notes[2]
    saved = load_config(result.folder / "config.yaml")
    assert (saved.prompt, saved.guidance.kind, saved.shading.latent) == ("a red mushroom", "toybox", constant(0))
    assert (saved.guidance.guidance_scale, saved.pictures.video) == (100, False)
    assert (result.folder / "validation" / "step_000002.png").is_file()
    assert result.contact_sheet.is_file(), "two steps leave fog, of which there is no mesh, but pictures"


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
    assert len(notes) == 2
    assert "fp32" in notes[1], "in place of fp16"
    saved = load_config(result.folder / "config.yaml")
    assert (saved.prompt, saved.shading.latent.from_) == ("a hamburger", 0.2)
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
