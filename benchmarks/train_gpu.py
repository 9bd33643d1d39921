"""``python -m benchmarks.train_gpu --minutes 10``: what a few minutes of a large GPU make of the embedded prior.

It goes on from the newest weights at 64 pixels on the device that there is, with the learning rates fitted to the time,
and leaves in OUTPUT

    prior/              the finished prior, in files of less than 16 MiB
    log.jsonl, held_out.jsonl, samples/, checkpoints/     as `dreamfusion prior train` does
    train.json, train.md                                  rate, and the loss on held-out pictures before and after

With ``--world wide`` the prior learns the wide world, from one that may know the small one only. ``--minutes`` is all
of its time, from the first import to the last file. Called again with the same OUTPUT it goes on from there.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any, get_args

import torch

from dreamfusion.device import pick_device
from dreamfusion.errors import DreamFusionError
from dreamfusion.io.checkpoints import latest_checkpoint
from dreamfusion.io.files import write_text
from dreamfusion.standard import EMBEDDED_PRIOR
from dreamfusion.toybox.card import read_log
from dreamfusion.toybox.hardness import SORTS
from dreamfusion.toybox.train import UNLIMITED, HeldOut, Trainer, TrainSettings, train, words_to_learn
from dreamfusion.toybox.world import WorldName

LARGEST_FILE = 16 * 2**20
FINISHING = 0.15
"""Share of the time that is kept for the prior's files and samples."""


def held_out_loss(prior: Path, settings: TrainSettings, device: str) -> dict[str, Any]:
    """Return what `HeldOut.measure` says of a finished prior."""
    trainer = Trainer(settings, device, words_to_learn(settings, prior, None))
    trainer.start_from(prior)
    held_out = HeldOut(settings.image_size, device, batch_size=settings.batch_size, world=trainer.world)
    return held_out.measure(trainer.prior)


def report(output: Path, settings: TrainSettings, device: str, before: dict[str, Any], seconds: float) -> str:
    """Write train.json and train.md, and return the latter's text."""
    after = held_out_loss(output / "prior", settings, device)
    last = read_log(output / "held_out.jsonl")[-1]["step"]
    files = {str(file.relative_to(output)): file.stat().st_size for file in (output / "prior").rglob("*.safetensors")}
    if large := [name for name, size in files.items() if size >= LARGEST_FILE]:
        raise DreamFusionError(f"{large[0]} has {LARGEST_FILE:,} bytes or more: give max_shard_size less.")
    machine = torch.cuda.get_device_name() if device.startswith("cuda") else device
    figures = {
        "device": machine,
        "batch_size": settings.batch_size,
        "steps": last,
        "seconds": round(seconds, 1),
        "pictures": last * settings.batch_size,
        "before": before,
        "after": after,
        "files": files,
    }
    write_text(output / "train.json", json.dumps(figures, indent=2))
    rows = [("all", before["loss"], after["loss"])]
    for sort in ("noise", *SORTS):
        rows += [(f"{sort}: {name}", before[sort][name], after[sort][name]) for name in before[sort]]
    table = "\n".join(f"| {name} | {old:.4f} | {new:.4f} |" for name, old, new in rows)
    text = (
        f"{last:,} steps of {settings.batch_size} pictures on {machine}.\n\n"
        f"| loss on held-out pictures | before | after |\n|---|---|---|\n{table}\n"
    )
    write_text(output / "train.md", text)
    return text


def main() -> None:
    begun = time.monotonic()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_gpu", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--output", type=Path, default=Path("runs/prior-gpu"))
    parser.add_argument("--start-from", type=Path, default=EMBEDDED_PRIOR)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--world", choices=get_args(WorldName), default="small")
    options = parser.parse_args()
    device = str(pick_device("auto"))
    settings = TrainSettings(
        steps=UNLIMITED,
        batch_size=options.batch_size,
        image_size=options.image_size,
        precision=options.precision,
        world=options.world,
    )
    options.output.mkdir(parents=True, exist_ok=True)
    # Of what it starts from, even where it goes on: that is what the weights are to be compared with.
    before = held_out_loss(options.start_from, settings, device)
    if latest_checkpoint(options.output / "checkpoints") is None:
        print(f"held-out loss of {options.start_from}: {before['loss']:.4f}", flush=True)
    minutes = options.minutes * (1 - FINISHING) - (time.monotonic() - begun) / 60
    if minutes <= 0:
        raise SystemExit(f"error: {options.minutes:g} minutes were not enough to begin: give more with --minutes.")
    train(
        options.output,
        settings,
        device=device,
        start_from=options.start_from,
        minutes=minutes,
        sample_every=UNLIMITED,
        check_every=250,
        on_progress=lambda row: (
            print(f"{row.step} {row.loss:.4f} {row.images_per_second:.0f}/s", flush=True)
            if row.step % 50 == 0
            else None
        ),
    )
    print(report(options.output, settings, device, before, time.monotonic() - begun))


if __name__ == "__main__":
    main()
