"""A server that says exactly what a test gives it, byte by byte."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from types import TracebackType

__all__ = ["RawServer"]

Script = bytes | Callable[[socket.socket, bytes], None]


class RawServer:
    """Answers the requests it gets, on however many connections, with one script after the other.

    A script is the bytes of an answer (the connection stays open; empty for silence), or a function that is given the
    connection and the request's head, and after which the connection is closed.
    """

    def __init__(self, *scripts: Script) -> None:
        self._scripts: list[Script] = list(scripts)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        self.requests: list[bytes] = []
        self.asked = threading.Event()
        self.connections = 0
        self._thread = threading.Thread(target=self._accept, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/org/model/resolve/main/file"

    def heads(self) -> Sequence[str]:
        return [request.decode("latin-1") for request in self.requests]

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(sock)
            self.connections += 1
            threading.Thread(target=self._talk, args=(sock,), daemon=True).start()

    def _talk(self, sock: socket.socket) -> None:
        with sock:
            try:
                while (head := read_head(sock)) is not None:
                    with self._lock:
                        self.requests.append(head)
                        script = self._scripts.pop(0)
                    self.asked.set()
                    if callable(script):
                        script(sock, head)
                        return
                    sock.sendall(script)
            except OSError:
                return

    def __enter__(self) -> RawServer:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for sock in (self._listener, *self._open):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
            finally:
                sock.close()
        self._thread.join()


def read_head(sock: socket.socket) -> bytes | None:
    """A request's head; None at the end of the connection."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        if not byte:
            return None
        head += byte
    return head
