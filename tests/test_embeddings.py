"""Embeddings by hand: mixtures, batches, and the mask of the tokens that count; and what names of priors mean."""

import pytest
import torch

from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.base import Embeddings
from dreamfusion.guidance.names import STABLE_DIFFUSION, model_named
from dreamfusion.standard import EMBEDDED_PRIOR

TOLD = Embeddings(
    torch.tensor([[[1.0], [2.0], [3.0]], [[5.0], [6.0], [7.0]]]),
    torch.tensor([[10.0], [20.0]]),
    torch.tensor([[True, False, False], [True, True, False]]),
)


def test_a_mixture_keeps_the_tokens_of_all_its_texts():
    mixed = TOLD.mix(torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    assert mixed.tokens[:, :, 0].tolist() == [[1.0, 2.0, 3.0], [3.0, 4.0, 5.0]]
    assert mixed.pooled.tolist() == [[10.0], [15.0]]
    assert mixed.mask.tolist() == [[True, False, False], [True, True, False]]


def test_the_mask_goes_along_into_every_batch():
    first, second = TOLD[:1], TOLD[1:]
    both = second.expand(2).followed_by(first)
    assert both.mask.tolist() == [[True, True, False]] * 2 + [[True, False, False]]
    assert both.tokens[:, 0, 0].tolist() == [5.0, 5.0, 1.0]
    assert both.pooled[:, 0].tolist() == [20.0, 20.0, 10.0]
    assert both.to(torch.float16).mask.dtype == torch.bool
    assert both.to(torch.float16).tokens.dtype == both.to(torch.float16).pooled.dtype == torch.float16


def test_without_a_mask_there_is_none_afterwards():
    plain = Embeddings(TOLD.tokens)
    for changed in (plain[:1], plain.mix(torch.eye(2)), plain[:1].expand(3), plain.followed_by(plain)):
        assert changed.mask is None
        assert changed.pooled is None


def test_what_names_mean():
    assert model_named("toybox") == model_named("toybox", "ignored") == str(EMBEDDED_PRIOR)
    assert model_named("sd") == STABLE_DIFFUSION
    assert model_named("sd", "./mine") == model_named("diffusers", "./mine") == model_named("./mine") == "./mine"
    with pytest.raises(DreamFusionError, match="--model"):
        model_named("diffusers")
