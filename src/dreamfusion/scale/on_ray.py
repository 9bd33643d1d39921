"""Trials on Ray: a cluster of this machine alone, or a real one by its address.

Ray gives every trial its share of CPUs and GPUs, starts it again if its process or its machine dies, and knows which
machines there are. A trial that is started again goes on from its last checkpoint, so it ends with the same bits.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from dreamfusion.errors import DreamFusionError, Stopped
from dreamfusion.scale.plan import Trial
from dreamfusion.scale.trial import WrongMachineError, attempt

OBJECT_STORE_BYTES = 128 * 2**20
"""Memory that a local cluster sets aside for what passes between processes: here that is names of folders."""

_CONNECT_SECONDS = 5.0
_STOP_SECONDS = 120.0
"""For how long running trials may take to write their checkpoints when the sweep is stopped."""


@dataclass(frozen=True)
class RayCluster:
    """Where trials run and what each of them gets.

    ``address`` is "host:port" of a cluster or "auto" for the one that this machine belongs to; without it, one is
    started here for as long as the sweep lasts. ``cpus`` and ``gpus`` per trial may be fractions; without ``gpus`` it
    is a whole one where the cluster has any. ``retries`` are fresh starts after a crash.
    """

    address: str | None = None
    cpus: float = 1.0
    gpus: float | None = None
    retries: int = 2

    def check(self) -> None:
        """Raise DreamFusionError for numbers out of range, a missing library, or an address that does not answer."""
        if not self.cpus > 0 or (self.gpus is not None and not self.gpus >= 0):
            raise DreamFusionError("--cpus must be above 0 and --gpus at least 0: they are shares for each run.")
        if self.retries < 0:
            raise DreamFusionError(f"--retries must be at least 0 (given: {self.retries}).")
        _import_ray()
        if self.address not in (None, "auto"):
            _knock(str(self.address))

    def run(self, trials: Sequence[Trial]) -> Iterator[tuple[Trial, str | None] | None]:
        """Yield every trial as it ends, with what went wrong or None; in between None, about once a second.

        Closing the iterator stops what is running, with a checkpoint. Raises DreamFusionError where no trial can run.
        """
        ray = _import_ray()
        with _joined(ray, self.address) as resources:
            remote = ray.remote(max_retries=self.retries, num_cpus=self.cpus, num_gpus=self._gpus(resources))(attempt)
            waiting = {remote.remote(str(trial.folder.absolute())): trial for trial in trials}
            try:
                while waiting:
                    ended, _ = ray.wait(list(waiting), num_returns=1, timeout=1.0)
                    if not ended:
                        yield None
                    for task in ended:
                        yield waiting.pop(task), _outcome(ray, task)
            finally:
                _stop(ray, list(waiting))

    def _gpus(self, resources: dict[str, float]) -> float:
        """Return the GPUs of each trial; DreamFusionError if no machine of the cluster could ever run one."""
        gpus = float(resources.get("GPU", 0) > 0) if self.gpus is None else self.gpus
        for name, asked, option in (("CPU", self.cpus, "--cpus"), ("GPU", gpus, "--gpus")):
            if asked > resources.get(name, 0):
                raise DreamFusionError(
                    f"The cluster has {resources.get(name, 0):g} {name}s, and each run is to have {asked:g}: give a "
                    f"smaller {option}."
                )
        return gpus


def _import_ray() -> Any:
    # Its figures of use go to its makers otherwise.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # It would print what its machines say, several lines for each process that dies, among our own output.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    try:
        import ray
    except ImportError:
        raise DreamFusionError('A sweep needs Ray: pip install "dreamfusion[scale]".') from None
    return ray


def _knock(address: str) -> None:
    """Raise DreamFusionError unless something answers at an address: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise DreamFusionError(f"--address {address} is none: give host:port of the cluster's head, such as head:6379.")
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise DreamFusionError(
            f"No Ray cluster answers at {address} ({error}): start its head with ray start --head, or leave out "
            "--address."
        ) from None


@contextmanager
def _joined(ray: Any, address: str | None) -> Iterator[dict[str, float]]:
    """Belong to the cluster while the block lasts, or to one of this machine alone; give what it has of everything."""
    logging.getLogger("ray").setLevel(logging.CRITICAL)  # what matters of it is said here
    if ray.is_initialized():
        yield ray.cluster_resources()
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL, "configure_logging": False}
    try:
        if address is None:
            ray.init(include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **quiet)
        else:
            ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DreamFusionError(f"Ray does not start ({reason}): see ray status, or leave out --address.") from None
    try:
        yield ray.cluster_resources()
    finally:
        ray.shutdown()


def _outcome(ray: Any, task: Any) -> str | None:
    """Return what a trial that has ended says; a crash beyond all retries is a failure like others."""
    try:
        said: str | None = ray.get(task)
        return said
    except WrongMachineError as error:  # Ray makes one of both kinds of it
        raise WrongMachineError(str(getattr(error, "cause", error))) from None
    except Stopped as stop:
        return f"{getattr(stop, 'cause', stop)}: start the sweep again to go on"
    except ray.exceptions.RayError as error:
        lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
        return f"its process died again and again ({(lines or [type(error).__name__])[0]})"


def _stop(ray: Any, tasks: list[Any]) -> None:
    """Ask trials to end after their step, and wait until they have."""
    for task in tasks:
        with suppress(Exception):
            ray.cancel(task)
    if tasks:
        ray.wait(tasks, num_returns=len(tasks), timeout=_STOP_SECONDS)
