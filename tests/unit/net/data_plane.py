"""Two ends of the data plane for tests: a piece server over a real file, a fetch pool, and peers that misbehave."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from blake3 import blake3

from exo_dl.core.swarm import FetchResult
from exo_dl.errors import NotFoundError
from exo_dl.net.fetch import FetchEvent, FetchPool, HubJob, JobEnded, PeerJob, PieceDone, PieceTarget
from exo_dl.net.http_head import render_answer
from exo_dl.net.jobs import RangeSource
from exo_dl.net.parts import Parts
from exo_dl.net.piece_server import PieceServer, piece_path
from exo_dl.net.tickets import TicketKey, TicketSigner, authorizer
from exo_dl.store.extent import Extent

KIB = 1024
MIB = 1024 * KIB
MIXED_SIZES = [MIB, MIB, MIB, 700 * KIB + 3, *([1, 17, 999] * 40), 2 * MIB + 1, MIB]
PULL = "0123456789abcdef0123"
KEY = TicketKey(b"k" * 32)


class Content:
    """A file of pieces, and what each of them is."""

    def __init__(self, folder: Path, sizes: Sequence[int]) -> None:
        self.data = random.Random(7).randbytes(sum(sizes))
        self.path = folder / "source"
        self.path.write_bytes(self.data)
        self.fd = os.open(self.path, os.O_RDONLY)
        self.offsets = [sum(sizes[:i]) for i in range(len(sizes))]
        self.sizes = list(sizes)
        self.missing: set[int] = set()

    def piece(self, index: int) -> bytes:
        return self.data[self.offsets[index] : self.offsets[index] + self.sizes[index]]

    def run(self, first: int, end: int) -> bytes:
        return b"".join(self.piece(i) for i in range(first, end))

    def locate(self, pull_id: str, first: int, end: int) -> list[Extent]:
        if pull_id != PULL:
            raise NotFoundError("No such pull here.")
        if end > len(self.sizes) or self.missing & set(range(first, end)):
            raise KeyError(first)
        return [Extent(self.fd, self.offsets[i], self.sizes[i]) for i in range(first, end)]


class Stuck:
    """A `locate` that waits, so that uploads stay under way as long as a test needs."""

    def __init__(self, content: Content) -> None:
        self._content = content
        self.go = threading.Event()
        self.inside = threading.Semaphore(0)

    def __call__(self, pull_id: str, first: int, end: int) -> list[Extent]:
        self.inside.release()
        assert self.go.wait(10)
        return self._content.locate(pull_id, first, end)


class Node:
    """A fetch pool, the file that it writes to, and what it told."""

    def __init__(self, content: Content, folder: Path, **options: object) -> None:
        self.content = content
        self.path = folder / "target"
        self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT)
        os.truncate(self.fd, len(content.data))
        self.events: list[FetchEvent] = []
        self.batches = 0
        self.recorded: dict[int, bytes] = {}
        self.changed = threading.Condition()
        self.pool = FetchPool(events=self._take, **options)  # type: ignore[arg-type]
        self.signer = TicketSigner(KEY, "node-a", audience="node-b")
        self._next = 0

    def _take(self, events: list[FetchEvent]) -> None:
        with self.changed:
            self.events += events
            self.batches += 1
            self.changed.notify_all()

    def record(self, piece: int, digest: bytes) -> None:
        with self.changed:
            self.recorded[piece] = digest
            self.changed.notify_all()

    def targets(self, first: int, end: int, *, digests: bool = True) -> tuple[PieceTarget, ...]:
        c = self.content
        return tuple(
            PieceTarget(i, self.fd, c.offsets[i], c.sizes[i], blake3(c.piece(i)).digest() if digests else None)
            for i in range(first, end)
        )

    def fetch(
        self,
        port: int,
        first: int,
        end: int,
        *,
        host: str = "127.0.0.1",
        held: Callable[[int], bool] | None = None,
        stays: bool = False,
    ) -> int:
        self._next += 1
        path = piece_path(PULL, first, end)
        self.pool.submit(
            PeerJob(
                self._next,
                (host, port),
                path,
                lambda: self.signer.headers("GET", path),
                self.targets(first, end),
                self.record,
                held,
                self.signer.adjust,
                stays=stays,
            )
        )
        return self._next

    def fetch_hub(
        self, reader: RangeSource, url: str, first: int, end: int, *, etag: str = "", parts: Parts | None = None
    ) -> int:
        self._next += 1
        offset = self.content.offsets[first]
        targets = self.targets(first, end, digests=False)
        parts = parts or Parts()
        self.pool.submit(HubJob(self._next, 0, reader, url, etag, offset, targets, self.record, parts=parts))
        return self._next

    def wait_for(self, what: Callable[[], bool], timeout_s: float = 10.0) -> None:
        with self.changed:
            assert self.changed.wait_for(what, timeout_s), "it did not happen in time"

    def end_of(self, job_id: int, timeout_s: float = 10.0) -> JobEnded:
        found: list[JobEnded] = []

        def ended() -> bool:
            found[:] = [e for e in self.events if isinstance(e, JobEnded) and e.job_id == job_id]
            return bool(found)

        self.wait_for(ended, timeout_s)
        assert len(found) == 1
        return found[0]

    def result_of(self, job_id: int, timeout_s: float = 10.0) -> FetchResult:
        return self.end_of(job_id, timeout_s).result

    def done(self, job_id: int) -> list[int]:
        with self.changed:
            return [e.piece for e in self.events if isinstance(e, PieceDone) and e.job_id == job_id]

    def written(self, piece: int) -> bytes:
        return os.pread(self.fd, self.content.sizes[piece], self.content.offsets[piece])

    def close(self) -> None:
        self.pool.close()
        os.close(self.fd)


@contextlib.contextmanager
def serving(content: Content, **options: object) -> Iterator[PieceServer]:
    """A started piece server for one content."""
    settings: dict[str, object] = {
        "hosts": ["127.0.0.1"],
        "port": 0,
        "locate": content.locate,
        "authorize": authorizer(KEY, audience="node-b"),
    }
    server = PieceServer(**{**settings, **options})  # type: ignore[arg-type]
    server.start()
    try:
        yield server
    finally:
        server.close()


def answer(body: bytes, *, length: int | None = None, status: int = 200) -> bytes:
    """An answer of a piece server, perhaps with another length than it has."""
    return render_answer(status, len(body) if length is None else length, {}, keep=True) + body


class WildPeer:
    """Listens, and does with each connection what ``behave`` does; reads the request before, unless told not to."""

    def __init__(self, behave: Callable[[socket.socket, int], None], *, read_request: bool = True) -> None:
        self._behave = behave
        self._read_request = read_request
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.stop = threading.Event()
        self.requests: list[bytes] = []
        self.accepted = 0
        self.reached = threading.Event()
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []
        self._run(self._accept)

    def _run(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            self._open.append(sock)
            self._run(self._serve, sock, self.accepted)

    def _serve(self, sock: socket.socket, number: int) -> None:
        with sock, contextlib.suppress(OSError):
            if self._read_request:
                self.requests.append(read_head(sock))
            self.reached.set()
            self._behave(sock, number)

    def close(self) -> None:
        self.stop.set()
        for sock in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(5)
            assert not thread.is_alive()


def read_head(sock: socket.socket) -> bytes:
    """All up to and with the empty line."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(4096)
        if not more:
            break
        data += more
    return data


def read_answer(sock: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """One whole answer from a blocking socket."""
    data = read_head(sock)
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(headers.get("content-length", 0)):
        more = sock.recv(1 << 16)
        assert more, "the server closed in the middle"
        body += more
    return int(first.split()[1]), headers, body


def request(path: str, node: str = "node-a", *, headers: dict[str, str] | None = None) -> bytes:
    """A GET with a good ticket."""
    all_headers = {**TicketSigner(KEY, node, audience="node-b").headers("GET", path), **(headers or {})}
    lines = [f"GET {path} HTTP/1.1", "Host: test", *(f"{name}: {value}" for name, value in all_headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


@contextlib.contextmanager
def dialled(server: PieceServer, host: str = "127.0.0.1") -> Iterator[socket.socket]:
    with socket.create_connection((host, server.port), timeout=5) as sock:
        yield sock


def ask(server: PieceServer, path: str, **options: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
    with dialled(server) as sock:
        sock.sendall(request(path, **options))  # type: ignore[arg-type]
        return read_answer(sock)
