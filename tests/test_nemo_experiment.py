"""NeMo's whole experiments: files composed as Hydra does, the trainer around the model, overrides behind the file."""

import math
from pathlib import Path

import pytest
import yaml

from dreamfusion.app.cli.output import nemo_arguments
from dreamfusion.config import Config, build_config
from dreamfusion.errors import DreamFusionError
from dreamfusion.nemo import read_nemo
from dreamfusion.nemo.compose import STOCK
from dreamfusion.nemo.experiment import device_count

NERF, MESH = STOCK / "model" / "dreamfusion.yaml", STOCK / "model" / "dreamfusion-dmtet.yaml"

EXPERIMENT = """
defaults:
  - model: mine
  - _self_
seed: 7
mode: fit
trainer: {max_steps: 40, precision: 32, devices: 2, accumulate_grad_batches: 3, val_check_interval: 20}
exp_manager: {name: "${seed}", checkpoint_callback_params: {every_n_train_steps: 10}, wandb_logger_kwargs: {x: 1}}
mesh_resolution: 64
model:
  prompt: a red mushroom
"""


def experiment(folder: Path, text: str = EXPERIMENT) -> Path:
    """Write an experiment with its model beside it, and return its path."""
    (folder / "model" / "nerf").mkdir(parents=True, exist_ok=True)
    (folder / "model" / "mine.yaml").write_text(NERF.read_text().replace("nerf: torchngp", "nerf: small"))
    small = "defaults: [torchngp, _self_]\nencoder_cfg: {log2_hashmap_size: 15}\n"
    (folder / "model" / "nerf" / "small.yaml").write_text(small)
    (folder / "experiment.yaml").write_text(text)
    return folder / "experiment.yaml"


def read(path: Path, *overrides: str) -> Config:
    return build_config("default", {}, base=read_nemo(path, overrides).values)


def refused(path: Path, *overrides: str) -> str:
    with pytest.raises(DreamFusionError) as caught:
        read_nemo(path, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_experiment_is_composed_with_its_trainer(tmp_path: Path):
    made = read(experiment(tmp_path))
    assert (made.seed, made.steps, made.prompt) == (7, 40, "a red mushroom")
    assert made.guidance.precision == "fp32"
    assert made.views == 6, "one view on each of two devices, gathered three times"
    assert (made.checkpoint_every, made.pictures.val_every, made.pictures.mesh_resolution) == (10, 20, 64)
    grid = made.scene.nerf.grid
    assert (grid.log2_size, grid.max_resolution) == (15, 2048), "a group of one's own on top of NeMo's"


def test_the_stock_experiment_is_the_stock_model():
    assert read(STOCK / "config.yaml").model_dump(exclude={"pictures"}) == read(NERF).model_dump(exclude={"pictures"})
    dmtet = read(STOCK / "config.yaml", "model=dreamfusion-dmtet", "trainer.max_steps=5000")
    assert dmtet == read(MESH)


def test_a_composed_file_with_the_list_inside_of_its_model(tmp_path: Path):
    model = yaml.safe_load(NERF.read_text()) | {"iters": "${trainer.max_steps}", "prompt": "${oc.env:WORDS,a cup}"}
    (tmp_path / "all.yaml").write_text(yaml.safe_dump({"seed": 3, "trainer": {"max_steps": 9}, "model": model}))
    made = read(tmp_path / "all.yaml")
    assert (made.seed, made.steps, made.prompt) == (3, 9, "a cup")


def test_overrides_behind_the_file_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = experiment(tmp_path)
    monkeypatch.setenv("WHAT", "a blue car")
    asked = (
        "model.iters=3",
        "seed=5",
        "model/nerf=tcnn",
        "model.prompt=${oc.env:WHAT}",
        "+model.optim.betas=[0.9,0.8,0.7]",
    )
    made = read(path, *asked)
    assert (made.steps, made.seed, made.prompt) == (3, 5, "a blue car")
    assert (made.scene.nerf.density_activation, made.optim.betas) == ("softplus", (0.9, 0.8, 0.7))
    assert read(NERF, "nerf=tcnn", "trainer.max_steps=3").steps == 3
    assert read(NERF, "model/nerf=tcnn").scene.nerf.density_activation == "softplus", "also for a model alone"


def test_lists_of_defaults_as_hydra_reads_them(tmp_path: Path):
    text = EXPERIMENT.replace("- _self_", "- optional notes: none\n  - override /model/background: random\n  - _self_")
    assert read(experiment(tmp_path, text)).scene.background == "random"
    first = EXPERIMENT.replace("  - model: mine\n  - _self_\n", "  - _self_\n  - model: mine\n")
    assert read(experiment(tmp_path, first)).prompt == "a hamburger", "what comes later wins"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("mode=test",), ["mode = test", "dreamfusion render RUN --turntable"]),
        (("mode=export-mesh",), ["dreamfusion export RUN"]),
        (("mode=train",), ["mode cannot be train", "fit"]),
        (("iters=3",), ["iters is no key", "Did you mean model.iters"]),
        (("model.itres=3",), ["model.itres is no key"]),
        (("model.iters",), ["'model.iters'", "KEY=VALUE"]),
        (("model/nerf=none",), ["model/nerf", "'none'", "tcnn"]),
        (("model/networks=none",), ["networks"]),
        (("model.iters=[",), ["model.iters=["]),
        (("+trainer.fast=true",), ["trainer.fast"]),
        (("trainer.max_steps=many",), ["iters = many"]),
    ],
)
def test_wrong_overrides_are_one_line(tmp_path: Path, overrides: tuple[str, ...], words: list[str]):
    line = refused(experiment(tmp_path), *overrides)
    assert all(word in line for word in words), line


