"""How a piece server answers: which requests there are, and how the bytes of files go into a socket."""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from exo_dl.errors import ProtocolError
from exo_dl.store.extent import Extent

__all__ = [
    "MAX_PROBE_BYTES",
    "STAY_HEADERS",
    "PiecesRequest",
    "ProbeRequest",
    "asks_to_stay",
    "parse_target",
    "piece_path",
    "send_all",
    "send_extents",
    "send_zeros",
]

MAX_PROBE_BYTES = 4 << 20
STAY_HEADERS = {"exo-dl-stay": "1"}
"""In the request of a node whose transfer from here has just ended. Servers that know of it refuse it earlier."""
_MAX_PIECES = 4096
_SEND_BYTES = 512 << 10
_SMALL_BYTES = 64 << 10
_GATHER_BYTES = 256 << 10
_MORE = getattr(socket, "MSG_MORE", 0)
_PIECES = re.compile(r"/v1/pieces/([0-9a-f]{20})/([0-9]{1,9}-[0-9]{1,9}(?:,[0-9]{1,9}-[0-9]{1,9}){0,63})")
_PROBE = re.compile(r"/v1/probe/([0-9]{1,9})")
_ZEROS = bytes(_GATHER_BYTES)


@dataclass(frozen=True, slots=True)
class PiecesRequest:
    """The bytes of these runs ``(first, end)`` of pieces, one after the other."""

    pull_id: str
    runs: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class ProbeRequest:
    """So many zero bytes, to measure a way."""

    size: int


def piece_path(pull_id: str, *bounds: int) -> str:
    """The request target for pieces. ``bounds``: first piece and end (exclusive) of each of 1 to 64 runs."""
    runs = zip(bounds[::2], bounds[1::2], strict=True)
    return f"/v1/pieces/{pull_id}/" + ",".join(f"{first}-{end}" for first, end in runs)


def asks_to_stay(headers: Mapping[str, str]) -> bool:
    """Whether a request, by its headers (names in lower case), has `STAY_HEADERS`."""
    return all(headers.get(name) == value for name, value in STAY_HEADERS.items())


def parse_target(target: str) -> PiecesRequest | ProbeRequest | None:
    """What a request target asks for; None for one that does not exist.

    Raises:
        ProtocolError: a run that is empty or backwards, more than 4096 pieces, or a probe of more than 4 MiB.
    """
    if (form := _PROBE.fullmatch(target)) is not None:
        size = int(form[1])
        if size > MAX_PROBE_BYTES:
            raise ProtocolError(f"A probe has at most {MAX_PROBE_BYTES} bytes.")
        return ProbeRequest(size)
    form = _PIECES.fullmatch(target)
    if form is None:
        return None
    runs = []
    for part in form[2].split(","):
        first, _, end = part.partition("-")
        runs.append((int(first), int(end)))
    if any(first >= end for first, end in runs):
        raise ProtocolError("A run of pieces ends before it begins.")
    if sum(end - first for first, end in runs) > _MAX_PIECES:
        raise ProtocolError(f"More than {_MAX_PIECES} pieces at once.")
    return PiecesRequest(form[1], tuple(runs))


def send_extents(
    sock: socket.socket, extents: Sequence[Extent], moved: Callable[[int], None], chunk_bytes: Callable[[], int]
) -> None:
    """Sends the bytes of files without taking them into this process, small ones gathered to whole packets.

    Args:
        sock: blocking.
        extents: what to send, in order.
        moved: called with each number of bytes sent; may block, to slow the transfer down.
        chunk_bytes: the most of a large file to send before the next ``moved``.

    Raises:
        OSError: the connection or the file failed.
        EOFError: a file is shorter than its extent.
    """
    for group in _groups(extents):
        if len(group) == 1 and group[0].size > _SMALL_BYTES:
            _send_file(sock, group[0], moved, chunk_bytes)
        else:
            data = b"".join(_read(extent) for extent in group)
            send_all(sock, data, more=group[-1] is not extents[-1])
            moved(len(data))


def _groups(extents: Sequence[Extent]) -> Iterator[list[Extent]]:
    """Large extents alone, runs of small ones together up to 256 KiB."""
    small: list[Extent] = []
    size = 0
    for extent in extents:
        if small and (extent.size > _SMALL_BYTES or size + extent.size > _GATHER_BYTES):
            yield small
            small, size = [], 0
        if extent.size > _SMALL_BYTES:
            yield [extent]
        else:
            small.append(extent)
            size += extent.size
    if small:
        yield small


def _read(extent: Extent) -> bytes:
    data = os.pread(extent.fd, extent.size, extent.offset)
    if len(data) != extent.size:
        raise EOFError
    return data


def _send_file(
    sock: socket.socket, extent: Extent, moved: Callable[[int], None], chunk_bytes: Callable[[], int]
) -> None:
    if isinstance(sock, ssl.SSLSocket):
        _send_through(sock, extent, moved, chunk_bytes)
        return
    out = sock.fileno()
    at, end = extent.offset, extent.offset + extent.size
    while at < end:
        sent = os.sendfile(out, extent.fd, at, min(_SEND_BYTES, chunk_bytes(), end - at))
        if not sent:
            raise EOFError
        at += sent
        moved(sent)


def _send_through(
    sock: ssl.SSLSocket, extent: Extent, moved: Callable[[int], None], chunk_bytes: Callable[[], int]
) -> None:
    """The same with encryption, which has to see the bytes."""
    buffer = memoryview(bytearray(min(_GATHER_BYTES, extent.size)))
    at, end = extent.offset, extent.offset + extent.size
    while at < end:
        count = os.preadv(extent.fd, [buffer[: min(chunk_bytes(), end - at)]], at)
        if not count:
            raise EOFError
        sock.sendall(buffer[:count])
        at += count
        moved(count)


def send_all(sock: socket.socket, data: bytes, *, more: bool) -> None:
    """Sends ``data``; ``more``: other bytes follow at once, so that both may share a packet."""
    if isinstance(sock, ssl.SSLSocket):
        sock.sendall(data)
    else:
        sock.sendall(data, _MORE if more else 0)


def send_zeros(sock: socket.socket, size: int, moved: Callable[[int], None]) -> None:
    """Sends ``size`` zero bytes."""
    while size:
        sent = sock.send(_ZEROS[:size])
        size -= sent
        moved(sent)
