"""One HTTP/1.1 connection of one thread: asking, and bodies straight into the caller's buffer.

http.client parses the headers. Its response object is not used for the body: its ``readinto`` waits until the whole
buffer is full, so a slow hub would look like a stalled one. Here each call returns what the kernel has, without a copy.
"""

from __future__ import annotations

import http.client
import io
import re
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from exo_dl.errors import HubError
from exo_dl.hubs.answers import parse_length
from exo_dl.hubs.base import Origin, origin_of
from exo_dl.hubs.dialing import (
    Operation,
    Timeouts,
    default_ssl_context,
    open_socket,
    proxy_for,
    proxy_headers,
    time_left,
)
from exo_dl.net.gather import Gather

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["Answer", "Connection"]

_MAX_LINE_BYTES = 8192
_TLS_RECORD_BYTES = 16 << 10
_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-5]\d\d)(?: .*)?\r?\n")


class _SocketStream(io.RawIOBase):
    """Reads from a socket, until a deadline where one is set."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.deadline: float | None = None
        self._gather = Gather(sock)

    def gather(self, byte_count: int) -> bool:
        return self._gather.wait(byte_count)

    def hurry(self) -> None:
        self._gather.hurry()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        if self.deadline is not None:
            left = self.deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._sock.settimeout(left)
        return self._gather.recv_into(memoryview(buffer))


class _Body(Protocol):
    """A body with its framing: `readinto` gives 0 at its end, and then `ended` says whether that was its real end."""

    ended: bool

    def gather(self, byte_count: int) -> bool: ...

    def hurry(self) -> None: ...

    def readinto(self, buffer: memoryview) -> int: ...


class _SizedBody:
    """A body with a Content-Length, or (None) one that ends with the connection."""

    def __init__(self, stream: io.BufferedReader[_SocketStream], size: int | None) -> None:
        self._stream = stream
        self._left = size
        self._drained = False
        self.ended = size == 0

    def gather(self, byte_count: int) -> bool:
        """Waits a moment for so many bytes, where they are known to come."""
        # Some of what is left may be in the buffers of this stream and of TLS: that does not come any more.
        sure = 0 if self._left is None else self._left - _MAX_LINE_BYTES - _TLS_RECORD_BYTES
        if sure > 0:
            return self._stream.raw.gather(min(byte_count, sure))
        # Nothing can be promised: what was received so far is not held back for it.
        return False

    def hurry(self) -> None:
        """Ends such a wait (any thread)."""
        self._stream.raw.hurry()

    def readinto(self, buffer: memoryview) -> int:
        if self.ended:
            return 0
        if self._left is not None and len(buffer) > self._left:
            buffer = buffer[: self._left]
        if self._drained:
            count = self._stream.raw.readinto(buffer)
        else:
            count = self._stream.readinto1(buffer)
            self._drained = len(buffer) >= _MAX_LINE_BYTES  # what came with the head is taken now
        if self._left is not None:
            self._left -= count
            self.ended = self._left == 0
        return count


class _ChunkedBody:
    """A body with Transfer-Encoding: chunked."""

    def __init__(self, stream: io.BufferedReader[Any]) -> None:
        self._stream = stream
        self._left = 0
        self._between = False
        self.ended = False

    def gather(self, byte_count: int) -> bool:
        """Nothing: what is still to come of a chunk is not known well enough."""
        return True

    def hurry(self) -> None:
        """Nothing: nobody waits."""

    def readinto(self, buffer: memoryview) -> int:
        if self.ended:
            return 0
        if self._left == 0 and not self._next_chunk():
            return 0
        count = self._stream.readinto1(buffer[: self._left])
        self._left -= count
        return count

    def _next_chunk(self) -> bool:
        if self._between and self._line() != b"":
            raise HubError("The hub's chunked answer is damaged.")
        size = self._line().partition(b";")[0].strip()
        if not re.fullmatch(rb"[0-9a-fA-F]{1,15}", size):
            raise HubError("The hub's chunked answer is damaged.")
        self._between = True
        self._left = int(size, 16)
        if self._left == 0:
            for _ in range(100):
                if self._line() == b"":
                    self.ended = True
                    return False
            raise HubError("The hub's chunked answer has too many trailers.")
        return True

    def _line(self) -> bytes:
        line = self._stream.readline(_MAX_LINE_BYTES)
        if not line.endswith(b"\n"):
            raise ConnectionError("the connection was closed in the middle of an answer")
        return line.rstrip(b"\r\n")


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer whose body is still to be read.

    Attributes:
        status: the HTTP status, 200 or higher.
        headers: names in any case.
        body: gives its bytes by ``readinto``.
        length: bytes of the body; None where only its end tells.
        keep: False where the connection ends with this answer.
    """

    status: int
    headers: http.client.HTTPMessage
    body: _Body
    length: int | None
    keep: bool

    def ended(self) -> bool:
        """Whether all of the body was read; reads the end mark of a chunked one. Never waits for more than that."""
        return self.body.ended or (self.length is None and self.keep and self.drain(0))

    def drain(self, limit_bytes: int) -> bool:
        """Reads the rest of the body if it is not longer than ``limit_bytes``; whether it did."""
        scratch = memoryview(bytearray(min(limit_bytes, 65536) + 1))
        seen = 0
        while seen <= limit_bytes:
            count = self.body.readinto(scratch)
            if count == 0:
                return self.body.ended
            seen += count
        return False