def test_loggers_are_told_and_names_are_not(tmp_path: Path):
    notes = read_nemo(experiment(tmp_path), ["exp_manager.create_wandb_logger=true"]).notes
    assert "exp_manager.create_wandb_logger" in notes[-1]
    assert "exp_manager.name" not in notes[-1]


def test_words_behind_the_file_on_the_command_line():
    assert nemo_arguments(("a.yaml", "seed=3", "~model.x"), None) == (Path("a.yaml"), ("seed=3", "~model.x"), None)
    assert nemo_arguments(("a.yaml", "a red cup"), None) == (Path("a.yaml"), (), "a red cup")
    assert nemo_arguments(None, "a cup") == (None, (), "a cup")
    with pytest.raises(DreamFusionError, match="needs a FILE"):
        nemo_arguments((), None)


@pytest.mark.parametrize(("given", "count"), [(4, 4), ("auto", 1), (-1, 1), ([0, 1, 3], 3), ("0,1", 2), (None, 1)])
def test_devices_of_lightning(given: object, count: int):
    assert device_count(given) == count


def test_what_works_there_works_here(tmp_path: Path):
    def changed(text: str) -> Config:
        (tmp_path / "mine.yaml").write_text(NERF.read_text() + text)
        return read(tmp_path / "mine.yaml")

    two = changed(
        "nerf: {sigma_net_cfg: {num_hidden_dims: 64}, features_net_cfg: {num_hidden_dims: 32, num_layers: 2}}\n"
    ).scene.nerf
    assert (two.hidden_width, two.hidden_layers, two.albedo_width, two.albedo_layers) == (64, 2, 32, 1)
    made = changed("renderer: {max_steps: 4096}\noptim: {no_prox: true}\nloss: {lambda_mesh_laplacian: 1}\n")
    assert made.scene.step_length * 4096 == pytest.approx(2 * math.sqrt(3))
    assert made.optim.decay_form == "decoupled"
    (tmp_path / "mine.yaml").write_text(
        NERF.read_text().replace("width: 64\n    height: 64", "width: 96\n    height: 48")
    )
    assert (read(tmp_path / "mine.yaml").resolution.start, read(tmp_path / "mine.yaml").rows_per_column) == (96, 0.5)


def test_losses_of_samples_do_nothing_in_the_mesh_stage(tmp_path: Path):
    losses = "loss: {lambda_opacity: 1.0, lambda_3d_normal_smooth: 1.0, lambda_orientation: 1.0, lambda_entropy: 1.0}\n"
    (tmp_path / "mesh.yaml").write_text(MESH.read_text() + losses)
    nemo = read_nemo(tmp_path / "mesh.yaml")
    loss = build_config("default", {}, base=nemo.values).loss
    assert (loss.opacity_squared, loss.normal_smooth_3d) == (0, 0)
    assert (loss.entropy.largest, loss.orientation.largest) == (0, 0)
    assert "loss.lambda_opacity" in nemo.notes[-1]
