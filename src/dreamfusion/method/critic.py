"""The critic of variational score distillation: the prior with a low-rank adapter that knows the current scene.

ProlificDreamer (arXiv 2305.16213) compares two predictions of the noise in a rendering: that of the frozen prior, eps,
and that of a second network, eps_phi, which is trained alongside on nothing but renderings. The second is the prior
itself with LoRA adapters (arXiv 2106.09685) in its attention layers, so that it costs little memory, begins as the
prior, and the prior is there again, to the bit, when they are switched off.
"""

from __future__ import annotations

import itertools
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.base import Embeddings, Guidance
from dreamfusion.method.cameras import Cameras

ATTENTION_LAYERS = ("to_q", "to_k", "to_v", "to_out.0")
"""What has adapters: queries, keys, values and outputs of all attention, as in the authors' code."""

_numbers = itertools.count(1)


class Critic:
    """eps_phi(z_t, t, text, camera): a diffusion prior with trainable LoRA adapters, and their optimiser.

    ``width`` is that of the prior's text tokens, ``rank`` that of the adapters, and ``lr`` the learning rate of Adam.
    ``seed`` decides the adapters' first weights and all timesteps and noise of the training.

    The camera is a linear layer's reading of its camera-to-world matrix [3, 4], added to every text token; the layer
    begins at zero, so that the critic begins as the prior. The paper adds it to the embedding of the timestep, a place
    that not every family of denoisers offers. The authors' dropping of 10 % of the cameras is left out: it only serves
    guidance of the critic by the camera, which is left out with it.

    Several critics may share a prior; each has adapters of its own, which leave the prior's memory with the critic.
    Raises DreamFusionError if peft is missing, or if the prior has no network that could be trained where it is.
    """

    def __init__(self, guidance: Guidance, width: int, *, rank: int = 4, lr: float = 1e-4, seed: int = 0) -> None:
        check_adaptable(guidance)
        denoiser: Any = guidance.denoiser
        self.guidance = guidance
        self.generator = torch.Generator().manual_seed(seed)
        self._denoiser = denoiser
        self._name = f"critic{next(_numbers)}"
        _add_adapter(denoiser, self._name, rank)
        weakref.finalize(self, _remove_adapter, denoiser, self._name).atexit = False

        self.parameters: dict[str, nn.Parameter] = {}
        for name, parameter in denoiser.named_parameters():
            if f".{self._name}." in name:
                self.parameters[name.replace(f".{self._name}.", ".")] = parameter
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                # In full precision whatever the prior's, or steps of this size would be rounded away. B begins at zero.
                parameter.data = parameter.data.float()
                if ".lora_A." in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=self.generator) / rank)
        self.parameters["camera"] = nn.Parameter(torch.zeros(width, 12, device=guidance.device))
        self.optimizer = torch.optim.Adam(self.parameters.values(), lr=lr)
        denoiser.disable_adapters()

    def predict_noise(self, z_t: Tensor, t: Tensor, embeddings: Embeddings, cameras: Cameras) -> Tensor:
        """Return eps_phi, of the shape of ``z_t``, for timesteps [B], B embeddings and B cameras; no gradient."""
        with torch.no_grad(), self._awake():
            return self._predict(z_t, t, embeddings, cameras)

    def learn(self, z: Tensor, embeddings: Embeddings, cameras: Cameras) -> float:
        """Take one step of Adam on renderings z [B, ...] and return the loss, the mean of (eps_phi - eps)^2.

        That is how diffusion models are trained, with timesteps drawn evenly from all of them.
        """
        z = z.detach()
        together = self.guidance.together
        t = torch.randint(len(self.guidance.alphas_cumprod), (len(z) // together,), generator=self.generator)
        t = t.repeat_interleave(together).to(z.device)
        noise = torch.randn(z.shape, generator=self.generator).to(z)
        with torch.enable_grad(), self._awake():
            loss = mse_loss(self._predict(self.guidance.add_noise(z, noise, t), t, embeddings, cameras), noise)
            loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item()

    def _predict(self, z_t: Tensor, t: Tensor, embeddings: Embeddings, cameras: Cameras) -> Tensor:
        camera = cameras.camera_to_world.flatten(1).to(z_t) @ self.parameters["camera"].T
        told = replace(embeddings, tokens=embeddings.tokens + camera[:, None])
        return self.guidance.predict_noise_with_graph(z_t, t, told)

    @contextmanager
    def _awake(self) -> Iterator[None]:
        """Switch the adapters on and let them be trained; outside of this the prior is the frozen one."""
        self._denoiser.set_adapter(self._name)
        self._denoiser.enable_adapters()
        try:
            yield
        finally:
            self._denoiser.disable_adapters()

    def state_dict(self) -> dict[str, Any]:
        """Return the adapters, the optimiser's state and the generator's as a tree of tensors and plain values."""
        return {
            "parameters": {name: parameter.detach() for name, parameter in self.parameters.items()},
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned; DreamFusionError if it is another prior's or rank's."""
        saved = state["parameters"]
        shapes = {name: parameter.shape for name, parameter in self.parameters.items()}
        if {name: values.shape for name, values in saved.items()} != shapes:
            raise DreamFusionError("The checkpoint's critic does not fit this prior: resume with the run's own model.")
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(saved[name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"].cpu())


def check_adaptable(guidance: Guidance) -> None:
    """Raise DreamFusionError if peft is missing, or the prior has no network that adapters could be added to."""
    if guidance.denoiser is None:
        raise DreamFusionError(
            f'loss.kind "vsd" needs a network to adapt: {type(guidance).__name__} is in closed form, or compiled.'
        )
    if not hasattr(guidance.denoiser, "add_adapter"):
        raise DreamFusionError(
            f'loss.kind "vsd" needs a network that diffusers can adapt, and a {type(guidance.denoiser).__name__} is '
            "none: choose another loss, or another prior."
        )
    if hasattr(guidance.denoiser, "_hf_hook"):  # accelerate's, which moves the weights away before the way back
        raise DreamFusionError(
            'loss.kind "vsd" sends gradients through the denoiser, whose weights must then stay where it runs: leave '
            "out guidance.execution.offload."
        )
    if any("torchao" in type(weight.data).__module__ for weight in guidance.denoiser.parameters()):
        raise DreamFusionError(
            'loss.kind "vsd" sends gradients through the denoiser, and 8 bits are too few for them: leave out '
            "guidance.execution.quantize."
        )
    try:
        import peft  # noqa: F401
    except ImportError:
        raise DreamFusionError('loss.kind "vsd" needs peft: pip install "dreamfusion[vsd]".') from None


def _add_adapter(denoiser: Any, name: str, rank: int) -> None:
    from peft import LoraConfig

    # The random first weights are drawn again from the critic's own generator; until then they must not disturb others.
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of several adapters, which is what we want
        denoiser.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(ATTENTION_LAYERS)), name)


def _remove_adapter(denoiser: Any, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of another critic's adapter taking its place, still switched off
        denoiser.delete_adapters(name)
