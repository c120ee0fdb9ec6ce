from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from blake3 import blake3

from bench.cluster import wait_until
from exo_dl.core.swarm import FetchResult
from exo_dl.net import fetch
from exo_dl.net.fetch import FetchPool, JobEnded, PeerJob, PieceDone, PieceTarget
from exo_dl.net.limits import RateLimit
from exo_dl.net.peer_connection import PeerConnection
from exo_dl.net.tickets import TicketSigner, authorizer
from tests.unit.net.data_plane import KEY, MIB, MIXED_SIZES, Content, Node, Stuck, WildPeer, answer, serving

SIZES = MIXED_SIZES
COUNT = len(SIZES)


def test_pieces_arrive_are_recorded_and_told_in_order(node: Node, content: Content) -> None:
    with serving(content) as server:
        job = node.fetch(server.port, 0, COUNT)
        end = node.end_of(job)
        assert (end.result, end.detail, end.byte_count) == (FetchResult.DONE, "", sum(SIZES))
        assert 0 < end.seconds < 10
    assert node.path.read_bytes() == content.data
    assert node.done(job) == list(range(COUNT))
    assert isinstance(node.events[-1], JobEnded)
    assert node.recorded == {i: blake3(content.piece(i)).digest() for i in range(COUNT)}
    assert node.pool.progress(job) == 0
    assert node.pool.bytes_in_flight == 0


def test_events_come_in_batches(node: Node, content: Content) -> None:
    with serving(content) as server:
        node.end_of(node.fetch(server.port, 0, COUNT))
    assert len(node.events) == COUNT + 1
    assert node.batches < COUNT / 2


def test_connections_are_used_again(node: Node, content: Content) -> None:
    with serving(content) as server:
        for first in range(3):
            assert node.result_of(node.fetch(server.port, first, first + 1)) is FetchResult.DONE
        assert server.stats().connections == 1
        node.pool.close_broken()
        assert node.result_of(node.fetch(server.port, 3, 4)) is FetchResult.DONE
        assert server.stats().connections == 1
    port = server.port

    def kept() -> list[str]:
        every = psutil.Process().net_connections("tcp")
        return [each.status for each in every if each.raddr and each.raddr.port == port]

    wait_until(lambda: kept() == [psutil.CONN_CLOSE_WAIT], timeout_s=5, what="the peer's end of the connection")
    node.pool.close_broken()
    assert kept() == []


def test_a_connection_that_the_peer_closed_meanwhile_is_no_failure(
    node: Node, content: Content, wild: Callable[..., WildPeer]
) -> None:
    # Each connection is closed after one answer that promised to keep it.
    peer = wild(lambda sock, _: sock.sendall(answer(content.piece(0))))
    for _ in range(3):
        assert node.result_of(node.fetch(peer.port, 0, 1)) is FetchResult.DONE
    assert peer.accepted == 3


def test_jobs_run_side_by_side(node: Node, content: Content) -> None:
    with serving(content, max_per_peer=8) as server:
        jobs = [node.fetch(server.port, i, i + 1) for i in range(COUNT)]
        results = {job: node.result_of(job) for job in jobs}
        for job in [job for job, result in results.items() if result is FetchResult.BUSY]:
            index = jobs.index(job)
            assert node.result_of(node.fetch(server.port, index, index + 1)) is FetchResult.DONE
    assert node.path.read_bytes() == content.data


def test_more_jobs_than_threads_wait_their_turn(content: Content, tmp_path: Path) -> None:
    node = Node(content, tmp_path, max_peer_threads=2)
    with serving(content) as server:
        jobs = [node.fetch(server.port, i, i + 1) for i in range(50)]
        assert {node.result_of(job) for job in jobs} == {FetchResult.DONE}
        assert server.stats().connections <= 2
    node.close()


def test_busy_says_when_to_come_back(node: Node, content: Content) -> None:
    with serving(content, max_uploads=1, max_per_peer=0) as server:
        end = node.end_of(node.fetch(server.port, 0, 1))
    assert end.result is FetchResult.BUSY
    assert 0 < end.retry_after_s < 1
    assert node.recorded == {}


def test_a_fetch_that_would_only_stay_is_told_busy_where_another_is_served(node: Node, content: Content) -> None:
    stuck = Stuck(content)
    with serving(content, locate=stuck, max_uploads=5, max_per_peer=5) as server:
        jobs = [node.fetch(server.port, i, i + 1) for i in range(3)]
        jobs.append(node.fetch(server.port, 3, 4, stays=True))
        for _ in jobs:
            assert stuck.inside.acquire(timeout=5)
        assert node.result_of(node.fetch(server.port, 4, 5, stays=True)) is FetchResult.BUSY
        jobs.append(node.fetch(server.port, 4, 5))
        assert stuck.inside.acquire(timeout=5)
        stuck.go.set()
        assert {node.result_of(job) for job in jobs} == {FetchResult.DONE}
    assert sorted(node.recorded) == [0, 1, 2, 3, 4]


