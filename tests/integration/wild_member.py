"""A member of the cluster with bad intent: real identity, real links and a real piece server, but it lies."""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

import grpc.aio
from blake3 import blake3

from exo_dl.core.manifest import Manifest
from exo_dl.net import wire
from exo_dl.net.identity import Identity, new_node_id
from exo_dl.net.piece_server import PieceServer
from exo_dl.net.tickets import TicketKey, authorizer
from exo_dl.rpc.v1 import swarm_pb2 as pb
from exo_dl.store.extent import Extent
from exo_dld.link import GRPC_OPTIONS, PROTOCOL
from exo_dld.membership import Membership
from exo_dld.nodestate import NodeState

_LARGEST_PIECE_BYTES = 16 << 20


class _Greeting(Membership):
    """Says that it speaks some version of the protocol."""

    def __init__(self, protocol: int, **others: Any) -> None:
        super().__init__(**others)
        self._protocol = protocol

    def hello(self) -> pb.Hello:
        hello = super().hello()
        hello.protocol = self._protocol
        return hello


class WildMember:
    """Joins the cluster of a daemon, for a with statement.

    Args:
        secret: the cluster's.
        peer: "host:port" of a member.
        on_message: called on the member's loop with the member, the sender's id and each message.
        links: how many nodes there are to be linked to, before anything else.
        protocol: the version that it says it speaks; where that is not the others', it is linked to nobody.
        piece_port: where it says that pieces are; None: a piece server of its own, which sends zeros for all.
    """

    def __init__(
        self,
        secret: str,
        peer: str,
        *,
        on_message: Callable[[WildMember, str, pb.LinkMessage], None],
        piece_port: int | None = None,
        links: int = 2,
        protocol: int = PROTOCOL,
    ) -> None:
        self.identity = Identity(secret, new_node_id())
        self.id = self.identity.node_id
        self._peer = peer
        self._handler = on_message
        self._piece_port = piece_port
        self._links = links if protocol == PROTOCOL else 0
        self._protocol = protocol
        self._zeros = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        os.ftruncate(self._zeros.fileno(), _LARGEST_PIECE_BYTES)
        self.offers: dict[str, pb.PullOffer] = {}
        self.manifests: dict[str, Manifest] = {}
        self.down: list[str] = []
        self.pieces = PieceServer(
            hosts=["127.0.0.1"],
            port=0,
            locate=self._locate,
            authorize=authorizer(TicketKey(self.identity.ticket_key()), audience=self.id),
        )
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),), name="wild-member")

    def __enter__(self) -> WildMember:
        self.pieces.start()
        self._thread.start()
        assert self._ready.wait(20), "the wild member found nobody"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)
        self._loop.close()
        self.pieces.close()
        self._zeros.close()

    async def _run(self) -> None:
        self.membership = _Greeting(
            self._protocol,
            identity=self.identity,
            name="wild",
            version="1.0",
            status=pb.Beat,
            static_peers=[self._peer],
            listen_hosts=["127.0.0.1"],
        )
        self.membership.on_up.append(lambda _: len(self.membership.up()) == self._links and self._ready.set())
        self.membership.on_down.append(lambda _, reason: self.down.append(reason))
        self.membership.on_message.append(self._take)
        server = grpc.aio.server(options=GRPC_OPTIONS)
        self.membership.add_to(server)
        port = server.add_secure_port("127.0.0.1:0", self.identity.server_credentials())
        await server.start()
        await self.membership.start(grpc_port=port, piece_port=self._piece_port or self.pieces.port)
        if not self._links:
            self._ready.set()
        await self._stop.wait()
        await self.membership.stop()
        await server.stop(0)

    def _take(self, node: str, message: pb.LinkMessage) -> None:
        if message.WhichOneof("body") == "pull_offer":
            offer = message.pull_offer
            self.offers[offer.pull_id] = offer
            self.manifests[offer.pull_id] = wire.manifest_from_pb(offer.manifest)
        self._handler(self, node, message)

    def _locate(self, pull_id: str, first: int, end: int) -> list[Extent]:
        manifest = self.manifests[pull_id]
        return [Extent(self._zeros.fileno(), 0, manifest.piece_bytes(piece)) for piece in range(first, end)]

    # -- what it says

    def say(self, message: pb.LinkMessage) -> None:
        """To everybody."""
        self.membership.broadcast(message)

    def from_outside(self, message: pb.LinkMessage) -> None:
        """The same from the test's thread."""
        self._loop.call_soon_threadsafe(self.say, message)

    def without_end(self, message: pb.LinkMessage) -> None:
        """To everybody, 10,000 times a second until it stops, and as often at once to begin with."""

        def go_on(count: int) -> None:
            for _ in range(0 if self._stop.is_set() else count):
                self.say(message)
            if not self._stop.is_set():
                self._loop.call_later(0.02, go_on, 200)

        go_on(10_000)

    def done(self, pull_id: str) -> None:
        """It says that it has all, so that the pull does not wait for it."""
        offer = self.offers[pull_id]
        word = pb.NodeProgress(pull_id=pull_id, state=NodeState.DONE, generation=offer.generation)
        self.say(pb.LinkMessage(node_progress=word))

    def announce(self, pull_id: str, digest_of: Callable[[int], bytes], *, reading: int = 0) -> None:
        """It says that it holds everything, with these digests."""
        manifest = self.manifests[pull_id]
        runs = [pb.HaveRun(first=piece, digests=digest_of(piece)) for piece in range(manifest.piece_count)]
        readings = [pb.BlobReading(blob=blob.index, reading=reading) for blob in manifest.blobs] if reading else []
        self.say(pb.LinkMessage(have_map=pb.HaveMap(pull_id=pull_id, runs=runs, last=True, readings=readings)))

    def zero_digests(self, pull_id: str) -> Callable[[int], bytes]:
        """The digests of what it sends."""
        manifest = self.manifests[pull_id]
        known: dict[int, bytes] = {}

        def digest(piece: int) -> bytes:
            size = manifest.piece_bytes(piece)
            if size not in known:
                known[size] = blake3(bytes(size)).digest()
            return known[size]

        return digest


def made_up(_piece: int) -> bytes:
    """A digest of nothing that there is."""
    return os.urandom(32)


def events_of(views: Iterable[dict[str, object]]) -> str:
    """The lines about faults in what some nodes show."""
    return "\n".join(str(line) for view in views for line in view.get("events", []))  # type: ignore[attr-defined]
