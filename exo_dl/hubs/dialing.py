"""Reaching a hub: sockets that another thread can abort, proxies, and the CAs to trust."""

from __future__ import annotations

import base64
import os
import select
import socket
import ssl
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import unquote, urlsplit

from exo_dl.errors import CancelledPullError, HubError
from exo_dl.hubs.base import Origin

__all__ = ["Operation", "Timeouts", "default_ssl_context", "open_socket", "proxy_for", "proxy_headers", "time_left"]

_ABORT_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long each phase of a request may take.

    Attributes:
        connect_s: TCP and TLS handshakes and the proxy's answer, for all addresses of a host together.
        first_byte_s: from the request to the end of the answer's headers.
        stall_s: silence in the middle of a body.
    """

    connect_s: float = 10.0
    first_byte_s: float = 30.0
    stall_s: float = 10.0


class Operation:
    """Something that a thread does and another thread may abort."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sock: socket.socket | None = None
        self._aborted = False

    def attach(self, sock: socket.socket) -> None:
        """Names the socket that `abort` has to shut down.

        Raises:
            CancelledPullError: aborted already.
        """
        with self._lock:
            self._sock = sock
        self.check()

    def detach(self) -> None:
        """There is no socket any more. Before it is closed: its number may belong to another one right after."""
        with self._lock:
            self._sock = None

    def abort(self) -> None:
        """Ends the operation (any thread)."""
        with self._lock:
            self._aborted = True
            if self._sock is not None:
                try:
                    # The plain socket's method: the one of SSLSocket would drop the TLS layer under the reader's feet.
                    socket.socket.shutdown(self._sock, socket.SHUT_RDWR)
                except OSError:
                    return  # not connected yet, or closed by the other side: its thread sees the flag by itself

    def check(self) -> None:
        """Raises CancelledPullError once aborted."""
        if self._aborted:
            raise CancelledPullError("The transfer from the hub was cancelled.")


def default_ssl_context() -> ssl.SSLContext:
    """The machine's CAs, or those of SSL_CERT_FILE, REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE or SSL_CERT_DIR (the first set).

    Raises:
        HubError: one of them names a file that cannot be used.
    """
    names = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_DIR")
    name = next((n for n in names if os.environ.get(n)), "")
    return _context(name, os.environ.get(name, "") if name else "")


@lru_cache(maxsize=4)
def _context(name: str, path: str) -> ssl.SSLContext:
    try:
        if path:
            is_folder = os.path.isdir(path)
            context = ssl.create_default_context(cafile=None if is_folder else path, capath=path if is_folder else None)
        else:
            context = _system_context()
    except OSError as error:
        raise HubError(f"The certificates of {name}={path!r} cannot be used: {error}.", hint="Correct it.") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _system_context() -> ssl.SSLContext:
    if sys.platform == "darwin":
        try:
            import truststore  # Python from python.org brings no CAs there; huggingface_hub 2 comes with this package
        except ImportError:
            return ssl.create_default_context()
        return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return ssl.create_default_context()


def time_left(deadline: float) -> float:
    """Seconds until ``deadline`` (`time.monotonic`); TimeoutError when it has passed."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


def open_socket(
    address: tuple[str, int], operation: Operation, deadline: float, receive_buffer_bytes: int | None
) -> socket.socket:
    """A connected socket to the first of the host's addresses that answers.

    Raises:
        OSError: none of them did, or the name is not known.
        CancelledPullError: ``operation`` was aborted.
    """
    found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)
    failure: OSError = OSError(f"{address[0]} has no address")
    for index, (family, kind, protocol, _, where) in enumerate(found):
        # Half of what is left for each but the last: an address that swallows packets must not use up all the time.
        wait = time_left(deadline) / (1 if index == len(found) - 1 else 2)
        sock = socket.socket(family, kind, protocol)
        try:
            if receive_buffer_bytes is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            operation.attach(sock)
            _connect(sock, where, operation, time.monotonic() + wait)
        except OSError as error:
            operation.detach()
            sock.close()
            failure = error
        except BaseException:
            operation.detach()
            sock.close()
            raise
        else:
            return sock
    raise failure


def _connect(sock: socket.socket, where: tuple[object, ...], operation: Operation, deadline: float) -> None:
    """A connect that looks every 50 ms whether it was aborted: not every system lets `shutdown` end it."""
    sock.setblocking(False)
    try:
        sock.connect(where)
    except BlockingIOError:
        poller = select.poll()  # not select.select, which fails from the 1024th descriptor on
        poller.register(sock, select.POLLOUT)
        while not poller.poll(min(_ABORT_POLL_S, time_left(deadline)) * 1000):
            operation.check()
        operation.check()
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code)) from None
    sock.setblocking(True)


def proxy_for(origin: Origin) -> str | None:
    """The http:// URL of the proxy that the environment (or the system) names for ``origin``; None for none.

    Raises:
        HubError: a proxy of another kind.
    """
    scheme, host, port = origin
    proxies = urllib.request.getproxies()
    proxy = proxies.get(scheme) or proxies.get("all")
    if not proxy or urllib.request.proxy_bypass(f"{host}:{port}"):
        return None
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    if urlsplit(proxy).scheme != "http":
        kind = urlsplit(proxy).scheme
        raise HubError(
            f"The proxy of {scheme.upper()}_PROXY is of the kind {kind!r}, which is not supported.",
            hint="Use an http:// proxy, or name the hub's host in NO_PROXY.",
        )
    return proxy


def proxy_headers(proxy: str) -> dict[str, str]:
    """What the proxy has to be told: the name and password in its URL, where it has them."""
    parts = urlsplit(proxy)
    if parts.username is None:
        return {}
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"Proxy-Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}
