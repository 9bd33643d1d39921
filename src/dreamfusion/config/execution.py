"""The switches for a prior's memory and speed: `guidance.execution`."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from dreamfusion.config.section import Section, wrong

Attention = Literal["default", "flash", "efficient", "math"]
Precision = Literal["fp32", "tf32", "fp16", "bf16"]


class Execution(Section):
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
    quantize: Literal["none", "int8"] = "none"
    """int8: hold the weights of the denoiser's and the text encoders' linear layers in 8 bits; needs torchao"""
    offload: Literal["none", "model", "layers"] = "none"
    """model: the denoiser waits in the CPU's memory while it is not asked; layers: each of its layers does"""

    @model_validator(mode="after")
    def _check(self) -> Execution:
        if self.compile and self.offload != "none":
            raise wrong("compile", "give compile or offload, for what is moved is not compiled")
        if self.attention != "default" and self.checkpoint_denoiser:
            # On the way back PyTorch would choose another kernel than on the way there, and notice.
            raise wrong("attention", "give attention or checkpoint_denoiser, not both")
        if self.checkpoint_vae and self.tiny_vae:
            # diffusers' EncoderTiny leaves out its (x + 1) / 2 when it checkpoints, and so encodes something else.
            raise wrong("checkpoint_vae", "give checkpoint_vae or tiny_vae; a tiny VAE needs little anyway")
        return self
