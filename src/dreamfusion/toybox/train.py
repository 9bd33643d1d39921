"""Training of the embedded prior: ``dreamfusion prior train``.

v-prediction (Salimans and Ho 2022) on a cosine schedule with 10 % caption dropout and an exponential moving average
of the weights. The learning rate warms up, stays, and falls to zero over the last ``decay_steps``: unlike a cosine,
that allows a run to be extended later with a larger ``steps``. Batch, noise and timesteps are functions of the seed
and the step, so a resumed training is the same as one that never stopped.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.camera_token import with_camera
from dreamfusion.guidance.pixel import PixelGuidance
from dreamfusion.io.checkpoints import latest_checkpoint, load_checkpoint, pack, save_checkpoint, unpack
from dreamfusion.io.files import replace_folder, write_text
from dreamfusion.toybox.card import read_log, write_card
from dreamfusion.toybox.data import Batch, ToyboxData
from dreamfusion.toybox.model import build_pipeline, name_for_older_transformers
from dreamfusion.toybox.muon import Muon, is_hidden_matrix
from dreamfusion.toybox.samples import save_samples
from dreamfusion.toybox.text import hidden_states, train_text

_HIGH, _HIGH_FROM = 0.6, 0.75
"""Share of images that are shown at high noise, and the timestep from which on that is, as a fraction of all.

