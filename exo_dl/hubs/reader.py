"""Byte ranges from a hub, straight into the caller's buffer: one persistent connection for one thread.

A `HubReader` belongs to one thread (a hub slot). Other threads may call `HubReader.abort`, `HubReader.close`,
`HubReader.connect`, `HubRange.limit`, `HubRange.abort` and read the properties.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Mapping

from exo_dl.errors import CancelledPullError, ExoDlError, HubError, IntegrityError, UsageError
from exo_dl.hubs.answers import parse_content_range, shown_url
from exo_dl.hubs.connection import Answer
from exo_dl.hubs.dialing import Operation, Timeouts
from exo_dl.hubs.exchange import Exchange, RedirectCache

__all__ = ["HubRange", "HubReader", "RedirectCache", "Timeouts"]

_MAX_BREAKS = 3
_SKIP_BYTES = 64 << 10


class HubRange:
    """The bytes ``first <= i < end`` of one file, being read. Made by `HubReader.open_range`."""

    def __init__(
        self,
        exchange: Exchange,
        operation: Operation,
        leave: Callable[[Operation], None],
        *,
        url: str,
        first: int,
        end: int,
        etag: str,
        size: int | None,
        window: Callable[[], int | None],
    ) -> None:
        self._exchange = exchange
        self._operation = operation
        self._leave = leave
        self._window = window
        self._url = url
        self._etag = etag.lower()
        self._lock = threading.Lock()
        self._first = first
        self._position = first
        self._receiving_to = first
        self._end = end
        self._asked_end = first
        self._total = size
        self._answer: Answer | None = None
        self._answer_end = first
        self._skip = 0
        self._asked_at = first
        self._breaks = 0

    @property
    def first(self) -> int:
        """The first byte of the range."""
        return self._first

    @property
    def position(self) -> int:
        """The next byte that `readinto` will give."""
        return self._position

    @property
    def end(self) -> int:
        """One past the last byte that will be given (see `limit`)."""
        return self._end

    @property
    def asked_end(self) -> int:
        """One past the last byte that the hub was asked for so far: cutting before it wastes bytes."""
        return self._asked_end

    @property
    def is_whole_file(self) -> bool:
        """Whether the answer at hand is the file from its beginning and not the range that was asked for."""
        return self._answer is not None and self._answer.status == 200

    @property
    def total_bytes(self) -> int | None:
        """Size of the whole file as the hub said it; None where it did not."""
        return self._total

    def __len__(self) -> int:
        """Bytes of the range (``end - first``)."""
        return self._end - self._first

    def gather(self, byte_count: int) -> bool:
        """Waits a moment until `readinto` gives ``byte_count`` bytes; False where it does not yet (own thread)."""
        if self._answer is None or self._skip:
            return True
        left = min(self._answer_end, self._end) - self._position
        return left <= 0 or self._answer.body.gather(min(byte_count, left))

    def readinto(self, buffer: memoryview) -> int:
        """Receives what is there, at most ``len(buffer)`` bytes, waiting for at least one. 0 only at `end`.

        A connection that the hub closes too early is opened again at the same place, a few times for each range.

        Raises:
            HubError: connection lost, or silent for too long.
            HubBusyError, AccessError, NotFoundError, IntegrityError: as `HubReader.open_range`.
            CancelledPullError: `abort` was called.
        """
        while True:
            self._operation.check()
            with self._lock:
                self._receiving_to = min(self._end, self._position + len(buffer))
            room = self._receiving_to - self._position
            if room <= 0:
                return 0
            if self._answer is None:
                self.ask()
                continue
            count = self._receive(self._answer, buffer[: min(room, self._answer_end - self._position)])
            if count:
                self._position += count
                self._receiving_to = self._position  # a cut between two reads is heeded
                if self._position >= self._answer_end:
                    self._finish_answer()
                return count

    def _receive(self, answer: Answer, buffer: memoryview) -> int:
        """One read of the body; 0 when it has to be asked for anew."""
        if self._skip:
            buffer = memoryview(bytearray(min(self._skip, _SKIP_BYTES)))
        try:
            count = answer.body.readinto(buffer)
        except TimeoutError as error:
            self._drop()
            self._operation.check()
            raise HubError(f"The hub sent no byte of {shown_url(self._url)} for too long.") from error
        except OSError as error:
            self._broken(error)
            return 0
        if count == 0:
            self._broken(None)
        elif self._skip:
            self._skip -= count
            return 0
        return count

    def _broken(self, error: OSError | None) -> None:
        self._drop()
        self._operation.check()
        self._breaks += 1
        if self._breaks > _MAX_BREAKS or self._position == self._asked_at:
            text = f"The hub closed the connection in the middle of {shown_url(self._url)}"
            raise HubError(f"{text} ({error})." if error else f"{text}.") from error

    def ask(self) -> None:
        """Asks for what comes next. `readinto` does it by itself; the first time it is done when the range is made."""
        window = self._window()
        end = self._end if window is None else min(self._end, self._position + window)
        self._asked_at = self._position
        answer = self._exchange.ask(self._url, self._position, end, self._etag, self._operation)
        try:
            self._check(answer, end)
        except ExoDlError:
            self._drop()
            raise
        self._asked_end = max(self._asked_end, self._answer_end)
        self._answer = answer

    def _check(self, answer: Answer, end: int) -> None:
        """Compares an answer (200 or 206) with what was asked for."""
        shown = shown_url(self._url)
        length = answer.length
        if (answer.headers.get("Content-Encoding") or "identity").lower() != "identity":
            raise HubError(f"The hub sends {shown} compressed, which was not asked for.")
        if answer.status == 200:
            total, self._skip, self._answer_end = length, self._position, length if length is not None else end
        else:
            said = parse_content_range(answer.headers.get("Content-Range"))
            if said is None or said.first != self._position:
                raise HubError(f"The hub answered another range of {shown} than bytes {self._position}-{end - 1}.")
            if length is not None and length != said.end - said.first:
                raise HubError(f"The hub's answer for {shown} contradicts itself: its range and its length differ.")
            total, self._skip, self._answer_end = said.total, 0, said.end
        if total is not None and self._total is not None and total != self._total:
            raise IntegrityError(
                f"{shown} has {total} bytes now and not {self._total}, as the hub's list of files said.",
                hint="Start the pull again.",
            )
        self._total = total if total is not None else self._total
        if self._answer_end <= self._position:
            raise IntegrityError(f"{shown} ends at byte {self._answer_end}, before byte {self._position}.")

    def _finish_answer(self) -> None:
        answer, self._answer = self._answer, None
        try:
            keep = answer is not None and answer.keep and answer.ended()
        except (OSError, HubError):
            keep = False  # all that was wanted is there: how the answer ends matters to the connection only
        if not keep:
            self._exchange.drop(self._operation)

    def _drop(self) -> None:
        self._answer = None
        self._exchange.drop(self._operation)

    def limit(self, end: int) -> int:
        """Ends the range at ``end`` instead (any thread). Returns the end that is now in force.

        That is later than ``end`` where bytes past it were given already or are being received, and never later than
        the end before.
        """
        with self._lock:
            self._end = min(self._end, max(end, self._receiving_to))
            end, answer = self._end, self._answer
        if answer is not None:
            answer.body.hurry()  # what is wanted may be there, and less than is waited for still to come
        return end

    def abort(self) -> None:
        """Ends a blocked `readinto` at once, with `CancelledPullError`; later ones too (any thread)."""
        self._operation.abort()

    def close(self) -> None:
        """Done with the range (own thread). The connection is kept where all asked bytes were read."""
        if self._answer is not None:
            self._drop()
        self._leave(self._operation)

    def __enter__(self) -> HubRange:
        """The range itself; `close` is called at the end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes."""
        self.close()


class HubReader:
    """One thread's connection to a hub (and to the storage that it redirects to). See `open_range`.

    Args:
        headers_for: `Hub.headers_for`; asked for each hop, so that the token goes to the hub alone.
        redirects: shared with the other readers of this node; an own one by default.
        timeouts: of the phases of a request.
        ssl_context: for https; `default_ssl_context` when there is none.
        window: gives the most that the next request asks for (any thread); None asks for a whole range at once.
        receive_buffer_bytes: fixes the socket's receive buffer, and with it what is wasted when a range is cut; None
            leaves it to the system.
    """

    def __init__(
        self,
        headers_for: Callable[[str], Mapping[str, str]],
        *,
        redirects: RedirectCache | None = None,
        timeouts: Timeouts | None = None,
        ssl_context: ssl.SSLContext | None = None,
        window: Callable[[], int | None] = lambda: None,
        receive_buffer_bytes: int | None = None,
    ) -> None:
        self._exchange = Exchange(
            headers_for,
            redirects=redirects if redirects is not None else RedirectCache(),
            timeouts=timeouts or Timeouts(),
            ssl_context=ssl_context,
            receive_buffer_bytes=receive_buffer_bytes,
        )
        self._window = window
        self._lock = threading.Lock()
        self._in_use = threading.Lock()
        self._in_use_wait_s = 2 * (timeouts or Timeouts()).connect_s
        self._operation: Operation | None = None
        self._closed = False

    def connect(self, url: str) -> None:
        """Opens the connection to the origin of ``url`` if it is not open (any thread).

        Does nothing while a range is read: there is a connection then, or it is being opened.

        Raises:
            HubError: it cannot be opened.
            CancelledPullError: `abort` or `close` was called.
        """
        operation = self._enter(wait_s=0.0)
        if operation is None:
            return
        try:
            self._exchange.connect(url, operation)
        finally:
            self._leave(operation)

    def open_range(
        self,
        url: str,
        first: int,
        end: int,
        *,
        etag: str = "",
        size: int | None = None,
        stopped: Callable[[], bool] | None = None,
    ) -> HubRange:
        """Asks for the bytes ``first <= i < end`` of ``url``; returns when the answer's headers are checked.

        Args:
            url: the hub's own URL (`Hub.file_url`); redirects are followed and remembered.
            first: first byte, >= 0.
            end: one past the last byte, > first.
            etag: the digest in hex that the manifest has; an answer that names another one is refused.
            size: size of the file in the manifest; an answer that names another one is refused.
            stopped: checked after `abort` can reach this call: a canceller that first sets what ``stopped`` reads and
                then calls `abort` is never missed.

        Raises:
            HubError: no connection, no answer in time, an answer that cannot be used. (-> HUB_UNREACHABLE)
            HubBusyError: 429 or 503, with ``retry_after_s``. (-> HUB_BUSY)
            AccessError: 401 or 403. (-> HUB_REFUSED)
            NotFoundError: 404 or 410. (-> HUB_REFUSED)
            IntegrityError: the file on the hub is not the one of the manifest any more. (-> HUB_REFUSED)
            CancelledPullError: `abort` was called, or ``stopped`` said so. (-> CANCELLED)
        """
        if not 0 <= first < end:
            raise UsageError(f"There are no bytes {first} to {end} to ask for.")
        operation = self._enter(wait_s=self._in_use_wait_s)
        if operation is None:
            raise RuntimeError("the range before this one was not closed")
        opened = HubRange(
            self._exchange,
            operation,
            self._leave,
            url=url,
            first=first,
            end=end,
            etag=etag,
            size=size,
            window=self._window,
        )
        try:
            if stopped is not None and stopped():
                operation.abort()
            operation.check()
            opened.ask()
        except BaseException:
            opened.close()
            raise
        return opened

    def _enter(self, *, wait_s: float) -> Operation | None:
        """Begins an operation; None where another one has not ended in time."""
        if not self._in_use.acquire(timeout=wait_s):
            return None
        operation = Operation()
        with self._lock:
            closed = self._closed
            self._operation = operation
        if closed:
            self._leave(operation)
            raise CancelledPullError("The connection to the hub was closed.")
        return operation

    def _leave(self, operation: Operation) -> None:
        operation.detach()
        with self._lock:
            if self._operation is not operation:
                return
            self._operation = None
            closed = self._closed
        if closed:
            self._exchange.close()
        self._in_use.release()

    def abort(self) -> None:
        """Ends a running `connect`, `open_range` or `readinto` with `CancelledPullError` (any thread, < 100 ms).

        Only while a host's name is looked up, which no thread can interrupt, it may take longer.
        """
        with self._lock:
            operation = self._operation
        if operation is not None:
            operation.abort()

    def close(self) -> None:
        """Closes the connections; the reader cannot be used again (any thread)."""
        with self._lock:
            self._closed = True
            operation = self._operation
        if operation is not None:
            operation.abort()  # its own thread closes the sockets: a socket closed under a reader may be another's next
        else:
            self._exchange.close()
