"""``dreamfusion prior train``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from dreamfusion.app.cli.output import console
from dreamfusion.errors import DreamFusionError
from dreamfusion.toybox.world import WorldName


def prior_train(
    *,
    output: Path = Path("runs/prior"),
    steps: int | None = None,
    minutes: float | None = None,
    batch_size: int = 48,
    image_size: int = 32,
    lr: float = 1e-3,
    muon_lr: float = 2e-2,
    decay_steps: int = 2000,
    precision: Literal["fp32", "bf16"] = "fp32",
    seed: int = 0,
    device: str = "auto",
    start_from: Path | None = None,
    world: WorldName = "small",
    pictures: Path | None = None,
    picture_share: float = 1.0,
    save_every: int = 250,
    sample_every: int = 1000,
) -> None:
    """Train the small prior on the toybox; run it again to continue exactly, with more --steps to go further.

    For example:
        dreamfusion prior train --steps 8000

    Args:
        output: folder for checkpoints, log, sample grids and the finished prior
        steps: training steps in all; 8000 if neither these nor minutes are given
        minutes: time for this sitting, with learning rates that fall to zero in time; writing the prior comes on top
        batch_size: images per step
        image_size: side of the images in pixels; a prior can be trained further at twice its size with --start-from
        lr: learning rate of embeddings, norms, biases, first and last layer (AdamW)
        muon_lr: learning rate of all other weights (Muon)
        decay_steps: steps at the end over which the learning rates fall to zero
        precision: bf16 computes in it where that is safe (autocast): faster on GPUs and on CPUs that have it
        seed: decides weights, data and noise
        device: auto, cpu, cuda, cuda:N or mps
        start_from: folder of a finished prior to begin with, in place of random weights; new words join those it knows
        world: small holds the kinds of the embedded prior, wide all kinds, second parts, finishes and scenes of two
        pictures: folder with captioned pictures and metadata.jsonl to train on, whose words join the vocabulary
        picture_share: share of such pictures in every batch; the rest is of the toybox
        save_every: steps between checkpoints
        sample_every: steps between sample grids and refreshes of the finished prior

    """
    from dreamfusion.app.progress import TrainProgress
    from dreamfusion.device import pick_device
    from dreamfusion.toybox.train import UNLIMITED, TrainSettings, train

    if minutes is not None and not minutes > 0:
        raise DreamFusionError("--minutes must be above 0.")
    settings = TrainSettings(
        steps=steps or (TrainSettings.steps if minutes is None else UNLIMITED),
        batch_size=batch_size,
        image_size=image_size,
        lr=lr,
        muon_lr=muon_lr,
        decay_steps=decay_steps,
        precision=precision,
        seed=seed,
        world=world,
        pictures=str(pictures) if pictures else None,
        picture_share=picture_share,
    )
    with TrainProgress(console, None if steps is None and minutes else settings.steps) as progress:
        train(
            output,
            settings,
            device=str(pick_device(device)),
            start_from=start_from,
            minutes=minutes,
            save_every=save_every,
            sample_every=sample_every,
            on_progress=progress.update,
        )
    print(output / "prior")
