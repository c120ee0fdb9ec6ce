"""The fastest of several addresses is found, and only addresses of that very peer count."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import socket
from collections.abc import AsyncIterator, Callable

import grpc.aio
import pytest

from exo_dl.net.discovery import Sighting
from exo_dl.net.identity import Identity, new_node_id, new_secret
from exo_dl.rpc.v1.swarm_pb2 import Beat, Hello
from exo_dld.dial import DialError, connect_any, resolve
from exo_dld.link import GRPC_OPTIONS, Timing
from exo_dld.membership import Membership
from exo_dld.ranking import rank_hosts

SECRET = new_secret()


@contextlib.asynccontextmanager
async def served(identity: Identity, bind: str, *, port: int = 0) -> AsyncIterator[tuple[Membership, int]]:
    membership = Membership(
        identity=identity, name="n", version="1", status=Beat, listen_hosts=["127.0.0.1"], timing=Timing(beat_s=0.1)
    )
    server = grpc.aio.server(options=GRPC_OPTIONS)
    membership.add_to(server)
    bound = server.add_secure_port(f"{bind}:{port}", identity.server_credentials())
    await server.start()
    try:
        yield membership, bound
    finally:
        await membership.stop()
        await server.stop(0)


@contextlib.asynccontextmanager
async def pieces(answer: Callable[[str], bytes], *, slow: str = "") -> AsyncIterator[int]:
    """A piece port on all of loopback; `slow` names the address where it answers late."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"GET /v1/probe/262144 HTTP/1.1\r\n")
            assert b"\r\nX-Ticket: yes\r\n" in head
            host = writer.get_extra_info("sockname")[0]
            if host == slow:
                await asyncio.sleep(0.2)  # The slow way itself, not a wait for something.
            writer.write(answer(host))
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "0.0.0.0", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def headers(method: str, path: str) -> dict[str, str]:
    assert (method, path) == ("GET", "/v1/probe/262144")
    return {"X-Ticket": "yes"}


def whole(_host: str) -> bytes:
    return b"HTTP/1.1 200 OK\r\n\r\n" + bytes(256 << 10)


def hello_of(identity: Identity, *, grpc_port: int, piece_port: int) -> Hello:
    return Hello(node_id=identity.node_id, grpc_port=grpc_port, piece_port=piece_port)


async def test_the_fastest_address_comes_first_and_dead_ones_go() -> None:
    me, peer = Identity(SECRET, new_node_id()), Identity(SECRET, new_node_id())
    async with served(peer, "0.0.0.0") as (_, port), pieces(whole, slow="127.0.0.1") as piece_port:
        hello = hello_of(peer, grpc_port=port, piece_port=piece_port)
        hosts = ("127.0.0.1", "127.0.0.2")
        assert await rank_hosts(hosts, hello=hello, identity=me, probe_headers=headers) == ("127.0.0.2", "127.0.0.1")
        assert await rank_hosts(hosts[:1], hello=hello, identity=me, probe_headers=headers) == ()
        assert set(await rank_hosts(hosts, hello=hello, identity=me, probe_headers=None)) == set(hosts)
    assert await rank_hosts(hosts, hello=hello, identity=me, probe_headers=headers) == ()


async def test_an_address_where_another_node_answers_does_not_count() -> None:
    me, peer, other = (Identity(SECRET, new_node_id()) for _ in range(3))
    async with (
        served(peer, "127.0.0.1") as (_, port),
        served(other, "127.0.0.3", port=port),
        pieces(whole) as piece_port,
    ):
        hello = hello_of(peer, grpc_port=port, piece_port=piece_port)
        found = await rank_hosts(("127.0.0.3", "127.0.0.1"), hello=hello, identity=me, probe_headers=headers)
        assert found == ("127.0.0.1",)


