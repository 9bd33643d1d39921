"""``python -m benchmarks.prior PRIOR [PRIOR ...]``: the loss of embedded priors on toys they were and were not shown.

It is the v-prediction loss of training, at the timesteps of training, on toys of another seed: once in the pairs of
kind and colour that training draws from, once in held-out pairs of kind and colour and of kind and part colour.
Toys, cameras and timesteps are the same for every prior; pictures and noise are the same for priors of one size.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from dreamfusion.guidance.pixel import PixelGuidance
from dreamfusion.toybox.data import ToyboxData
from dreamfusion.toybox.train import Trainer, TrainSettings
from dreamfusion.toybox.world import COLORS, Toy, held_out, part_held_out

SEED = 90_000
"""Far from the seeds of training."""


class HeldOutData(ToyboxData):
    """The same, in held-out pairs alone: every second toy by its colour, the others by that of their part."""

    def _dress(self, toy: Toy, choose: random.Random) -> Toy:
        toy = super()._dress(toy, choose)
        if choose.random() < 0.5:
            return replace(toy, color=choose.choice([c for c in COLORS if held_out(toy.kind, c)]))
        return replace(toy, part_color=choose.choice([c for c in COLORS if part_held_out(toy.kind, c)]))


@torch.no_grad()
def mean_loss(trainer: Trainer, data: ToyboxData, batches: int) -> float:
    """Return the mean loss of a prior over the first batches of some data."""
    losses = []
    for step in range(batches):
        generator = torch.Generator().manual_seed(SEED + step)
        losses.append(trainer.prior.loss(data.batch(step), generator).mean())
    return torch.stack(losses).mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prior", description=__doc__)
    parser.add_argument("priors", nargs="+", type=Path, metavar="PRIOR", help="folder that prior train has made")
    parser.add_argument("--batches", type=int, default=48, help="batches of 32 pictures each")
    options = parser.parse_args()
    table = Table("prior", "loss, pairs that were shown", "held-out pairs")
    for prior in options.priors:
        size = int(PixelGuidance.load(prior).unet.config.sample_size)
        sets = [kind(SEED, 32, image_size=size, caption_dropout=0.0) for kind in (ToyboxData, HeldOutData)]
        trainer = Trainer(TrainSettings(image_size=size))
        trainer.start_from(prior)
        table.add_row(str(prior), *(f"{mean_loss(trainer, data, options.batches):.4f}" for data in sets))
    Console().print(table)


if __name__ == "__main__":
    main()
