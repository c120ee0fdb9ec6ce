"""What the pool says of writes that wait for the disk, and what looking at the clock for it costs."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from blake3 import blake3

from bench.cluster import wait_until
from exo_dl.core.swarm import FetchResult
from exo_dl.net import receive
from exo_dl.net.fetch import Writing
from exo_dl.net.jobs import PeerJob, PieceTarget, Timeouts
from exo_dl.net.receive import PieceSink, Task
from tests.unit.net.data_plane import MIXED_SIZES, Content, Node, serving

COUNT = len(MIXED_SIZES)


class SlowDisk:
    """Stands in for the write of a disk that does not keep up: the first one waits until it may go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.inside = threading.Event()
        self.go = threading.Event()
        self._write = receive.write_all
        monkeypatch.setattr(receive, "write_all", self._write_late)

    def _write_late(self, fd: int, view: memoryview, offset: int) -> None:
        if len(view) >= 256 << 10:
            self.inside.set()
            assert self.go.wait(10)
        self._write(fd, view, offset)


def test_a_write_that_waits_is_told_while_it_does_and_after(
    node: Node, content: Content, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SlowDisk(monkeypatch)
    assert node.pool.writing() == Writing(0.0, 0.0)
    with serving(content) as server:
        job = node.fetch(server.port, 0, COUNT)
        assert disk.inside.wait(10)
        wait_until(lambda: node.pool.writing().waited_s > 0.05, timeout_s=5, what="the write that waits")
        before = node.pool.writing()
        assert before.waited_s < before.busy_s
        disk.go.set()
        assert node.result_of(job) is FetchResult.DONE
    after = node.pool.writing()
    assert before.waited_s <= after.waited_s <= after.busy_s, "what has ended still counts"
    assert node.path.read_bytes() == content.data


def test_a_record_that_waits_counts_too(node: Node, content: Content, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noting a piece starts its way to the disk, and waits where there is no room for more on that way."""
    inside, go = threading.Event(), threading.Event()

    def record_late(_piece: int, _digest: bytes) -> None:
        inside.set()
        assert go.wait(10)

    monkeypatch.setattr(node, "record", record_late)
    with serving(content) as server:
        job = node.fetch(server.port, 0, 1)
        assert inside.wait(10)
        wait_until(lambda: node.pool.writing().waited_s > 0.05, timeout_s=5, what="the record that waits")
        go.set()
        assert node.result_of(job) is FetchResult.DONE
    assert node.pool.writing().waited_s > 0.05


def test_a_slow_disk_is_not_the_fault_of_the_peer(
    content: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = SlowDisk(monkeypatch)
    node = Node(content, tmp_path, timeouts=Timeouts(stall_s=0.3, slowest_bytes_per_s=1 << 30))
    try:
        with serving(content) as server:
            job = node.fetch(server.port, 0, COUNT)
            assert disk.inside.wait(10)
            wait_until(lambda: node.pool.writing().waited_s > 0.5, timeout_s=5, what="longer than the peer may take")
            disk.go.set()
            assert node.end_of(job).detail == ""
            assert node.done(job) == list(range(COUNT))
    finally:
        node.close()


def test_a_write_that_is_clocked_stands_for_a_few_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """After 255 KiB in small writes, one of a single byte: it says little about a quarter of a MiB."""
    now = iter([1.0, 1.5])
    monkeypatch.setattr(receive, "write_all", lambda _fd, _view, _offset: None)
    target = PieceTarget(0, -1, 0, 1 << 20, bytes(32))
    task = Task(PeerJob(1, ("::1", 1), "/", dict, (target,), lambda _piece, _digest: None))
    sink = PieceSink(task, lambda _event: None)
    sink.take(memoryview(bytes((256 << 10) - 1)))
    assert task.slow_writes_s == 0.0
    monkeypatch.setattr(receive.time, "monotonic", lambda: next(now))
    sink.take(memoryview(bytes(1)))
    monkeypatch.undo()
    assert task.slow_writes_s == 4 * 0.5


def test_the_clock_is_not_read_for_each_small_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = 0

    class Clock:
        @staticmethod
        def monotonic() -> float:
            nonlocal reads
            reads += 1
            return time.monotonic()

    monkeypatch.setattr(receive, "time", Clock)
    size = 4 << 20
    digest = blake3(bytes(size)).digest()
    with open(tmp_path / "piece", "wb") as file:
        target = PieceTarget(0, file.fileno(), 0, size, digest)
        task = Task(PeerJob(1, ("::1", 1), "/", dict, (target,), lambda _piece, _digest: None))
        sink = PieceSink(task, lambda _event: None)
        for _ in range(64):
            sink.take(memoryview(bytes(64 << 10)))
    assert task.finished
    assert os.path.getsize(tmp_path / "piece") == size
    assert reads == 2 * 16 + 2, "twice for each 256 KiB, and for the record of the piece"
