"""The switches for a prior's memory and speed; `dreamfusion.guidance.reading.prepare` applies them.

None of them changes what the model computes beyond rounding, but for ``tiny_vae``, which is another VAE.
"""

from __future__ import annotations

from dreamfusion.config import Attention, Execution, Precision

__all__ = ["COMPILED_VAE_SWITCHES", "DENOISER_SWITCHES", "VAE_SWITCHES", "Attention", "Execution", "Precision"]

VAE_SWITCHES = ("checkpoint_vae", "vae_slicing", "tiny_vae")
"""Switches that a prior on pixels refuses, having no VAE."""
DENOISER_SWITCHES = ("compile", "attention", "checkpoint_denoiser", "quantize", "offload")
"""Switches that a compiled engine refuses, for they need the denoiser's modules."""
COMPILED_VAE_SWITCHES = ("checkpoint_vae", "vae_slicing")
"""Switches that a compiled VAE refuses; its gradient is computed from the pictures again anyway."""
