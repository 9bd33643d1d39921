"""Training of the embedded prior: ``dreamfusion prior train``.

v-prediction (Salimans and Ho 2022) on a cosine schedule with 10 % caption dropout and an exponential moving average
of the weights. The learning rate warms up, stays, and falls to zero over the last ``decay_steps``: unlike a cosine,
that allows a run to be extended later with a larger ``steps``. Batch, noise and timesteps are functions of the seed,
the step and the running means of `dreamfusion.toybox.hardness`, which checkpoints hold, so a resumed training is the
same as one that never stopped.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from dreamfusion.errors import DreamFusionError, refuse_small
from dreamfusion.guidance.camera_token import with_camera
from dreamfusion.guidance.patched_unet import PatchedUNet
from dreamfusion.guidance.pixel import PixelGuidance
from dreamfusion.io.checkpoints import (
    latest_checkpoint,
    load_checkpoint,
    pack,
    refuse_other_settings,
    same_threads,
    save_checkpoint,
    unpack,
)
from dreamfusion.io.claims import claim
from dreamfusion.io.files import explain, refuse_foreign_folder, replace_folder, write_atomically, write_text
from dreamfusion.kernels.allocation import keep_memory
from dreamfusion.stopping import stop_at_once, stop_between_steps, stopped
from dreamfusion.toybox.captions import vocabulary
from dreamfusion.toybox.card import read_log, write_card
from dreamfusion.toybox.data import Batch, Batches, MixedData, ToyboxData
from dreamfusion.toybox.hardness import Hardness, mean_by_sort
from dreamfusion.toybox.model import build_pipeline, build_unet, grow, name_for_older_transformers, words_in_order
from dreamfusion.toybox.muon import Muon, is_hidden_matrix
from dreamfusion.toybox.pictures import Pictures, PicturesData
from dreamfusion.toybox.samples import save_samples
from dreamfusion.toybox.text import hidden_states, train_text
from dreamfusion.toybox.widen import add_rows, learn_new_words
from dreamfusion.toybox.world import SMALL, World, WorldName, world_known, world_named

_HIGH, _HIGH_FROM = 0.45, 0.75
"""Share of images that are shown at high noise, and the timestep from which on that is, as a fraction of all.

