"""Text to 3D: words in, a 3D asset out, by score distillation from a frozen diffusion prior.

>>> import dreamfusion
>>> result = dreamfusion.generate("a red mushroom")  # doctest: +SKIP
>>> result.mesh  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dreamfusion.errors import DreamFusionError
    from dreamfusion.runs.generate import generate
    from dreamfusion.runs.results import Result, open_run

__all__ = ["DreamFusionError", "Result", "generate", "open_run"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Imported on first use: torch, diffusers and Warp take seconds, and `dreamfusion --help` needs none of them.
    from importlib import import_module

    homes = {
        "DreamFusionError": "errors",
        "Result": "runs.results",
        "open_run": "runs.results",
        "generate": "runs.generate",
    }
    if name not in homes:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{homes[name]}"), name)
