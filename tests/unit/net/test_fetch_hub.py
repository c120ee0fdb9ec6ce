"""The fetch pool with the real hub reader, against a hub that says what a test wants."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from blake3 import blake3

from exo_dl.core.swarm import FetchResult
from exo_dl.hubs.reader import HubReader, Timeouts
from exo_dl.net.parts import Parts
from tests.unit.net.data_plane import Content, Node, WildPeer, read_head

MIB = 1 << 20
ETAG = "ab" * 32
SIZES = [MIB] * 12


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Content]:
    made = Content(tmp_path_factory.mktemp("content"), SIZES)
    yield made
    os.close(made.fd)


@pytest.fixture
def node(content: Content, tmp_path: Path) -> Iterator[Node]:
    made = Node(content, tmp_path)
    yield made
    made.close()


@pytest.fixture
def reader() -> Iterator[HubReader]:
    made = HubReader(lambda _: {}, timeouts=Timeouts(connect_s=1, first_byte_s=1, stall_s=1))
    yield made
    made.close()


Send = Callable[[socket.socket, bytes], None]


class RangeHub(WildPeer):
    """Serves ranges of the content; ``send`` may hold a body back. Counts requests, notes the ranges.

    ``head`` answers instead and closes; ``whole`` is the head of answers with all of the content.
    """

    def __init__(
        self, content: Content, send: Send = socket.socket.sendall, *, head: bytes = b"", whole: bytes = b""
    ) -> None:
        self.ranges: list[tuple[int, int]] = []
        self._content = content
        self._send = send
        self._head = head
        self._whole = whole
        super().__init__(self._serve_ranges, read_request=False)

    def _serve_ranges(self, sock: socket.socket, _: int) -> None:
        while head := read_head(sock):
            form = re.search(rb"(?i)\r\nrange: bytes=(\d+)-(\d+)", head)
            assert form is not None
            first, end = int(form[1]), int(form[2]) + 1
            self.ranges.append((first, end))
            self.reached.set()
            total = len(self._content.data)
            if self._whole:
                first, end = 0, total
            sock.sendall(
                self._head
                or self._whole
                or f'HTTP/1.1 206 Partial Content\r\nETag: "{ETAG}"\r\nContent-Length: {end - first}\r\n'
                f"Content-Range: bytes {first}-{end - 1}/{total}\r\n\r\n".encode()
            )
            if self._head:
                return
            self._send(sock, self._content.data[first:end])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/org/name/resolve/{'c' * 40}/model.safetensors"


@contextlib.contextmanager
def hub_of(
    content: Content, send: Send = socket.socket.sendall, *, head: bytes = b"", whole: bytes = b""
) -> Iterator[RangeHub]:
    hub = RangeHub(content, send, head=head, whole=whole)
    try:
        yield hub
    finally:
        hub.close()


def test_a_lease_is_one_request_and_its_digests_are_told(node: Node, content: Content, reader: HubReader) -> None:
    with hub_of(content) as hub:
        job = node.fetch_hub(reader, hub.url, 2, 9, etag=ETAG)
        assert node.result_of(job) is FetchResult.DONE
        assert hub.ranges == [(2 * MIB, 9 * MIB)]
        assert node.done(job) == list(range(2, 9))
        assert node.recorded == {i: blake3(content.piece(i)).digest() for i in range(2, 9)}
        assert node.result_of(node.fetch_hub(reader, hub.url, 0, 2, etag=ETAG)) is FetchResult.DONE
        assert hub.accepted == 1
    assert node.path.read_bytes()[: 9 * MIB] == content.data[: 9 * MIB]


def test_jobs_of_one_reader_run_one_after_the_other(node: Node, content: Content, reader: HubReader) -> None:
    with hub_of(content) as hub:
        jobs = [node.fetch_hub(reader, hub.url, i, i + 2) for i in range(0, 10, 2)]
        assert {node.result_of(job) for job in jobs} == {FetchResult.DONE}
        assert hub.accepted == 1


def test_the_end_of_a_lease_is_asked_for_when_it_is_reached(node: Node, content: Content, reader: HubReader) -> None:
    with hub_of(content) as hub:
        job = node.fetch_hub(reader, hub.url, 0, 12, etag=ETAG)
        assert node.result_of(job) is FetchResult.DONE
        assert hub.ranges == [(0, 7 * MIB), (7 * MIB, 12 * MIB)]
        assert node.done(job) == list(range(12))
        assert hub.accepted == 1
    assert node.path.read_bytes() == content.data


def test_an_end_that_is_cut_off_before_it_is_reached_is_never_asked_for(
    node: Node, content: Content, reader: HubReader
) -> None:
    held = Held(MIB)
    with hub_of(content, held) as hub:
        job = node.fetch_hub(reader, hub.url, 0, 12)
        node.wait_for(lambda: 0 in node.recorded)
        node.pool.trim(job, 8)
        held.go.set()
        assert node.result_of(job) is FetchResult.DONE
        assert node.done(job) == list(range(8))
        assert hub.ranges == [(0, 7 * MIB), (7 * MIB, 8 * MIB)]
        # Nothing was left over, so that the connection is good for more.
        assert node.result_of(node.fetch_hub(reader, hub.url, 8, 9)) is FetchResult.DONE
        assert hub.accepted == 1


def test_a_hub_without_ranges_is_asked_for_all_of_a_lease(node: Node, content: Content, reader: HubReader) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(content.data)}\r\n\r\n".encode()
    parts = Parts()
    with hub_of(content, whole=head) as hub:
        for first in (0, 4):
            job = node.fetch_hub(reader, hub.url, first, 12, parts=parts)
            assert node.result_of(job) is FetchResult.DONE
            assert node.done(job) == list(range(first, 12))
        assert hub.ranges == [(0, 7 * MIB), (7 * MIB, 12 * MIB), (4 * MIB, 12 * MIB)]


class Held:
    """Sends a part of a body, and the rest when it may."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.go = threading.Event()

    def __call__(self, sock: socket.socket, data: bytes) -> None:
        sock.sendall(data[: self._count])
        self.go.wait(10)
        sock.sendall(data[self._count :])


