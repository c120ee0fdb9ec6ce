"""The token bucket, with real threads and the real clock: it must hold in the time that it names."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from exo_dl.core.swarm import FetchResult
from exo_dl.net.limits import RateLimit
from tests.unit.net.data_plane import PULL, Content, Node, serving

KB = 1000


class Movers:
    """Threads that move bytes through a limit as fast as it lets them, and count them by group."""

    def __init__(self, limit: RateLimit) -> None:
        self.limit = limit
        self.counts: Counter[str] = Counter()
        self.longest_s = 0.0
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, group: str, threads: int = 1) -> None:
        for _ in range(threads):
            thread = threading.Thread(target=self._move, args=(group,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _move(self, group: str) -> None:
        while not self._stop.is_set():
            # An unlimited one must not become a busy loop: that is what a link's own speed is in real life.
            if not self.limit.bytes_per_s:
                self._stop.wait(0.001)
            size = self.limit.chunk_bytes
            self.limit.take(size, group=group, stopped=self._stop.is_set)
            self.counts[group] += size

    def stop(self) -> float:
        """Seconds until all have stopped."""
        started = time.monotonic()
        self._stop.set()
        for thread in self._threads:
            thread.join()
        return time.monotonic() - started

    def wait_for(self, total: int, *, timeout_s: float = 10.0) -> float:
        """Seconds until ``total`` more bytes have passed."""
        started, before = time.monotonic(), self.limit.use().byte_count
        pause = threading.Event()
        while self.limit.use().byte_count - before < total:
            assert time.monotonic() - started < timeout_s
            pause.wait(0.002)
        return time.monotonic() - started


@pytest.fixture
def movers() -> Iterator[Movers]:
    made = Movers(RateLimit(2000 * KB))
    yield made
    made.stop()


@pytest.mark.parametrize("threads", [1, 8])
def test_the_rate_holds(movers: Movers, threads: int) -> None:
    movers.start("a", threads)
    movers.wait_for(1)
    assert movers.wait_for(1600 * KB) == pytest.approx(0.8, rel=0.25)


def test_no_limit_costs_nothing_and_is_counted() -> None:
    limit = RateLimit()
    assert sum(limit.take(1 << 20) for _ in range(1000)) == 0
    assert limit.use().byte_count == 1000 << 20
    assert limit.use().held_back_s == 0
    assert limit.worthwhile(16) == 16


def test_a_burst_is_no_more_than_flows_in_a_tenth_of_a_second() -> None:
    limit = RateLimit(1000 * KB)
    started = time.monotonic()
    while time.monotonic() - started < 0.1:  # idle: what the bucket holds does not grow without end
        threading.Event().wait(0.02)
    passed = 0
    while limit.take(limit.chunk_bytes) < 0.005:
        passed += limit.chunk_bytes
    assert passed <= 100 * KB


def test_groups_share_alike_however_many_threads_each_has(movers: Movers) -> None:
    movers.start("many", 6)
    movers.start("one", 1)
    movers.wait_for(1600 * KB)
    assert movers.counts["one"] == pytest.approx(movers.counts["many"], rel=0.3)


def test_threads_of_a_group_take_turns() -> None:
    limit = RateLimit(1000 * KB)
    served: Counter[int] = Counter()
    until = time.monotonic() + 0.8

    def work(number: int) -> None:
        while time.monotonic() < until:
            limit.take(20 * KB)
            served[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(served.values()) - min(served.values()) <= 3


@pytest.mark.parametrize(("before", "after"), [(60 * KB, 20_000 * KB), (60 * KB, 0), (0, 2000 * KB)])
def test_another_rate_holds_within_a_tenth_of_a_second(before: int, after: int) -> None:
    movers = Movers(RateLimit(before))
    movers.start("a", 3)
    movers.wait_for(1)
    movers.limit.set_rate(after)
    if before:
        assert movers.wait_for(200 * KB) < 0.2
    else:
        # What was under way is forgiven; from then on the new rate holds.
        assert movers.limit.take(1) < 1.0
        movers.wait_for(800 * KB)
        assert movers.wait_for(600 * KB) == pytest.approx(0.3, rel=0.4)
    movers.stop()


def test_a_waiting_thread_sees_a_higher_rate_at_once() -> None:
    limit = RateLimit(50 * KB)
    limit.take(500 * KB)  # forgiven or not: a debt of seconds
    done = threading.Event()

    def wait() -> None:
        limit.take(1)
        done.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert not done.wait(0.1)
    limit.set_rate(50_000 * KB)
    assert done.wait(0.1)
    thread.join()


def test_a_lower_rate_does_not_turn_a_short_debt_into_a_long_one() -> None:
    limit = RateLimit(100_000 * KB)
    limit.take(1 << 20)
    limit.set_rate(50 * KB)
    assert limit.take(1) < 0.1


def test_a_stopped_wait_ends_within_a_tenth_of_a_second() -> None:
    movers = Movers(RateLimit(50 * KB))
    movers.start("a", 8)
    movers.wait_for(1)
    assert movers.stop() < 0.15


def test_it_says_how_long_it_held_back() -> None:
    limit = RateLimit(1000 * KB)
    waited_s = sum(limit.take(50 * KB) for _ in range(6))
    assert waited_s > 0.1
    assert limit.use().held_back_s == pytest.approx(waited_s, abs=0.05)
    assert limit.use().byte_count == 300 * KB


def test_few_transfers_at_once_are_worth_while_where_little_may_flow() -> None:
    assert RateLimit(50 * KB).worthwhile(16) == 1
    assert RateLimit(1024 * KB).worthwhile(16) == 4
    assert RateLimit(100_000 * KB).worthwhile(16) == 16


def test_chunks_fit_the_rate() -> None:
    assert RateLimit(1).chunk_bytes == 4096
    assert RateLimit(2000 * KB).chunk_bytes == 100 * KB
    assert RateLimit(10**10).chunk_bytes == RateLimit().chunk_bytes == 1 << 20


def test_a_limited_transfer_is_slowed_down_and_cancelled_at_once(tmp_path: Path) -> None:
    """Both ends of the data plane: 6 MiB would take 24 s, and nothing waits for that."""
    content = Content(tmp_path, [1 << 20] * 6)
    upload, download = RateLimit(), RateLimit(256 << 10)
    node = Node(content, tmp_path, peer_limiter=download)
    with serving(content, limiter=upload) as server:
        job = node.fetch(server.port, 0, 6)
        waited = threading.Event()
        while download.use().byte_count < 128 << 10:
            waited.wait(0.01)
        assert download.use().byte_count < 1 << 20
        started = time.monotonic()
        node.pool.cancel(job)
        assert node.end_of(job).result is FetchResult.CANCELLED
        assert time.monotonic() - started < 0.15

        upload.set_rate(256 << 10)
        download.set_rate(0)
        node.fetch(server.port, 0, 6)
        before = upload.use().byte_count
        while upload.use().byte_count - before < 128 << 10:
            waited.wait(0.01)
        started = time.monotonic()
        assert server.stop_pull(PULL)
        assert time.monotonic() - started < 0.15
    node.close()
