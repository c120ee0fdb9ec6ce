"""Listening sockets of the piece server."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Sequence

from exo_dl.errors import AlreadyRunningError, UsageError

__all__ = ["accept", "open_listeners"]

_BACKLOG = 256
_TRIES = 8
_WILDCARDS = ("::", "0.0.0.0")  # noqa: S104  # compared with, not bound to


def open_listeners(hosts: Sequence[str], port: int) -> tuple[list[socket.socket], int]:
    """Non-blocking listeners on all hosts, with one port.

    A wildcard of a family that this machine does not have is left out where another host is there.

    Raises:
        AlreadyRunningError: the port is taken.
        UsageError: an address that is not this machine's.
    """
    for _ in range(_TRIES):
        with contextlib.ExitStack() as stack:
            listeners: list[socket.socket] = []
            bound, host = port, ""
            try:
                for host in hosts:  # the error names the one that failed
                    sock = _listen(host, bound, optional=host in _WILDCARDS and len(hosts) > 1)
                    if sock is not None:
                        stack.callback(sock.close)
                        listeners.append(sock)
                        bound = sock.getsockname()[1]
            except OSError as error:
                if error.errno == errno.EADDRINUSE and port == 0 and bound:
                    continue  # the first host's free port is taken on the second: take another
                raise _explain(error, host, port) from error
            if listeners:
                stack.pop_all()
                return listeners, bound
        break
    raise UsageError(f"There is nothing to listen on for {', '.join(hosts)}.", hint="Check the setting host.")


def _listen(host: str, port: int, *, optional: bool) -> socket.socket | None:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, target = found[0]
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError:
        if optional:
            return None
        raise
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(target)
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        if optional and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            return None
        raise
    return sock


def _explain(error: OSError, host: str, port: int) -> AlreadyRunningError | UsageError:
    if error.errno == errno.EADDRINUSE:
        return AlreadyRunningError(
            f"Port {port} for pieces is taken by another program.", hint="Choose another piece port, or 0 for any."
        )
    return UsageError(f"Cannot listen on {host} port {port}: {error.strerror}.", hint="Check the setting host.")


def accept(listener: socket.socket) -> tuple[socket.socket, str] | None:
    """The next client of a non-blocking listener, as a blocking socket with its address; None when it went away.

    Raises:
        OSError: this process or this machine has no descriptor or memory left for it.
    """
    try:
        sock, address = listener.accept()
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
            raise
        return None
    sock.setblocking(True)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock, str(address[0])
