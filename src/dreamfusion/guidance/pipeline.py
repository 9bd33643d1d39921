"""What all priors that diffusers can load share, on pixels and on latents: one pipeline, asked one way."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.additions import add_to
from dreamfusion.guidance.base import Embeddings, Guidance, per_image
from dreamfusion.guidance.classifier_free import classifier_free_guidance
from dreamfusion.guidance.compiled.engine import Engine
from dreamfusion.guidance.control import Control, ControlNet
from dreamfusion.guidance.execution import Execution
from dreamfusion.guidance.ip_adapter import Adapter, add_adapter
from dreamfusion.guidance.picture import Picture
from dreamfusion.guidance.predictions import noise_from
from dreamfusion.guidance.reading.loading import load_pipeline
from dreamfusion.guidance.reading.prepare import (
    attention_kernel,
    denoiser_of,
    modules_of,
    prepare,
    release_text_encoders,
    settle,
    trainable,
)
from dreamfusion.guidance.schedule import read_schedule
from dreamfusion.guidance.word_weights import check_compel
from dreamfusion.method.cameras import Cameras

ONE_ENCODER = ("tokenizer", "text_encoder", "scheduler")
TWO_ENCODERS = ("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2", "scheduler")


_LEAST_SIGNAL = 1e-3
"""alpha_t from which on a sample begins."""


class PipelineGuidance(Guidance):
    """A frozen diffusers pipeline; a family says what it must be, and fills in how it reads and is called.

    ``model`` is a folder, a single file or a hub name; ``variant`` names alternative weights of it. ``image_size`` is
    the side of the pictures it is shown, by default the model's own. Weights are held and run in ``dtype``, while
    everything returned is float32; ``execution`` holds the switches for memory and speed. With ``prompt_weighting``
    prompts hold weights, for families that ``weighs_words``. ``loras`` (``FILE[:weight]``) and ``embeddings`` (files)
    are put on top (`dreamfusion.guidance.additions`). ``picture`` is for families that are shown one, or for an
    IP-Adapter (``adapter``); ``control`` is a ControlNet. Raises DreamFusionError for anything that does not load, is
    of another family, or has no use for what is given.

    ``pipeline`` is the pipeline itself, with its parts where they run.
    """

    family: ClassVar[str]
    """the diffusers pipeline that a model must be"""
    parts: ClassVar[tuple[str, ...]]
    """the parts that it must have"""
    single_file: ClassVar[bool] = False
    """whether reading it from a single file is tested"""
    weighs_words: ClassVar[bool] = False
    """whether prompts may hold weights (`dreamfusion.guidance.word_weights`)"""
    original: ClassVar[bool] = False
    """whether it is read from a checkpoint with the original names and the YAML beside it"""
    flow: ClassVar[bool] = False
    """whether it is a rectified flow, where the scheduler that its pipeline asks for does not say so"""
    checkpoints_vae: ClassVar[bool] = True
    """whether its VAE, if it has one, can compute activations again for the gradient"""
    compiles: ClassVar[bool] = True
    """whether `guidance compile` takes it"""
    also: ClassVar[tuple[str, ...]] = ()
    """other names of the family in an index"""
    takes_additions: ClassVar[bool] = False
    """whether it takes a ControlNet or an IP-Adapter"""
    pipeline_class: ClassVar[str | None] = None
    """the class of diffusers' that its parts make up, where ``family`` is none of diffusers'"""

    pipeline: Any

    def __init__(
        self,
        model: str | Path,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        variant: str | None = None,
        image_size: int | None = None,
        execution: Execution | None = None,
        prompt_weighting: bool = False,
        loras: Sequence[str] = (),
        embeddings: Sequence[str] = (),
        picture: Picture | None = None,
        adapter: Adapter | None = None,
        control: Control | None = None,
    ) -> None:
        if (adapter or control) and not self.takes_additions:
            what = "IP-Adapter" if adapter else "ControlNet"
            raise DreamFusionError(f"The kind of {model}, {self.family}, takes no {what}: leave it out.")
        if picture is not None and not (self.takes_picture or adapter):
            raise DreamFusionError(
                f"The kind of {model}, {self.family}, is shown no picture: leave out --image, or add --ip-adapter."
            )
        if prompt_weighting:
            self._check_words_may_weigh(model)
        self.pipeline = self.load(model, dtype, variant)
        add_to(self.pipeline, loras, embeddings, model)
        self._shown = add_adapter(self.pipeline, adapter, picture.file, model) if adapter and picture else None
        if prompt_weighting and isinstance(self.pipeline.text_encoder, Engine):
            raise DreamFusionError(f"{model} is a compiled engine: leave out guidance.prompt_weighting.")
        self.device = torch.device(device)
        self._prompt_weighting, self._released = prompt_weighting, False
        self._denoiser = denoiser_of(self.pipeline)
        self.denoiser = trainable(self._denoiser)
        if control and self.denoiser is None:
            raise DreamFusionError(f"{model} is a compiled engine: leave out guidance.controlnet.")
        self._control = ControlNet(control, self._denoiser, dtype, model) if control else None
        self.shape_shown = None if control is None else control.shows
        self._measure(model, image_size)
        self._schedule = read_schedule(self.pipeline.scheduler, model, self.device)
        self.alphas_cumprod = self._schedule.alphas_cumprod
        execution = execution or Execution()
        self._attention = execution.attention
        self._settled = False
        self._settle = partial(settle, self.pipeline, execution, self.device, model)
        prepare(self.pipeline, execution, self.device, model)

    @classmethod
    def load(cls, model: str | Path, dtype: torch.dtype = torch.float32, variant: str | None = None) -> Any:
        """Return the bare pipeline of a model of this family; DreamFusionError for anything else."""
        return load_pipeline(model, cls.family, cls.parts, dtype, variant)

    @classmethod
    def _check_words_may_weigh(cls, model: str | Path) -> None:
        if not cls.weighs_words:
            raise DreamFusionError(
                f"guidance.prompt_weighting is not for the kind of {model}, {cls.family}: leave it out (the table in "
                "docs/guidance.md says which take it)."
            )
        check_compel()

    @abstractmethod
    def _measure(self, model: str | Path, image_size: int | None) -> None:
        """Set ``sample_size`` and what else follows from the parts' configurations; DreamFusionError if unfit."""

    def modules(self) -> dict[str, nn.Module]:
        """Return the networks of the pipeline that PyTorch runs, by the names of its parts."""
        return modules_of(self.pipeline)

    @torch.no_grad()
    def embed(self, prompts: Sequence[str]) -> Embeddings:
        """Return what the model's text encoders make of n prompts, in float32; nothing after they were released."""
        if self._released:
            raise RuntimeError("embed was called after release_text_encoders")
        return self._read(list(prompts))

    @abstractmethod
    def _read(self, prompts: list[str]) -> Embeddings:
        """Return what the text encoders make of n prompts, in float32."""

    def release_text_encoders(self) -> None:
        """Free the memory of the text encoders, T5 being by far the largest; `embed` is over after this."""
        release_text_encoders(self.pipeline)
        self._released = True
        self.settle()

    def settle(self) -> None:
        """Bring denoiser and VAE to the device, if they are not there yet; whatever asks them does so by itself."""
        if not self._settled:
            self._settle()
            if self._control is not None:
                self._control.network.to(self.device)
            self._settled = True

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha_t and sigma_t of the model's own schedule for timesteps [B], both [B]."""
        return self._schedule.alphas[t], self._schedule.sigmas[t]

    @torch.no_grad()
    def predict_noise(self, z_t: Tensor, t: Tensor, embeddings: Embeddings) -> Tensor:
        """Return eps_hat, of the shape of ``z_t``, whatever the model itself predicts."""
        return self.predict_noise_with_graph(z_t, t, embeddings)

    def predict_noise_with_graph(self, z_t: Tensor, t: Tensor, embeddings: Embeddings) -> Tensor:
        """Return the same, differentiable."""
        alpha, sigma = (per_image(values, z_t) for values in self.coefficients(t))
        return noise_from(self._output(z_t, t, embeddings), z_t, alpha, sigma, self._schedule.prediction)

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[str],
        *,
        steps: int = 50,
        guidance_scale: float = 7.5,
        seed: int = 0,
        negative_prompt: str = "",
        cameras: Cameras | None = None,
    ) -> Tensor:
        """Return one image per prompt, [n, 3, S, S] in [0, 1]: what the model believes, asked as a loss asks it.

        It is DDIM without noise (arXiv 2010.02502), for a flow Euler's method, over ``steps`` timesteps evenly spaced.
        The noise is drawn on the CPU, so that a seed gives the same images on every device. One prompt is drawn after
        the other, for memory, or as many as the prior judges together. A prior that knows cameras may be given one for
        each prompt.
        """
        texts = self.embed([negative_prompt, *prompts])
        generator, images = torch.Generator().manual_seed(seed), []
        shape = self.latent_shape or (3, self.sample_size, self.sample_size)
        alphas = self.coefficients(torch.arange(len(self.alphas_cumprod), device=self.device))[0]
        last = int((alphas > _LEAST_SIGNAL).nonzero()[-1])  # at pure noise no prediction says what the data are
        times = torch.linspace(last, 0, steps + 1, device=self.device).round().long()
        for first in range(0, len(prompts), self.together):
            rows = slice(first, min(first + self.together, len(prompts)))
            n = rows.stop - first
            text, empty = self.told_picture(texts[rows.start + 1 : rows.stop + 1]), texts[:1].expand(n)
            if cameras is not None:
                text = self.told_cameras(self.condition(text, torch.eye(n), cameras[rows]), cameras[rows])
                empty = self.told_cameras(empty, cameras[rows])
            asked = empty.followed_by(text)
            z = torch.randn(n, *shape, generator=generator).to(self.device)
            for now, following in itertools.pairwise(times.tolist()):
                t = torch.full((n,), now, device=self.device)
                eps_empty, eps_text = self.predict_noise(torch.cat([z, z]), torch.cat([t, t]), asked).chunk(2)
                eps_hat = classifier_free_guidance(eps_empty, eps_text, guidance_scale)
                z = self.add_noise(self.predicted_data(z, t, eps_hat), eps_hat, torch.full_like(t, following))
            images.append(self.decode(z))
        return torch.cat(images)

    def _output(self, z_t: Tensor, t: Tensor, embeddings: Embeddings) -> Tensor:
        """Return what the denoiser itself puts out, in float32."""
        self.settle()
        dtype = self._denoiser.dtype
        with attention_kernel(self._attention):
            return self._call(z_t.to(dtype), t, embeddings.to(dtype)).float()

    @abstractmethod
    def _call(self, z_t: Tensor, t: Tensor, embeddings: Embeddings) -> Tensor:
        """Call the denoiser; everything is in its precision already."""