def test_a_trim_ends_a_range_early(node: Node, content: Content, reader: HubReader) -> None:
    held = Held(MIB + MIB // 2)
    with hub_of(content, held) as hub:
        job = node.fetch_hub(reader, hub.url, 0, 10)
        node.wait_for(lambda: 0 in node.recorded)
        node.pool.trim(job, 4)
        held.go.set()
        assert node.result_of(job) is FetchResult.DONE
        assert node.done(job) == [0, 1, 2, 3]


def test_a_trim_behind_the_position_ends_a_range_at_once(node: Node, content: Content, reader: HubReader) -> None:
    held = Held(MIB + MIB // 2)
    with hub_of(content, held) as hub:
        job = node.fetch_hub(reader, hub.url, 0, 10)
        node.wait_for(lambda: 0 in node.recorded)
        begin = time.monotonic()
        node.pool.trim(job, 1)
        assert node.result_of(job) is FetchResult.DONE
        assert time.monotonic() - begin < 0.1
        assert node.done(job) == [0]
        held.go.set()
        assert node.result_of(node.fetch_hub(reader, hub.url, 1, 2)) is FetchResult.DONE


@pytest.mark.parametrize("count", [0, MIB + 5])
def test_cancel(node: Node, content: Content, reader: HubReader, count: int) -> None:
    held = Held(count)
    with hub_of(content, held) as hub:
        job = node.fetch_hub(reader, hub.url, 0, 10)
        assert hub.reached.wait(5)
        if count:
            node.wait_for(lambda: 0 in node.recorded)
        begin = time.monotonic()
        node.pool.cancel(job)
        assert node.result_of(job) is FetchResult.CANCELLED
        assert time.monotonic() - begin < 0.1
        held.go.set()
        assert node.result_of(node.fetch_hub(reader, hub.url, 1, 2)) is FetchResult.DONE


@pytest.mark.parametrize(
    ("head", "result", "retry_after_s"),
    [
        (b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n", FetchResult.HUB_BUSY, 7),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", FetchResult.HUB_REFUSED, 0),
        (b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", FetchResult.HUB_REFUSED, 0),
        (b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n", FetchResult.HUB_UNREACHABLE, 0),
    ],
)
def test_refusals(
    node: Node, content: Content, reader: HubReader, head: bytes, result: FetchResult, retry_after_s: float
) -> None:
    with hub_of(content, head=head) as hub:
        end = node.end_of(node.fetch_hub(reader, hub.url, 0, 2))
    assert (end.result, end.retry_after_s) == (result, retry_after_s)
    assert end.detail


def test_a_file_that_moved_on_is_refused(node: Node, content: Content, reader: HubReader) -> None:
    with hub_of(content) as hub:
        end = node.end_of(node.fetch_hub(reader, hub.url, 0, 2, etag="cd" * 32))
    assert end.result is FetchResult.HUB_REFUSED
    assert node.recorded == {}


def test_a_hub_that_is_not_there(node: Node, reader: HubReader) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    assert node.result_of(node.fetch_hub(reader, f"http://127.0.0.1:{port}/x", 0, 1)) is FetchResult.HUB_UNREACHABLE


def test_readers_beyond_the_limit_are_told_busy_and_idle_ones_make_room(content: Content, tmp_path: Path) -> None:
    node = Node(content, tmp_path, max_hub_threads=1)
    first, second = (HubReader(lambda _: {}) for _ in range(2))
    held = Held(MIB)
    with hub_of(content, held) as hub:
        job = node.fetch_hub(first, hub.url, 0, 2)
        node.wait_for(lambda: 0 in node.recorded)
        assert node.result_of(node.fetch_hub(second, hub.url, 4, 6)) is FetchResult.HUB_BUSY
        held.go.set()
        assert node.result_of(job) is FetchResult.DONE
        # The first reader's thread is idle a moment after its job's end was told.
        until = time.monotonic() + 5
        result = FetchResult.HUB_BUSY
        while result is FetchResult.HUB_BUSY and time.monotonic() < until:
            result = node.result_of(node.fetch_hub(second, hub.url, 4, 6))
        assert result is FetchResult.DONE
    node.close()
    first.close()
    second.close()


def test_the_last_bytes_of_an_answer_are_not_waited_for_in_vain(
    node: Node, reader: HubReader, wild: Callable[..., WildPeer]
) -> None:
    """A reader that waits for many bytes at once must not wait for more than are still to come."""

    def behave(sock: socket.socket, _: int) -> None:
        body = node.content.run(0, 1)
        sock.sendall(b"HTTP/1.1 206 Partial Content\r\nContent-Length: %d\r\n" % len(body))
        sock.sendall(b"Content-Range: bytes 0-%d/%d\r\n\r\n" % (len(body) - 1, sum(SIZES)))
        sock.sendall(body[: MIB - 5_000])
        while node.pool.progress(1) < MIB - 5_000 and not peer.stop.wait(0.01):
            pass
        sock.sendall(body[MIB - 5_000 :])
        peer.stop.wait(10)

    peer = wild(behave)
    begin = time.monotonic()
    job = node.fetch_hub(reader, f"http://127.0.0.1:{peer.port}/file", 0, 1)
    assert node.result_of(job) is FetchResult.DONE
    assert time.monotonic() - begin < 0.8, "it waited for the stall"
