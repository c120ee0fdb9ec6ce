"""HTTP/1.1 as a fetching node speaks it to a piece server: blocking sockets, kept from one request to the next."""

from __future__ import annotations

import errno
import math
import os
import select
import socket
import ssl
import struct
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from exo_dl.core.swarm import FetchResult
from exo_dl.errors import ProtocolError, StorageError
from exo_dl.net.gather import Gather
from exo_dl.net.http_head import MAX_HEAD_BYTES, parse_answer
from exo_dl.net.piece_tls import PieceTls, shut_down
from exo_dl.net.receive import JobStopped

__all__ = ["Answer", "ConnectionLostError", "PeerConnection", "PeerConnections", "connect"]

_HEAD_READ_BYTES = 4 << 10
_MAX_NOTE_BYTES = 4 << 10
_POLL_S = 0.05
_KEEP_S = 30.0
_MAX_KEPT = 64
_MAX_KEPT_PER_PEER = 4
_LOST = {errno.ECONNRESET, errno.EPIPE, errno.ESHUTDOWN, errno.ENOTCONN, errno.ECONNABORTED, errno.EBADF}


class ConnectionLostError(Exception):
    """The peer closed. ``fresh``: nothing of an answer had come, so that the request may be sent again."""

    def __init__(self, detail: str, *, fresh: bool = False) -> None:
        super().__init__(detail)
        self.fresh = fresh


@dataclass(frozen=True, slots=True)
class Answer:
    """The head of an answer.

    Attributes:
        status: 100..599.
        headers: names in lower case.
        length: bytes of body.
        begun: what came of the body together with the head.
    """

    status: int
    headers: Mapping[str, str]
    length: int
    begun: memoryview

    @property
    def retry_after_s(self) -> float:
        """What the peer asks to wait: 0..60 seconds; 0 when it names nothing."""
        for name, unit_s in (("exo-dl-retry-ms", 0.001), ("retry-after", 1.0)):
            seconds = _number(self.headers.get(name, "")) * unit_s
            if seconds > 0:
                return min(seconds, 60.0)
        return 0.0

    def clock_s(self, name: str) -> float | None:
        """Unix time from header ``name``; None where it is none."""
        seconds = _number(self.headers.get(name, ""))
        return seconds if 0 < seconds < 1e11 else None


def _number(text: str) -> float:
    """A finite number from a header; 0 for anything else."""
    try:
        value = float(text) if len(text) <= 32 else 0.0
    except ValueError:
        return 0.0
    return value if math.isfinite(value) else 0.0


