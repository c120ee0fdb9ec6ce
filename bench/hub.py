"""A small local hub: a folder tree served as a Hugging Face hub, with an access log and faults on order.

    python bench/hub.py --root DIR --port 8080 [--host 0.0.0.0] [--rate BYTES_PER_S] [--log FILE] [--token T]

One thread for each connection and `os.sendfile`, so that the bytes in the log are those that the socket has taken.
Needs nothing but Python's own library. Control, on the hub's own port:

    GET /_health           200 when it serves
    GET /_stats            {"requests", "file_bytes", ...}
    GET, POST, DELETE /_faults   see bench/faults.py, as in {"kind": "503", "path": "*.safetensors", "count": 3}
"""

from __future__ import annotations

import argparse
import signal
import socket
import socketserver
import ssl
import sys
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import FrameType
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.hub_handler import HubHandler
from bench.hub_state import HubState

__all__ = ["LocalHub"]

_SEND_BUFFER_BYTES = 256 << 10


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(
        self, address: tuple[str, int], hub: HubState, *, is_storage: bool, tls: ssl.SSLContext | None
    ) -> None:
        self.hub = hub
        self.is_storage = is_storage
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()
        self._tls = tls
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, HubHandler)

    def server_bind(self) -> None:
        # Not HTTPServer's, which looks up the host's name: that takes seconds where there is no DNS.
        socketserver.TCPServer.server_bind(self)

    def finish_request(self, request: Any, client_address: Any) -> None:
        # What the log counts as sent shall be what crossed the network, not what a large buffer still holds when a
        # client ends an answer early.
        request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        if self._tls is not None:
            request = self._tls.wrap_socket(request, server_side=True)
        with self._open_lock:
            self._open.add(request)
        try:
            super().finish_request(request, client_address)
        finally:
            with self._open_lock:
                self._open.discard(request)
            if self._tls is not None:
                request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that goes away is no error of the hub; anything else is one that a person should see.
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def close_connections(self) -> None:
        """Ends all connections at once."""
        with self._open_lock:
            for sock in self._open:
                try:
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)
                except OSError:
                    continue


class LocalHub(HubState):
    """The hub as an object, for tests; `main` runs one from the command line.

    Args:
        root: the folder to serve, see `bench.repos`. Repositories that appear later are found when they are asked for.
        host: address to listen on.
        port: 0 for any.
        rate: bytes per second of all files together; None for no limit.
        log: file for the access log, one JSON object a line.
        token: what a request has to bring for the bytes of ``access`` repositories.
        access: "public", "gated" (files need the token) or "private" (everything does).
        redirect: "none", or "hub": small files 307 to a relative path, LFS files 302 to a signed URL on a second port.
        page_size: entries in a page of a tree; None for one page.
        link_base: scheme, host and port of the links to the next page; its own by default.
        bare: leaves sizes and digests out of the list of files, as some mirrors do.
        tls: serves https with it.
    """

    def __init__(
        self,
        root: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        rate: float | None = None,
        log: Path | None = None,
        token: str = "",
        access: str = "public",
        redirect: str = "none",
        page_size: int | None = None,
        link_base: str = "",
        bare: bool = False,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(
            root,
            rate=rate,
            log=log,
            token=token,
            access=access,
            redirect=redirect,
            page_size=page_size,
            link_base=link_base,
            bare=bare,
            is_tls=tls is not None,
        )
        self._servers = [_Server((host, port), self, is_storage=False, tls=tls)]
        if redirect == "hub":
            self._servers.append(_Server((host, 0), self, is_storage=True, tls=tls))
            self.storage_port = int(self._servers[1].server_address[1])
        self._threads: list[threading.Thread] = []

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._servers[0].server_address[1])

    @property
    def url(self) -> str:
        """The endpoint for clients on this machine."""
        host = str(self._servers[0].server_address[0])
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
        return f"{self.scheme}://{f'[{host}]' if ':' in host else host}:{self.port}"

    def start(self) -> LocalHub:
        """Serves in threads."""
        for server in self._servers:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def close(self) -> None:
        """Stops, and ends all connections."""
        self.stopping.set()
        for server in self._servers:
            if self._threads:
                server.shutdown()
            server.server_close()
            server.close_connections()
        for thread in self._threads:
            thread.join()
        self.close_log()

    def __enter__(self) -> LocalHub:
        """Starts."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        """Closes."""
        self.close()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Serves a folder tree as a Hugging Face hub.")
    parser.add_argument("--root", type=Path, required=True, help="folder with <org>/<name>/ folders")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8080, help="0 for any (default: %(default)s)")
    parser.add_argument("--rate", type=float, help="bytes per second, all files together")
    parser.add_argument("--log", type=Path, help="access log, one JSON object a line")
    parser.add_argument("--token", default="", help="token that gated or private repositories ask for")
    parser.add_argument("--access", choices=("public", "gated", "private"), help="default: gated with --token")
    parser.add_argument("--redirect", choices=("none", "hub"), default="none", help="hub: as huggingface.co does")
    given = vars(parser.parse_args())
    given["access"] = given["access"] or ("gated" if given["token"] else "public")
    hub = LocalHub(given.pop("root"), **given)
    ended = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        ended.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    with hub:
        print(f"Serving {hub.root} at {hub.url}", flush=True)
        while not ended.wait(1.0):
            continue


if __name__ == "__main__":
    main()
