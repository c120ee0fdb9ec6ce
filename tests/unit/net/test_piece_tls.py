"""Pieces that are not for everybody: over TLS between members, and in no other way."""

from __future__ import annotations

import contextlib
import datetime
import socket
import ssl
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.cluster import wait_until
from exo_dl.core.swarm import FetchResult
from exo_dl.net.identity import Identity, new_node_id, new_secret
from exo_dl.net.jobs import PeerJob
from exo_dl.net.piece_server import PieceServer, piece_path
from exo_dl.net.piece_tls import PieceTls
from exo_dl.net.readers import issue
from exo_dl.net.tickets import TicketSigner, authorizer
from tests.unit.net.data_plane import KEY, MIXED_SIZES, PULL, Content, Node, read_answer, request, serving

SECRET = new_secret()
SERVER, CLIENT, OTHER = new_node_id(), new_node_id(), new_node_id()


def tls_of(node_id: str, secret: str = SECRET) -> PieceTls:
    return PieceTls(Identity(secret, node_id))


@contextlib.contextmanager
def gated(content: Content) -> Iterator[PieceServer]:
    """A server that gives the pieces of the one pull over TLS alone."""
    authorize = authorizer(KEY, audience="node-b")
    with serving(content, authorize=authorize, tls=tls_of(SERVER), needs_tls=lambda pull: pull == PULL) as server:
        yield server


def fetch(node: Node, port: int, first: int, end: int, *, expect: str = SERVER, ticket_of: str = CLIENT) -> int:
    node._next += 1
    path = piece_path(PULL, first, end)
    signer = TicketSigner(KEY, ticket_of, audience="node-b")
    node.pool.submit(
        PeerJob(
            node._next,
            ("127.0.0.1", port),
            path,
            lambda: signer.headers("GET", path),
            node.targets(first, end),
            node.record,
            tls_node=expect,
        )
    )
    return node._next


@pytest.fixture
def member(content: Content, tmp_path: Path) -> Iterator[Node]:
    made = Node(content, tmp_path, tls=tls_of(CLIENT))
    yield made
    made.close()


