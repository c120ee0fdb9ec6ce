"""The two ends of `bench.hop`, each a process of its own: this program's piece server, and its fetch pool.

python -m bench.hop_ends serve SOURCE SECRET
    Prints its port and node id, and ends with its standard input.
python -m bench.hop_ends fetch SOURCE SECRET TARGET PORT NODE CONNECTIONS
    Prints what it took as JSON. With "-" for the node the bytes come in clear.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

from blake3 import blake3

from bench.rss import peak_rss_bytes
from exo_dl.core.manifest import piece_size_for
from exo_dl.core.swarm import FetchResult
from exo_dl.net.fetch import FetchEvent, FetchPool, JobEnded, PeerJob, PieceTarget
from exo_dl.net.identity import Identity, new_node_id
from exo_dl.net.piece_server import PieceServer, piece_path
from exo_dl.net.piece_tls import PieceTls
from exo_dl.net.tickets import TicketKey, TicketSigner, authorizer
from exo_dl.store.extent import Extent

__all__ = ["make_source"]

_PULL = "0" * 20
_ASK_BYTES = 16 << 20


def make_source(path: Path, mib: int) -> None:
    """Random bytes on disk, and beside them the digests of their pieces."""
    piece = piece_size_for(mib << 20)
    digests = bytearray()
    with path.open("wb") as file:
        for _ in range((mib << 20) // piece):
            data = os.urandom(piece)
            digests += blake3(data).digest()
            file.write(data)
        os.fsync(file.fileno())
    path.with_suffix(".digests").write_bytes(digests)


def _serve(source: Path, secret: str) -> None:
    identity = Identity(secret, new_node_id())
    piece = piece_size_for(source.stat().st_size)
    with source.open("rb") as file:
        size = os.fstat(file.fileno()).st_size

        def locate(_: str, first: int, end: int) -> list[Extent]:
            return [Extent(file.fileno(), first * piece, min(end * piece, size) - first * piece)]

        server = PieceServer(
            hosts=["127.0.0.1"],
            port=0,
            locate=locate,
            authorize=authorizer(TicketKey(identity.ticket_key()), audience=identity.node_id),
            max_uploads=16,
            max_per_peer=16,
            tls=PieceTls(identity),
        )
        server.start()
        print(server.port, identity.node_id, flush=True)
        sys.stdin.read()
        server.close()


def _fetch(source: Path, secret: str, target: Path, port: int, node: str, connections: int) -> None:
    identity = Identity(secret, new_node_id())
    size = source.stat().st_size
    piece = piece_size_for(size)
    digests = source.with_suffix(".digests").read_bytes()
    out = os.open(target, os.O_RDWR | os.O_CREAT)
    notes = os.open(target.with_suffix(".pieces"), os.O_RDWR | os.O_CREAT)
    os.posix_fallocate(out, 0, size)
    step = max(1, _ASK_BYTES // piece)
    count = -(-size // piece)
    runs = iter([(first, min(first + step, count)) for first in range(0, count, step)])
    signer = TicketSigner(TicketKey(identity.ticket_key()), identity.node_id)
    finished = threading.Event()
    bad: list[JobEnded] = []
    left = -(-count // step)

    def submit() -> None:
        run = next(runs, None)
        if run is None:
            return
        path = piece_path(_PULL, *run)
        targets = tuple(
            PieceTarget(i, out, i * piece, min(piece, size - i * piece), digests[32 * i : 32 * i + 32])
            for i in range(*run)
        )
        pool.submit(
            PeerJob(
                run[0],
                ("127.0.0.1", port),
                path,
                lambda: signer.headers("GET", path),
                targets,
                lambda piece, digest: os.pwrite(notes, digest, 32 * piece),
                tls_node="" if node == "-" else node,
            )
        )

    def events(batch: list[FetchEvent]) -> None:
        nonlocal left
        for event in batch:
            if isinstance(event, JobEnded):
                left -= 1
                if event.result is not FetchResult.DONE:
                    bad.append(event)
                submit()
        if left <= 0 or bad:
            finished.set()

    pool = FetchPool(events=events, tls=PieceTls(identity))
    begin, cpu_s = time.monotonic(), time.process_time()
    for _ in range(connections):
        submit()
    finished.wait()
    seconds, cpu_s = time.monotonic() - begin, time.process_time() - cpu_s
    pool.close()
    if bad:
        sys.exit(f"A job ended with {bad[0].result}: {bad[0].detail}")
    print(json.dumps({"seconds": seconds, "cpu_s": cpu_s, "rss_bytes": peak_rss_bytes()}))


def _main() -> None:
    end, source, secret, *rest = sys.argv[1:]
    if end == "serve":
        _serve(Path(source), secret)
    else:
        target, port, node, connections = rest
        _fetch(Path(source), secret, Path(target), int(port), node, int(connections))


if __name__ == "__main__":
    _main()
