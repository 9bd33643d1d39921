"""Text to 3D: words in, a 3D asset out, by score distillation from a frozen diffusion prior.

>>> import dreamfusion
>>> result = dreamfusion.generate("a red mushroom")  # doctest: +SKIP
>>> result.mesh  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dreamfusion.api import compare, compose, evaluate, export, generate, open_run, refine, render, sweep
from dreamfusion.errors import DreamFusionError

if TYPE_CHECKING:
    from dreamfusion.config import Config
    from dreamfusion.guidance.analytic import AnalyticGuidance
    from dreamfusion.guidance.asked import Asked
    from dreamfusion.guidance.base import Embeddings, Guidance
    from dreamfusion.method.distillation import ism, sds, vsd
    from dreamfusion.pictures.compose import Placement
    from dreamfusion.runs.results import Result

__version__ = "0.1.0"
__all__ = [
    "AnalyticGuidance",
    "Asked",
    "Config",
    "DreamFusionError",
    "Embeddings",
    "Guidance",
    "Placement",
    "Result",
    "compare",
    "compose",
    "evaluate",
    "export",
    "generate",
    "ism",
    "open_run",
    "refine",
    "render",
    "sds",
    "sweep",
    "vsd",
]

_HOMES = {
    "AnalyticGuidance": "guidance.analytic",
    "Asked": "guidance.asked",
    "Config": "config",
    "Embeddings": "guidance.base",
    "Guidance": "guidance.base",
    "Placement": "pictures.compose",
    "Result": "runs.results",
    "ism": "method.distillation",
    "sds": "method.distillation",
    "vsd": "method.distillation",
}
"""Imported on first use: torch, diffusers and Warp take seconds, and `dreamfusion --help` needs none of them."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
