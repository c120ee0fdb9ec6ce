"""The fetch pool with peers and disks that fail."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from exo_dl.core.swarm import FetchResult
from exo_dl.errors import StorageError
from exo_dl.net.fetch import PeerJob
from exo_dl.net.piece_server import piece_path
from tests.unit.net.data_plane import MIB, MIXED_SIZES, PULL, Content, Node, WildPeer, answer, serving

SIZES = MIXED_SIZES
COUNT = len(SIZES)


def test_a_peer_that_is_not_there(node: Node) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    end = node.end_of(node.fetch(port, 0, 1))
    assert end.result is FetchResult.FAILED
    assert str(port) in end.detail
    assert node.result_of(node.fetch(port, 0, 1, host="no such name")) is FetchResult.FAILED


def test_a_peer_that_dies_in_the_middle(node: Node, content: Content, wild: Callable[..., WildPeer]) -> None:
    peer = wild(lambda sock, _: sock.sendall(answer(content.run(0, 2)[: MIB + 100], length=3 * MIB)))
    job = node.fetch(peer.port, 0, 3)
    end = node.end_of(job)
    assert end.result is FetchResult.FAILED
    assert node.done(job) == [0]
    assert end.byte_count == MIB + 100


def test_a_peer_process_that_is_killed_in_the_middle(node: Node, content: Content) -> None:
    code = (
        "import socket, sys, time\n"
        "s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True)\n"
        "c, _ = s.accept(); c.recv(4096)\n"
        "c.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 3145728\\r\\n\\r\\n')\n"
        "c.sendall(open(sys.argv[1], 'rb').read(1500000))\n"
        "time.sleep(60)\n"
    )
    command = ["python3", "-c", code, str(content.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        job = node.fetch(int(process.stdout.readline()), 0, 3)
        node.wait_for(lambda: 0 in node.recorded)
        process.kill()
        assert node.result_of(job) is FetchResult.FAILED
    assert node.done(job) == [0]


def test_a_peer_that_stalls(quick: Node, content: Content, wild: Callable[..., WildPeer]) -> None:
    def behave(sock: socket.socket, _: int) -> None:
        sock.sendall(answer(content.run(0, 1), length=3 * MIB))
        peer.stop.wait(10)

    peer = wild(behave)
    job = quick.fetch(peer.port, 0, 3)
    assert quick.result_of(job) is FetchResult.TIMEOUT
    assert quick.done(job) == [0]


def test_a_peer_that_does_not_answer(quick: Node, wild: Callable[..., WildPeer]) -> None:
    peer = wild(lambda *_: peer.stop.wait(10) and None)
    assert quick.result_of(quick.fetch(peer.port, 0, 3)) is FetchResult.TIMEOUT


def drip(sock: socket.socket, data: bytes, stop: threading.Event) -> None:
    """Sends byte by byte, 10 ms apart."""
    for byte in data:
        sock.sendall(bytes([byte]))
        if stop.wait(0.01):
            return


def test_a_peer_that_answers_byte_by_byte(quick: Node, content: Content, wild: Callable[..., WildPeer]) -> None:
    peer = wild(lambda sock, _: drip(sock, answer(content.run(4, 9)), peer.stop))
    assert quick.result_of(quick.fetch(peer.port, 4, 9)) is FetchResult.TIMEOUT

    def behave(sock: socket.socket, _: int) -> None:
        sock.sendall(answer(b"", length=sum(SIZES[4:9])))
        drip(sock, content.run(4, 9), body.stop)

    body = wild(behave)
    begin = time.monotonic()
    assert quick.result_of(quick.fetch(body.port, 4, 9)) is FetchResult.TIMEOUT
    assert time.monotonic() - begin < 1


@pytest.mark.parametrize(
    "head",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 1000000\r\n\r\nno",
        b"HTTP/1.1 200 OK\r\n" + b"X-A: " + b"a" * 20_000,
        b"",
    ],
)
def test_answers_that_are_none_of_ours(node: Node, wild: Callable[..., WildPeer], head: bytes) -> None:
    peer = wild(lambda sock, _: sock.sendall(head))
    assert node.result_of(node.fetch(peer.port, 0, 1)) is FetchResult.FAILED
    assert node.recorded == {}


def test_text_from_a_peer_is_made_harmless(node: Node, wild: Callable[..., WildPeer]) -> None:
    peer = wild(lambda sock, _: sock.sendall(answer(b"\x1b[2Jhello\r\n" + b"x" * 3000, status=500)))
    detail = node.end_of(node.fetch(peer.port, 0, 1)).detail
    assert detail.startswith("500 [2Jhello")
    assert len(detail) < 250


def test_a_head_in_two_parts(node: Node, content: Content, wild: Callable[..., WildPeer]) -> None:
    def behave(sock: socket.socket, _: int) -> None:
        data = answer(content.piece(5))
        sock.sendall(data[:20])
        node.wait_for(lambda: not peer.stop.is_set())
        sock.sendall(data[20:])

    peer = wild(behave)
    assert node.result_of(node.fetch(peer.port, 5, 6)) is FetchResult.DONE


def test_ipv6(node: Node, content: Content) -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    with serving(content, hosts=["::1"]) as server:
        assert node.result_of(node.fetch(server.port, 0, 2, host="::1")) is FetchResult.DONE


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "small"
    path.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(path)], capture_output=True)
    if made.returncode:
        pytest.skip("no tmpfs can be mounted here")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_full_disk(content: Content, small_disk: Path) -> None:
    node = Node(content, small_disk)
    with serving(content) as server:
        job = node.fetch(server.port, 0, 4)
        end = node.end_of(job)
        assert end.result is FetchResult.NO_ROOM
        assert "No space left" in end.detail
        assert node.done(job) == [0, 1]
    node.close()


@pytest.mark.parametrize(
    ("error", "result"),
    [
        (StorageError("full"), FetchResult.NO_ROOM),
        (OSError(28, "No space left on device"), FetchResult.NO_ROOM),
        (KeyError(0), FetchResult.CANCELLED),
        (RuntimeError("a fault"), FetchResult.FAILED),
    ],
)
def test_a_piece_that_cannot_be_recorded(
    node: Node, content: Content, error: Exception, result: FetchResult, caplog: pytest.LogCaptureFixture
) -> None:
    def record(piece: int, digest: bytes) -> None:
        raise error

    path = piece_path(PULL, 0, 2)
    with serving(content) as server:
        address = ("127.0.0.1", server.port)
        headers = node.signer.headers
        node.pool.submit(PeerJob(77, address, path, lambda: headers("GET", path), node.targets(0, 2), record))
        assert node.result_of(77) is result
    assert node.done(77) == []
    assert ("a fault" in caplog.text) == (result is FetchResult.FAILED)
