"""What strangers and misbehaving members may not do on a link."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest

from exo_dl.net.identity import Identity, new_node_id, new_secret
from exo_dl.rpc.v1.swarm_pb2 import Have, HaveRun, Hello, LinkMessage, PeerAddress, PeerGossip
from exo_dld.dropped import Reason
from exo_dld.link import GRPC_OPTIONS, Timing
from exo_dld.streams import MOST_TOGETHER, StreamBrokenError
from tests.unit.daemon.members import SECRET, Node, hello_of, numbered, open_link


@pytest.fixture
async def nodes() -> AsyncIterator[list[Node]]:
    made: list[Node] = []
    yield made
    await asyncio.gather(*(node.stop() for node in made))


async def test_a_stranger_is_refused_on_both_sides(nodes: list[Node]) -> None:
    one = await Node().start()
    stranger = await Node(secret=new_secret(), peers=[one.address]).start()
    member = await Node(peers=[stranger.address]).start()
    nodes += [one, stranger, member]
    await stranger.until(lambda: "another cluster" in stranger.membership.peers()[0].problem)
    await member.until(lambda: "another cluster" in member.membership.peers()[0].problem)
    assert not one.membership.peers()


async def test_a_server_answers_no_one_without_a_certificate_of_the_cluster(nodes: list[Node]) -> None:
    one = await Node().start()
    nodes.append(one)
    other = Identity(new_secret(), new_node_id())
    key, certificate = other.certificate()
    for credentials in (
        grpc.ssl_channel_credentials(one.identity.ca_pem),
        grpc.ssl_channel_credentials(one.identity.ca_pem, key, certificate),
    ):
        options = (*GRPC_OPTIONS, ("grpc.ssl_target_name_override", one.id))
        async with grpc.aio.secure_channel(f"ipv4:{one.address}", credentials, options=options) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary("/exo_dl.rpc.v1.SwarmService/Identify")(b"", timeout=3)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("first", "problem"),
    [
        ({"node_id": "aaaaaaaaaaaaaaaa"}, "certificate"),
        ({"protocol": 1}, "protocol 1"),
        ({"protocol": 3}, "protocol 3, this daemon speaks 2"),
        ({"name": "x" * 65}, "printable"),
        ({"name": "a\x1b[31mb"}, "printable"),
        ({"version": ""}, "printable"),
        ({"grpc_port": 70_000}, "port"),
        ({"piece_port": 0}, "port"),
        ({"addresses": ["1.2.3.4:5"] * 17}, "addresses"),
        ({"addresses": ["nonsense"]}, "no address"),
        ({"addresses": ["a" * 9000 + ":1"]}, "bytes"),
        (numbered(1), "must be a Hello"),
        (LinkMessage(), "must be a Hello"),
    ],
)
async def test_a_hello_that_lies_or_has_no_bounds_is_refused(
    nodes: list[Node], first: dict[str, object] | LinkMessage, problem: str
) -> None:
    one = await Node().start()
    nodes.append(one)
    identity = Identity(SECRET, new_node_id())
    stream = await open_link(one, identity)
    message = first if isinstance(first, LinkMessage) else LinkMessage(hello=hello_of(identity, **first))
    try:
        await stream.write(message)
        with pytest.raises(StreamBrokenError, match=problem) as caught:
            await stream.read()
        assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    finally:
        await stream.finish()
    assert not one.events
    other = Reason.OTHER_PROTOCOL if problem.startswith("protocol") else Reason.MALFORMED
    assert {reason: one.membership.dropped[reason] for reason in Reason if one.membership.dropped[reason]} == {other: 1}


async def test_no_hello_ends_the_handshake(nodes: list[Node]) -> None:
    one = await Node(timing=Timing(handshake_s=0.2)).start()
    nodes.append(one)
    stream = await open_link(one, Identity(SECRET, new_node_id()))
    try:
        with pytest.raises(StreamBrokenError, match="no Hello"):
            await stream.read()
    finally:
        await stream.finish()


async def test_a_peer_that_does_not_read_is_dropped(nodes: list[Node]) -> None:
    one = await Node(timing=Timing(beat_s=0.05, silence_s=60, drain_s=0.5)).start()
    nodes.append(one)
    identity = Identity(SECRET, new_node_id())
    stream = await open_link(one, identity)
    try:
        await stream.write(LinkMessage(hello=hello_of(identity)))
        await one.until(lambda: one.membership.up() == [identity.node_id])
        big = LinkMessage(have=Have(pull_id="p", runs=[HaveRun(first=0, digests=bytes(4 << 20))]))
        for _ in range(4):
            assert one.membership.send(identity.node_id, big)
        await one.until(lambda: one.reasons == ["It did not read what it was sent for 0.5 s."])
    finally:
        await stream.finish()


async def test_a_full_queue_drops_the_link(nodes: list[Node]) -> None:
    one = await Node(timing=Timing(queue_bytes=1000)).start()
    two = await Node(peers=[one.address]).start()
    nodes += [one, two]
    await asyncio.gather(one.sees(two), two.sees(one))
    message = LinkMessage(have=Have(pull_id="p", runs=[HaveRun(first=0, digests=bytes(400))]))
    assert [one.membership.send(two.id, message) for _ in range(4)] == [True, True, False, False]
    await one.until(lambda: len(one.reasons) == 1)
    assert "queue full" in one.reasons[0]
    await one.sees(two)


async def test_too_many_messages_at_once_end_a_link(nodes: list[Node]) -> None:
    one = await Node().start()
    nodes.append(one)
    identity = Identity(SECRET, new_node_id())
    stream = await open_link(one, identity)
    try:
        await stream.write(LinkMessage(hello=hello_of(identity)))
        await one.until(lambda: one.membership.up() == [identity.node_id])
        await stream.write(*[LinkMessage()] * (MOST_TOGETHER + 1))
        await one.until(lambda: len(one.reasons) == 1)
        assert f"{MOST_TOGETHER + 1} messages at once" in one.reasons[0]
        assert one.membership.dropped[Reason.MALFORMED] == 1
    finally:
        await stream.finish()


async def test_silence_ends_a_link(nodes: list[Node]) -> None:
    one = await Node(timing=Timing(beat_s=0.05, silence_s=0.4)).start()
    nodes.append(one)
    identity = Identity(SECRET, new_node_id())
    stream = await open_link(one, identity)
    try:
        await stream.write(LinkMessage(hello=hello_of(identity)))
        await one.until(lambda: one.reasons == ["Nothing was heard of it for 0.4 s."])
    finally:
        await stream.finish()


@pytest.mark.parametrize(
    "message",
    [
        LinkMessage(hello=Hello(protocol=1)),
        LinkMessage(peer_gossip=PeerGossip(peers=[PeerAddress(node_id="../../etc")])),
        LinkMessage(peer_gossip=PeerGossip(peers=[PeerAddress(node_id="a" * 16)] * 300)),
    ],
)
async def test_what_the_protocol_forbids_ends_a_link(nodes: list[Node], message: LinkMessage) -> None:
    one = await Node().start()
    two = await Node(peers=[one.address]).start()
    nodes += [one, two]
    await asyncio.gather(one.sees(two), two.sees(one))
    assert two.membership.send(one.id, message)
    await one.until(lambda: bool(one.reasons) and "broke the protocol" in one.reasons[0])
    assert one.membership.dropped[Reason.MALFORMED] == 1
    await one.sees(two)
