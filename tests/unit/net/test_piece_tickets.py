"""Who may ask the piece port, and how often."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.cluster import wait_until
from exo_dl.net import piece_server
from exo_dl.net.piece_server import PieceServer, piece_path
from exo_dl.net.tickets import TicketKey, TicketSigner
from tests.unit.net.data_plane import KEY, PULL, Content, ask, dialled, read_answer, request, serving


@pytest.fixture
def content(tmp_path: Path) -> Iterator[Content]:
    made = Content(tmp_path, [1000] * 10)
    yield made
    os.close(made.fd)


@pytest.fixture
def server(content: Content) -> Iterator[PieceServer]:
    with serving(content) as made:
        yield made


def test_without_a_good_ticket_there_is_nothing(server: PieceServer) -> None:
    path = piece_path(PULL, 0, 1)
    wrong = TicketSigner(TicketKey(b"w" * 32), "node-a", audience="node-b").headers("GET", path)["Authorization"]
    with dialled(server) as sock:
        for headers in ("", f"Authorization: {wrong}\r\n"):
            sock.sendall(f"GET {path} HTTP/1.1\r\n{headers}\r\n".encode())
            status, answer, _ = read_answer(sock)
            assert status == 401
            assert abs(float(answer["exo-dl-time"]) - time.time()) < 5
    assert server.stats().refused == 2


def test_a_ticket_seen_on_the_wire_is_of_no_use(server: PieceServer) -> None:
    data = request(piece_path(PULL, 0, 1))
    with dialled(server) as mine, dialled(server) as theirs:
        mine.sendall(data)
        assert read_answer(mine)[0] == 200
        theirs.sendall(data)
        assert read_answer(theirs)[0] == 401
        theirs.sendall(data.replace(b"/0-1 ", b"/1-2 "))
        assert read_answer(theirs)[0] == 401


def test_a_ticket_whose_time_is_over_is_of_no_use(server: PieceServer) -> None:
    path = piece_path(PULL, 0, 1)
    old = TicketSigner(KEY, "node-a", audience="node-b", clock=lambda: time.time() - 3600).headers("GET", path)
    with dialled(server) as sock:
        sock.sendall(request(path, headers=old))
        assert read_answer(sock)[0] == 401
        sock.sendall(request(path))
        assert read_answer(sock)[0] == 200


def test_an_address_without_tickets_may_not_ask_for_long(server: PieceServer, content: Content) -> None:
    """It is told 429 and when to come again; whoever has a ticket is served, from the same address too."""
    plain = b"GET /v1/pieces/0/0-1 HTTP/1.1\r\n\r\n"
    with dialled(server) as sock:
        asked = 0
        while True:
            sock.sendall(plain)
            status, headers, _ = read_answer(sock)
            if status != 401:
                break
            asked += 1
        assert (status, headers["retry-after"], headers["connection"]) == (429, "1", "close")
        assert sock.recv(1) == b""
    assert piece_server._PER_STRANGER_AT_ONCE <= asked < 2 * piece_server._PER_STRANGER_AT_ONCE
    with dialled(server) as sock:
        sock.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
        assert read_answer(sock)[0] == 429
    assert ask(server, piece_path(PULL, 0, 1))[2] == content.run(0, 1)


def test_a_node_that_asks_too_often_is_told_to_wait(content: Content, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piece_server, "_PER_NODE_AT_ONCE", 5.0)
    monkeypatch.setattr(piece_server, "_PER_NODE_S", 0.5)
    with serving(content) as server, dialled(server) as sock:
        seen = []
        for _ in range(6):
            sock.sendall(request(piece_path(PULL, 8, 9)))
            status, headers, _ = read_answer(sock)
            seen.append(status)
        assert (seen, headers["retry-after"]) == ([200] * 5 + [429], "1")
        sock.sendall(request(piece_path(PULL, 8, 9), "node-c"))
        assert read_answer(sock)[0] == 200, "the connection stays, and others have their own"
        wait_until(lambda: ask(server, piece_path(PULL, 8, 9))[0] == 200, timeout_s=10, what="a token is there again")
