"""The sockets that this process has open, whoever opened them.

gRPC accepts connections in its own native code and tells Python nothing of those that it refuses, nor of who is at the
other end of a Unix socket. The descriptors belong to this process all the same, and the kernel answers about each.

A descriptor is only borrowed here: another thread may close it at any moment, and its number may be another socket's
then. Nothing is duplicated, because closing a duplicate of a file that SQLite has open would give up SQLite's locks.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Endpoint", "PeerUser", "connections_at", "end_connection", "end_user", "plain_host", "users_at"]

Endpoint = tuple[str, int]
"""Address and port of the other side; IPv4 in its own form, IPv6 without its scope."""

_FOLDER = "/dev/fd"  # Linux and macOS
_UCRED = struct.Struct("3i")  # unix(7)
_SO_PEERGROUPS = 59  # asm-generic/socket.h
_SOL_LOCAL, _LOCAL_PEERCRED = 0, 1  # sys/un.h of macOS
_XUCRED = struct.Struct("=IIhxx16I")  # sys/ucred.h of macOS: version, user, count, groups


@dataclass(frozen=True, slots=True)
class PeerUser:
    """Who is at the other end of a Unix socket, as the kernel took it down when the connection was made."""

    uid: int
    groups: frozenset[int]


def plain_host(host: str) -> str:
    """An address in the one form that addresses are compared in."""
    return host.partition("%")[0].removeprefix("::ffff:")


@contextlib.contextmanager
def _borrowed(descriptor: int) -> Iterator[socket.socket]:
    # Whatever it is: addresses of this family are the longest, and Python reads each by what it says of itself.
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=descriptor)
    try:
        yield sock
    finally:
        sock.detach()


def _sockets() -> Iterator[tuple[int, socket.socket]]:
    for name in os.listdir(_FOLDER):
        with contextlib.suppress(OSError):  # closed meanwhile
            descriptor = int(name)
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                with _borrowed(descriptor) as sock:
                    yield descriptor, sock


def connections_at(port: int) -> dict[Endpoint, int]:
    """The connections that are open at a TCP port of this process: the other side, and the descriptor."""
    found: dict[Endpoint, int] = {}
    for descriptor, sock in _sockets():
        with contextlib.suppress(OSError):  # a listener, or one that was reset
            if (far := _far_side(sock, port)) is not None:
                found[far] = descriptor
    return found


def _far_side(sock: socket.socket, port: int) -> Endpoint | None:
    near = sock.getsockname()
    if not isinstance(near, tuple) or len(near) < 2 or near[1] != port:
        return None
    far = sock.getpeername()
    return plain_host(far[0]), far[1]


def end_connection(descriptor: int, far: Endpoint, port: int) -> None:
    """Ends one that `connections_at` named, where the descriptor still is that connection. Its owner closes it."""
    with contextlib.suppress(OSError), _borrowed(descriptor) as sock:
        if _far_side(sock, port) == far:
            sock.shutdown(socket.SHUT_RDWR)


def end_user(descriptor: int, path: str) -> None:
    """Ends one that `users_at` named, where the descriptor still is a connection of that socket."""
    with contextlib.suppress(OSError), _borrowed(descriptor) as sock:
        if sock.getsockname() == path:
            sock.shutdown(socket.SHUT_RDWR)


def users_at(path: str) -> dict[int, PeerUser | None]:
    """The connections that are open at a Unix socket of this process: the descriptor, and who is at the other end.

    None stands for a user whom this system cannot name.
    """
    found: dict[int, PeerUser | None] = {}
    for descriptor, sock in _sockets():
        with contextlib.suppress(OSError):
            if sock.getsockname() == path:
                sock.getpeername()  # fails for the listener
                found[descriptor] = _user(sock)
    return found


def _user(sock: socket.socket) -> PeerUser | None:
    if sys.platform == "darwin":
        _, uid, count, *groups = _XUCRED.unpack(sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED.size))
        return PeerUser(uid, frozenset(groups[:count]))
    if sys.platform != "linux":
        return None
    _, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return PeerUser(uid, _groups(sock) | {gid})


def _groups(sock: socket.socket) -> frozenset[int]:
    try:
        data = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 1024)
    except OSError:  # an older kernel, or more groups than fit: the first one is known all the same
        return frozenset()
    return frozenset(struct.unpack(f"{len(data) // 4}I", data))
