"""Weights in 8 bits: what is handed to torchao, on a stand-in after its documentation, and what is refused."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dreamfusion.config import parse_config
from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.execution import Execution
from dreamfusion.guidance.families import open_prior
from dreamfusion.method.critic import check_adaptable
from support.families import save_sd3


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    torch.set_num_threads(1)
    return save_sd3(tmp_path_factory.mktemp("sd3"))


def test_denoiser_and_text_encoders_are_handed_over_and_the_vae_is_not(folder, monkeypatch):
    handed = []
    library = SimpleNamespace(Int8WeightOnlyConfig=lambda: "int8", quantize_=lambda x, how: handed.append((x, how)))
    monkeypatch.setitem(sys.modules, "torchao", SimpleNamespace(quantization=library))
    monkeypatch.setitem(sys.modules, "torchao.quantization", library)
    prior = open_prior(folder, execution=Execution(quantize="int8"))
    parts = prior.modules()
    names = {name for module, how in handed for name, part in parts.items() if part is module and how == "int8"}
    assert names == {"text_encoder", "text_encoder_2", "text_encoder_3", "transformer"}
    assert len(handed) == len(names)


def test_without_the_library_it_is_one_line(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(DreamFusionError, match=r"dreamfusion\[quantize\]") as caught:
        open_prior(folder, execution=Execution(quantize="int8"))
    assert "\n" not in str(caught.value)
    with pytest.raises(DreamFusionError, match="quantize"):
        parse_config({"prompt": "a", "guidance": {"execution": {"quantize": "int4"}}})


def test_a_critic_in_8_bits_is_refused(folder):
    class Int8(torch.Tensor):
        pass

    Int8.__module__ = "torchao.quantization"
    prior = open_prior(folder)
    layer = prior.denoiser.proj_out
    layer.weight = torch.nn.Parameter(layer.weight.data.as_subclass(Int8), requires_grad=False)
    with pytest.raises(DreamFusionError, match="8 bits are too few"):
        check_adaptable(prior)
