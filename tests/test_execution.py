"""The switches for memory and speed: each gives what the plain prior gives, on every family it applies to."""

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from dreamfusion.config import parse_config
from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.base import Guidance
from dreamfusion.guidance.execution import Execution
from dreamfusion.guidance.families import open_prior
from dreamfusion.guidance.reading import hub
from dreamfusion.guidance.reading.prepare import set_precision
from dreamfusion.runs import generate as run
from dreamfusion.runs.generate import generate
from dreamfusion.standard import EMBEDDED_PRIOR
from support.answers import answers, assert_same, save_tiny
from support.families import SIZE, save_flux, save_sd, save_sd3, save_sdxl
from support.hub import ReadTimeoutError
from support.linear import LinearGuidance
from support.worlds import SHORT

SAVE = {"sd": save_sd, "sdxl": save_sdxl, "sd3": save_sd3, "flux": save_flux}
ALL = ["embedded", *SAVE]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> dict[str, Path]:
    """Every family's folder, and the embedded prior's."""
    return {name: save(tmp_path_factory.mktemp(name)) for name, save in SAVE.items()} | {"embedded": EMBEDDED_PRIOR}


def opened(saved: dict[str, Path], name: str, device: str = "cpu", **switches) -> Guidance:
    size = None if name == "embedded" else SIZE
    return open_prior(saved[name], device=device, image_size=size, execution=Execution(**switches))


# --- the same numbers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_channels_last_is_the_same_prior(saved, name):
    assert_same(answers(opened(saved, name)), answers(opened(saved, name, channels_last=False)))


@pytest.mark.parametrize("name", SAVE)
@pytest.mark.parametrize("switch", ["checkpoint_vae", "vae_slicing"])
def test_switches_of_the_vae_give_the_same_gradients(saved, name, switch):
    assert_same(answers(opened(saved, name, **{switch: True})), answers(opened(saved, name)), 1e-5)


def test_checkpointing_keeps_less_for_the_gradient(saved):
    def kept(**switches) -> int:
        sizes: dict[int, int] = {}

        def pack(x: Tensor) -> Tensor:
            sizes[x.data_ptr()] = x.nbytes
            return x

        prior = opened(saved, "sd", **switches)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            z = prior.encode(torch.rand(2, 3, SIZE, SIZE, requires_grad=True))
        assert z.requires_grad
        return sum(sizes.values())

    assert kept(checkpoint_vae=True) < 0.6 * kept()


def test_slicing_encodes_one_picture_at_a_time(saved):
    counts = []
    for slicing in (False, True):
        prior = opened(saved, "sd", vae_slicing=slicing)
        prior._vae.encoder.register_forward_hook(lambda module, args, output: counts.append(len(args[0])))
        prior.encode(torch.rand(3, 3, SIZE, SIZE))
    assert counts == [3, 1, 1, 1]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("offload", ["model", "layers"])
def test_what_is_offloaded_gives_the_same(saved, name, offload, device):
    assert_same(answers(opened(saved, name, device, offload=offload)), answers(opened(saved, name, device)))


@pytest.mark.parametrize("offload", ["model", "layers"])
def test_what_is_offloaded_leaves_after_its_turn(saved, offload, monkeypatch):
    prior = opened(saved, "sd", offload=offload)
    moves = []
    unet, encoder = prior._denoiser, prior.pipeline.text_encoder
    for name, module in (("unet", unet), ("text_encoder", encoder)):
        monkeypatch.setattr(module, "to", lambda device, name=name: moves.append((name, str(device))))
    answers(prior)
    # On a CPU the way in is no move; each is sent out once. Layers come and go by themselves.
    assert moves == [("text_encoder", "cpu")] + [("unet", "cpu")] * (offload == "model")
    if offload == "layers":
        assert all(weights.is_meta for weights in unet.parameters())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("offload", ["none", "model", "layers"])
def test_what_stays_on_a_gpu(saved, name, offload):
    prior = opened(saved, name, "cuda", offload=offload)
    answers(prior)
    where = {
        part: {weights.device.type for weights in module.parameters()}
        for part, module in prior.pipeline.components.items()
        if isinstance(module, torch.nn.Module)
    }
    out = {"model": "cpu", "layers": "meta", "none": "cuda"}[offload]
    for part, devices in where.items():
        if part == "vae":
            assert devices == {"cuda"}
        elif part.startswith("text_encoder"):
            assert devices == {"cuda" if offload == "none" else "cpu"}
        else:
            assert devices == {out}


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="needs a C++ compiler")
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["flux"])  # the UNets compile as well, but take minutes on a CPU
def test_the_compiled_denoiser_is_the_same(saved, name, device):
    prior = opened(saved, name, device, compile=True)
    assert prior._denoiser._compiled_call_impl is not None
    assert_same(answers(prior), answers(opened(saved, name, device)), 1e-3)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("attention", ["flash", "math"])  # the CPU's two