def test_missing_pieces_and_pulls(node: Node, content: Content) -> None:
    content.missing = {2}
    with serving(content) as server:
        assert node.result_of(node.fetch(server.port, 1, 3)) is FetchResult.BUSY, "held back for now, not gone"
        assert node.result_of(node.fetch(server.port, 0, 2)) is FetchResult.DONE
        assert server.stats().connections == 1


def test_a_ticket_that_is_not_good_is_a_failure(node: Node, content: Content) -> None:
    with serving(content, authorize=lambda *_: None) as server:
        end = node.end_of(node.fetch(server.port, 0, 1))
    assert end.result is FetchResult.FAILED
    assert "401" in end.detail


def test_clocks_that_differ_are_made_up_for(node: Node, content: Content) -> None:
    node.signer = TicketSigner(KEY, "node-a", audience="node-b", clock=lambda: time.time() - 86_400)
    with serving(content, authorize=authorizer(KEY, audience="node-b")) as server:
        assert node.result_of(node.fetch(server.port, 0, 1)) is FetchResult.DONE
        assert server.stats().refused == 1
        assert node.result_of(node.fetch(server.port, 1, 2)) is FetchResult.DONE
        assert server.stats().refused == 1


def test_wrong_bytes_end_a_job_and_nothing_after_them_is_written(
    node: Node, content: Content, wild: Callable[..., WildPeer]
) -> None:
    wrong = bytearray(content.run(0, 4))
    wrong[MIB + 5] ^= 1
    peer = wild(lambda sock, _: sock.sendall(answer(bytes(wrong))))
    job = node.fetch(peer.port, 0, 4)
    end = node.end_of(job)
    assert end.result is FetchResult.CORRUPT
    assert "Piece 1" in end.detail
    assert node.done(job) == [0]
    assert list(node.recorded) == [0]
    assert node.written(0) == content.piece(0)
    assert node.written(2) == bytes(MIB)
    assert node.written(3) == bytes(SIZES[3])


def test_a_piece_that_is_held_is_not_written_over(node: Node, content: Content, wild: Callable[..., WildPeer]) -> None:
    body = content.piece(0) + b"\xff" * MIB + content.piece(2)
    peer = wild(lambda sock, _: sock.sendall(answer(body)))
    os.pwrite(node.fd, content.piece(1), content.offsets[1])
    job = node.fetch(peer.port, 0, 3, held=lambda piece: piece == 1)
    assert node.result_of(job) is FetchResult.DONE
    assert node.done(job) == [0, 2]
    assert node.path.read_bytes().startswith(content.run(0, 3))


def test_a_trim_ends_a_job_where_it_says(node: Node, content: Content, wild: Callable[..., WildPeer]) -> None:
    go = threading.Event()

    def behave(sock: socket.socket, _: int) -> None:
        sock.sendall(answer(content.run(0, 1) + content.piece(1)[:1000], length=len(content.run(0, 4))))
        assert go.wait(5)
        sock.sendall(content.run(1, 4)[1000:])

    peer = wild(behave)
    job = node.fetch(peer.port, 0, 4)
    node.wait_for(lambda: 0 in node.recorded)
    node.pool.trim(job, 3)
    node.pool.trim(job, 99)
    assert node.pool.bytes_in_flight <= 2 * MIB
    go.set()
    end = node.end_of(job)
    assert end.result is FetchResult.DONE
    assert node.done(job) == [0, 1, 2]
    assert end.byte_count == 3 * MIB
    assert node.written(3) == bytes(SIZES[3])


def test_a_trim_behind_its_position_ends_a_job_at_once(
    node: Node, content: Content, wild: Callable[..., WildPeer]
) -> None:
    def behave(sock: socket.socket, _: int) -> None:
        sock.sendall(answer(content.run(0, 1) + content.piece(1)[:1000], length=len(content.run(0, 4))))
        peer.stop.wait(10)

    peer = wild(behave)
    job = node.fetch(peer.port, 0, 4)
    node.wait_for(lambda: 0 in node.recorded)
    begin = time.monotonic()
    node.pool.trim(job, 1)
    assert node.result_of(job) is FetchResult.DONE
    assert time.monotonic() - begin < 0.1
    assert node.done(job) == [0]


def cancelled_quickly(node: Node, job: int) -> bool:
    begin = time.monotonic()
    node.pool.cancel(job)
    return node.result_of(job) is FetchResult.CANCELLED and time.monotonic() - begin < 0.1


def test_cancel_in_the_middle_of_a_body(node: Node, content: Content, wild: Callable[..., WildPeer]) -> None:
    def behave(sock: socket.socket, _: int) -> None:
        sock.sendall(answer(content.run(0, 1), length=3 * MIB))
        peer.stop.wait(10)

    peer = wild(behave)
    job = node.fetch(peer.port, 0, 3)
    node.wait_for(lambda: 0 in node.recorded)
    assert node.pool.progress(job) == MIB
    assert node.pool.bytes_in_flight == 2 * MIB
    assert cancelled_quickly(node, job)
    assert node.done(job) == [0]