Distillation finds shape and colours there, where the picture hardly shows them and words and camera must tell.
"""
_LOW_POWER = 1.5
"""The timesteps below are drawn as a uniform number to this power: pictures of 64 pixels show their edges and small
parts at the least noise only."""
UNLIMITED = sys.maxsize
"""Steps of a training that ends by the clock."""
_LARGEST_FILE = "15MB"
_ROWS = "text_encoder.shared.weight"
_SHOWN = 8  # captions of one's own pictures that are drawn as samples
_HELD_OUT_SEED = 400_000
"""Far from the seeds of training."""


@dataclass(frozen=True)
class TrainSettings:
    """Everything that decides the weights.

    ``pictures``: folder of captioned pictures, of which a share ``picture_share`` of every batch is made.
    """

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
    world: WorldName = "small"
    pictures: str | None = None
    picture_share: float = 1.0

    def lr_factor(self, step: int) -> float:
        """Return the factor on both learning rates at a step: warm-up, plateau, linear decay to zero."""
        return max(0.0, min(1.0, (step + 1) / self.warmup_steps, (self.steps - step) / self.decay_steps))


@dataclass(frozen=True)
class TrainStep:
    """What is known after a step: running mean of the loss, images per second of this sitting."""

    step: int
    loss: float
    images_per_second: float


@dataclass(frozen=True)
class Words:
    """The words of a prior in the order of their tokens; the last ``learned`` of them learn along with the UNet."""

    all: tuple[str, ...]
    learned: int = 0


def words_to_learn(settings: TrainSettings, start_from: Path | None, pictures: Pictures | None) -> Words:
    """Return the words of a new training: those of the prior that it starts from, its world's, its pictures'."""
    known = words_in_order(PixelGuidance.load(start_from).tokenizer) if start_from else []
    world = [word for word in vocabulary(world_named(settings.world)) if word not in known]
    if pictures and start_from and settings.picture_share == 1:
        world = []  # nothing of the toybox is shown
    read = [word for word in (pictures.words if pictures else ()) if word not in (*known, *world)]
    return Words((*known, *world, *read), len(read))


def saved_words(checkpoint: Path) -> Words | None:
    """Return the words of a training that is gone on with; None for one from before they were saved."""
    loaded = load_checkpoint(checkpoint, "cpu")
    saved = unpack(loaded.state["prior"], loaded.tensors).get("words")
    return Words(tuple(saved["all"]), saved["learned"]) if saved else None


class Prior(nn.Module):
    """The parts of the prior that have weights: the text encoder, trained and frozen by `learn_text`, and the UNet."""

    def __init__(self, image_size: int, words: Sequence[str] | None = None) -> None:
        super().__init__()
        self.pipe = build_pipeline(image_size, words)
        self.text_encoder, self.unet = self.pipe.text_encoder, self.pipe.unet
        self.text_encoder.requires_grad_(False)
        self.unet.add_embedding.requires_grad_(False)

    def learn_text(self, steps: int, seed: int, world: World = SMALL) -> None:
        """Train and freeze the part that reads captions, before anything is shown."""
        self.text_encoder.requires_grad_(True)
        self.unet.add_embedding.requires_grad_(True)
        train_text(self.pipe.tokenizer, self.text_encoder, self.unet, steps=steps, seed=seed, world=world)

    def keep_learning_words(self, count: int) -> None:
        """Let the rows of the last ``count`` words learn along with the UNet, and no other row."""
        rows = self.text_encoder.shared.weight.requires_grad_(True)
        known = len(rows) - count
        rows.register_hook(lambda gradient: torch.cat([torch.zeros_like(gradient[:known]), gradient[known:]]))

    def embed(self, batch: Batch) -> Tensor:
        """Return what the UNet is told, [B, L + 1, D]: captions mixed by view weights, then the camera's token."""
        told = [text if weight else "" for text, weight in zip(batch.captions, batch.weights.flatten(), strict=True)]
        texts = list(dict.fromkeys(told))
        hidden = hidden_states(self.pipe.tokenizer, self.text_encoder, texts)[[texts.index(text) for text in told]]
        words = torch.einsum("bv,bvld->bld", batch.weights, hidden.unflatten(0, (-1, 4)))
        return with_camera(words, batch.cameras, batch.camera_known, batch.textureless)

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
    low = _HIGH_FROM * (u / (1 - _HIGH)) ** _LOW_POWER
    high = 1 - (1 - _HIGH_FROM) * (1 - u) / _HIGH
    return torch.where(u < 1 - _HIGH, low, high).clamp(max=1 - 1e-6)


class HeldOut:
    """Pictures that are never trained on, the same at every look."""

    def __init__(
        self,
        image_size: int,
        device: str = "cpu",
        *,
        batches: int = 8,
        batch_size: int = 48,
        world: World = SMALL,
    ) -> None:
        data = ToyboxData(
            _HELD_OUT_SEED,
            batch_size,
            image_size=image_size,
            pool_size=batches * batch_size,
            device=device,
            world=world,
        )
        self.batches = [data.batch(step) for step in range(batches)]

    @torch.no_grad()
    def measure(self, prior: Prior) -> dict[str, Any]:
        """Return the mean loss, that of each kind, pattern and part (`mean_by_sort`), and that by noise."""
        losses, high = [], []
        for seed, batch in enumerate(self.batches):
            high.append(training_times(len(batch.toys), torch.Generator().manual_seed(seed)) >= _HIGH_FROM)
            losses.append(prior.loss(batch, torch.Generator().manual_seed(seed)).float().cpu())
        loss, noisy = torch.cat(losses), torch.cat(high)
        by_noise = {"high": loss[noisy].mean().item(), "low": loss[~noisy].mean().item()}
        toys = [toy for batch in self.batches for toy in batch.toys]
        return {"loss": loss.mean().item(), **mean_by_sort(loss, toys), "noise": by_noise}


