"""Which engine runs a sweep."""

from __future__ import annotations

from pathlib import Path

from dreamfusion.errors import DreamFusionError
from dreamfusion.scale.on_ray import RayCluster
from dreamfusion.scale.on_slurm import Slurm


def chosen_engine(
    output: Path,
    *,
    cpus: float = 1.0,
    gpus: float | None = None,
    retries: int = 2,
    address: str | None = None,
    slurm: bool = False,
    partition: str | None = None,
    minutes: int | None = None,
) -> RayCluster | Slurm:
    """Return the engine that the options of a sweep ask for; DreamFusionError if they ask for two."""
    if slurm:
        if address is not None:
            raise DreamFusionError("Give --address or --slurm, not both: the one is for Ray.")
        limit = 60 if minutes is None else minutes
        return Slurm(output / "slurm", partition, limit, cpus=cpus, gpus=gpus, retries=retries)
    for option, value in (("--partition", partition), ("--minutes", minutes)):
        if value is not None:
            raise DreamFusionError(f"{option} is for Slurm: give --slurm as well, or leave it out.")
    return RayCluster(address, cpus, gpus, retries)