class Connection:
    """A connection to one origin. Socket errors (OSError) and http.client's come out as they are."""

    def __init__(
        self,
        origin: Origin,
        operation: Operation,
        *,
        timeouts: Timeouts,
        ssl_context: ssl.SSLContext | None = None,
        receive_buffer_bytes: int | None = None,
    ) -> None:
        scheme, host, port = origin
        deadline = time.monotonic() + timeouts.connect_s
        proxy = proxy_for(origin)
        self._timeouts = timeouts
        self._forward = proxy is not None and scheme == "http"
        self._proxy_headers = proxy_headers(proxy) if proxy is not None else {}
        self.used = False
        address = (host, port) if proxy is None else origin_of(proxy)[1:]
        self._sock = open_socket(address, operation, deadline, receive_buffer_bytes)
        try:
            if proxy is not None and scheme == "https":
                self._tunnel(host, port, deadline)
            if scheme == "https":
                self._sock = self._wrap(ssl_context or default_ssl_context(), host, operation, deadline)
            self._attach_stream()
        except BaseException:
            operation.detach()
            self._sock.close()
            raise

    def _attach_stream(self) -> None:
        self._raw = _SocketStream(self._sock)
        self._stream = io.BufferedReader(self._raw, _MAX_LINE_BYTES)

    def _tunnel(self, host: str, port: int, deadline: float) -> None:
        self._attach_stream()
        name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        lines = [f"CONNECT {name} HTTP/1.1", f"Host: {name}", *(f"{k}: {v}" for k, v in self._proxy_headers.items())]
        self._sock.settimeout(time_left(deadline))
        self._sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        self._raw.deadline = deadline
        status, _, _ = self._read_head()
        if status == 407:
            raise HubError("The proxy asks for a name and a password.", hint="Put them into HTTPS_PROXY.")
        if not 200 <= status < 300:
            raise HubError(f"The proxy refused the way to {host} ({status}).", hint="Check HTTPS_PROXY and NO_PROXY.")

    def _wrap(self, context: ssl.SSLContext, host: str, operation: Operation, deadline: float) -> ssl.SSLSocket:
        sock = context.wrap_socket(self._sock, server_hostname=host, do_handshake_on_connect=False)
        try:
            operation.attach(sock)
            sock.settimeout(time_left(deadline))
            sock.do_handshake()
        except BaseException:
            operation.detach()
            sock.close()
            raise
        return sock

    def attach(self, operation: Operation) -> None:
        """Lets ``operation`` abort what this connection does from now on."""
        operation.attach(self._sock)

    def ask(self, url: str, headers: Mapping[str, str]) -> Answer:
        """Sends a GET and returns the answer when its headers are there.

        Raises:
            HubError: an answer that is no proper HTTP/1.1.
        """
        self.used = True
        parts = urlsplit(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        host = parts.netloc.rpartition("@")[2]
        if self._forward:
            target = f"{parts.scheme}://{host}{target}"
            headers = {**headers, **self._proxy_headers}
        lines = [f"GET {target} HTTP/1.1", f"Host: {host}", *(f"{name}: {value}" for name, value in headers.items())]
        if any("\r" in line or "\n" in line for line in lines):
            raise HubError("A header or URL has a line break.")
        self._raw.deadline = time.monotonic() + self._timeouts.first_byte_s
        self._sock.settimeout(self._timeouts.first_byte_s)
        self._sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        status, minor, answered = self._read_head()
        self._raw.deadline = None
        self._sock.settimeout(self._timeouts.stall_s)
        return self._frame(status, minor, answered)

    def _read_head(self) -> tuple[int, int, http.client.HTTPMessage]:
        for _ in range(10):
            line = self._stream.readline(_MAX_LINE_BYTES)
            if not line:
                raise ConnectionResetError("the connection was closed before an answer")
            match = _STATUS.fullmatch(line)
            if match is None:
                raise HubError("The hub's answer is no HTTP/1.1.", hint="Check the endpoint's scheme and port.")
            headers = http.client.parse_headers(self._stream)
            status = int(match[2])
            if status >= 200:
                return status, int(match[1]), headers
        raise HubError("The hub's answer has no end of interim answers.")

    def _frame(self, status: int, minor: int, headers: http.client.HTTPMessage) -> Answer:
        connection = (headers.get("Connection") or "").lower()
        keep = "close" not in connection and (minor == 1 or "keep-alive" in connection)
        coding = (headers.get("Transfer-Encoding") or "").strip().lower()
        lengths = {value.strip() for value in headers.get_all("Content-Length", [])}
        if len(lengths) > 1:
            raise HubError("The hub's answer has two different lengths.")
        if coding not in ("", "identity", "chunked"):
            raise HubError(f"The hub's answer has the transfer encoding {coding[:40]!r}, which is not understood.")
        if coding == "chunked":
            # A length beside it is how requests are smuggled past proxies: such a connection is not used again.
            return Answer(status, headers, _ChunkedBody(self._stream), None, keep and not lengths)
        length = 0 if status in (204, 304) else parse_length(lengths.pop() if lengths else None)
        return Answer(status, headers, _SizedBody(self._stream, length), length, keep and length is not None)

    def close(self) -> None:
        """Closes the socket."""
        self._sock.close()