def fitted(settings: TrainSettings, step: int, done: int, seconds: float, seconds_left: float) -> TrainSettings:
    """Return the settings with which a training at ``step`` ends in time, once its decay has to begin.

    ``done`` steps took ``seconds``. The decay takes a quarter of all steps that fit, at most ``decay_steps``; before it
    has to begin, the settings stay what they are.
    """
    left = max(0, int(seconds_left * done / seconds))
    if left > min(settings.decay_steps, (done + left) // 4):
        return settings
    return replace(settings, steps=min(settings.steps, step + left), decay_steps=max(1, left))


def _log(file: Path, row: dict[str, Any]) -> None:
    try:
        with file.open("a", encoding="utf-8") as rows:
            rows.write(json.dumps(row) + "\n")
    except OSError as error:
        raise explain(error, file) from None


def _drop_later_rows(log: Path, step: int) -> None:
    """Drop what a killed training logged after its last checkpoint: it is about to be logged again."""
    if log.exists():
        rows = [row for row in read_log(log) if row["step"] <= step]
        write_text(log, "".join(json.dumps(row) + "\n" for row in rows))


class Trainer:
    """Weights, optimisers and moving average, and how they are saved to and restored from a folder."""

    def __init__(
        self,
        settings: TrainSettings,
        device: str = "cpu",
        words: Words | None = None,
        pictures: Pictures | None = None,
    ) -> None:
        torch.manual_seed(settings.seed)
        self.settings, self.device, self.step, self.seconds = settings, device, 0, 0.0
        self.world = world_named(settings.world)
        self.words, self.pictures = words or Words(tuple(vocabulary(self.world))), pictures
        self.prior = Prior(settings.image_size, self.words.all).to(device)
        if self.words.learned:
            self.prior.keep_learning_words(self.words.learned)
        self.prior.unet.to(memory_format=torch.channels_last)
        self.parameters = dict(self.prior.named_parameters())
        self.ema = {name: p.detach().clone() for name, p in self.parameters.items()}
        learned = {name: p for name, p in self.parameters.items() if p.requires_grad}
        hidden = {name for name, p in learned.items() if is_hidden_matrix(name, p) and name != _ROWS}
        others = [p for name, p in learned.items() if name not in hidden]
        self.optimizers = (
            Muon([p for name, p in learned.items() if name in hidden], lr=settings.muon_lr),
            torch.optim.AdamW(others, lr=settings.lr, betas=(0.9, 0.99), weight_decay=0.0),
        )
        self.hardness = Hardness()
        self.data = self._data()

    def _data(self) -> Batches:
        """Return what is trained on: the toybox, one's own pictures, or both in every batch."""
        settings = self.settings
        of_pictures = round(settings.picture_share * settings.batch_size) if self.pictures else 0
        parts: list[Batches] = []
        if of_pictures < settings.batch_size:
            toys = ToyboxData(
                settings.seed,
                settings.batch_size - of_pictures,
                image_size=settings.image_size,
                device=self.device,
                hardness=self.hardness,
                world=self.world,
            )
            parts.append(toys)
        if of_pictures and self.pictures:
            parts.append(PicturesData(self.pictures, settings.seed, of_pictures, device=self.device))
        return parts[0] if len(parts) == 1 else MixedData(parts)

    @property
    def shows_toys(self) -> bool:
        """Whether there is something of the toybox in a batch."""
        return not isinstance(self.data, PicturesData)

    def start_from(self, prior: Path) -> None:
        """Take the weights of a finished prior instead of random ones, of one for half the side too.

        Words that it does not know join it behind those that it knows (`dreamfusion.toybox.widen`). Raises
        DreamFusionError if it is of another shape.
        """
        pipe = PixelGuidance.load(prior)
        pipe.unet = self._grown(pipe.unet)
        self._widen(pipe, words_in_order(pipe.tokenizer))
        modules = {"text_encoder": pipe.text_encoder, "unet": pipe.unet}
        weights = {f"{part}.{name}": p for part, module in modules.items() for name, p in module.named_parameters()}
        if {name: p.shape for name, p in weights.items()} != {name: p.shape for name, p in self.parameters.items()}:
            raise DreamFusionError(f"{prior} is not a prior of this architecture: give one that prior train has made.")
        with torch.no_grad():
            for name, p in self.parameters.items():
                p.copy_(weights[name])
                self.ema[name].copy_(weights[name])

    @torch.no_grad()
    def _widen(self, pipe: Any, old: list[str]) -> None:
        """Give a finished prior rows for the words that are new to it, and fit those of the toybox."""
        begin, more = len(pipe.tokenizer), len(self.words.all) - len(old)
        if more <= 0 or list(self.words.all[: len(old)]) != old:
            return  # nothing is new; if it is not such a prior at all, the shapes tell
        add_rows(pipe.text_encoder, more, torch.Generator().manual_seed(self.settings.seed))
        known, fresh = world_known(old), range(begin, begin + more - self.words.learned)
        if known is None or not fresh:
            return
        with torch.enable_grad():
            parts = (self.prior.pipe.tokenizer, pipe.text_encoder.float(), pipe.unet.float())
            worlds = (known, self.world)
            learn_new_words(*parts, worlds, fresh, steps=self.settings.text_steps, seed=self.settings.seed)

    def _grown(self, unet: Any) -> Any:
        """Return the UNet of a finished prior, in the bands of this one if that is of twice its side."""
        if not isinstance(self.prior.unet, PatchedUNet) or unet.config.sample_size * 2 != self.settings.image_size:
            return unet
        grown = build_unet(self.settings.image_size)
        grow(unet, grown)
        return grown

    def begin(self) -> None:
        """Train the text encoder, with which a training from random weights begins."""
        self.prior.learn_text(self.settings.text_steps, self.settings.seed, self.world)
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
            raise DreamFusionError(
                f"The loss is not finite at step {self.step}: train again with lower --lr and --muon-lr in another "
                "--output."
            )
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
            "hardness": self.hardness.means,
            "words": {"all": list(self.words.all), "learned": self.words.learned},
        }
        tensors, state = pack(tree, "prior")
        save_checkpoint(folder / "checkpoints", self.step, tensors, {"prior": state}, keep=2)

    def restore(self, checkpoint: Path) -> None:
        """Continue from a checkpoint; DreamFusionError if it was made with settings that decide its course."""
        loaded = load_checkpoint(checkpoint, self.device)
        tree = unpack(loaded.state["prior"], loaded.tensors)
        refuse_other_settings(tree["settings"], asdict(self.settings), may_differ=("steps", "decay_steps"))
        size, shapes = tree["settings"]["image_size"], {name: p.shape for name, p in tree["weights"].items()}
        if size != self.settings.image_size or shapes != {name: p.shape for name, p in self.parameters.items()}:
            raise DreamFusionError(
                f"{checkpoint} is of another architecture, for pictures of {size} pixels: give another --output"
                + (f", or --image-size {size}." if size != self.settings.image_size else ".")
            )
        self.step, self.seconds = loaded.step, tree["seconds"]
        self.hardness.means = tree.get("hardness", self.hardness.means)
        with torch.no_grad():
            for name, p in self.parameters.items():
                p.copy_(tree["weights"][name])
                self.ema[name].copy_(tree["ema"][name])
        for optimizer, saved in zip(self.optimizers, tree["optimizers"], strict=True):
            optimizer.load_state_dict(saved)

    def export(self, folder: Path) -> None:
        """Write the averaged weights as a diffusers pipeline into a folder, in half precision."""
        pipe = build_pipeline(self.settings.image_size, self.words.all)
        for module, prefix in ((pipe.text_encoder, "text_encoder."), (pipe.unet, "unet.")):
            weights = {n.removeprefix(prefix): e for n, e in self.ema.items() if n.startswith(prefix)}
            missing = module.load_state_dict(weights, strict=False).missing_keys
            assert all("embed_tokens" in key for key in missing), missing  # tied to the shared embedding
        pipe.to(torch.float16)
        try:
            pipe.save_pretrained(folder, safe_serialization=True, max_shard_size=_LARGEST_FILE)
        except SafetensorError as error:  # which is no OSError, whatever the system said
            reason = str(error).splitlines()[0]
            raise DreamFusionError(f"Cannot write {folder}: {reason}; free some space, and resume.") from None
        for file in (folder / "model_index.json", folder / "tokenizer" / "tokenizer_config.json"):
            name_for_older_transformers(file)