Distillation finds shape and colours there, where the picture hardly shows them and words and camera must tell; what is
left to learn at low noise comes easily.
"""


@dataclass(frozen=True)
class TrainSettings:
    """Everything that decides the weights."""

    steps: int = 8000
    batch_size: int = 48
    image_size: int = 32
    lr: float = 1e-3
    muon_lr: float = 2e-2
    warmup_steps: int = 100
    decay_steps: int = 2000
    ema: float = 0.998
    text_steps: int = 1000
    precision: str = "fp32"
    seed: int = 0

    def lr_factor(self, step: int) -> float:
        """Return the factor on both learning rates at a step: warm-up, plateau, linear decay to zero."""
        return max(0.0, min(1.0, (step + 1) / self.warmup_steps, (self.steps - step) / self.decay_steps))


@dataclass(frozen=True)
class TrainStep:
    """What is known after a step: running mean of the loss, images per second of this sitting."""

    step: int
    loss: float
    images_per_second: float


class Prior(nn.Module):
    """The parts of the prior that have weights: the text encoder, trained and frozen by `learn_text`, and the UNet."""

    def __init__(self, image_size: int) -> None:
        super().__init__()
        self.pipe = build_pipeline(image_size)
        self.text_encoder, self.unet = self.pipe.text_encoder, self.pipe.unet
        self.text_encoder.requires_grad_(False)
        self.unet.add_embedding.requires_grad_(False)

    def learn_text(self, steps: int, seed: int) -> None:
        """Train and freeze the part that reads captions, before anything is shown."""
        self.text_encoder.requires_grad_(True)
        self.unet.add_embedding.requires_grad_(True)
        train_text(self.pipe.tokenizer, self.text_encoder, self.unet, steps=steps, seed=seed)

    def embed(self, batch: Batch) -> Tensor:
        """Return what the UNet is told, [B, L + 1, D]: captions mixed by view weights, then the camera's token."""
        hidden = hidden_states(self.pipe.tokenizer, self.text_encoder, batch.captions)
        words = torch.einsum("bv,bvld->bld", batch.weights, hidden.unflatten(0, (-1, 4)))
        return with_camera(words, batch.cameras, batch.camera_known)

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Return the v-prediction loss of a batch, per image [B]."""
        x = 2 * batch.images - 1
        count = len(x)
        alphas_cumprod = self.pipe.scheduler.alphas_cumprod.to(x.device)
        t = (training_times(count, generator) * len(alphas_cumprod)).long().to(x.device)
        noise = torch.randn(x.shape, generator=generator).to(x.device)
        a, s = alphas_cumprod[t].sqrt()[:, None, None, None], (1 - alphas_cumprod[t]).sqrt()[:, None, None, None]
        z = (a * x + s * noise).contiguous(memory_format=torch.channels_last)
        v = self.unet(z, t, self.embed(batch)).sample[:, :3]
        return (v - (a * noise - s * x)).square().mean(dim=(1, 2, 3))


def training_times(count: int, generator: torch.Generator) -> Tensor:
    """Return the timesteps of a batch as fractions of all, [count] in [0, 1): a share _HIGH of them from _HIGH_FROM on.

    They are spread evenly with one random offset, which makes the loss less noisy than independent draws.
    """
    u = (torch.arange(count) / count + torch.rand(1, generator=generator)) % 1.0
    low = _HIGH_FROM * u / (1 - _HIGH)
    high = 1 - (1 - _HIGH_FROM) * (1 - u) / _HIGH
    return torch.where(u < 1 - _HIGH, low, high).clamp(max=1 - 1e-6)


def _log(folder: Path, row: dict[str, float]) -> None:
    with (folder / "log.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def _drop_later_rows(log: Path, step: int) -> None:
    """Drop what a killed training logged after its last checkpoint: it is about to be logged again."""
    rows = [row for row in read_log(log) if row["step"] <= step]
    write_text(log, "".join(json.dumps(row) + "\n" for row in rows))


class Trainer:
    """Weights, optimisers and moving average, and how they are saved to and restored from a folder."""

    def __init__(self, settings: TrainSettings, device: str = "cpu") -> None:
        torch.manual_seed(settings.seed)
        self.settings, self.device, self.step, self.seconds = settings, device, 0, 0.0
        self.prior = Prior(settings.image_size).to(device)
        self.prior.unet.to(memory_format=torch.channels_last)
        self.parameters = dict(self.prior.named_parameters())
        self.ema = {name: p.detach().clone() for name, p in self.parameters.items()}
        learned = {name: p for name, p in self.parameters.items() if p.requires_grad}
        hidden = [p for name, p in learned.items() if is_hidden_matrix(name, p)]
        others = [p for name, p in learned.items() if not is_hidden_matrix(name, p)]
        self.optimizers = (
            Muon(hidden, lr=settings.muon_lr),
            torch.optim.AdamW(others, lr=settings.lr, betas=(0.9, 0.99), weight_decay=0.0),
        )
        self.data = ToyboxData(settings.seed, settings.batch_size, image_size=settings.image_size, device=device)

    def start_from(self, prior: Path) -> None:
        """Take the weights of a finished prior instead of random ones; DreamFusionError if it is of another shape."""
        pipe = PixelGuidance.load(prior)
        modules = {"text_encoder": pipe.text_encoder, "unet": pipe.unet}
        weights = {f"{part}.{name}": p for part, module in modules.items() for name, p in module.named_parameters()}
        if {name: p.shape for name, p in weights.items()} != {name: p.shape for name, p in self.parameters.items()}:
            raise DreamFusionError(f"{prior} is not a prior of this architecture: give one that prior train has made.")
        with torch.no_grad():
            for name, p in self.parameters.items():
                p.copy_(weights[name])
                self.ema[name].copy_(weights[name])

    def begin(self) -> None:
        """Train the text encoder, with which a training from random weights begins."""
        self.prior.learn_text(self.settings.text_steps, self.settings.seed)
        with torch.no_grad():
            for name, p in self.parameters.items():
                self.ema[name].copy_(p)

    def train_step(self) -> float:
        """Take one step and return its loss; DreamFusionError if the loss is not finite."""
        generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + self.step)
        batch = self.data.batch(self.step)
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.settings.precision == "bf16"):
            loss = self.prior.loss(batch, generator).mean()
        if not torch.isfinite(loss):
            raise DreamFusionError(f"The loss is not finite at step {self.step}: lower --lr and --muon-lr, and resume.")
        loss.backward()
        factor = self.settings.lr_factor(self.step)
        for optimizer, peak in zip(self.optimizers, (self.settings.muon_lr, self.settings.lr), strict=True):
            optimizer.param_groups[0]["lr"] = peak * factor
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        # A short average while the weights still move fast, the full one later.
        decay = min(self.settings.ema, self.step / (self.step + 10))
        torch._foreach_lerp_(list(self.ema.values()), [p.detach() for p in self.parameters.values()], 1 - decay)
        return loss.item()

    def save(self, folder: Path) -> None:
        """Write a checkpoint that resumes exactly."""
        tree = {
            "weights": {n: p.detach() for n, p in self.parameters.items()},
            "ema": self.ema,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "settings": asdict(self.settings),
            "seconds": self.seconds,
        }
        tensors, state = pack(tree, "prior")
        save_checkpoint(folder / "checkpoints", self.step, tensors, {"prior": state}, keep=2)

    def restore(self, checkpoint: Path) -> None:
        """Continue from a checkpoint."""
        loaded = load_checkpoint(checkpoint, self.device)
        tree = unpack(loaded.state["prior"], loaded.tensors)
        self.step, self.seconds = loaded.step, tree["seconds"]
        with torch.no_grad():
            for name, p in self.parameters.items():
                p.copy_(tree["weights"][name])
                self.ema[name].copy_(tree["ema"][name])
        for optimizer, saved in zip(self.optimizers, tree["optimizers"], strict=True):
            optimizer.load_state_dict(saved)

    def export(self, folder: Path) -> None:
        """Write the averaged weights as a diffusers pipeline folder, in half precision."""
        pipe = build_pipeline(self.settings.image_size)
        for module, prefix in ((pipe.text_encoder, "text_encoder."), (pipe.unet, "unet.")):
            weights = {n.removeprefix(prefix): e for n, e in self.ema.items() if n.startswith(prefix)}
            missing = module.load_state_dict(weights, strict=False).missing_keys
            assert all("embed_tokens" in key for key in missing), missing  # tied to the shared embedding
        pipe.to(torch.float16)
        with replace_folder(folder) as aside:
            pipe.save_pretrained(aside, safe_serialization=True)
            for file in (aside / "model_index.json", aside / "tokenizer" / "tokenizer_config.json"):
                name_for_older_transformers(file)


def train(
    folder: Path,
    settings: TrainSettings,
    *,
    device: str = "cpu",
    start_from: Path | None = None,
    save_every: int = 250,
    sample_every: int = 1000,
    on_progress: Callable[[TrainStep], None] | None = None,
) -> Trainer:
    """Train in ``folder``, going on from its newest checkpoint if there is one, else from the prior ``start_from``.

    Leaves ``checkpoints/``, ``log.jsonl`` (step, loss, seconds), ``prior/``, the pipeline with averaged weights, and
    ``samples/``, pictures drawn by it.
    """
    trainer = Trainer(settings, device)
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    newest = latest_checkpoint(folder / "checkpoints")
    if newest is not None:
        trainer.restore(newest)
        _drop_later_rows(folder / "log.jsonl", trainer.step)
    elif start_from is not None:
        trainer.start_from(start_from)
    else:
        trainer.begin()
    begun, first_step, mean = time.monotonic(), trainer.step, 0.0
    earlier, losses = trainer.seconds, []
    while trainer.step < settings.steps:
        loss = trainer.train_step()
        losses.append(loss)
        trainer.seconds = earlier + time.monotonic() - begun
        if trainer.step % 50 == 0:
            mean, losses = sum(losses) / len(losses), []
            _log(folder, {"step": trainer.step, "loss": round(mean, 5), "seconds": round(trainer.seconds, 1)})
        if on_progress is not None:
            rate = (trainer.step - first_step) * settings.batch_size / (time.monotonic() - begun)
            on_progress(TrainStep(trainer.step, mean or loss, rate))
        last = trainer.step == settings.steps
        if trainer.step % save_every == 0 or last:
            trainer.save(folder)
        if trainer.step % sample_every == 0 or last:
            finish_prior(trainer, folder, start_from)
    return trainer


def finish_prior(trainer: Trainer, folder: Path, start_from: Path | None = None) -> None:
    """Write the prior as it is now, with its samples and its model card, to ``folder / "prior"``."""
    prior = folder / "prior"
    trainer.export(prior)
    save_samples(PixelGuidance(prior, device=trainer.device), folder / "samples" / f"step_{trainer.step:06d}.png")
    shutil.copyfile(folder / "samples" / f"step_{trainer.step:06d}.png", prior / "samples.png")
    settings = asdict(trainer.settings)
    write_card(prior, settings, trainer.seconds, folder / "log.jsonl", start_from.name if start_from else None)
