"""LoRAs and textual inversions: the prior with one answers as diffusers' own pipeline with it."""

from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline, StableDiffusion3Pipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

from dreamfusion.config import build_config
from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.additions import lora_and_weight
from dreamfusion.guidance.families import open_prior
from dreamfusion.runs.generate import rooted
from support.families import save_flux, save_if, save_sd, save_sd3, save_sdxl

LATENT = {
    "sd": (save_sd, StableDiffusionPipeline),
    "sdxl": (save_sdxl, StableDiffusionXLPipeline),
    "sd3": (save_sd3, StableDiffusion3Pipeline),
    "flux": (save_flux, FluxPipeline),
}


def save_lora(model: Path, pipeline_class: type, folder: Path) -> Path:
    """Write a random LoRA for the denoiser of a model, as diffusers does; return its file."""
    pipeline = pipeline_class.from_pretrained(model)
    name = "unet" if hasattr(pipeline, "unet") else "transformer"
    denoiser = getattr(pipeline, name)
    denoiser.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"]))
    generator = torch.Generator().manual_seed(3)
    state = get_peft_model_state_dict(denoiser)
    state = {key: torch.randn(value.shape, generator=generator) for key, value in state.items()}
    pipeline_class.save_lora_weights(folder, **{f"{name}_lora_layers": state}, weight_name="mine.safetensors")
    return folder / "mine.safetensors"


def answer(prior, texts: str = "a red mushroom") -> torch.Tensor:
    z = torch.randn(1, *prior.latent_shape, generator=torch.Generator().manual_seed(1))
    return prior.predict_noise(z, torch.tensor([400]), prior.embed([texts]))


@pytest.mark.parametrize("name", LATENT)
def test_a_lora_is_diffusers_own(name: str, tmp_path: Path):
    save, pipeline_class = LATENT[name]
    model = save(tmp_path / "model")
    file = save_lora(model, pipeline_class, tmp_path / "lora")
    plain, half = open_prior(model), open_prior(model, loras=[f"{file}:0.5"])
    theirs = open_prior(model)
    theirs.pipeline.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name="x")
    theirs.pipeline.set_adapters(["x"], [0.5])
    torch.testing.assert_close(answer(half), answer(theirs), rtol=1e-3, atol=1e-4)
    assert (answer(half) - answer(plain)).abs().max() > 1e-3
    assert not [key for key, _ in half.denoiser.named_parameters() if "lora" in key], "it is part of the weights"


def test_a_textual_inversion_is_one_more_word(tmp_path: Path):
    model = save_sd(tmp_path / "model")
    vector = torch.randn(16, generator=torch.Generator().manual_seed(2))
    save_file({"<mine>": vector}, tmp_path / "a.safetensors")
    torch.save({"emb_params": vector[None]}, tmp_path / "other.pt")
    prior = open_prior(model, embeddings=[str(tmp_path / "a.safetensors"), str(tmp_path / "other.pt")])
    theirs = StableDiffusionPipeline.from_pretrained(model)
    theirs.load_textual_inversion({"<mine>": vector})
    expected = theirs.encode_prompt("a <mine>", "cpu", 1, False)[0]
    torch.testing.assert_close(prior.embed(["a <mine>"]).tokens, expected)
    torch.testing.assert_close(prior.embed(["a other"]).tokens, expected), "the file names it where it does not itself"


def test_what_is_not_for_the_model_is_one_line(tmp_path: Path):
    model = save_sd(tmp_path / "model")
    other = save_lora(save_sd3(tmp_path / "sd3"), StableDiffusion3Pipeline, tmp_path / "lora")
    save_file({"<wide>": torch.zeros(24)}, tmp_path / "wide.safetensors")
    (tmp_path / "damaged.safetensors").write_bytes(b"no")
    for given, words in (
        ({"loras": [str(other)]}, "is not for"),
        ({"loras": [str(tmp_path / "none.safetensors")]}, r"no \.safetensors file"),
        ({"loras": [str(tmp_path / "damaged.safetensors")]}, "is not for"),
        ({"embeddings": [str(tmp_path / "wide.safetensors")]}, "is not for"),
        ({"embeddings": [str(tmp_path / "none.pt")]}, "is not for"),
    ):
        with pytest.raises(DreamFusionError, match=words) as caught:
            open_prior(model, **given)
        assert "\n" not in str(caught.value)
    with pytest.raises(DreamFusionError, match="takes no textual inversion"):
        open_prior(save_if(tmp_path / "if"), embeddings=["a.pt"])


def test_files_and_weights_as_they_are_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert lora_and_weight("a.safetensors:0.8") == (Path("a.safetensors"), 0.8)
    assert lora_and_weight("a:b.safetensors") == (Path("a:b.safetensors"), 1.0)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.safetensors").touch()
    given = {"loras": ["a.safetensors:0.8"], "embeddings": ["a.safetensors"]}
    guidance = rooted(build_config("default", {"prompt": "a", "guidance": given})).guidance
    assert guidance.loras == (f"{tmp_path / 'a.safetensors'}:0.8",)
    assert guidance.embeddings == (str(tmp_path / "a.safetensors"),)