@stop_at_once("run it again to continue")
def train(
    folder: Path,
    settings: TrainSettings,
    *,
    device: str = "cpu",
    start_from: Path | None = None,
    minutes: float | None = None,
    save_every: int = 250,
    sample_every: int = 1000,
    check_every: int = 500,
    on_progress: Callable[[TrainStep], None] | None = None,
) -> Trainer:
    """Train in ``folder``, going on from its newest checkpoint if there is one, else from the prior ``start_from``.

    With ``minutes`` this sitting ends in time, its decay fitted (`fitted`), even if more of the steps were asked for;
    what is written at the end comes on top. Every ``check_every`` steps held-out pictures are looked at.
    Leaves ``checkpoints/``, ``log.jsonl`` (step, loss, seconds), ``held_out.jsonl`` (what `HeldOut.measure` returns),
    ``prior/``, the pipeline with averaged weights, and ``samples/``, pictures drawn by it. What a kill has left undone
    is done at the next start.
    Raises DreamFusionError for a folder that holds other things or a training with other settings, and if the disk is
    full: what was written before stays, and a resumed training loses nothing. Raises `Stopped` if a signal ends it,
    after a checkpoint.
    """
    check_settings(settings, save_every, sample_every, check_every)
    keep_memory()
    with claim(folder, evidence=("checkpoints",)):
        refuse_foreign_folder(folder / "prior")
        with same_threads(latest_checkpoint(folder / "checkpoints")):
            trainer = _begun(folder, settings, device, start_from, sample_every)
            _train(trainer, folder, start_from, minutes, (save_every, sample_every, check_every), on_progress)
            return trainer


