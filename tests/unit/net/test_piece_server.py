from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.cluster import wait_until
from exo_dl.errors import AlreadyRunningError, StorageError, UsageError
from exo_dl.net import piece_server, senders
from exo_dl.net.limits import RateLimit
from exo_dl.net.piece_server import PieceServer, piece_path
from exo_dl.store.extent import Extent
from tests.unit.net.data_plane import PULL, Content, Stuck, ask, dialled, read_answer, request, serving

KIB = 1024


@pytest.fixture
def content(tmp_path: Path) -> Iterator[Content]:
    made = Content(tmp_path, [256 * KIB] * 8 + [1, 5, 100, 70 * KIB, 3, 64 * KIB])
    yield made
    os.close(made.fd)


@pytest.fixture
def server(content: Content) -> Iterator[PieceServer]:
    with serving(content) as made:
        yield made


def test_pieces_come_one_after_the_other(server: PieceServer, content: Content) -> None:
    status, headers, body = ask(server, piece_path(PULL, 2, 5))
    assert (status, headers["content-length"]) == (200, str(3 * 256 * KIB))
    assert body == content.run(2, 5)
    # The bytes may be here before the thread that sent them has counted them.
    wait_until(lambda: server.bytes_sent == len(body), timeout_s=5, what="the bytes are counted")


def test_small_pieces_of_many_files_come_in_one_answer(server: PieceServer, content: Content) -> None:
    assert ask(server, piece_path(PULL, 7, 14))[2] == content.run(7, 14)


def test_several_runs_come_in_one_answer(server: PieceServer, content: Content) -> None:
    assert ask(server, f"/v1/pieces/{PULL}/0-1,6-10")[2] == content.run(0, 1) + content.run(6, 10)


def test_a_connection_serves_many_requests(server: PieceServer, content: Content) -> None:
    with dialled(server) as sock:
        for first in range(6):
            sock.sendall(request(piece_path(PULL, first, first + 1)))
            assert read_answer(sock)[2] == content.piece(first)
        assert server.stats().connections == 1
        assert server.stats().requests == 6


def test_requests_may_be_sent_without_waiting(server: PieceServer, content: Content) -> None:
    with dialled(server) as sock:
        sock.sendall(
            b"".join(request(piece_path(PULL, i, i + 1)) for i in (8, 9, 10)) + b"GET /healthz HTTP/1.1\r\n\r\n"
        )
        data = b""
        while not data.endswith(b"ok\n"):
            data += sock.recv(4096)
    assert data.count(b"HTTP/1.1 200") == 4
    at = [data.index(b"\r\n\r\n" + content.piece(i)) for i in (8, 9, 10)]
    assert at == sorted(at)


def test_a_request_may_come_byte_by_byte(server: PieceServer, content: Content) -> None:
    with dialled(server) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in request(piece_path(PULL, 9, 10)):
            sock.send(bytes([byte]))
        assert read_answer(sock)[2] == content.piece(9)


def test_who_asks_for_the_end_of_the_connection_gets_it(server: PieceServer) -> None:
    with dialled(server) as sock:
        sock.sendall(request("/v1/probe/1000", headers={"Connection": "close"}))
        status, headers, body = read_answer(sock)
        assert (status, headers["connection"], body) == (200, "close", bytes(1000))
        assert sock.recv(1) == b""


def test_a_probe_is_zeros_and_bounded(server: PieceServer) -> None:
    assert ask(server, "/v1/probe/3000000")[2] == bytes(3_000_000)
    assert ask(server, "/v1/probe/0")[0] == 200
    assert ask(server, "/v1/probe/4194305")[0] == 400


def test_health_needs_no_ticket(server: PieceServer) -> None:
    with dialled(server) as sock:
        sock.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert read_answer(sock)[0] == 200


