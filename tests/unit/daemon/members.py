"""Memberships with real gRPC servers and mutual TLS on loopback, for tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import grpc.aio

from exo_dl.net.discovery import Sighting
from exo_dl.net.identity import Identity, new_node_id, new_secret
from exo_dl.rpc.v1.swarm_pb2 import Beat, Hello, LinkMessage, PullEnd
from exo_dld.dial import connect_any
from exo_dld.link import GRPC_OPTIONS, PROTOCOL, Timing
from exo_dld.membership import Membership
from exo_dld.peerbook import PeerInfo
from exo_dld.streams import ClientStream

SECRET = new_secret()
FAST = Timing(beat_s=0.1, redial_max_s=0.4, forget_s=0.6)


class Node:
    """A membership with its server, and what its callbacks saw."""

    def __init__(
        self,
        *,
        node_id: str = "",
        secret: str = SECRET,
        peers: Sequence[str] = (),
        name: str = "node",
        timing: Timing = FAST,
        host: str = "127.0.0.1",
        **certificates: Any,
    ) -> None:
        self.identity = Identity(secret, node_id or new_node_id(), **certificates)
        self.id = self.identity.node_id
        self.host = host
        self.port = 0
        self.activity = "idle"
        self.events: list[tuple[str, str]] = []
        self.reasons: list[str] = []
        self.messages: list[tuple[str, LinkMessage]] = []
        self.membership = Membership(
            identity=self.identity,
            name=name,
            version="1.0",
            status=lambda: Beat(activity=self.activity, memory_total_bytes=7),
            static_peers=peers,
            listen_hosts=[host],
            timing=timing,
        )
        self.membership.on_up.append(lambda peer: self.events.append(("up", peer)))
        self.membership.on_down.append(self._down)
        self.membership.on_message.append(lambda peer, message: self.messages.append((peer, message)))
        self.server = grpc.aio.server(options=GRPC_OPTIONS)
        self.membership.add_to(self.server)

    def _down(self, peer: str, reason: str) -> None:
        self.events.append(("down", peer))
        self.reasons.append(reason)

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    async def listen(self, port: int = 0) -> Node:
        self.port = self.server.add_secure_port(f"{self.host}:{port}", self.identity.server_credentials())
        await self.server.start()
        return self

    async def start(self, port: int = 0) -> Node:
        if not self.port:
            await self.listen(port)
        await self.membership.start(grpc_port=self.port, piece_port=9)
        return self

    async def stop(self) -> None:
        await self.membership.stop("test ends")
        await self.server.stop(0)

    async def kill(self) -> None:
        """What the other side sees of `kill -9`: no goodbye, the sockets close."""
        self.membership._running = False
        for task in [*self.membership._tasks]:
            task.cancel()
        for link in [*self.membership._links]:
            link._queue.clear()
            link.close("killed")
        await self.server.stop(0)

    async def until(self, condition: Callable[[], bool], *, seconds: float = 6.0) -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                await self.membership.wait_changed(self.membership.revision, timeout_s=0.2)

    async def sees(self, *others: Node, seconds: float = 6.0) -> None:
        await self.until(lambda: self.membership.up() == sorted(other.id for other in others), seconds=seconds)

    def peer(self, other: Node) -> PeerInfo:
        found = self.membership.peer(other.id)
        assert found is not None
        return found


def numbered(number: int) -> LinkMessage:
    return LinkMessage(pull_end=PullEnd(pull_id="p", generation=number))


def sighting_of(node: Node, *, port: int | None = None, incarnation: int | None = None) -> Sighting:
    return Sighting(
        node_id=node.id,
        name="seen",
        addresses=(node.host,),
        grpc_port=port or node.port,
        piece_port=9,
        version="1.0",
        incarnation=incarnation or node.membership.incarnation,
    )


async def open_link(node: Node, identity: Identity) -> ClientStream:
    connected = await connect_any([(node.host, node.port)], identity=identity, expect=node.id, timeout_s=3)
    return ClientStream(connected.channel)


def hello_of(identity: Identity, **changes: object) -> Hello:
    hello = Hello(
        protocol=PROTOCOL, node_id=identity.node_id, name="raw", version="1", grpc_port=1, piece_port=1, incarnation=1
    )
    for field, value in changes.items():
        if field == "addresses":
            hello.addresses.extend(value)  # type: ignore[arg-type]
        else:
            setattr(hello, field, value)
    return hello
