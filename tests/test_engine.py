"""The compiled engine: the same answers as PyTorch, at other numbers, sizes and lengths than it was traced with."""

import shutil
import sys
from pathlib import Path

import onnxruntime
import pytest
import torch

from dreamfusion.app import cli
from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.compiled import compiling, engine
from dreamfusion.guidance.compiled.compiling import compile_prior
from dreamfusion.guidance.compiled.engine import Engine, TextEngine, VaeEngine
from dreamfusion.guidance.execution import Execution
from dreamfusion.guidance.families import open_prior
from dreamfusion.guidance.reading.counting import count_parameters
from dreamfusion.io.files import MARKER
from dreamfusion.method.critic import check_adaptable
from support.answers import answers, assert_same, save_tiny
from support.families import SIZE, save_flux, save_sd, save_sd3, save_sdxl
from support.nemo import compvis_weights, nemo_config, nemo_weights, save_tokenizer, tiny_models, write_nemo
from support.pixel import save_pipeline

SAVE = {"if": save_pipeline, "sd": save_sd, "sdxl": save_sdxl, "sd3": save_sd3, "flux": save_flux}


def compiled(name: str, folder: Path) -> tuple[Path, Path]:
    """Return the folders of a tiny model and of its engine."""
    model = SAVE[name](folder / "model")
    return model, compile_prior(model, folder / "engine", image_size=None if name == "if" else SIZE)


@pytest.fixture(scope="module")
def sd3(tmp_path_factory) -> tuple[Path, Path]:
    torch.set_num_threads(1)
    return compiled("sd3", tmp_path_factory.mktemp("sd3"))


def same_answers(model: Path, folder: Path, size: int | None) -> None:
    """Four pictures of another size, with a long prompt, and the gradient of what is shown."""
    plain, ours = (open_prior(path, image_size=size) for path in (model, folder))
    assert type(plain) is type(ours)
    assert_same(answers(ours), answers(plain))
    z = torch.randn(4, *plain.encode(torch.rand(1, 3, 8, 8)).shape[1:], generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0, 250, 500, 999])
    for prompt in ("", "a red red red red mushroom"):
        text = plain.embed([prompt] * 4)
        expected = plain.predict_noise(z, t, text)
        torch.testing.assert_close(ours.embed([prompt] * 4).tokens, text.tokens, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours.predict_noise(z, t, text), expected, rtol=1e-4, atol=1e-4)
        assert (expected[0] - expected[1]).abs().max() > 1e-3, "the answers must depend on the input"


@pytest.mark.long
@pytest.mark.parametrize("name", ["if", "sd", "sdxl", "flux"])  # sd3 below
def test_an_engine_answers_as_its_model_does(name, tmp_path):
    model, folder = compiled(name, tmp_path)
    parts = {path.name for path in folder.iterdir()}
    assert parts - {MARKER} == {path.name for path in model.iterdir()}
    assert not list(folder.rglob("*.safetensors")), "all networks are compiled"
    same_answers(model, folder, None if name == "if" else 2 * SIZE)


@pytest.mark.slow
def test_other_sizes_than_it_was_traced_with(sd3):
    for size in (None, SIZE // 2, SIZE):
        same_answers(*sd3, size)


@pytest.mark.slow
def test_an_engine_needs_its_model_no_more_and_holds_no_second_denoiser(sd3, tmp_path):
    folder = Path(shutil.copytree(sd3[1], tmp_path / "elsewhere"))
    assert not list(folder.glob("transformer/*.safetensors"))
    prior = open_prior(folder)
    assert isinstance(prior._denoiser, Engine)
    assert prior._denoiser.graph.provider == "CPUExecutionProvider"
    assert isinstance(prior._vae, VaeEngine)
    assert isinstance(prior.pipeline.text_encoder_3, TextEngine)
    prior.release_text_encoders()
    assert prior.pipeline.text_encoder_3 is None
    assert prior.denoiser is None
    assert count_parameters(folder) == {}, "the heads of its files do not tell"
    with pytest.raises(DreamFusionError, match="needs a network to adapt"):
        check_adaptable(prior)


@pytest.mark.slow
def test_a_compiled_encoder_gives_the_gradient_of_its_model(sd3):
    plain, ours = (open_prior(path, image_size=SIZE) for path in sd3)
    directions = torch.randn(3, *plain.latent_shape, generator=torch.Generator().manual_seed(1))
    gradients = []
    for prior in (plain, ours):
        image = torch.rand(3, 3, 20, 20, generator=torch.Generator().manual_seed(2)).requires_grad_()
        gradients += torch.autograd.grad(prior.encode(image), image, directions)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-5)
    assert gradients[0].abs().max() > 1e-2


