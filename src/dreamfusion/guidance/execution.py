"""The switches for a prior's memory and speed; `dreamfusion.guidance.reading.prepare` applies them.

None of them changes what the model computes beyond rounding, but for ``tiny_vae``, which is another VAE.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dreamfusion.errors import DreamFusionError

Attention = Literal["default", "flash", "efficient", "math"]
Precision = Literal["fp32", "tf32", "fp16", "bf16"]

VAE_SWITCHES = ("checkpoint_vae", "vae_slicing", "tiny_vae")
"""Switches that a prior on pixels refuses, having no VAE."""
DENOISER_SWITCHES = ("compile", "attention", "checkpoint_denoiser", "offload")
"""Switches that a compiled engine refuses, for they need the denoiser's modules."""
COMPILED_VAE_SWITCHES = ("checkpoint_vae", "vae_slicing")
"""Switches that a compiled VAE refuses; its gradient is computed from the pictures again anyway."""


@dataclass(frozen=True)
class Execution:
    """Memory and speed of a prior; docs/guidance.md says what each costs."""

    compile: bool = False
    """torch.compile the denoiser: faster steps after a start of minutes; needs a compiler"""
    attention: Attention = "default"
    """which of the kernels of PyTorch's scaled dot product attention the denoiser uses; default: PyTorch chooses"""
    channels_last: bool = True
    """keep the weights of convolutions in the order of axes that CPUs and tensor cores are faster in"""
    checkpoint_vae: bool = False
    """keep few activations of the VAE's encoder and compute the others again for the gradient"""
    checkpoint_denoiser: bool = False
    """the same for the denoiser, while variational score distillation trains its critic; else there is no gradient"""
    vae_slicing: bool = False
    """encode one picture at a time"""
    tiny_vae: str | None = None
    """folder or hub name of a diffusers AutoencoderTiny (TAESD) that takes the VAE's place"""
    offload: Literal["none", "model", "layers"] = "none"
    """model: the denoiser waits in the CPU's memory while it is not asked; layers: each of its layers does"""

    def __post_init__(self) -> None:
        if self.compile and self.offload != "none":
            raise DreamFusionError("guidance.execution: give compile or offload, for what is moved is not compiled.")
        if self.attention != "default" and self.checkpoint_denoiser:
            # On the way back PyTorch would choose another kernel than on the way there, and notice.
            raise DreamFusionError("guidance.execution: give attention or checkpoint_denoiser, not both.")
        if self.checkpoint_vae and self.tiny_vae:
            # diffusers' EncoderTiny leaves out its (x + 1) / 2 when it checkpoints, and so encodes something else.
            raise DreamFusionError(
                "guidance.execution: give checkpoint_vae or tiny_vae; a tiny VAE needs little anyway."
            )