class PeerConnection:
    """One connection to a peer's piece port. Used by one thread at a time; only `shut` comes from others.

    Args:
        sock: connected and blocking.
        address: of the peer.
        node_id: which its certificate names, where ``sock`` speaks TLS.
    """

    def __init__(self, sock: socket.socket, address: tuple[str, int], node_id: str = "") -> None:
        self.address = address
        self.node_id = node_id
        self.idle_since = 0.0
        self.used = False
        self._sock = sock
        self._timeout_s = 0.0
        self._gather = Gather(sock)

    def serves(self, address: tuple[str, int], node_id: str) -> bool:
        """Whether it leads to ``address``, with TLS to ``node_id`` where that is given, without it where not."""
        return (self.address, self.node_id) == (address, node_id)

    def fileno(self) -> int:
        """The descriptor."""
        return self._sock.fileno()

    def set_timeout(self, seconds: float) -> None:
        """How long a read or a write waits without one byte. The kernel's own timer: no call to poll for each read."""
        if seconds != self._timeout_s and self.node_id:
            self._sock.settimeout(seconds)
            self._timeout_s = seconds
        elif seconds != self._timeout_s:
            value = struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000))
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)
            self._timeout_s = seconds

    def gather(self, byte_count: int) -> bool:
        """Waits a moment for so many bytes of a body; see `Gather`."""
        return self._gather.wait(byte_count)

    def readinto(self, view: memoryview) -> int:
        """Receives what is there, at least one byte; 0 at the end.

        Raises:
            JobStopped: TIMEOUT.
            ConnectionLostError: reset.
        """
        try:
            return self._gather.recv_into(view)
        except OSError as error:
            raise self._failure(error) from error

    def ask(self, path: str, headers: Mapping[str, str], buffer: memoryview, *, timeout_s: float) -> Answer:
        """Sends one GET and reads the head of its answer.

        Args:
            path: the request target.
            headers: beside Host.
            buffer: used for the head, at least 16 KiB; `Answer.begun` points into it.
            timeout_s: until the head is complete.

        Raises:
            JobStopped: TIMEOUT, or FAILED for what is no proper answer.
            ConnectionLostError: the peer closed.
        """
        host, port = self.address
        lines = [f"GET {path} HTTP/1.1", f"Host: [{host}]:{port}" if ":" in host else f"Host: {host}:{port}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        until = time.monotonic() + timeout_s
        self.set_timeout(timeout_s)
        try:
            self._sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        except OSError as error:
            raise self._failure(error, fresh=True) from error
        return self._read_head(buffer, until)

    def _read_head(self, buffer: memoryview, until: float) -> Answer:
        got = 0
        while True:
            try:
                count = self.readinto(buffer[got : min(got + _HEAD_READ_BYTES, MAX_HEAD_BYTES)])
            except ConnectionLostError as error:
                raise ConnectionLostError(str(error), fresh=got == 0) from error
            if not count:
                raise ConnectionLostError("the peer closed the connection", fresh=got == 0)
            self.used = True
            got += count
            head = bytes(buffer[:got])
            end = head.find(b"\r\n\r\n")
            if end >= 0:
                try:
                    status, headers, length = parse_answer(head[:end])
                except ProtocolError as error:
                    raise JobStopped(FetchResult.FAILED, f"The peer's answer cannot be used: {error}") from error
                return Answer(status, headers, length, buffer[end + 4 : got])
            if got >= MAX_HEAD_BYTES:
                raise JobStopped(FetchResult.FAILED, "The peer's answer has too long a head.")
            if time.monotonic() > until:
                raise JobStopped(FetchResult.TIMEOUT, "The peer took too long for the head of its answer.")

    def read_note(self, answer: Answer) -> str | None:
        """The text of an answer that is no 200; None where it is not short: then the connection is not to be kept."""
        if answer.length > _MAX_NOTE_BYTES or len(answer.begun) > answer.length:
            return None
        text = bytearray(answer.begun)
        view = memoryview(bytearray(_MAX_NOTE_BYTES))
        while len(text) < answer.length:
            count = self.readinto(view[: answer.length - len(text)])
            if not count:
                return None
            text += view[:count]
        shown = "".join(c for c in text.decode("utf-8", "replace") if c.isprintable())
        return shown[:200]

    def is_usable(self) -> bool:
        """An idle connection that the peer closed, or on which it said something unasked, is not."""
        if self.node_id:
            self.set_timeout(0.0)  # else the flag below would not keep it from waiting
        try:
            # Also below TLS: on an idle connection there is nothing to be said.
            socket.socket.recv(self._sock, 1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def shut(self) -> None:
        """Ends what another thread waits for on it, at once."""
        shut_down(self._sock)

    def close(self) -> None:
        """Done with it."""
        self._sock.close()

    def _failure(self, error: OSError, *, fresh: bool = False) -> Exception:
        if isinstance(error, BlockingIOError | TimeoutError):
            return JobStopped(FetchResult.TIMEOUT, f"{self.address[0]} sent nothing for {self._timeout_s:g} s.")
        if error.errno in _LOST:
            return ConnectionLostError("the peer closed the connection", fresh=fresh)
        return JobStopped(FetchResult.FAILED, f"The connection to {self.address[0]} failed: {error.strerror}.")


def connect(
    address: tuple[str, int],
    *,
    timeout_s: float,
    stopped: Callable[[], bool],
    tls: PieceTls | None = None,
    node_id: str = "",
) -> PeerConnection:
    """A new connection.

    Args:
        address: host and port.
        timeout_s: for all addresses that the host has, together.
        stopped: asked every 50 ms.
        tls: makes the TLS connection where ``node_id`` is given.
        node_id: the node that must answer, over TLS; "": in clear.

    Raises:
        JobStopped: TIMEOUT, CANCELLED, or FAILED with what the system said.
    """
    host, port = address
    until = time.monotonic() + timeout_s
    failure = JobStopped(FetchResult.FAILED, f"{host} has no address.")
    for family, kind, protocol, _, target in _addresses(host, port):
        sock = socket.socket(family, kind, protocol)
        try:
            _finish_connect(sock, target, until, stopped)
        except OSError as error:
            sock.close()
            failure = JobStopped(FetchResult.FAILED, f"{host} port {port} cannot be reached: {error.strerror}.")
        except BaseException:
            sock.close()
            raise
        else:
            sock.setblocking(True)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if node_id:
                sock = _encrypt(sock, tls, node_id, until)
            return PeerConnection(sock, address, node_id)
    raise failure


def _encrypt(sock: socket.socket, tls: PieceTls | None, node_id: str, until: float) -> ssl.SSLSocket:
    if tls is None:
        sock.close()
        raise JobStopped(FetchResult.FAILED, "This fetch needs TLS, and there is none.")
    try:
        wrapped = tls.connect(sock, node_id)
    except StorageError as error:
        sock.close()
        raise JobStopped(FetchResult.FAILED, error.what) from error
    try:
        wrapped.settimeout(max(0.001, until - time.monotonic()))
        wrapped.do_handshake()
    except OSError as error:
        wrapped.close()
        raise JobStopped(FetchResult.FAILED, f"No TLS with {node_id}: {error}.") from error
    except BaseException:
        wrapped.close()
        raise
    return wrapped


def _addresses(host: str, port: int) -> list[tuple[int, int, int, str, tuple[object, ...]]]:
    try:
        return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    except (OSError, UnicodeError) as error:
        raise JobStopped(FetchResult.FAILED, f"{host[:80]!r} cannot be resolved.") from error


def _finish_connect(sock: socket.socket, target: tuple[object, ...], until: float, stopped: Callable[[], bool]) -> None:
    """Connects in slices, so that it can be stopped on every system."""
    sock.setblocking(False)
    code = sock.connect_ex(target)
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    while code in (errno.EINPROGRESS, errno.EAGAIN):
        if stopped():
            raise JobStopped(FetchResult.CANCELLED)
        left = until - time.monotonic()
        if left <= 0:
            raise JobStopped(FetchResult.TIMEOUT, f"{target[0]} port {target[1]} did not answer.")
        if poll.poll(min(left, _POLL_S) * 1000):
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            break
    if code:
        raise OSError(code, os.strerror(code))


class PeerConnections:
    """Idle connections, the last used first, bounded in number and age. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: OrderedDict[int, PeerConnection] = OrderedDict()
        self._closed = False

    def take(self, address: tuple[str, int], node_id: str = "") -> PeerConnection | None:
        """A connection to the peer that still stands, or None; with TLS to ``node_id`` where that is given."""
        while True:
            with self._lock:
                key = next((k for k in reversed(self._idle) if self._idle[k].serves(address, node_id)), None)
                found = self._idle.pop(key) if key is not None else None
            if found is None:
                return None
            if time.monotonic() - found.idle_since < _KEEP_S and found.is_usable():
                return found
            found.close()

    def give(self, connection: PeerConnection) -> None:
        """Keeps a connection on which an answer was read to its end."""
        connection.idle_since = now = time.monotonic()
        surplus: list[PeerConnection] = []
        with self._lock:
            self._idle[id(connection)] = connection
            same = [k for k, c in self._idle.items() if c.address == connection.address]
            old = [k for k, c in self._idle.items() if now - c.idle_since >= _KEEP_S]
            drop = dict.fromkeys([*old, *same[:-_MAX_KEPT_PER_PEER], *list(self._idle)[:-_MAX_KEPT]])
            surplus = [self._idle.pop(key) for key in (self._idle if self._closed else drop).copy()]
        for each in surplus:
            each.close()

    def prune(self) -> None:
        """Closes the idle ones that are of no use any more."""
        now = time.monotonic()
        self._close_where(lambda each: now - each.idle_since >= _KEEP_S or not each.is_usable())

    def close(self) -> None:
        """Closes all idle ones, and every one that is given back later."""
        with self._lock:
            self._closed = True
        self._close_where(lambda _: True)

    def _close_where(self, useless: Callable[[PeerConnection], bool]) -> None:
        with self._lock:
            gone = [self._idle.pop(key) for key, each in list(self._idle.items()) if useless(each)]
        for each in gone:
            each.close()
