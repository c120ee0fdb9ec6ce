"""What becomes of a transfer whose pieces are dropped while it brings them."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from exo_dld.transfers import _Fetch


class SlowStore:
    """A store in which a record takes until it is let go on."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.done: list[str] = []

    def record(self, piece: int, digest: bytes) -> None:
        self.begun.set()
        assert self.go_on.wait(10)
        self.done.append(f"recorded {piece}")


def test_a_piece_that_is_being_recorded_is_there_to_be_dropped() -> None:
    """Recorded after its file was dropped, it would be of the wrong reading, and the next would fail as well."""
    store: Any = SlowStore()
    fetch = _Fetch(store, (), peer="a", began=0.0)
    recording = threading.Thread(target=fetch.record, args=(3, b""))
    dropping = threading.Thread(target=lambda: (fetch.void(), store.done.append("dropped")))
    recording.start()
    assert store.begun.wait(10)
    dropping.start()
    dropping.join(0.1)
    store.go_on.set()
    for thread in (recording, dropping):
        thread.join(10)
    assert store.done == ["recorded 3", "dropped"]
    with pytest.raises(KeyError):
        fetch.record(4, b"")
