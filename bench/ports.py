"""TCP ports of this machine's loopback."""

from __future__ import annotations

import errno
import random
import socket

__all__ = ["free_port", "listens"]

# Below those that Linux (from 32768 on) and macOS (from 49152 on) give to whoever asks for any, and to connections: in
# a moment one of these may be somebody else's, on a machine where other tests run.
_FIRST, _END = 20_000, 32_768


def free_port() -> int:
    """A port that nobody has now, and that the system gives to nobody who does not name it."""
    anew = random.SystemRandom()
    while True:
        try:
            with socket.create_server(("127.0.0.1", anew.randrange(_FIRST, _END))) as free:
                return int(free.getsockname()[1])
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise


def listens(port: int) -> bool:
    """Whether somebody answers there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
