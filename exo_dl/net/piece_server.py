"""The piece server: verified pieces to peers, over HTTP/1.1.

One thread waits for all idle connections, reads requests, and answers what is short. A request for pieces that is
allowed and finds a free slot goes to a sender thread. With no free slot the answer is 503 at once: the peer knows other
holders, and a queue here would only hide the load from it.

A connection belongs to the waiting thread or, while it sends, to a sender; only the waiting thread closes it, so a
descriptor is never closed under a thread that uses it.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from exo_dl.errors import ProtocolError
from exo_dl.net.http_head import MAX_HEAD_BYTES, parse_request
from exo_dl.net.limits import Limiter
from exo_dl.net.listening import accept, open_listeners
from exo_dl.net.piece_tls import PieceTls
from exo_dl.net.request_rate import RequestRate
from exo_dl.net.senders import Locate, Senders, Upload, short_answer
from exo_dl.net.served import NoMemberError, ServedConnection
from exo_dl.net.tickets import TIME_HEADER
from exo_dl.net.uploads import PiecesRequest, ProbeRequest, asks_to_stay, parse_target, piece_path

__all__ = ["PieceServer", "ServerStats", "piece_path"]

Authorize = Callable[[str, str, Mapping[str, str]], str | None]

_MAX_CONNECTIONS = 2048
_MAX_PER_ADDRESS = 512
_SWEEP_S = 0.25
_STRANGER_S = 10.0
_HEAD_S = 5.0
_IDLE_S = 90.0
_BUSY_RETRY_MS = 50
_MAX_TOLD = 1024
# A pull of 3,000 small files asked a node 31 times in its busiest second. Strangers have less, by address.
_PER_NODE_S, _PER_NODE_AT_ONCE = 2_000.0, 4_000.0
_PER_STRANGER_S, _PER_STRANGER_AT_ONCE = 20.0, 200.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServerStats:
    """Counters since the start, and what is open now.

    Attributes:
        connections: open now.
        uploads: being sent now.
        requests: read.
        busy: answered that there is no free slot.
        refused: answered with 4xx (no good ticket, no such piece, no proper request, too many), or TLS that failed.
        bytes_sent: of bodies.
    """

    connections: int
    uploads: int
    requests: int
    busy: int
    refused: int
    bytes_sent: int


class PieceServer:
    """Serves pieces. `start` and `close` once each; the other methods from any thread.

    Args:
        hosts: addresses to listen on; "::" and "0.0.0.0" together for all.
        port: 0: any free one, the same for all hosts.
        locate: (pull id, first, end) -> where the bytes of these pieces are, in order. Called in sender threads; raises
            KeyError (a piece is not held: 409) or NotFoundError (no such pull here: 404).
        authorize: (method, target, headers) -> the node that asks, or None (401). Called in the waiting thread.
        max_uploads: most bodies being sent at once.
        max_per_peer: most to one node.
        limiter: the limit on the bytes of pieces that are sent; None: none.
        tls: for clients that speak TLS, on the same port; None: none may.
        needs_tls: (pull id) -> its pieces are not for everybody: without TLS they are refused (426). Called in the
            waiting thread.
    """

    def __init__(
        self,
        *,
        hosts: Sequence[str],
        port: int,
        locate: Locate,
        authorize: Authorize,
        max_uploads: int = 10,
        max_per_peer: int = 4,
        limiter: Limiter | None = None,
        tls: PieceTls | None = None,
        needs_tls: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._tls = tls
        self._needs_tls = needs_tls
        self._hosts = tuple(hosts)
        self._port = port
        self._authorize = authorize
        self._senders: Senders[ServedConnection] = Senders(
            locate=locate,
            done=self._give_back,
            max_uploads=max_uploads,
            max_per_peer=max_per_peer,
            limiter=limiter,
        )
        self._requests = self._busy = self._refused = 0
        self._told: set[str] = set()
        self._nodes = RequestRate(per_s=_PER_NODE_S, at_once=_PER_NODE_AT_ONCE)
        self._strangers = RequestRate(per_s=_PER_STRANGER_S, at_once=_PER_STRANGER_AT_ONCE)
        self._connections: set[ServedConnection] = set()
        self._per_host: dict[str, int] = {}
        self._returned: deque[tuple[ServedConnection, bool]] = deque()
        self._listeners: list[socket.socket] = []
        self._resting: list[socket.socket] = []
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = socket.socketpair()
        self._closing = False
        self._thread = threading.Thread(target=self._serve, name="piece-server", daemon=True)

    # From any thread

    def start(self) -> None:
        """Listens.

        Raises:
            AlreadyRunningError: another program has the port.
            UsageError: there is no such address on this machine.
        """
        self._listeners, self._port = open_listeners(self._hosts, self._port)
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        for each in (*self._listeners, self._wake_read):
            self._selector.register(each, selectors.EVENT_READ)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens, known after `start`."""
        return self._port

    @property
    def bytes_sent(self) -> int:
        """Bytes of bodies since the start."""
        return self._senders.bytes_sent

    def stats(self) -> ServerStats:
        """See `ServerStats`."""
        return ServerStats(
            connections=len(self._connections),
            uploads=self._senders.uploads,
            requests=self._requests,
            busy=self._busy,
            refused=self._refused + self._senders.refused,
            bytes_sent=self._senders.bytes_sent,
        )

    def stop_pull(self, pull_id: str, *, timeout_s: float = 2.0) -> bool:
        """Cuts the uploads of a pull, and returns when no thread reads its files any more.

        Returns:
            False when one still did after ``timeout_s``.
        """
        return self._senders.stop_pull(pull_id, timeout_s=timeout_s)

    def close(self) -> None:
        """Cuts everything, and returns when the threads have ended."""
        self._closing = True
        self._wake()
        if self._thread.is_alive():
            self._thread.join()
        self._senders.close()
        for each in (*self._listeners, self._wake_read, self._wake_write):
            each.close()
        for connection in self._connections:
            connection.sock.close()
        self._connections.clear()
        self._selector.close()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full: it wakes anyway
            self._wake_write.send(b"\0")

    # The waiting thread

    def _serve(self) -> None:
        next_sweep = 0.0
        while not self._closing:
            for key, _ in self._selector.select(_SWEEP_S):
                if key.data is not None:
                    self._read(key.data)
                elif key.fileobj is self._wake_read:
                    with contextlib.suppress(BlockingIOError):
                        self._wake_read.recv(4096)
                else:
                    self._accept(key.fileobj)  # type: ignore[arg-type]  # only sockets are registered
            while self._returned:
                self._take_back(*self._returned.popleft())
            now = time.monotonic()
            if now >= next_sweep:
                next_sweep = now + _SWEEP_S
                self._sweep(now)

    def _accept(self, listener: socket.socket) -> None:
        try:
            found = accept(listener)
        except OSError:  # this process has no descriptor left: the clients wait in the backlog
            self._drop_oldest()
            self._selector.unregister(listener)
            self._resting.append(listener)
            return
        if found is None:
            return
        sock, host = found
        if len(self._connections) >= _MAX_CONNECTIONS and not self._drop_oldest():
            sock.close()
            return
        if self._per_host.get(host, 0) >= _MAX_PER_ADDRESS:
            sock.close()
            return
        connection = ServedConnection(sock, host, time.monotonic() + _STRANGER_S, self._tls)
        self._connections.add(connection)
        self._per_host[host] = self._per_host.get(host, 0) + 1
        self._selector.register(sock, selectors.EVENT_READ, connection)

    def _drop_oldest(self) -> bool:
        """Closes the connection that would time out first, to make room; False when all are sending."""
        idle = [c for c in self._connections if not c.sending]
        if idle:
            self._drop(min(idle, key=lambda c: (c.known, c.until)))
        return bool(idle)

    def _drop(self, connection: ServedConnection) -> None:
        if connection not in self._connections:
            return  # dropped for another while its event was waiting
        with contextlib.suppress(KeyError):
            self._selector.unregister(connection.sock)
        connection.sock.close()
        self._connections.discard(connection)
        self._per_host[connection.host] -= 1
        if not self._per_host[connection.host]:
            del self._per_host[connection.host]

    def _sweep(self, now: float) -> None:
        """Ends what took too long: idle connections, half requests, bodies that the client does not take."""
        for connection in list(self._connections):
            if not connection.sending and now > connection.until:
                self._drop(connection)
        self._senders.sweep(now)
        for listener in self._resting:
            self._selector.register(listener, selectors.EVENT_READ)
        self._resting.clear()

    def _read(self, connection: ServedConnection) -> None:
        try:
            data = connection.receive()
        except BlockingIOError:
            return
        except OSError as error:
            data = b""
            if isinstance(error, ssl.SSLError | NoMemberError):
                self._refused += 1
                self._tell(connection, "shows no certificate of this cluster")
        if not data:
            self._drop(connection)
            return
        if not connection.received:
            connection.until = min(connection.until, time.monotonic() + _HEAD_S)
        connection.received += data
        self._go_on(connection)

    def _go_on(self, connection: ServedConnection) -> None:
        """Carries out the requests that have come, until one is being sent or none is complete."""
        while connection in self._connections and not connection.sending:
            end = connection.received.find(b"\r\n\r\n")
            if end > MAX_HEAD_BYTES or (end < 0 and len(connection.received) > MAX_HEAD_BYTES):
                self._answer(connection, 431, "The head of the request is too long.", keep=False)
            elif end < 0:
                return
            else:
                head = bytes(connection.received[:end])
                del connection.received[: end + 4]
                connection.until = time.monotonic() + (_IDLE_S if connection.known else _STRANGER_S)
                self._handle(connection, head)

    def _handle(self, connection: ServedConnection, head: bytes) -> None:
        self._requests += 1
        try:
            method, target, headers, keep = parse_request(head)
            node = self._authorize(method, target, headers) if "authorization" in headers else None
            if not self._is_slow_enough(connection, node):
                wait = {"Retry-After": "1"}
                self._answer(connection, 429, "Too many requests.", keep=keep and node is not None, headers=wait)
                return
            if method != "GET":
                self._answer(connection, 405, "Only GET.", keep=False)
                return
            if target == "/healthz":
                self._answer(connection, 200, "ok", keep=keep)
                return
            if node is None or connection.node not in ("", node):
                self._tell(connection, "has no good ticket")
                now = {TIME_HEADER: f"{time.time():.3f}"}
                self._answer(connection, 401, "No good ticket for this request.", keep=keep, headers=now)
                return
            request = parse_target(target)
            stays = asks_to_stay(headers)
        except ProtocolError as error:
            self._tell(connection, "speaks no proper HTTP")
            self._answer(connection, 400, str(error), keep=False)
            return
        connection.known = True
        connection.until = time.monotonic() + _IDLE_S
        if request is None:
            self._answer(connection, 404, "There is no such thing here.", keep=keep)
        elif self._is_bare(connection, request):
            self._answer(connection, 426, "The pieces of this pull go over TLS alone.", keep=False)
        elif not self._begin(connection, Upload(connection.sock, node, request, keep=keep, stays=stays)):
            self._busy += 1
            busy = {"Retry-After": "1", "exo-dl-retry-ms": str(_BUSY_RETRY_MS)}
            self._answer(connection, 503, "All upload slots are taken.", keep=keep, headers=busy)

    def _is_slow_enough(self, connection: ServedConnection, node: str | None) -> bool:
        now = time.monotonic()
        return self._strangers.allow(connection.host, now) if node is None else self._nodes.allow(node, now)

    def _is_bare(self, connection: ServedConnection, request: PiecesRequest | ProbeRequest) -> bool:
        """Whether this would send in clear what is not for everybody."""
        return isinstance(request, PiecesRequest) and not connection.encrypted and self._needs_tls(request.pull_id)

    def _tell(self, connection: ServedConnection, why: str) -> None:
        """A source of bad requests is named in the log once; all of them are counted."""
        if connection.host not in self._told and not connection.known:
            if len(self._told) >= _MAX_TOLD:
                self._told.clear()
            self._told.add(connection.host)
            _log.warning(
                "%s is refused at the piece port: it %s (more from there is only counted)", connection.host, why
            )

    def _begin(self, connection: ServedConnection, upload: Upload) -> bool:
        """Gives a connection to a sender; False when no slot is free."""
        self._selector.unregister(connection.sock)
        connection.lend()
        connection.sending = self._senders.begin(connection, upload)
        if not connection.sending:
            connection.take_back()
            self._selector.register(connection.sock, selectors.EVENT_READ, connection)
        return connection.sending

    def _give_back(self, connection: ServedConnection, keep: bool) -> None:
        """Called in a sender's thread when it is done with a connection."""
        self._returned.append((connection, keep))
        self._wake()

    def _take_back(self, connection: ServedConnection, keep: bool) -> None:
        connection.sending = False
        if not keep:
            self._drop(connection)
            return
        connection.until = time.monotonic() + _IDLE_S
        connection.take_back()
        self._selector.register(connection.sock, selectors.EVENT_READ, connection)
        if connection.received:
            self._go_on(connection)
        if connection.more and not connection.sending:
            self._read(connection)

    def _answer(
        self,
        connection: ServedConnection,
        status: int,
        text: str,
        *,
        keep: bool,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """A short answer, at once. It fits the socket's buffer, or the client is not worth waiting for."""
        self._refused += 400 <= status < 500
        data = short_answer(status, text, keep=keep, headers=headers)
        keep = connection.send_at_once(data, last=not keep)
        if not keep:
            self._drop(connection)
