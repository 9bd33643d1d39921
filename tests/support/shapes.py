"""In tests, every call of a function that says the shapes of its tensors is checked against them."""

import inspect
from importlib import import_module

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook, jaxtyped

MODULES = (
    "fields.background",
    "fields.encodings",
    "fields.field",
    "guidance.classifier_free",
    "method.cameras",
    "method.distillation",
    "method.prompts",
    "method.shading",
    "pictures.environment",
    "renderers.output",
)
"""Modules of which everything is checked: functions, methods, and the fields of dataclasses."""

FUNCTIONS = (
    *(f"kernels.{name}" for name in ("topology", "distance", "hashgrid", "compositing", "marching", "rasterize")),
    "kernels.antialias",
    "guidance.pixel_space",
    "method.losses",
    "renderers.proposal",
    "scenes.regularizers",
)
"""Modules of which only functions with shapes are checked, each after those that it imports.

An import hook would look at Warp's kernels too, whose types are Warp's own, and at classes that tests replace.
"""


def check_shapes() -> None:
    """Check from now on what is imported of the modules above; call it before anything imports them."""
    strict = "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
    install_import_hook([f"dreamfusion.{name}" for name in MODULES], strict)
    checker = beartype(conf=BeartypeConf(is_pep484_tower=True))
    for name in FUNCTIONS:
        module = import_module(f"dreamfusion.{name}")
        for public, function in list(vars(module).items()):
            if inspect.isfunction(function) and function.__module__ == module.__name__ and _says_shapes(function):
                setattr(module, public, jaxtyped(typechecker=checker)(function))


def _says_shapes(function: object) -> bool:
    hints = map(str, inspect.get_annotations(function).values())
    return any("[Tensor, " in hint or "jaxtyping." in hint for hint in hints)
