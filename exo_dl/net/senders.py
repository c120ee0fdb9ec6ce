"""The sender threads of the piece server: a bounded number of bodies at once, each on a blocking socket.

A sender does nothing but `os.sendfile`: a page that is not in memory stops its transfer and no other. What takes too
long is cut from outside by shutting the socket down, which ends the call at once.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from exo_dl.errors import ExoDlError, NotFoundError
from exo_dl.net.http_head import render_answer
from exo_dl.net.limits import Limiter, RateLimit
from exo_dl.net.piece_tls import shut_down
from exo_dl.net.uploads import PiecesRequest, ProbeRequest, send_all, send_extents, send_zeros
from exo_dl.store.extent import Extent
from exo_dl.store.threads import step_back

__all__ = ["Locate", "Senders", "Upload", "short_answer"]

_log = logging.getLogger(__name__)
Locate = Callable[[str, int, int], Sequence[Extent]]
_Client = TypeVar("_Client", bound=Hashable)

_MAX_ANSWER_BYTES = 256 << 20
_LEFT_TO_OTHERS = 5
_STALL_S = 15.0
_SLOWEST_BYTES_PER_S = 64 << 10


@dataclass(slots=True)
class Upload:
    """One answer to be sent: on ``sock``, to ``node``.

    ``keep``: the connection stays open after it; ``stays``: another to that node has just ended.
    """

    sock: socket.socket
    node: str
    request: PiecesRequest | ProbeRequest
    keep: bool
    stays: bool = False
    moved_s: float = field(default_factory=time.monotonic)
    until: float = float("inf")
    is_cut: bool = False

    def cut(self) -> None:
        """Ends it. The descriptor stays open: its sender is still in a call on it."""
        self.is_cut = True
        shut_down(self.sock)


class Senders(Generic[_Client]):
    """Slots and threads for uploads. Thread-safe.

    Args:
        locate: (pull id, first, end) -> where the bytes are; KeyError or NotFoundError where they are not.
        done: called in the sender's thread at the end, with the client and whether its connection can be kept.
        max_uploads: most at once.
        max_per_peer: most to one node.
        limiter: the limit on the bytes of pieces that are sent; None: none. Probes are too small to count.
    """

    def __init__(
        self,
        *,
        locate: Locate,
        done: Callable[[_Client, bool], None],
        max_uploads: int,
        max_per_peer: int,
        limiter: Limiter | None = None,
    ) -> None:
        self._locate = locate
        self._done = done
        self._max_uploads = max_uploads
        self._max_per_peer = max_per_peer
        self._limiter: Limiter = limiter or RateLimit()
        self._lock = threading.Lock()
        self._ended = threading.Condition(self._lock)
        self._running: dict[_Client, Upload] = {}
        self._threads = ThreadPoolExecutor(max_uploads, thread_name_prefix="piece-sender", initializer=step_back)
        self.bytes_sent = 0
        self.refused = 0

    @property
    def uploads(self) -> int:
        """Being sent now."""
        return len(self._running)

    def begin(self, client: _Client, upload: Upload) -> bool:
        """Starts to send; False when no slot is free. Who would only stay leaves the last fifth of them to others."""
        with self._lock:
            most = self._limiter.worthwhile(self._max_uploads)
            most -= most // _LEFT_TO_OTHERS if upload.stays else 0
            same = sum(each.node == upload.node for each in self._running.values())
            if len(self._running) >= most or same >= self._max_per_peer:
                return False
            self._running[client] = upload
        self._threads.submit(self._send, client, upload)
        return True

    def sweep(self, now: float) -> None:
        """Cuts what does not move: to be called a few times a second."""
        with self._lock:
            for upload in self._running.values():
                if now > upload.until or now > upload.moved_s + _STALL_S:
                    upload.cut()

    def stop_pull(self, pull_id: str, *, timeout_s: float) -> bool:
        """Cuts the uploads of a pull and waits for their threads; False when one did not end in time."""

        def running() -> list[Upload]:
            return [
                upload
                for upload in self._running.values()
                if isinstance(upload.request, PiecesRequest) and upload.request.pull_id == pull_id
            ]

        with self._lock:
            for upload in running():
                upload.cut()
            return self._ended.wait_for(lambda: not running(), timeout_s)

    def close(self) -> None:
        """Cuts everything and waits for the threads."""
        with self._lock:
            for upload in self._running.values():
                upload.cut()
        self._threads.shutdown(wait=True)

    def _send(self, client: _Client, upload: Upload) -> None:
        keep = False
        try:
            keep = self._send_answer(upload)
        except (OSError, EOFError) as error:
            _log.debug("Upload to %s ended early: %s", upload.node, error)
        except Exception:  # the edge of this thread: a fault in what it calls must not take the slot with it
            _log.exception("Upload to %s failed.", upload.node)
        with self._lock:
            del self._running[client]
            self._ended.notify_all()
        self._done(client, keep)

    def _send_answer(self, upload: Upload) -> bool:
        """The whole answer; returns whether the connection can be kept."""
        request = upload.request
        extents: list[Extent] = []
        if isinstance(request, ProbeRequest):
            size = request.size
        else:
            try:
                for first, end in request.runs:
                    extents += self._locate(request.pull_id, first, end)
            except (LookupError, ExoDlError) as error:
                upload.sock.sendall(self._not_found(error, keep=upload.keep))
                return upload.keep
            size = sum(extent.size for extent in extents)
            if size > _MAX_ANSWER_BYTES:
                upload.sock.sendall(short_answer(413, "Too many bytes at once.", keep=upload.keep))
                return upload.keep
        now = time.monotonic()
        upload.moved_s, upload.until = now, now + _STALL_S + size / _SLOWEST_BYTES_PER_S
        kind = {"Content-Type": "application/octet-stream"}
        send_all(upload.sock, render_answer(200, size, kind, keep=upload.keep), more=size > 0)

        def moved(count: int) -> None:
            with self._lock:
                self.bytes_sent += count
            if isinstance(request, PiecesRequest):
                # Its own limit is no fault of the peer.
                upload.moved_s = float("inf")
                upload.until += self._limiter.take(count, group=request.pull_id, stopped=lambda: upload.is_cut)
            upload.moved_s = time.monotonic()

        if isinstance(request, ProbeRequest):
            send_zeros(upload.sock, size, moved)
        else:
            send_extents(upload.sock, extents, moved, lambda: self._limiter.chunk_bytes)
        return upload.keep

    def _not_found(self, error: LookupError | ExoDlError, *, keep: bool) -> bytes:
        with self._lock:
            self.refused += 1
        if isinstance(error, LookupError):
            return short_answer(409, "A piece is not held here.", keep=keep)
        if isinstance(error, NotFoundError):
            return short_answer(404, error.what, keep=keep)
        _log.warning("Pieces cannot be read: %s", error)
        return short_answer(500, "The pieces cannot be read.", keep=keep)


def short_answer(status: int, text: str, *, keep: bool, headers: Mapping[str, str] | None = None) -> bytes:
    """A whole answer with a line of text, for people and for the peer's log."""
    body = f"{text}\n".encode()
    return render_answer(status, len(body), {"Content-Type": "text/plain", **(headers or {})}, keep=keep) + body