class Wire:
    """Stands between two ends and keeps what goes over."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.heard = bytearray()
        self._open: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
                self._open += [near, far]
                threading.Thread(target=self._carry, args=(near, far), daemon=True).start()
                threading.Thread(target=self._carry, args=(far, near), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self.heard += data
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


def test_pieces_go_over_tls_and_nothing_of_them_in_clear(member: Node, content: Content) -> None:
    count = len(MIXED_SIZES)
    with gated(content) as server:
        wire = Wire(server.port)
        try:
            assert member.end_of(fetch(member, wire.port, 0, count)).detail == ""
            assert member.result_of(fetch(member, wire.port, 0, 2)) is FetchResult.DONE
            assert server.stats().connections == 1, "the connection is kept"
        finally:
            wire.close()
    assert member.path.read_bytes() == content.data
    assert len(wire.heard) > len(content.data)
    for secret in (content.piece(0)[:32], content.piece(count - 1)[-32:], b"/v1/pieces", b"Authorization"):
        assert secret not in wire.heard


def test_without_tls_such_pieces_are_refused(node: Node, content: Content) -> None:
    with gated(content) as server:
        end = node.end_of(node.fetch(server.port, 0, 1))
        assert (end.result, end.byte_count) == (FetchResult.FAILED, 0)
        assert "426" in end.detail
        assert server.bytes_sent == 0


def test_a_public_pull_needs_no_tls_and_may_use_it(member: Node, content: Content) -> None:
    with serving(content, tls=tls_of(SERVER)) as server:
        assert member.result_of(member.fetch(server.port, 0, 1)) is FetchResult.DONE
        assert member.result_of(fetch(member, server.port, 1, 2)) is FetchResult.DONE
        assert server.stats().connections == 2, "one does not stand in for the other"


def test_another_node_than_was_meant_gets_no_request(member: Node, content: Content) -> None:
    with gated(content) as server:
        end = member.end_of(fetch(member, server.port, 0, 1, expect=OTHER))
        assert end.result is FetchResult.FAILED
        assert server.stats().requests == 0


def test_a_node_without_tls_asks_nothing_in_clear(node: Node, content: Content) -> None:
    with gated(content) as server:
        assert node.result_of(fetch(node, server.port, 0, 1)) is FetchResult.FAILED
        assert server.stats().requests == 0


def test_a_ticket_of_another_node_is_refused(member: Node, content: Content) -> None:
    with gated(content) as server:
        end = member.end_of(fetch(member, server.port, 0, 1, ticket_of=OTHER))
        assert end.result is FetchResult.FAILED
        assert "401" in end.detail


def test_a_certificate_that_has_ended_opens_nothing(content: Content) -> None:
    """The side that connects believes it; the server does not."""
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=60)
    context = PieceTls(Identity(SECRET, CLIENT, clock=lambda: past))._context(server=False)
    with gated(content) as server:
        raw = socket.create_connection(("127.0.0.1", server.port), timeout=5)
        with raw, contextlib.suppress(OSError), context.wrap_socket(raw, server_hostname=SERVER) as sock:
            sock.sendall(request(piece_path(PULL, 0, 1), CLIENT))
            assert sock.recv(1) == b""
        wait_until(lambda: server.stats().refused == 1, timeout_s=5, what="it is counted")
        assert server.stats().requests == 0


def test_strangers_get_no_word_over_tls(content: Content) -> None:
    anyone = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
    with gated(content) as server:
        for stranger in (anyone, tls_of(CLIENT, new_secret())._context(server=False)):
            raw = socket.create_connection(("127.0.0.1", server.port), timeout=5)
            with raw, contextlib.suppress(OSError), stranger.wrap_socket(raw, server_hostname=SERVER) as sock:
                sock.sendall(request(piece_path(PULL, 0, 1)))
                assert sock.recv(1) == b""
        assert server.stats().requests == 0
        wait_until(lambda: server.stats().refused == 2, timeout_s=5, what="both are counted")
        assert server.bytes_sent == 0


def test_a_handshake_that_stops_harms_nobody(member: Node, content: Content) -> None:
    with gated(content) as server, socket.create_connection(("127.0.0.1", server.port), timeout=5) as stopped:
        stopped.sendall(b"\x16\x03\x01")
        assert member.result_of(fetch(member, server.port, 0, 1)) is FetchResult.DONE
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as broken:
            broken.sendall(b"\x16" + b"no handshake at all " * 40)
            with contextlib.suppress(ConnectionResetError):
                while broken.recv(4096):
                    pass
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as clear:
            clear.sendall(b"GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n")
            assert read_answer(clear)[0] == 200


def test_a_fetch_over_tls_is_cancelled_at_once(member: Node, content: Content) -> None:
    """Whatever it waits for: here a body that stops in the middle."""
    listener = socket.create_server(("127.0.0.1", 0))
    far = tls_of(SERVER)
    stop, sent = threading.Event(), threading.Event()

    def serve() -> None:
        raw, _ = listener.accept()
        with far.serve(raw) as sock:
            sock.do_handshake()
            sock.recv(4096)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % MIXED_SIZES[0] + content.piece(0)[:300_000])
            sent.set()
            stop.wait(10)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        job = fetch(member, listener.getsockname()[1], 0, 1)
        assert sent.wait(5)
        member.pool.cancel(job)
        assert member.end_of(job, 0.5).result is FetchResult.CANCELLED
    finally:
        stop.set()
        thread.join(5)
        listener.close()


def test_a_read_only_ticket_opens_nothing_here(content: Content, tmp_path: Path) -> None:
    """The cluster's authority signs those too. Even with a good ticket for pieces nothing is answered."""
    ticket = issue(Identity(SECRET, CLIENT), days=1)
    pem = tmp_path / "ticket.pem"
    pem.write_text(ticket.pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=ticket.authority.decode())
    context.load_cert_chain(pem)
    with gated(content) as server:
        plain = socket.create_connection(("127.0.0.1", server.port), 5)
        with contextlib.suppress(OSError), context.wrap_socket(plain, server_hostname=SERVER) as sock:
            sock.sendall(request(piece_path(PULL, 0, 1), CLIENT))
            assert sock.recv(1) == b""
        assert server.stats().requests == 0


def test_where_a_key_cannot_be_loaded_those_in_clear_are_still_served(
    node: Node, member: Node, content: Content, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(content, tls=tls_of(SERVER)) as server:
        monkeypatch.setattr(tempfile, "tempdir", "/proc/no-such-folder")
        assert member.result_of(fetch(member, server.port, 0, 1)) is FetchResult.FAILED
        with socket.create_connection(("127.0.0.1", server.port), 5) as hello:
            hello.sendall(b"\x16\x03\x01")
            with contextlib.suppress(ConnectionResetError):
                assert hello.recv(1) == b"", "the connection is closed"
        assert node.result_of(node.fetch(server.port, 0, 1)) is FetchResult.DONE
