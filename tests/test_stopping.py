"""Signals: noted between steps, at once elsewhere, ignored where they were ignored."""

import signal
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from dreamfusion.errors import DreamFusionError, Stopped
from dreamfusion.stopping import SIGNALS, stop_at_once, stop_between_steps


@pytest.fixture(autouse=True)
def _as_in_a_terminal() -> Iterator[None]:
    """Have no signal ignored, as some are in a shell's background."""
    usual = dict.fromkeys(SIGNALS, signal.SIG_DFL) | {signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_signals_are_noted_and_the_first_one_counts(number: signal.Signals):
    before = [signal.getsignal(other) for other in SIGNALS]
    with stop_between_steps() as stop:
        assert stop.number is None
        signal.raise_signal(number)
        signal.raise_signal(signal.SIGINT)  # the second Ctrl-C, during the save
        assert stop.number == number
    assert [signal.getsignal(other) for other in SIGNALS] == before


@pytest.mark.parametrize("number", SIGNALS)
def test_where_there_are_no_steps_a_signal_is_an_exception_of_the_packages_own(number: signal.Signals):
    def work_in_a_library() -> None:
        with suppress(Exception):  # some catch whatever comes
            signal.raise_signal(number)
        pytest.fail("the work went on")

    with pytest.raises(Stopped, match=f"^Stopped by {number.name}: come back$") as caught, stop_at_once("come back"):
        work_in_a_library()
    assert caught.value.number == number
    assert isinstance(caught.value, DreamFusionError)
    assert not isinstance(caught.value, KeyboardInterrupt)


def test_blocks_nest():
    noted: list[int | None] = []

    def work() -> None:
        with stop_at_once("outer"), stop_between_steps() as stop:
            signal.raise_signal(signal.SIGTERM)
            noted.append(stop.number)
            with stop_at_once("inner"):
                signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Stopped, match="inner"):
        work()
    assert noted == [signal.SIGTERM]


def test_what_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_between_steps() as stop, stop_at_once():
            signal.raise_signal(signal.SIGHUP)
        assert stop.number is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_threads_are_left_alone():
    failures: list[BaseException] = []

    def work() -> None:
        try:
            with stop_at_once(), stop_between_steps() as stop:
                assert stop.number is None
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failures == []