def test_each_kernel_of_attention_gives_the_same(saved, name, attention):
    ours, plain = opened(saved, name, attention=attention), opened(saved, name)
    assert_same(answers(ours), answers(plain))
    kernels = {"flash": "flash_attention", "math": "attention_math"}
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        answers(ours)
    used = {event.key for event in profiler.key_averages()}
    assert any(kernels[attention] in key for key in used)


def test_a_kernel_that_is_not_there_is_one_line(saved):
    prior = opened(saved, "sd", attention="efficient")
    with pytest.raises(DreamFusionError, match="has no efficient kernel"):
        answers(prior)


@pytest.mark.parametrize("name", ALL)
def test_attention_is_pytorchs_own(saved, name, monkeypatch):
    calls, plain = [], torch.nn.functional.scaled_dot_product_attention

    def counted(*args, **kwargs):
        calls.append(args)
        return plain(*args, **kwargs)

    prior = opened(saved, name)
    embeddings, z = prior.embed(["a mushroom"] * 2), prior.encode(torch.rand(2, 3, SIZE, SIZE))
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    prior.predict_noise(z, torch.tensor([10, 900]), embeddings)
    assert calls


@pytest.mark.parametrize(
    "execution", [{"offload": "model", "checkpoint_vae": True}, {"offload": "layers", "vae_slicing": True}]
)
def test_a_run_with_switches_takes_the_same_steps(saved, tmp_path, execution):
    losses = []
    for number, switches in enumerate(({}, execution)):
        guidance = {"kind": "diffusers", "model": str(saved["sd"]), "image_size": SIZE, "execution": switches}
        steps = []
        generate(
            "a red mushroom",
            output=tmp_path / str(number),
            assets=False,
            on_step=steps.append,
            **SHORT | {"steps": 2, "guidance": guidance},
        )
        losses.append([step.metrics["sds_gradient"] for step in steps])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


# --- precision --------------------------------------------------------------------------------------------------------


def test_precisions():
    before = torch.get_float32_matmul_precision()
    try:
        cpu, cuda = torch.device("cpu"), torch.device("cuda")
        assert set_precision("fp16", cpu) == torch.float16
        assert set_precision("bf16", cpu) == torch.bfloat16
        assert set_precision("tf32", cpu) == set_precision("fp32", cpu) == torch.float32
        assert torch.get_float32_matmul_precision() == before, "a CPU has no TF32"
        assert set_precision("tf32", cuda) == torch.float32
        assert torch.get_float32_matmul_precision() == "high"
        assert set_precision("fp32", cuda) == torch.float32
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_tf32_is_close_on_a_gpu(saved):
    before = torch.get_float32_matmul_precision()
    exact = answers(opened(saved, "sd", "cuda"))
    try:
        set_precision("tf32", torch.device("cuda"))
        assert_same(answers(opened(saved, "sd", "cuda"))[:2], exact[:2], 1e-2)
    finally:
        torch.set_float32_matmul_precision(before)


# --- a tiny VAE -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "latents"), [("sd", 4), ("sdxl", 4), ("sd3", 8), ("flux", 4)])
def test_a_tiny_vae_takes_the_vaes_place(saved, tmp_path, name, latents):
    folder = save_tiny(tmp_path / "tiny", latents)
    prior = opened(saved, name, tiny_vae=str(folder))
    assert not any(isinstance(part, AutoencoderKL) for part in prior.pipeline.components.values())
    # Its latents are the denoiser's own: neither the full VAE's factor nor its shift applies.
    picture = torch.rand(2, 3, SIZE, SIZE)
    expected = AutoencoderTiny.from_pretrained(folder).encode(2 * picture - 1).latents
    torch.testing.assert_close(prior.encode(picture), expected)
    answers(prior)


def test_the_gradient_of_a_tiny_vae_is_finite_differences(saved, tmp_path):
    prior = opened(saved, "sd", tiny_vae=str(save_tiny(tmp_path / "tiny")))
    image = torch.rand(1, 3, SIZE, SIZE, requires_grad=True)
    direction, h = torch.randn(1, 3, SIZE, SIZE), 1e-6
    (gradient,) = torch.autograd.grad(prior.encode(image).sum(), image)
    vae = prior._vae.double()
    start, way = 2 * image.detach().double() - 1, 2 * direction.double()
    slope = (vae.encode(start + h * way).latents - vae.encode(start - h * way).latents).sum() / (2 * h)
    assert (gradient * direction).sum().item() == pytest.approx(slope.item(), rel=1e-3)