def test_what_is_not_here_is_said(server: PieceServer, content: Content) -> None:
    content.missing = {3}
    assert ask(server, piece_path(PULL, 2, 5))[0] == 409
    assert ask(server, piece_path(PULL, 10, 999))[0] == 409
    assert ask(server, piece_path("f" * 20, 0, 1))[0] == 404
    assert ask(server, "/v1/something")[0] == 404
    assert ask(server, piece_path(PULL, 0, 1))[0] == 200


@pytest.mark.parametrize("run", ["5-5", "5-2", "0-5000", "0-1,9-8"])
def test_runs_that_are_none_are_refused(server: PieceServer, run: str) -> None:
    assert ask(server, f"/v1/pieces/{PULL}/{run}")[0] == 400


@pytest.mark.parametrize("run", ["", "-1-4", "a-b", "0-1,", "1", "0x1-2", "99999999999-99999999999999", "0-1/.."])
def test_paths_that_are_none_do_not_exist(server: PieceServer, run: str) -> None:
    assert ask(server, f"/v1/pieces/{PULL}/{run}")[0] == 404


def test_only_get(server: PieceServer) -> None:
    with dialled(server) as sock:
        sock.sendall(b"PUT /healthz HTTP/1.1\r\n\r\n")
        assert read_answer(sock)[0] == 405
        assert sock.recv(1) == b""


@pytest.mark.parametrize("junk", [b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"GET / HTTP/1.1\r\nA: b\r\nA: c\r\n\r\n"])
def test_what_is_no_request_ends_the_connection(server: PieceServer, junk: bytes) -> None:
    with dialled(server) as sock:
        sock.sendall(junk)
        assert read_answer(sock)[0] == 400
        assert sock.recv(1) == b""


def test_a_head_without_end_is_cut(server: PieceServer) -> None:
    with dialled(server) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nA: " + b"a" * 20_000)
        assert read_answer(sock)[0] == 431


def test_a_slow_head_is_cut(content: Content, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piece_server, "_HEAD_S", 0.1)
    with serving(content) as server, dialled(server) as slow, dialled(server) as idle:
        slow.sendall(b"GET /healthz HT")
        assert slow.recv(1) == b""
        idle.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert read_answer(idle)[0] == 200


def test_strangers_are_not_kept_long(content: Content, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piece_server, "_STRANGER_S", 0.1)
    with serving(content) as server, dialled(server) as friend:
        friend.sendall(request(piece_path(PULL, 8, 9)))
        assert read_answer(friend)[0] == 200
        with dialled(server) as stranger:
            assert stranger.recv(1) == b""
        friend.sendall(request(piece_path(PULL, 8, 9)))
        assert read_answer(friend)[0] == 200


def test_more_than_the_slots_is_told_busy_at_once(content: Content) -> None:
    stuck = Stuck(content)
    with serving(content, locate=stuck, max_uploads=3, max_per_peer=2) as server, contextlib.ExitStack() as stack:
        socks = [stack.enter_context(dialled(server)) for _ in range(5)]
        path = piece_path(PULL, 0, 1)
        for sock in socks[:2]:
            sock.sendall(request(path, "node-a"))
            assert stuck.inside.acquire(timeout=5)
        socks[2].sendall(request(path, "node-a"))
        status, headers, _ = read_answer(socks[2])
        assert (status, headers["retry-after"]) == (503, "1")
        assert 0 < int(headers["exo-dl-retry-ms"]) < 1000
        socks[3].sendall(request(path, "node-c"))
        assert stuck.inside.acquire(timeout=5)
        socks[4].sendall(request(path, "node-d"))
        assert read_answer(socks[4])[0] == 503
        assert server.stats().busy == 2
        assert server.stats().uploads == 3
        stuck.go.set()
        for sock in (*socks[:2], socks[3]):
            assert read_answer(sock)[2] == content.piece(0)
        socks[4].sendall(request(path, "node-d"))
        assert read_answer(socks[4])[0] == 200