async def test_a_refused_probe_rules_an_address_out() -> None:
    me, peer = Identity(SECRET, new_node_id()), Identity(SECRET, new_node_id())
    bad = {"127.0.0.1": b"HTTP/1.1 404 No\r\n\r\n", "127.0.0.2": b"rubbish"}
    async with (
        served(peer, "0.0.0.0") as (_, port),
        pieces(lambda host: bad.get(host) or whole(host)) as piece_port,
    ):
        hello = hello_of(peer, grpc_port=port, piece_port=piece_port)
        hosts = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
        assert await rank_hosts(hosts, hello=hello, identity=me, probe_headers=headers) == ("127.0.0.3",)


async def test_a_peer_that_refuses_our_tickets_is_ranked_by_the_time_to_connect() -> None:
    me, peer = Identity(SECRET, new_node_id()), Identity(SECRET, new_node_id())
    async with served(peer, "0.0.0.0") as (_, port), pieces(lambda _: b"HTTP/1.1 401 No\r\n\r\n") as piece_port:
        hello = hello_of(peer, grpc_port=port, piece_port=piece_port)
        hosts = ("127.0.0.1", "127.0.0.2")
        assert set(await rank_hosts(hosts, hello=hello, identity=me, probe_headers=headers)) == set(hosts)


async def test_pieces_are_fetched_over_the_fastest_address() -> None:
    me, peer = Identity(SECRET, new_node_id()), Identity(SECRET, new_node_id())
    async with served(peer, "0.0.0.0") as (theirs, port), pieces(whole, slow="127.0.0.1") as piece_port:
        await theirs.start(grpc_port=port, piece_port=piece_port)
        mine = Membership(
            identity=me, name="me", version="1", status=Beat, listen_hosts=["127.0.0.1"], probe_headers=headers
        )
        await mine.start(grpc_port=1, piece_port=1)
        try:
            mine._found(
                Sighting(
                    node_id=peer.node_id,
                    name="n",
                    addresses=("127.0.0.1", "127.0.0.2"),
                    grpc_port=port,
                    piece_port=piece_port,
                    version="1",
                    incarnation=1,
                )
            )
            seen = 0
            async with asyncio.timeout(5):
                while (info := mine.peer(peer.node_id)) is None or info.piece_address != ("127.0.0.2", piece_port):
                    seen = await mine.wait_changed(seen, timeout_s=5)
            assert info.addresses[0] == f"127.0.0.2:{port}"
        finally:
            await mine.stop()


async def test_a_dead_address_does_not_hold_up_a_living_one() -> None:
    me, peer = Identity(SECRET, new_node_id()), Identity(SECRET, new_node_id())
    # The kernel takes connections to `mute`, and nobody ever answers them.
    with socket.create_server(("127.0.0.2", 0)) as mute:
        async with served(peer, "127.0.0.1") as (_, port):
            dead = ("127.0.0.2", int(mute.getsockname()[1]))
            async with asyncio.timeout(2):
                found = await connect_any([dead, ("127.0.0.1", port)], identity=me, expect=peer.node_id, timeout_s=5)
            await found.channel.close(None)
            assert found.host == "127.0.0.1"
            with pytest.raises(DialError, match="does not answer"):
                await connect_any([dead], identity=me, expect=None, timeout_s=0.5)


async def test_names_are_resolved_or_said_to_be_unknown() -> None:
    assert ("127.0.0.1", 5) in await resolve("localhost", 5, timeout_s=3)
    with pytest.raises(DialError, match="cannot be resolved"):
        await resolve("nobody.invalid", 5, timeout_s=3)
    with pytest.raises(DialError, match="No address"):
        await connect_any([], identity=Identity(SECRET, new_node_id()), expect=None, timeout_s=1)


async def test_clocks_may_differ_by_a_day() -> None:
    day = datetime.timedelta(days=1)
    late = Identity(SECRET, new_node_id(), clock=lambda: datetime.datetime.now(datetime.UTC) - day)
    early = Identity(SECRET, new_node_id(), clock=lambda: datetime.datetime.now(datetime.UTC) + day)
    right = Identity(SECRET, new_node_id())
    for one, two in ((late, early), (early, late), (right, early), (late, right)):
        async with served(two, "127.0.0.1") as (_, port):
            found = await connect_any([("127.0.0.1", port)], identity=one, expect=two.node_id, timeout_s=3)
            await found.channel.close(None)