def test_slicing_a_tiny_vae_gives_the_same(saved, tmp_path):
    folder = str(save_tiny(tmp_path / "tiny"))
    assert_same(
        answers(opened(saved, "sd", tiny_vae=folder, vae_slicing=True)), answers(opened(saved, "sd", tiny_vae=folder))
    )


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_a_tiny_vae_is_in_the_priors_precision(saved, tmp_path, half):
    tiny = str(save_tiny(tmp_path / "tiny"))
    prior = open_prior(saved["sdxl"], image_size=SIZE, dtype=half, execution=Execution(tiny_vae=tiny))
    assert prior._vae.dtype == half
    assert prior.encode(torch.rand(1, 3, SIZE, SIZE)).dtype == torch.float32


# --- bad values -------------------------------------------------------------------------------------------------------


def refusal(saved, name: str, **switches) -> str:
    with pytest.raises(DreamFusionError) as caught:
        opened(saved, name, **switches)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_tiny_vaes_that_do_not_fit(saved, tmp_path, monkeypatch):
    assert "latents have 6 channels" in refusal(saved, "sd", tiny_vae=str(save_tiny(tmp_path / "six", 6)))
    message = refusal(saved, "sd", tiny_vae=str(save_tiny(tmp_path / "three", levels=3)))
    assert "a side of 1/4, where 4 and 1/2 are needed" in message
    assert "of the kind AutoencoderKL" in refusal(saved, "sd", tiny_vae=str(saved["sd"] / "vae"))
    assert "config.json" in refusal(saved, "sd", tiny_vae=str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "cannot be had from the hub" in refusal(saved, "sd", tiny_vae="somebody/tiny")
    weights = tmp_path / "six/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    assert "cannot be read" in refusal(saved, "sd", tiny_vae=str(tmp_path / "six"))


def test_tiny_vaes_of_the_hub(saved, tmp_path, monkeypatch):
    folder = save_tiny(tmp_path / "tiny")
    asked = []

    def lost(name: str, file: str) -> str:
        asked.append(file)
        if len(asked) == 1:
            raise ReadTimeoutError("The read operation timed out")
        return str(folder / file)

    cached = {"config.json"}
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda _, file: str(folder / file) * (file in cached) or None)
    monkeypatch.setattr(hub, "model_info", lambda *_, **__: None)
    monkeypatch.setattr(hub, "hf_hub_download", lost)
    message = refusal(saved, "sd", tiny_vae="somebody/tiny")
    assert "somebody/tiny is not on this machine and cannot be had from the hub (The read operation" in message
    again = opened(saved, "sd", tiny_vae="somebody/tiny")
    assert asked == ["diffusion_pytorch_model.safetensors"] * 2
    assert_same(answers(again), answers(opened(saved, "sd", tiny_vae=str(folder))))


@pytest.mark.parametrize("switch", [{"checkpoint_vae": True}, {"vae_slicing": True}, {"tiny_vae": "x"}])
def test_a_prior_on_pixels_has_no_vae(saved, switch):
    assert f"leave out guidance.execution.{next(iter(switch))}" in refusal(saved, "embedded", **switch)


def test_a_missing_compiler_is_one_line(saved, monkeypatch):
    def fails(x):
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\npages of text")

    monkeypatch.setattr(torch, "compile", lambda function: fails)
    message = refusal(saved, "sd", compile=True)
    assert "torch.compile does not work here (InvalidCxxCompiler: No working C++ compiler found)" in message
    assert "install a C++ compiler" in message


@pytest.mark.parametrize(
    ("switches", "expected"),
    [
        ({"compile": True, "offload": "model"}, "give compile or offload"),
        ({"checkpoint_vae": True, "tiny_vae": "x"}, "give checkpoint_vae or tiny_vae"),
        ({"attention": "math", "checkpoint_denoiser": True}, "give attention or checkpoint_denoiser"),
        ({"attention": "best"}, "guidance.execution.attention"),
        ({"offload": "disk"}, "guidance.execution.offload"),
        ({"compile": "maybe"}, "guidance.execution.compile"),
        ({"xformers": True}, "guidance.execution.xformers"),
    ],
)
def test_bad_switches(switches, expected):
    with pytest.raises(DreamFusionError, match=expected):
        parse_config({"prompt": "a", "guidance": {"execution": switches}})


def test_the_switches_reach_the_prior(monkeypatch):
    asked = {}

    def note(model, **options):
        asked.update(options)
        return LinearGuidance()

    monkeypatch.setattr(run, "open_prior", note)
    execution = {"offload": "layers", "vae_slicing": True, "channels_last": False}
    config = {"prompt": "a", "guidance": {"kind": "sd", "precision": "bf16", "execution": execution}}
    run.load_guidance(parse_config(config), torch.device("cpu"))
    assert asked["execution"] == Execution(**execution)
    assert asked["dtype"] == torch.bfloat16
