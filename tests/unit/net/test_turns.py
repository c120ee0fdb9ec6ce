"""Threads hash and write by turns, as many at a time as there are processors; nobody waits for a turn for long."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3

from exo_dl.core.swarm import FetchResult
from exo_dl.net import receive
from exo_dl.net.jobs import PeerJob, PieceTarget
from exo_dl.net.receive import JobStopped, PieceSink, Task

DATA = os.urandom(1 << 20)

Turns = queue.SimpleQueue[None]


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> Turns:
    """Two turns for this test alone."""
    turns = Turns()
    for _ in range(2):
        turns.put(None)
    monkeypatch.setattr(receive, "_turns", turns)
    return turns


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "part", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def sink(fd: int, *, digest: bytes = b"") -> PieceSink:
    """For one piece."""
    piece = PieceTarget(0, fd, 0, len(DATA), digest or blake3(DATA).digest())
    job = PeerJob(1, ("127.0.0.1", 1), "/", dict, (piece,), lambda _piece, _digest: None)
    return PieceSink(Task(job), lambda _event: None)


def free_turns(turns: Turns) -> int:
    """How many there are; takes them."""
    count = 0
    while not turns.empty():
        turns.get_nowait()
        count += 1
    return count


def test_no_more_write_at_a_time_than_there_are_turns(turns: Turns, fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, most, lock = 0, 0, threading.Lock()
    together = threading.Barrier(2)
    monkeypatch.setattr(receive, "_TURN_S", 10.0)

    def write(_fd: int, _view: memoryview, _offset: int) -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        together.wait(5)  # two at a time there are
        with lock:
            inside -= 1

    monkeypatch.setattr(receive, "write_all", write)
    threads = [threading.Thread(target=sink(fd).take, args=(memoryview(DATA),)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert most == 2
    assert free_turns(turns) == 2


def test_who_gets_no_turn_in_time_goes_on_without(turns: Turns, fd: int) -> None:
    """So it is where all that have one wait for a disk."""
    assert free_turns(turns) == 2
    begin = time.monotonic()
    sink(fd).take(memoryview(DATA))
    assert 0.04 <= time.monotonic() - begin < 5
    assert os.pread(fd, len(DATA), 0) == DATA
    assert free_turns(turns) == 0, "and gives none back"


def test_a_turn_comes_back_when_the_disk_refuses(turns: Turns, fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_fd: int, _view: memoryview, _offset: int) -> None:
        raise JobStopped(FetchResult.NO_ROOM)

    monkeypatch.setattr(receive, "write_all", refuse)
    with pytest.raises(JobStopped):
        sink(fd).take(memoryview(DATA))
    assert free_turns(turns) == 2