def _begun(folder: Path, settings: TrainSettings, device: str, start_from: Path | None, sample_every: int) -> Trainer:
    """Return the trainer of a folder as its newest checkpoint left it, or a new one."""
    newest = latest_checkpoint(folder / "checkpoints")
    pictures = Pictures.read(Path(settings.pictures), settings.image_size) if settings.pictures else None
    words = saved_words(newest) if newest else words_to_learn(settings, start_from, pictures)
    trainer = Trainer(settings, device, words, pictures)
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    if newest is not None:
        trainer.restore(newest)
        for log in ("log.jsonl", "held_out.jsonl"):
            _drop_later_rows(folder / log, trainer.step)
        if trainer.step % sample_every == 0 and not _samples(folder, trainer.step).exists():
            finish_prior(trainer, folder, start_from)
    elif start_from is not None:
        trainer.start_from(start_from)
    else:
        trainer.begin()
    return trainer


def _train(
    trainer: Trainer,
    folder: Path,
    start_from: Path | None,
    minutes: float | None,
    every: tuple[int, int, int],
    on_progress: Callable[[TrainStep], None] | None,
) -> None:
    """Train to the end in a folder that is claimed, saving, sampling and looking at held-out pictures; see `train`."""
    settings, (save_every, sample_every, check_every) = trainer.settings, every
    about = (settings.image_size, trainer.device)
    held_out = HeldOut(*about, batch_size=settings.batch_size, world=trainer.world) if trainer.shows_toys else None
    begun, first_step, mean = time.monotonic(), trainer.step, 0.0
    earlier, losses = trainer.seconds, []
    with stop_between_steps() as stop:
        while trainer.step < trainer.settings.steps:
            loss = trainer.train_step()
            losses.append(loss)
            passed, done = time.monotonic() - begun, trainer.step - first_step
            trainer.seconds = earlier + passed
            if minutes is not None and trainer.settings is settings:  # the end is fixed once
                trainer.settings = fitted(trainer.settings, trainer.step, done, passed, 60 * minutes - passed)
            if trainer.step % 50 == 0:
                mean, losses = sum(losses) / len(losses), []
                row = {"step": trainer.step, "loss": round(mean, 5), "seconds": round(trainer.seconds, 1)}
                _log(folder / "log.jsonl", row)
            if on_progress is not None:
                on_progress(TrainStep(trainer.step, mean or loss, done * settings.batch_size / passed))
            last = trainer.step == trainer.settings.steps
            if held_out and (trainer.step % check_every == 0 or last):
                _look(trainer, held_out, folder)
            if trainer.step % save_every == 0 or last or stop.number:
                trainer.save(folder)
            if stop.number:
                raise stopped(stop.number, "run it again to continue exactly")
            if trainer.step % sample_every == 0 and not last:
                with stop_at_once("run it again to finish"):  # all that is needed for it is saved
                    finish_prior(trainer, folder, start_from)
    with stop_at_once("run it again to finish"):
        finish_prior(trainer, folder, start_from)


