"""Strangers at a daemon's ports: half-open connections, slow and broken requests, wrong certificates.

Runs until killed:

python bench/strangers.py HOST GRPC_PORT PIECE_PORT --count 500
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import itertools
import os
import ssl
import tempfile

from exo_dl.net.identity import Identity, new_node_id, new_secret
from exo_dl.net.tickets import TicketKey, TicketSigner

_PAUSE_S = 0.5
_DRIP_S = 0.3
_OLD = "GET /v1/pieces/00000000000000000000/0-1 HTTP/1.1\r\nAuthorization: {}\r\n\r\n"


def _two_months_ago() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=60)


def _tls(identity: Identity | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if identity is not None:
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"".join(identity.certificate()))
            file.flush()
            context.load_cert_chain(file.name)
    return context


def _wrong_tls() -> list[ssl.SSLContext]:
    """Without a certificate, with another cluster's, and, where the secret is known, with one that has ended."""
    contexts = [_tls(None), _tls(Identity(new_secret(), new_node_id()))]
    if secret := os.environ.get("EXO_DL_CLUSTER_SECRET"):
        contexts.append(_tls(Identity(secret, new_node_id(), clock=_two_months_ago)))
    return contexts


async def _linger(reader: asyncio.StreamReader) -> None:
    while await reader.read(4096):
        pass


async def _visit(host: str, port: int, kind: int, *, tls: ssl.SSLContext | None, request: bytes) -> None:
    reader, writer = await asyncio.open_connection(host, port, ssl=tls)
    try:
        if kind == 0:  # says nothing
            await _linger(reader)
        elif kind == 1:  # byte by byte
            for byte in request * 50:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(_DRIP_S)
        else:  # the same refused request again and again
            for _ in range(20):
                writer.write(request)
                await writer.drain()
                await asyncio.wait_for(reader.read(4096), 5)
                await asyncio.sleep(_DRIP_S)
    finally:
        writer.close()


async def _stranger(host: str, port: int, kind: int, *, tls: ssl.SSLContext | None, request: bytes) -> None:
    while True:
        with contextlib.suppress(OSError, TimeoutError, EOFError):
            await _visit(host, port, kind, tls=tls, request=request)
        await asyncio.sleep(_PAUSE_S)


async def _run(host: str, grpc_port: int, piece_port: int, count: int) -> None:
    path = "/v1/pieces/00000000000000000000/0-1"
    ticket = TicketSigner(TicketKey(bytes(32)), new_node_id()).headers("GET", path)["Authorization"]
    request, wrong = _OLD.format(ticket).encode(), itertools.cycle(_wrong_tls())
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            kind = number % 4
            plain = None if number % 8 else next(wrong)
            group.create_task(_stranger(host, piece_port, kind, tls=plain, request=request))
            tls = next(wrong) if kind == 3 else None
            group.create_task(_stranger(host, grpc_port, kind, tls=tls, request=request))


def main() -> None:
    """Begins."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("host")
    parser.add_argument("grpc_port", type=int)
    parser.add_argument("piece_port", type=int)
    parser.add_argument("--count", type=int, default=500, help="connections to each port")
    given = parser.parse_args()
    asyncio.run(_run(given.host, given.grpc_port, given.piece_port, given.count))


if __name__ == "__main__":
    main()
