"""In tests, every call of a function that says the shapes of its tensors is checked against them."""

import inspect
from importlib import import_module

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook, jaxtyped

MODULES = (
    "fields.encodings",
    "fields.field",
    "guidance.classifier_free",
    "method.cameras",
    "method.distillation",
    "method.prompts",
    "method.shading",
    "pictures.environment",
)
KERNELS = ("topology", "distance", "hashgrid", "compositing", "marching", "rasterize", "antialias")
"""An import hook would look at Warp's kernels too, whose types are Warp's own: here only functions are checked."""


def check_shapes() -> None:
    """Check from now on what is imported of the modules above; call it before anything imports them."""
    strict = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
    install_import_hook([f"dreamfusion.{name}" for name in MODULES], strict)
    checker = beartype(conf=BeartypeConf(is_pep484_tower=True))
    for name in KERNELS:
        module = import_module(f"dreamfusion.kernels.{name}")
        for public, function in list(vars(module).items()):
            if inspect.isfunction(function) and function.__module__ == module.__name__ and public[0] != "_":
                setattr(module, public, jaxtyped(typechecker=checker)(function))