def _look(trainer: Trainer, held_out: HeldOut, folder: Path) -> None:
    """Log the loss on held-out pictures, and let what is hard be drawn more often."""
    measured = held_out.measure(trainer.prior)
    _log(folder / "held_out.jsonl", {"step": trainer.step, **measured})
    trainer.hardness.look({sort: measured[sort] for sort in trainer.hardness.means})


def _samples(folder: Path, step: int) -> Path:
    """Return the grid of samples of a step, which is the last that is written when a prior is finished."""
    return folder / "samples" / f"step_{step:06d}.png"


def finish_prior(trainer: Trainer, folder: Path, start_from: Path | None = None) -> None:
    """Write the prior as it is now, with its samples and its model card, to ``folder / "prior"``: all of it or none."""
    with replace_folder(folder / "prior") as prior:
        trainer.export(prior)
        shown = trainer.pictures.captions[:_SHOWN] if trainer.pictures and not trainer.shows_toys else ()
        save_samples(PixelGuidance(prior, device=trainer.device), prior / "samples.png", shown)
        settings = asdict(trainer.settings)
        if trainer.settings.steps == UNLIMITED:
            settings["steps"] = trainer.step
        write_card(prior, settings, trainer.seconds, folder, start_from.name if start_from else None)
    with write_atomically(_samples(folder, trainer.step), ours=True) as copy:
        shutil.copyfile(folder / "prior" / "samples.png", copy)


def check_settings(settings: TrainSettings, save_every: int = 1, sample_every: int = 1, check_every: int = 1) -> None:
    """Raise DreamFusionError for numbers with which nothing can be trained."""
    counts = {"steps": settings.steps, "batch_size": settings.batch_size, "decay_steps": settings.decay_steps}
    every = {"save_every": save_every, "sample_every": sample_every, "check_every": check_every}
    refuse_small({**counts, "image_size": settings.image_size, **every})
    refuse_small({"lr": settings.lr, "muon_lr": settings.muon_lr}, above_zero=True)
    if not 0 < settings.picture_share <= 1:
        raise DreamFusionError("--picture-share must be above 0 and at most 1, which is pictures alone.")
