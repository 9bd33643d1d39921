"""The work that is interrupted: tiny runs, refinements and trainings, and what has to come out of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch

from dreamfusion.evaluation import training as judge_training
from dreamfusion.evaluation.lessons import Lessons
from dreamfusion.evaluation.training import JudgeSettings, train_judge
from dreamfusion.io.checkpoints import latest_checkpoint, load_checkpoint
from dreamfusion.runs.generate import generate
from dreamfusion.runs.refine import refine
from dreamfusion.toybox import model as prior_model
from dreamfusion.toybox import train as prior_training
from dreamfusion.toybox.data import ToyboxData
from dreamfusion.toybox.samples import save_samples
from dreamfusion.toybox.train import HeldOut, TrainSettings, train
from support.worlds import BACKDROP, STILL, shrink_pictures, toy_prior

STEPS = 12
RUN = {
    "steps": STEPS,
    "views": 2,
    "resolution": 16,
    "cameras": STILL,
    "guidance": {"guidance_scale": 1.0},
    "scene": {"background": "static", "background_color": BACKDROP},
    "shading": {"albedo_probability": {"from": 0.5}},
    "checkpoint_every": 3,
    "preview_every": 4,
    "device": "cpu",
}


@dataclass(frozen=True)
class Work:
    """Work that can be stopped: how it begins and goes on in a folder, and the digests of what it leaves there."""

    begin: Callable[[Path], object]
    resume: Callable[[Path], object]
    digests: Callable[[Path], dict[str, str]]


@cache
def prior() -> object:
    """Return the analytic prior of all runs."""
    return toy_prior("mushroom", views=8, size=16)


KINDS = ("generate", "refine", "prior train", "judge train")


def warm(folder: Path, kinds: Sequence[str] = KINDS) -> dict[str, Work]:
    """Import, compile and load whatever the work needs, and return the kinds of work."""
    torch.set_num_threads(1)
    shrink_pictures()
    prior_training.save_samples = partial(save_samples, steps=1)
    prior_training.ToyboxData = lambda *arguments, **options: ToyboxData(*arguments, **options | {"pool_size": 8})
    prior_training.HeldOut = partial(HeldOut, batches=2)
    prior_model.CHANNELS = (8, 8, 16)
    judge_training.Lessons = partial(Lessons, chunk=4, chunks=2, every=2)
    finished = folder / "finished"
    begin_run(finished)
    every = {
        "generate": Work(begin_run, resume_run, digests_of_run),
        "refine": Work(partial(begin_refinement, finished), resume_run, digests_of_run),
        "prior train": Work(train_prior, train_prior, digests_of_prior),
        "judge train": Work(train_toybox_judge, train_toybox_judge, digests_of_judge),
    }
    ready = {name: every[name] for name in kinds}
    for name, work in ready.items():
        if name != "generate":
            work.begin(folder / f"warm {name}")
    return ready


def begin_run(folder: Path) -> None:
    """Make a run."""
    generate("a red mushroom", output=folder, guidance_model=prior(), **RUN)


def begin_refinement(finished: Path, folder: Path) -> None:
    """Refine the finished run."""
    changes = {"steps": STEPS, "resolution": 24, "scene": {"tetrahedra": {"resolution": 16}}}
    refine(finished, preset="quick", output=folder, guidance_model=prior(), **changes)


def resume_run(folder: Path) -> None:
    """Go on with a run or a refinement, or begin again where nothing has begun."""
    if (folder / "config.yaml").exists():
        generate(resume=folder, guidance_model=prior())


def train_prior(folder: Path) -> None:
    """Train a prior, or go on."""
    settings = TrainSettings(steps=6, batch_size=2, image_size=16, warmup_steps=2, decay_steps=2, text_steps=2)
    train(folder, settings, save_every=2, sample_every=3)


def train_toybox_judge(folder: Path) -> None:
    """Train a judge, or go on."""
    train_judge(folder, JudgeSettings(steps=8, small_steps=4, batch_size=4), save_every=3)


def digests_of_run(folder: Path) -> dict[str, str]:
    """Return digests of the last state, the log and the mesh."""
    return _state(folder) | _files(folder, "metrics.jsonl", "mesh.glb", "viewer.html", "contact_sheet.png")


def digests_of_prior(folder: Path) -> dict[str, str]:
    """Return digests of the last state and the finished prior."""
    weights = ("unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors", "samples.png")
    return _state(folder) | _files(folder / "prior", *weights)


def digests_of_judge(folder: Path) -> dict[str, str]:
    """Return digests of the finished judge; its training leaves nothing else."""
    left = {"training": str(folder.with_name(f"{folder.name}-training").exists())}
    return left | _files(folder, "model.safetensors", "config.json")


def _state(folder: Path) -> dict[str, str]:
    newest = latest_checkpoint(folder / "checkpoints")
    if newest is None:
        return {}
    tensors = load_checkpoint(newest).tensors
    return {"step": newest.name} | {name: _digest(tensor.numpy().tobytes()) for name, tensor in tensors.items()}


def _files(folder: Path, *names: str) -> dict[str, str]:
    return {name: _digest((folder / name).read_bytes()) if (folder / name).exists() else "absent" for name in names}


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