@pytest.mark.slow
def test_a_tiny_vae_takes_the_compiled_ones_place(sd3, tmp_path):
    tiny = Execution(tiny_vae=str(save_tiny(tmp_path, latents=8)))
    plain, ours = (open_prior(path, image_size=SIZE, execution=tiny) for path in sd3)
    assert_same(answers(ours), answers(plain))


@pytest.mark.slow
def test_the_numbers_of_an_engine_are_those_it_was_compiled_in(sd3):
    half = open_prior(sd3[1], dtype=torch.bfloat16)
    assert {half._vae.dtype, half._denoiser.dtype, half.pipeline.text_encoder.dtype} == {torch.float32}
    answers(half)


@pytest.mark.long
def test_weights_in_float16(tmp_path):
    model = save_pipeline(tmp_path / "model")
    folder = compile_prior(model, tmp_path / "engine", dtype=torch.float16)
    plain, ours = open_prior(model), open_prior(folder)
    assert ours.pipeline.unet.dtype == torch.float16
    for found, expected in zip(answers(ours)[:2], answers(plain)[:2], strict=True):
        assert (found - expected).abs().max() < 0.02 * expected.abs().max()


@pytest.mark.long
def test_nemos_padding_of_the_text_is_kept(tmp_path):
    weights = compvis_weights(tiny_models())
    file = write_nemo(tmp_path / "sd.nemo", nemo_config(), nemo_weights(weights))
    save_tokenizer(tmp_path / "tokenizer")
    folder = compile_prior(file, tmp_path / "engine", image_size=SIZE)
    text = open_prior(folder, image_size=SIZE).embed(["a b c"]).tokens
    torch.testing.assert_close(text, open_prior(file, image_size=SIZE).embed(["a b c"]).tokens)
    assert text.shape[1] == 16, "13 tokens, padded to a multiple of 8"


# --- providers --------------------------------------------------------------------------------------------------------


class FakeSession:
    """Takes note of the providers that it is given, and has the last."""

    def __init__(self, path, options, providers):
        self.asked = providers

    def get_inputs(self):
        return []

    def get_outputs(self):
        return []

    def get_providers(self):
        return [self.asked[0][0]]


@pytest.fixture
def bare_engine(tmp_path) -> Engine:
    (tmp_path / "config.json").write_text('{"dtype": "float16"}')
    return Engine(tmp_path)


@pytest.mark.parametrize("there", [["Azure", *engine.PROVIDERS[::-1]], engine.PROVIDERS[1:]])
def test_tensorrt_then_cuda_then_the_cpu(bare_engine, monkeypatch, there):
    monkeypatch.setattr(onnxruntime, "InferenceSession", FakeSession)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: there)
    bare_engine.open(torch.device("cuda:1"))
    asked = dict(bare_engine.graph.session.asked)
    assert list(asked) == [name for name in engine.PROVIDERS if name in there]
    assert asked["CUDAExecutionProvider"] == {"device_id": 1}
    if len(asked) == 3:
        options = asked["TensorrtExecutionProvider"]
        assert options["trt_fp16_enable"]
        assert options["trt_engine_cache_path"] == str(bare_engine.folder / "tensorrt")
    bare_engine.open(torch.device("cpu"))
    assert list(dict(bare_engine.graph.session.asked)) == ["CPUExecutionProvider"]


def test_a_gpu_that_onnx_runtime_does_not_know_is_warned_of(bare_engine, monkeypatch):
    monkeypatch.setattr(onnxruntime, "InferenceSession", FakeSession)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.warns(UserWarning, match="install onnxruntime-gpu"):
        bare_engine.open(torch.device("cuda"))


# --- what cannot be done ----------------------------------------------------------------------------------------------


