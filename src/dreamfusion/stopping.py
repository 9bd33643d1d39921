"""How work ends when it is told to: signals are noted and taken between two steps, or end at once what has no steps.

SIGINT is Ctrl-C, SIGTERM what `kill`, containers and clusters send, SIGHUP a closed terminal, SIGUSR1 what clusters are
asked to send some minutes before they kill. One that is ignored (as SIGHUP under nohup) stays ignored. Python hands
signals to the main thread alone, so in others these blocks change nothing.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from dreamfusion.errors import Stopped

SIGNALS = tuple(
    signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if name in signal.Signals.__members__
)


class _Interrupt(KeyboardInterrupt):
    """What a signal raises where it may end the work at once; libraries that catch every Exception let it through."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class Stop:
    """Whether the work is to end after this step: None, or the number of the signal that says so."""

    def __init__(self) -> None:
        self.number: int | None = None

    def ask(self, number: int = signal.SIGINT) -> None:
        """End after this step; the first signal counts."""
        self.number = self.number or number


@contextmanager
def stop_between_steps() -> Iterator[Stop]:
    """Note signals while the block lasts, however many come; the block looks at `Stop.number` after each step."""
    stop = Stop()
    with _handling(stop.ask):
        yield stop


@contextmanager
def stop_at_once(advice: str = "") -> Iterator[None]:
    """Let signals end the block with `Stopped`, whose message closes with ``advice``."""

    def interrupt(number: int) -> None:
        raise _Interrupt(number)

    try:
        with _handling(interrupt):
            yield
    except KeyboardInterrupt as error:
        raise stopped(getattr(error, "number", signal.SIGINT), advice) from None


def stopped(number: int, advice: str = "") -> Stopped:
    """Return the exception that names the signal and says what to do next."""
    return Stopped(f"Stopped by {signal.Signals(number).name}{f': {advice}' if advice else ''}", number)


@contextmanager
def _handling(handle: Callable[[int], None]) -> Iterator[None]:
    """Have signals call ``handle`` while the block lasts."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler(number: int, frame: FrameType | None) -> None:
        handle(number)

    # None: set by something that is not Python, which could not be set back.
    changed = [number for number in SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    earlier = {number: signal.signal(number, handler) for number in changed}
    try:
        yield
    finally:
        for number, before in earlier.items():
            signal.signal(number, before)
