"""The weights of a latent-diffusion checkpoint: their original names, and moving them into diffusers' modules."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dreamfusion.errors import DreamFusionError

Weights = dict[str, Tensor]

# NeMo's UNet against CompVis's; what stands left has no weights in CompVis's, so a CompVis file passes unchanged.
_NEMO_UNET = (
    (r"\.in_layers\.1\.", ".in_layers.2."),
    (r"\.out_layers\.2\.", ".out_layers.3."),
    (r"\.out\.1\.", ".out.2."),
    (r"\.attn([12])\.norm\.", r".norm\1."),
    (r"\.ff\.net\.0\.(weight|bias)$", r".norm3.\1"),
    (r"\.ff\.net\.1\.proj\.", ".ff.net.0.proj."),
    (r"\.ff\.net\.3\.", ".ff.net.2."),
)

# Noise schedules follow from the configuration; the rest serves training, averaging or comparing texts with images.
_NOT_NEEDED = re.compile(
    r"(log_one_minus_|sqrt_recipm?1?_|sqrt_one_minus_|sqrt_)?alphas_cumprod(_prev)?|betas|logvar|lvlb_weights|posterior_\w+"
    r"|model_ema\..*|first_stage_model\.loss\..*|cond_stage_model\.transformer\.text_model\.embeddings\.position_ids"
    r"|cond_stage_model\.model\.(logit_scale|text_projection|attn_mask|head\.weight)"
)


def canonical_names(weights: Mapping[str, Tensor], path: Path) -> Weights:
    """Return weights under the original latent-diffusion names, whatever wraps them, without what is not needed.

    NeMo's wrapper ``model.`` and the ``_orig_mod`` of torch.compile go, and the layers of NeMo's UNet get CompVis's
    numbers. Raises DreamFusionError, naming ``path``, if two weights would get one name.
    """
    names = {name: ".".join(part for part in name.split(".") if part != "_orig_mod") for name in weights}
    for wrapper in ("model.", "module."):
        if all(new.startswith(wrapper) for new in names.values()):
            names = {name: new.removeprefix(wrapper) for name, new in names.items()}
    result: Weights = {}
    for name, new in names.items():
        if new.startswith("model.diffusion_model."):
            new = rename(new, _NEMO_UNET)
        if new in result:
            raise DreamFusionError(f"{path} has the weights {new!r} twice, under CompVis's and NeMo's names.")
        if not _NOT_NEEDED.fullmatch(new):
            result[new] = weights[name]
    return result


def rename(name: str, table: tuple[tuple[str, str], ...]) -> str:
    """Return a name after each of the table's patterns was replaced."""
    for pattern, replacement in table:
        name = re.sub(pattern, replacement, name)
    return name


def take(weights: Weights, prefix: str) -> Weights:
    """Remove the weights that begin with ``prefix`` and return them."""
    return {name: weights.pop(name) for name in [name for name in weights if name.startswith(prefix)]}


def fill(module: Any, prefix: str, convert: Callable[..., Weights], weights: Weights, path: Path) -> None:
    """Move the weights that begin with ``prefix`` from ``weights`` into an empty diffusers module.

    ``convert`` is diffusers' own function for the module, ``(weights, config) -> weights`` (checked with 0.42.1).
    """
    source = take(weights, prefix)
    converted = convert(dict(source), module.config)
    # The converters pass over what they do not know. Reshaped weights are views, so the address tells what was used.
    used = {tensor.data_ptr() for tensor in converted.values()}
    assign(module, converted, path, [name for name, tensor in source.items() if tensor.data_ptr() not in used])


def assign(module: nn.Module, weights: Weights, path: Path, left_over: list[str]) -> None:
    """Make ``weights`` the parameters of an empty module, one for one, or name the first that does not fit."""
    expected = module.state_dict()
    left_over = left_over + [name for name in weights if name not in expected]
    wrong = [name for name, tensor in weights.items() if name in expected and not _fits(tensor, expected[name])]
    problems = [
        *(f"{name} of its {type(module).__name__} is missing" for name in expected if name not in weights),
        *(f"{name!r} is left over" for name in left_over),
        *(f"{name} of its {type(module).__name__} has another shape or is no float" for name in wrong),
    ]
    if problems:
        raise DreamFusionError(f"{path} does not fit its configuration: {problems[0]}.")
    module.load_state_dict(weights, assign=True)
    module.eval()


def _fits(tensor: Tensor, expected: Tensor) -> bool:
    return tensor.shape == expected.shape and tensor.is_floating_point()