def refusal(*args, **options) -> str:
    with pytest.raises(DreamFusionError) as caught:
        open_prior(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.slow
def test_damaged_engines(sd3, tmp_path):
    folder = Path(shutil.copytree(sd3[1], tmp_path / "copy")) / "transformer"
    for name in ("model.onnx", "model.onnx.data"):
        whole = (folder / name).read_bytes()
        for kept in (0, 100, len(whole) // 2):
            (folder / name).write_bytes(whole[:kept])
            assert "cannot be read" in refusal(folder.parent), (name, kept)
        (folder / name).unlink()
        assert "cannot be read" in refusal(folder.parent), name
        (folder / name).write_bytes(whole)
    (folder / "config.json").write_text("{")
    assert "no readable config.json" in refusal(folder.parent)


@pytest.mark.slow
@pytest.mark.parametrize(
    "switch",
    [
        {"compile": True},
        {"checkpoint_denoiser": True},
        {"offload": "model"},
        {"offload": "layers"},
        {"checkpoint_vae": True},
        {"vae_slicing": True},
    ],
)
def test_switches_of_networks_in_pytorch(sd3, switch):
    assert f"leave out guidance.execution.{next(iter(switch))}" in refusal(sd3[1], execution=Execution(**switch))


@pytest.mark.slow
def test_a_compiled_text_encoder_weighs_no_words(sd3, tmp_path):
    model = save_sd(tmp_path / "model")
    shutil.rmtree(model / "text_encoder")
    shutil.copytree(sd3[1] / "text_encoder", model / "text_encoder")
    assert "leave out guidance.prompt_weighting" in refusal(model, prompt_weighting=True)


@pytest.mark.slow
def test_an_engine_is_not_compiled_again(sd3, tmp_path):
    with pytest.raises(DreamFusionError, match="compiled already"):
        compile_prior(sd3[1], tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_without_onnx_runtime(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DreamFusionError, match=r'pip install "dreamfusion\[engine\]"'):
        compile_prior(save_sd(tmp_path / "model"), tmp_path / "engine")
    (tmp_path / "model/unet/model.onnx").touch()
    (tmp_path / "model/unet/diffusion_pytorch_model.safetensors").unlink()
    assert 'pip install "dreamfusion[engine]"' in refusal(tmp_path / "model")


def test_without_the_exporter(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(DreamFusionError, match=r'pip install "dreamfusion\[engine\]"'):
        compile_prior(save_sd(tmp_path / "model"), tmp_path / "engine")


def test_a_graph_beside_weights_is_left_alone(tmp_path):
    folder = save_sd(tmp_path / "model")
    (folder / "unet/model.onnx").touch()
    assert isinstance(open_prior(folder)._denoiser, torch.nn.Module)


@pytest.mark.parametrize("failure", ["export", "numbers"])
def test_what_cannot_be_compiled_leaves_nothing(tmp_path, monkeypatch, failure, capsys):
    model = save_sd(tmp_path / "model")

    def export(*args, **options):
        if failure == "export":
            raise torch.onnx.OnnxExporterError("no such operator\nand a page of advice")

    monkeypatch.setattr(torch.onnx, "export", export)
    monkeypatch.setattr(compiling, "gradient_graph", lambda vae: (vae, ()))
    monkeypatch.setattr(engine.Graph, "__init__", lambda self, *_: None)
    monkeypatch.setattr(engine.Graph, "__call__", lambda self, *args, **kwargs: [torch.tensor(torch.nan)])
    with pytest.raises(SystemExit):
        cli.main(["guidance", "compile", str(model), "--output", str(tmp_path / "engine"), "--device", "cpu"])
    message = capsys.readouterr().err
    assert ("no such operator" if failure == "export" else "differs from the model") in message
    assert "advice" not in message
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_models_that_cannot_be_compiled(tmp_path):
    with pytest.raises(DreamFusionError, match="There is no folder or file"):
        compile_prior(tmp_path / "missing", tmp_path / "engine")
    with pytest.raises(DreamFusionError, match=r"it has no model_index\.json"):
        compile_prior(tmp_path, tmp_path / "engine")


def test_what_is_there_is_not_replaced(tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    for output in (tmp_path, tmp_path / "precious.txt"):
        with pytest.raises(DreamFusionError, match="choose another folder"):
            compile_prior(save_sd(tmp_path / "model"), output)
    assert (tmp_path / "precious.txt").read_text() == "mine"