def test_cancel_while_the_answer_is_awaited(node: Node, wild: Callable[..., WildPeer]) -> None:
    peer = wild(lambda *_: peer.stop.wait(10) and None)
    job = node.fetch(peer.port, 0, 3)
    assert peer.reached.wait(5)
    assert cancelled_quickly(node, job)


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """A listener whose backlog is full: the next connection gets no answer."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def test_cancel_while_connecting(node: Node, deaf_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    connecting = threading.Event()
    real = fetch.connect

    def connect(*args: Any, **options: Any) -> PeerConnection:
        connecting.set()
        return real(*args, **options)

    monkeypatch.setattr(fetch, "connect", connect)
    job = node.fetch(deaf_port, 0, 1)
    assert connecting.wait(5)
    assert cancelled_quickly(node, job)


def test_a_connection_that_nobody_answers_times_out(quick: Node, deaf_port: int) -> None:
    assert quick.result_of(quick.fetch(deaf_port, 0, 1)) is FetchResult.TIMEOUT


def test_cancel_of_a_waiting_job(content: Content, tmp_path: Path, wild: Callable[..., WildPeer]) -> None:
    node = Node(content, tmp_path, max_peer_threads=1)
    peer = wild(lambda *_: peer.stop.wait(10) and None)
    first, second, third = (node.fetch(peer.port, i, i + 1) for i in range(3))
    assert peer.reached.wait(5)
    assert cancelled_quickly(node, second)
    node.pool.trim(third, 2)
    assert node.result_of(third) is FetchResult.DONE
    assert cancelled_quickly(node, first)
    node.close()


def test_nobody_minds_a_cancel_that_comes_too_late(node: Node) -> None:
    node.pool.cancel(12345)
    node.pool.trim(12345, 0)


def test_close_cancels_everything(content: Content, tmp_path: Path, wild: Callable[..., WildPeer]) -> None:
    node = Node(content, tmp_path)
    peer = wild(lambda *_: peer.stop.wait(10) and None)
    jobs = [node.fetch(peer.port, i, i + 1) for i in range(5)]
    assert peer.reached.wait(5)
    before = threading.active_count()
    begin = time.monotonic()
    node.close()
    assert time.monotonic() - begin < 0.5
    assert {node.result_of(job) for job in jobs} == {FetchResult.CANCELLED}
    assert threading.active_count() < before
    with pytest.raises(RuntimeError, match="closed"):
        node.fetch(peer.port, 0, 1)


def test_the_limiter_sees_what_arrives(content: Content, tmp_path: Path) -> None:
    limit, other = RateLimit(), RateLimit()
    node = Node(content, tmp_path, peer_limiter=limit, hub_limiter=other)
    with serving(content) as server:
        node.end_of(node.fetch(server.port, 0, COUNT))
    # The little that comes together with the head of an answer is not worth a call.
    assert sum(SIZES) - 4096 <= limit.use().byte_count <= sum(SIZES)
    assert other.use().byte_count == 0
    node.close()


def test_jobs_that_make_no_sense_are_refused(node: Node) -> None:
    targets = node.targets(0, 3)
    job = PeerJob(1, ("127.0.0.1", 1), "/", dict, targets, node.record)
    for pieces in (
        (),
        targets[::-1],
        (targets[0], targets[0]),
        (PieceTarget(0, 1, 0, 0, b""),),
        node.targets(0, 1, digests=False),
    ):
        with pytest.raises(ValueError, match=r"piece|Piece"):
            replace(job, pieces=pieces)


def test_an_id_is_free_again_when_its_job_has_ended(
    node: Node, content: Content, wild: Callable[..., WildPeer]
) -> None:
    peer = wild(lambda *_: peer.stop.wait(10) and None)
    job = PeerJob(500, ("127.0.0.1", peer.port), "/", dict, node.targets(0, 1), node.record)
    node.pool.submit(job)
    with pytest.raises(ValueError, match="500"):
        node.pool.submit(job)
    assert cancelled_quickly(node, 500)
    node.pool.submit(job)
    node.pool.cancel(500)
    node.wait_for(lambda: sum(isinstance(e, JobEnded) for e in node.events) == 2)


def test_what_happens_late_is_told_within_20_ms() -> None:
    told = threading.Event()
    pool = FetchPool(events=lambda events: told.set())
    pool._events.put(PieceDone(1, 1, b"", 1, 0.0))
    assert told.wait(1)
    pool.close()


def test_idle_threads_end_at_once_while_memory_is_short(node: Node, content: Content) -> None:
    def threads() -> int:
        return sum(thread.name.startswith("fetch-peer") for thread in threading.enumerate())

    with serving(content) as server:
        assert node.result_of(node.fetch(server.port, 0, 1)) is FetchResult.DONE
        assert threads() == 1
        node.pool.hush(now=True)
        until = time.monotonic() + 5
        while threads() and time.monotonic() < until:
            time.sleep(0.005)
        assert threads() == 0
        assert node.result_of(node.fetch(server.port, 1, 2)) is FetchResult.DONE, "a new one does the work"
