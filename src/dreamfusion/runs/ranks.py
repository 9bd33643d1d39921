"""One run on several processes, as torchrun starts them: ``torchrun --nproc-per-node N -m dreamfusion generate ...``.

The first process does what a single one would: it owns the folder, writes and talks. The others `follow`: they get
its configuration and its state, take their share of every step, and end when it does. See `dreamfusion.method.ranks`.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from dreamfusion import __version__
from dreamfusion.config import parse_config
from dreamfusion.device import pick_device
from dreamfusion.errors import DreamFusionError
from dreamfusion.guidance.base import Guidance
from dreamfusion.method.optimize import optimize
from dreamfusion.method.ranks import ALONE, LostError, Ranks
from dreamfusion.method.state import State
from dreamfusion.runs.generate import load_guidance
from dreamfusion.runs.sharing import receive_state
from dreamfusion.stopping import stop_between_steps

PATIENCE = "DREAMFUSION_RANKS_TIMEOUT"
"""Variable of the environment: seconds after which a process that does not answer counts as lost."""

PATIENCE_SECONDS = 300


def started_by_torchrun() -> bool:
    """Return whether torchrun has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


@contextmanager
def joined(asked: Mapping[str, Any]) -> Iterator[Ranks]:
    """Join the other processes while the block lasts; alone without torchrun, or where it has started one only.

    ``asked`` is what the command was given: all have to be given the same. Raises DreamFusionError if they were not,
    if they do not find each other, and if one is lost later; of the processes of a host only the first one does.
    """
    if not started_by_torchrun() or os.environ.get("WORLD_SIZE", "1") == "1":
        yield ALONE
        return
    ranks = Ranks(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
    if ranks.index:
        logging.getLogger("dreamfusion").setLevel(logging.CRITICAL)
    try:
        _meet(ranks, asked.get("device"))
        refuse_others(ranks, asked)
        yield ranks
    except LostError:
        if ranks.local:
            raise SystemExit(1) from None
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def patience() -> int:
    """Return after how many seconds a process that does not answer counts as lost."""
    text = os.environ.get(PATIENCE, str(PATIENCE_SECONDS))
    if not text.isdecimal() or int(text) < 1:
        raise DreamFusionError(f"{PATIENCE} must be a whole number of seconds, at least 1 (given: {text}).")
    return int(text)


def _meet(ranks: Ranks, device: str | None) -> None:
    """Find the other processes: sums go over gloo on CPUs and over nccl on GPUs, one process to each."""
    seconds = patience()
    on_gpus = torch.cuda.is_available() and device != "cpu"
    if on_gpus:
        here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
        if here > gpus:
            raise DreamFusionError(
                f"This host has {gpus} GPUs for {here} processes: start torchrun with --nproc-per-node {gpus}, or give "
                "--device cpu."
            )
        torch.cuda.set_device(ranks.local)
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpus else "gloo", timeout=timedelta(seconds=seconds))
    except (RuntimeError, ValueError) as error:
        place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise LostError(
            f"The {ranks.count} processes did not find each other at {place} in {seconds} s ({lines[0]}): see that all "
            "hosts reach that address."
        ) from None


def refuse_others(ranks: Ranks, asked: Mapping[str, Any]) -> None:
    """Raise DreamFusionError, in the first process, if one has another version or was given other options."""
    mine = {"version of dreamfusion": __version__, "version of torch": torch.__version__}
    mine |= {name: _content(value) for name, value in asked.items() if name not in ("device", "output", "resume")}
    answers = ranks.from_all((socket.gethostname(), mine))
    first = answers[0][1]
    for number, (host, theirs) in enumerate(answers):
        for name in [name for name in first if theirs.get(name) != first[name]]:
            if ranks.index:
                raise SystemExit(1)
            raise DreamFusionError(
                f"Process {number} on {host} has another {name} ({_short(theirs.get(name))}, and here it is "
                f"{_short(first[name])}): install and give the same on all hosts."
            )


def _content(value: Any) -> str:
    """Return an option as text; of a file what is in it, for hosts may have different ones of one name."""
    if isinstance(value, Path) and value.is_file():
        return value.read_text(encoding="utf-8", errors="replace")
    return str(value)


def _short(text: str | None) -> str:
    return "nothing" if text is None else repr(text if len(text) < 60 else text[:57] + "...")


def to_go_on_with(output: Path | None) -> Path | None:
    """Return the folder of a run that torchrun has started before, to be resumed; None if there is none.

    Raises DreamFusionError if torchrun is to start it again after a failure, and could not find it then.
    """
    if not started_by_torchrun():
        return None
    if output is None:
        if os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0":
            raise DreamFusionError("With torchrun's --max-restarts give --output: a restart goes on in that folder.")
        return None
    return output if (output / "config.yaml").is_file() else None


def follow(ranks: Ranks, device: str | None = None, guidance_model: Guidance | None = None) -> None:
    """Take part in the run that the first process makes, until it ends; nothing is written.

    ``device`` and ``guidance_model`` are as for `generate`. Exits with 128 and the number of a signal that ends it.
    """
    config = parse_config(ranks.from_first() | ({"device": device} if device else {}))
    state = State.fresh(config, pick_device(config.device))
    receive_state(ranks, state)
    guidance = guidance_model or load_guidance(config, state.scene.device)
    steps = optimize(
        config,
        guidance,
        state,
        release_text_encoders=guidance_model is None,
        go_back=partial(receive_state, ranks, state),
        ranks=ranks,
    )
    with stop_between_steps() as stop:
        for _ in steps:
            number, went_back = ranks.largest(stop.number or 0, 0)
            if number:
                raise SystemExit(128 + number)
            if went_back:
                receive_state(ranks, state)
