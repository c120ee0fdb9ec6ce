"""Waiting for many bytes at once: a network gives a few KiB at a time, and each wake-up of a thread has its price.

The socket option SO_RCVLOWAT has the kernel wake a reader only when so many bytes are there. Where a system has no such
option, or the bytes take longer than `LONGEST_S`, a read gives what there is.
"""

from __future__ import annotations

import select
import socket
import ssl

__all__ = ["LONGEST_S", "Gather"]

LONGEST_S = 0.2
"""Bytes wait at most so long for others."""


class Gather:
    """Reads from one socket, and waits for many bytes before. For the thread that reads from it, and all its reads.

    Args:
        sock: connected; blocking or with a timeout.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._tls = sock if isinstance(sock, ssl.SSLSocket) else None
        self._mark = 1
        self._enough = False

    def wait(self, byte_count: int) -> bool:
        """Returns when a read gives ``byte_count`` bytes or the end; False where it does not after `LONGEST_S`.

        Args:
            byte_count: no more than the other side is still going to send, or the wait is for nothing.
        """
        if self._tls is not None and self._tls.pending():
            return True
        self._wake_for(max(1, byte_count))
        enough = bool(self._poll.poll(LONGEST_S * 1000))
        # One read does not wait now, and the next wait is likely to be for as many. TLS may read again for the rest of
        # a record.
        self._enough = enough and self._tls is None
        if not self._enough:
            self._wake_for(1)
        return enough

    def recv_into(self, buffer: memoryview) -> int:
        """Receives what is there, at least one byte; 0 at the end.

        Never waits with a mark: poll also ends where the window is full, before so many bytes are there. A read that
        takes these would sleep until as many are there again, though only the rest is still to come.
        """
        if self._enough:
            self._enough = False
            try:
                return self._sock.recv_into(buffer, 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                pass
        self._wake_for(1)
        return self._sock.recv_into(buffer)

    def hurry(self) -> None:
        """Ends the wait that is under way, if one is (any thread): fewer bytes are wanted than it waits for.

        What the reader knows of its mark is left alone. It may be about to set one: taken for 1 then, that would stay,
        and a read sleep on it. A mark that is lower than known only wakes the reader early.
        """
        self._set(1)

    def _wake_for(self, byte_count: int) -> None:
        if byte_count != self._mark:
            self._mark = byte_count
            self._set(byte_count)

    def _set(self, byte_count: int) -> None:
        try:  # noqa: SIM105 - for each lump of bytes: the context manager costs as much as the call
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, byte_count)
        except OSError:
            pass  # then a read wakes too often, and no more than that
