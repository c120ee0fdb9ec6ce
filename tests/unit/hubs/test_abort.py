"""Ending what a reader does, from other threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from bench.hub import LocalHub
from exo_dl.errors import (
    CancelledPullError,
)
from exo_dl.hubs.reader import Timeouts
from exo_dl.net import gather, receive
from tests.unit.hubs.conftest import ReaderFor
from tests.unit.hubs.reading import content_of, read, records_of, url_of


def _aborted_in_s(work: Callable[[], object], abort: Callable[[], None]) -> float:
    """Runs ``work`` in a thread until it blocks, aborts it, and says how long that took."""
    result: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            result.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    started = time.monotonic()
    abort()
    thread.join(5)
    assert not thread.is_alive()
    assert len(result) == 1
    assert isinstance(result[0], CancelledPullError)
    return time.monotonic() - started


@pytest.mark.parametrize("how", ["range", "reader", "close"])
def test_abort_ends_a_blocked_read(reader_for: ReaderFor, hub: LocalHub, how: str) -> None:
    hub.fault("stall", after_bytes=1000)
    reader = reader_for(hub)
    opened = reader.open_range(url_of(hub), 0, 100_000)
    got = bytearray()
    blocked = threading.Event()

    def work() -> None:
        buffer = memoryview(bytearray(4096))
        with opened:
            while count := opened.readinto(buffer):
                got.extend(buffer[:count])
                if len(got) == 1000:
                    blocked.set()

    def abort() -> None:
        assert blocked.wait(5)
        {"range": opened.abort, "reader": reader.abort, "close": reader.close}[how]()

    assert _aborted_in_s(work, abort) < 1.0
    if how == "close":
        with pytest.raises(CancelledPullError):
            reader.open_range(url_of(hub), 0, 10)
    else:
        hub.faults.clear()
        assert read(reader.open_range(url_of(hub), 0, 10)) == content_of(hub)[:10]


def test_an_abort_before_the_call_is_not_missed(reader_for: ReaderFor, hub: LocalHub) -> None:
    reader = reader_for(hub)
    with pytest.raises(CancelledPullError):
        reader.open_range(url_of(hub), 0, 10, stopped=lambda: True)
    assert not records_of(hub)
    reader.abort()  # nothing runs: nothing happens
    assert read(reader.open_range(url_of(hub), 0, 10, stopped=lambda: False)) == content_of(hub)[:10]


def test_a_second_range_waits_for_no_first_one_that_was_forgotten(reader_for: ReaderFor, hub: LocalHub) -> None:
    reader = reader_for(hub, timeouts=Timeouts(connect_s=0.1))
    with reader.open_range(url_of(hub), 0, 10):
        reader.connect(url_of(hub))  # there is a connection: nothing to do
        with pytest.raises(RuntimeError, match="not closed"):
            reader.open_range(url_of(hub), 0, 10)
    assert read(reader.open_range(url_of(hub), 0, 10)) == content_of(hub)[:10]


def test_a_cut_ends_the_wait_for_more_than_is_wanted_then(
    reader_for: ReaderFor, hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wanted is there, and a thread waits for bytes that would be thrown away."""
    monkeypatch.setattr(gather, "LONGEST_S", 30.0)
    monkeypatch.setattr(receive, "LONGEST_S", 30.0)
    hub.fault("stall", after_bytes=300_000)
    opened = reader_for(hub).open_range(url_of(hub), 0, 1_000_000)
    buffer, got = memoryview(bytearray(1 << 20)), []
    thread = threading.Thread(target=lambda: got.append(receive.fill(opened, buffer, 1 << 20)))
    thread.start()
    thread.join(0.1)
    assert thread.is_alive(), "it waits for all of it"
    for _ in range(50):
        if thread.is_alive():
            opened.limit(200_000)
            thread.join(0.1)  # a cut that comes just before the wait is a moment too early
    assert len(got) == 1
    assert 200_000 <= got[0] <= 300_000, "what is there already, at most"
    assert buffer[: got[0]] == content_of(hub)[: got[0]]
    opened.close()
