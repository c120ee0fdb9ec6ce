"""One client of the piece server: clear HTTP, or HTTP in TLS where its first byte says so."""

from __future__ import annotations

import socket
import ssl

from exo_dl.errors import StorageError
from exo_dl.net.http_head import MAX_HEAD_BYTES
from exo_dl.net.piece_tls import CLIENT_HELLO, PieceTls, peer_node

__all__ = ["NoMemberError", "ServedConnection"]

_READ_BYTES = 16 << 10


class NoMemberError(OSError):
    """TLS with a certificate of this cluster that no member has."""


class ServedConnection:
    """A client's connection, for the server's waiting thread; while it is `sending`, for a sender.

    Args:
        sock: blocking.
        host: the client's address.
        until: when the waiting thread gives up on it while it is idle (`time.monotonic`).
        tls: for clients that want it; None: they get none.
    """

    def __init__(self, sock: socket.socket, host: str, until: float, tls: PieceTls | None) -> None:
        self.sock = sock
        self.host = host
        self.until = until
        self.received = bytearray()
        self.known = False
        self.sending = False
        self.node = ""
        """The client's node id, proven by its certificate; "" without TLS."""
        self._tls = tls
        self._begun = self._handshaking = False

    @property
    def encrypted(self) -> bool:
        """Whether what is sent goes through TLS."""
        return isinstance(self.sock, ssl.SSLSocket)

    def receive(self) -> bytes:
        """What has come; b"" at the end.

        Raises:
            BlockingIOError: nothing yet.
            OSError: reset, or TLS that a member would not speak.
        """
        if not self._begun:
            first = self.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            self._begun = True
            if first == CLIENT_HELLO and self._tls is not None:
                self.sock.setblocking(False)
                try:
                    self.sock = self._tls.serve(self.sock)
                except StorageError as error:  # no place for the key: those who come in clear are served all the same
                    raise ConnectionAbortedError(error.what) from error
                self._handshaking = True
        sock = self.sock
        if not isinstance(sock, ssl.SSLSocket):
            return sock.recv(_READ_BYTES, socket.MSG_DONTWAIT)
        try:
            if self._handshaking:
                sock.do_handshake()
                self._handshaking = False
                if (node := peer_node(sock)) is None:
                    raise NoMemberError("a certificate of this cluster that is no member's")
                self.node = node
            return sock.recv(_READ_BYTES)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None

    @property
    def more(self) -> bool:
        """Whether bytes wait in the TLS layer, of which the socket tells nothing."""
        return isinstance(self.sock, ssl.SSLSocket) and self.sock.pending() > 0

    def lend(self) -> None:
        """A sender may use the socket from now on: it blocks."""
        if self.encrypted:
            self.sock.setblocking(True)

    def take_back(self) -> None:
        """The waiting thread uses it again."""
        if self.encrypted:
            self.sock.setblocking(False)

    def send_at_once(self, data: bytes, *, last: bool) -> bool:
        """Sends a short answer; False where it does not fit, or the connection is to be closed (``last``)."""
        try:
            if isinstance(self.sock, ssl.SSLSocket):
                return self.sock.send(data) == len(data) and not last
            sent = self.sock.send(data, socket.MSG_DONTWAIT) == len(data)
            if not sent or last:
                # Unread bytes would turn the close into a reset, which takes the answer with it.
                self.sock.shutdown(socket.SHUT_WR)
                self.sock.recv(4 * MAX_HEAD_BYTES, socket.MSG_DONTWAIT)
        except OSError:
            return not last
        return sent and not last
