"""Waiting for many bytes at once: a network gives a few KiB at a time, and each wake-up of a thread has its price.

The socket option SO_RCVLOWAT has the kernel wake a reader only when so many bytes are there. Where a system has no such
option, or the bytes take longer than `LONGEST_S`, a read gives what there is.
"""

from __future__ import annotations

import select
import socket
import ssl

__all__ = ["LONGEST_S", "Gather"]

LONGEST_S = 0.05
"""Bytes wait at most so long for others."""


class Gather:
    """Waits on one socket. For the thread that reads from it.

    Args:
        sock: connected; blocking or with a timeout.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._tls = sock if isinstance(sock, ssl.SSLSocket) else None

    def wait(self, byte_count: int) -> bool:
        """Returns when a read gives ``byte_count`` bytes or the end; False where it does not after `LONGEST_S`.

        Args:
            byte_count: no more than the other side is still going to send, or the wait is for nothing.
        """
        if self._tls is not None and self._tls.pending():
            return True
        self._wake_for(max(1, byte_count))
        enough = bool(self._poll.poll(LONGEST_S * 1000))
        # The read itself must never wait for many: it takes what is there.
        self._wake_for(1)
        return enough

    def _wake_for(self, byte_count: int) -> None:
        try:  # noqa: SIM105 - twice for each lump of bytes: the context manager costs as much as the call
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, byte_count)
        except OSError:
            pass  # then a read wakes too often, and no more than that