@pytest.mark.parametrize(
    ("headers", "taken"), [(None, 5), ({"exo-dl-stay": "of a later version"}, 5), ({"Exo-DL-Stay": "1"}, 4)]
)
def test_who_would_only_stay_leaves_the_last_slots_to_others(
    content: Content, headers: dict[str, str] | None, taken: int
) -> None:
    stuck = Stuck(content)
    with serving(content, locate=stuck, max_uploads=5) as server, contextlib.ExitStack() as stack:
        path = piece_path(PULL, 0, 1)
        socks = [stack.enter_context(dialled(server)) for _ in range(6)]
        for index, sock in enumerate(socks[:taken]):
            sock.sendall(request(path, f"node-{index}", headers=headers))
            assert stuck.inside.acquire(timeout=5)
        socks[taken].sendall(request(path, "node-e", headers=headers))
        assert read_answer(socks[taken])[0] == 503
        if taken < 5:
            socks[taken].sendall(request(path, "node-e"))
            assert stuck.inside.acquire(timeout=5)
        stuck.go.set()
        for sock in socks[:5]:
            assert read_answer(sock)[2] == content.piece(0)


def test_a_single_slot_is_for_those_who_stay_as_well(content: Content) -> None:
    with serving(content, max_uploads=1) as server:
        assert ask(server, piece_path(PULL, 0, 1), headers={"exo-dl-stay": "1"})[2] == content.piece(0)


def test_hundreds_of_idle_connections_take_no_slot_and_no_thread(server: PieceServer, content: Content) -> None:
    threads = threading.active_count()
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(dialled(server)) for _ in range(300)]
        assert ask(server, piece_path(PULL, 0, 8))[2] == content.run(0, 8)
        assert server.stats().connections >= 300
        assert threading.active_count() <= threads + 1
        for sock in idle[::50]:
            sock.sendall(request(piece_path(PULL, 8, 11)))
            assert read_answer(sock)[2] == content.run(8, 11)


def test_one_address_does_not_take_all_connections(content: Content, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piece_server, "_MAX_PER_ADDRESS", 3)
    with serving(content) as server, contextlib.ExitStack() as stack:
        for _ in range(3):
            sock = stack.enter_context(dialled(server))
            sock.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
            read_answer(sock)
        with dialled(server) as fourth, contextlib.suppress(ConnectionResetError):
            assert fourth.recv(1) == b""


def test_new_connections_push_out_the_idlest(content: Content, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piece_server, "_MAX_CONNECTIONS", 2)
    with serving(content) as server, dialled(server) as friend:
        friend.sendall(request(piece_path(PULL, 8, 9)))
        assert read_answer(friend)[0] == 200
        with dialled(server) as stranger:
            stranger.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
            assert read_answer(stranger)[0] == 200
            with dialled(server) as newer:
                assert stranger.recv(1) == b""
                newer.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
                assert read_answer(newer)[0] == 200
        friend.sendall(request(piece_path(PULL, 8, 9)))
        assert read_answer(friend)[0] == 200


def big_locate(content: Content) -> list[Extent]:
    """More than any socket's buffers hold."""
    return [Extent(content.fd, 0, len(content.data))] * 64


