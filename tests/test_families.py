"""Twenty optimisation steps of the whole system, from disk, for every family in its own format and every switch."""

import math
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from dreamfusion.guidance.compiled.compiling import compile_prior
from dreamfusion.guidance.execution import VAE_SWITCHES
from dreamfusion.runs.generate import generate
from support.answers import save_tiny
from support.families import SIZE, save_flux, save_if, save_sd, save_sd3, save_sdxl, save_single_file
from support.nemo import (
    compvis_config,
    compvis_weights,
    nemo_config,
    nemo_weights,
    save_tokenizer,
    tiny_models,
    write_nemo,
)
from support.worlds import SMALLEST

STEPS = 20
SMALL = SMALLEST | {"steps": STEPS, "checkpoint_every": STEPS, "preview_every": STEPS + 1}


def save_nemo(folder: Path) -> Path:
    save_tokenizer(folder / "tokenizer")
    return write_nemo(folder / "sd.nemo", nemo_config(), nemo_weights(compvis_weights(tiny_models())))


def save_original(folder: Path) -> Path:
    save_tokenizer(folder / "tokenizer")
    torch.save({"state_dict": compvis_weights(tiny_models())}, folder / "sd.ckpt")
    (folder / "sd.yaml").write_text(yaml.safe_dump(compvis_config(nemo_config())))
    return folder / "sd.ckpt"


FAMILIES = {
    "if": save_if,
    "sd1": save_sd,
    "sd2": lambda folder: save_sd(folder, "v_prediction"),
    "sdxl": save_sdxl,
    "sd3": save_sd3,
    "flux": save_flux,
    "nemo": save_nemo,
    "original": save_original,
    "single-file": lambda folder: save_single_file(save_sd(folder / "model"), folder / "sd.safetensors"),
    "engine": lambda folder: compile_prior(save_sd(folder / "model"), folder / "engine"),
}
SWITCHES = {
    "fp16": {"precision": "fp16"},
    "bf16": {"precision": "bf16"},
    "tf32": {"precision": "tf32"},
    "strided": {"execution": {"channels_last": False}},
    "flash": {"execution": {"attention": "flash"}},
    "math": {"execution": {"attention": "math"}},
    "checkpoint_vae": {"execution": {"checkpoint_vae": True}},
    "checkpoint_denoiser": {"execution": {"checkpoint_denoiser": True}},
    "vae_slicing": {"execution": {"vae_slicing": True}},
    "tiny_vae": {"execution": {"tiny_vae": True}},
    "offload": {"execution": {"offload": "model"}},
    "offload-layers": {"execution": {"offload": "layers"}},
}
COMPILED = {"compile": {"execution": {"compile": True}}}
INEXACT = ("fp16", "bf16", "tiny_vae")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return the model of a family on disk, made when it is first asked for."""
    torch.set_num_threads(1)
    made: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in made:
            made[family] = FAMILIES[family](tmp_path_factory.mktemp(family))
        return made[family]

    return get


@pytest.fixture(scope="module")
def gradients(saved, tmp_path_factory):
    """Return the size of the distillation gradient at each step of a run, which is made once for each setting."""
    known: dict[str, list[float]] = {}

    def run(family: str, switch: str = "plain") -> list[float]:
        name = f"{family}-{switch}"
        if name not in known:
            folder = tmp_path_factory.mktemp(name)
            guidance = {"kind": "diffusers", "model": str(saved(family)), **(SWITCHES | COMPILED).get(switch, {})}
            if family != "if":
                guidance["image_size"] = SIZE
            if switch == "tiny_vae":
                tiny = save_tiny(folder / "tiny", 8 if family == "sd3" else 4)
                guidance["execution"] = {"tiny_vae": str(tiny)}
            steps = []
            settings = SMALL | {"guidance": guidance}
            generate("a red mushroom", output=folder / "run", assets=False, on_step=steps.append, **settings)
            assert [step.number for step in steps] == list(range(1, STEPS + 1))
            assert all(math.isfinite(value) for step in steps for value in step.metrics.values())
            assert all(step.metrics["grad_norm"] > 0 for step in steps)
            known[name] = [step.metrics["sds_gradient"] for step in steps]
        return known[name]

    return run


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "engine"])
def test_every_family(gradients, family):
    assert min(gradients(family)) > 0


@pytest.mark.long
def test_an_engine_takes_the_steps_of_its_model(gradients):
    assert gradients("engine") == pytest.approx(gradients("sd1"), rel=1e-2)


@pytest.mark.parametrize(
    ("family", "switch"),
    [
        (family, switch)
        for family in ("if", "sd1", "sdxl", "sd3")
        for switch in SWITCHES
        if not (family == "if" and switch in VAE_SWITCHES)
    ]
    # The second transformer, for what is not the VAE's alone; test_execution asks all families once.
    + [("flux", switch) for switch in ("bf16", "tiny_vae", "offload", "offload-layers")],
)
def test_every_switch(gradients, family, switch):
    found, plain = gradients(family, switch), gradients(family)
    assert min(found) > 0
    if switch not in INEXACT:
        assert found == pytest.approx(plain, rel=1e-2)  # rounding grows from step to step
    elif switch != "tiny_vae":
        assert found != plain
        assert found[0] == pytest.approx(plain[0], rel=0.1)


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="needs a C++ compiler")
def test_compiled_steps(gradients):
    # The UNets compile as well, but take minutes on a CPU.
    assert gradients("flux", "compile") == pytest.approx(gradients("flux"), rel=1e-2)