def test_a_client_that_does_not_read_is_cut(content: Content, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(senders, "_STALL_S", 0.2)
    with serving(content, locate=lambda *_: big_locate(content)) as server, dialled(server) as sock:
        sock.sendall(request(piece_path(PULL, 0, 1)))
        assert sock.recv(100).startswith(b"HTTP/1.1 200")
        assert server.stats().uploads == 1
        with server._senders._ended:
            assert server._senders._ended.wait_for(lambda: server.stats().uploads == 0, 5)


def test_a_stopped_pull_is_not_read_any_more(content: Content) -> None:
    with serving(content, locate=lambda *_: big_locate(content)) as server, dialled(server) as sock:
        sock.sendall(request(piece_path(PULL, 0, 1)))
        assert sock.recv(100).startswith(b"HTTP/1.1 200")
        assert server.stop_pull("f" * 20)
        assert server.stats().uploads == 1
        begin = time.monotonic()
        assert server.stop_pull(PULL)
        assert time.monotonic() - begin < 1
        assert server.stats().uploads == 0


def test_a_stop_does_not_wait_for_ever(content: Content) -> None:
    stuck = Stuck(content)
    with serving(content, locate=stuck) as server, dialled(server) as sock:
        sock.sendall(request(piece_path(PULL, 0, 1)))
        assert stuck.inside.acquire(timeout=5)
        assert not server.stop_pull(PULL, timeout_s=0.05)
        stuck.go.set()


def test_close_cuts_what_is_being_sent(content: Content) -> None:
    with serving(content, locate=lambda *_: big_locate(content)) as server, dialled(server) as sock:
        sock.sendall(request(piece_path(PULL, 0, 1)))
        assert sock.recv(100)
        begin = time.monotonic()
        server.close()
        assert time.monotonic() - begin < 1
        with contextlib.suppress(ConnectionResetError):
            while sock.recv(1 << 20):
                pass


def test_a_file_that_became_shorter_ends_the_connection(content: Content) -> None:
    with serving(content, locate=lambda *_: [Extent(content.fd, 0, len(content.data) + 1)]) as server:
        with pytest.raises((AssertionError, ConnectionResetError)):
            ask(server, piece_path(PULL, 0, 1))
        assert ask(server, "/v1/probe/1")[0] == 200


def test_a_failing_store_does_not_take_slots_with_it(content: Content, caplog: pytest.LogCaptureFixture) -> None:
    errors = [StorageError("The disk is gone."), RuntimeError("a fault")]

    def locate(pull_id: str, first: int, end: int) -> list[Extent]:
        if errors:
            raise errors.pop(0)
        return content.locate(pull_id, first, end)

    with serving(content, locate=locate, max_uploads=1) as server:

        def free() -> bool:
            # The answer may be here before its sender has given the slot back.
            return bool(server._senders._ended.wait_for(lambda: server.stats().uploads == 0, 5))

        assert ask(server, piece_path(PULL, 0, 1))[0] == 500
        with server._senders._ended:
            assert free()
        with pytest.raises((ValueError, IndexError)):
            ask(server, piece_path(PULL, 0, 1))
        with server._senders._ended:
            assert free()
        assert "a fault" in caplog.text
        assert ask(server, piece_path(PULL, 0, 1))[0] == 200


def test_an_answer_has_a_limit(content: Content, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(senders, "_MAX_ANSWER_BYTES", 1000)
    with serving(content) as server:
        assert ask(server, piece_path(PULL, 0, 1))[0] == 413
        assert ask(server, piece_path(PULL, 8, 11))[0] == 200


def test_the_limiter_sees_each_byte(content: Content) -> None:
    limit = RateLimit()
    with serving(content, limiter=limit) as server:
        ask(server, piece_path(PULL, 0, 8))
        assert ask(server, "/healthz")[0] == 200
    assert limit.use().byte_count == 8 * 256 * KIB


def test_both_families_on_one_port(content: Content) -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    with serving(content, hosts=["::", "0.0.0.0"]) as server:
        for host in ("127.0.0.1", "::1"):
            with dialled(server, host) as sock:
                sock.sendall(request(piece_path(PULL, 0, 1)))
                assert read_answer(sock)[2] == content.piece(0)


def test_a_taken_port_is_told(content: Content, server: PieceServer) -> None:
    second = PieceServer(hosts=["127.0.0.1"], port=server.port, locate=content.locate, authorize=lambda *_: None)
    with pytest.raises(AlreadyRunningError, match=str(server.port)):
        second.start()
    second.close()


def test_an_address_of_another_machine_is_told(content: Content) -> None:
    made = PieceServer(hosts=["192.0.2.1"], port=0, locate=content.locate, authorize=lambda *_: None)
    with pytest.raises(UsageError, match=r"192\.0\.2\.1"):
        made.start()
    made.close()
