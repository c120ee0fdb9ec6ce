"""Memberships meet over real gRPC servers with mutual TLS on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from bench.ports import free_port
from exo_dl.net.identity import new_node_id
from exo_dl.rpc.v1.swarm_pb2 import Have, HaveRun, LinkMessage, PeerAddress, PeerGossip
from exo_dld.peerbook import UNREACHABLE, UP
from tests.unit.daemon.members import Node, numbered, sighting_of


@pytest.fixture
async def nodes() -> AsyncIterator[list[Node]]:
    made: list[Node] = []
    yield made
    await asyncio.gather(*(node.stop() for node in made))


async def test_static_peers_meet_and_tell_of_each_other(nodes: list[Node]) -> None:
    hub = await Node(name="hub").start()
    left = await Node(name="left", peers=[hub.address]).start()
    right = await Node(name="right", peers=[hub.address]).start()
    nodes += [hub, left, right]
    await asyncio.gather(hub.sees(left, right), left.sees(hub, right), right.sees(hub, left))
    info = left.peer(hub)
    assert (info.name, info.state, info.version, info.problem) == ("hub", UP, "1.0", "")
    assert info.addresses == (hub.address,)
    assert info.piece_address == ("127.0.0.1", 9)
    assert [each.name for each in left.membership.peers()] == ["hub", "right"]
    for node in nodes:
        assert node.events.count(("up", hub.id)) <= 1
        assert not node.reasons


async def test_messages_arrive_in_order_and_beats_are_shown(nodes: list[Node]) -> None:
    one = await Node().start()
    two = await Node(peers=[one.address]).start()
    nodes += [one, two]
    await asyncio.gather(one.sees(two), two.sees(one))
    for number in range(500):
        assert one.membership.send(two.id, numbered(number))
    assert two.membership.broadcast(numbered(7)) == 1
    assert not one.membership.send("aaaaaaaaaaaaaaaa", numbered(1))
    two.activity = "pulling"
    await one.until(lambda: one.peer(two).beat.activity == "pulling")
    await one.until(lambda: len(one.messages) == 1 and len(two.messages) == 500)
    assert [message.pull_end.generation for _, message in two.messages] == list(range(500))
    assert two.messages[0][0] == one.id
    assert one.peer(two).last_seen_s < 5


async def test_large_messages_pass_and_too_large_ones_are_refused_here(nodes: list[Node]) -> None:
    one = await Node().start()
    two = await Node(peers=[one.address]).start()
    nodes += [one, two]
    await asyncio.gather(one.sees(two), two.sees(one))
    big = LinkMessage(have=Have(pull_id="p", runs=[HaveRun(first=0, digests=bytes(20 << 20))]))
    assert one.membership.send(two.id, big)
    await two.until(lambda: len(two.messages) == 1, seconds=10)
    assert two.messages[0][1] == big


async def test_goodbye_removes_a_peer_at_once(nodes: list[Node]) -> None:
    one = await Node().start()
    two = await Node(peers=[one.address]).start()
    nodes.append(one)
    await asyncio.gather(one.sees(two), two.sees(one))
    await two.stop()
    await one.sees(seconds=1)
    assert one.reasons == ["It left: test ends."]
    assert one.membership.peers() == []


async def test_a_killed_peer_is_noticed_shown_and_forgotten(nodes: list[Node]) -> None:
    one = await Node().start()
    two = await Node(peers=[one.address]).start()
    nodes.append(one)
    await asyncio.gather(one.sees(two), two.sees(one))
    await two.kill()
    await one.sees(seconds=2)
    assert one.peer(two).state == UNREACHABLE
    assert one.peer(two).piece_address is None
    await one.until(lambda: "Nothing listens" in one.peer(two).problem)
    await one.until(lambda: one.membership.peers() == [])
    assert two.membership.peer(one.id) is not None


async def test_a_restart_on_another_port_is_noticed(nodes: list[Node]) -> None:
    one = await Node().start()
    two = await Node(peers=[one.address]).start()
    nodes.append(one)
    await asyncio.gather(one.sees(two), two.sees(one))
    before = one.peer(two)
    await two.kill()
    again = await Node(node_id=two.id, peers=[one.address]).start()
    nodes.append(again)
    await one.until(lambda: one.membership.up() == [two.id] and one.peer(two).incarnation != before.incarnation)
    assert one.peer(two).addresses[0] == again.address
    assert [kind for kind, _ in one.events] == ["up", "down", "up"]


async def test_a_restart_before_the_old_link_broke_replaces_it(nodes: list[Node]) -> None:
    one = await Node().start()
    two = await Node(peers=[one.address]).start()
    nodes += [one, two]
    await asyncio.gather(one.sees(two), two.sees(one))
    two.membership._running = False  # It lives on somewhere, but dials no more.
    again = await Node(node_id=two.id, peers=[one.address]).start()
    nodes.append(again)
    await one.until(lambda: one.peer(two).incarnation == again.membership.incarnation)
    assert one.reasons == ["Its daemon was restarted."]
    await again.sees(one)


async def test_a_static_peer_that_starts_later_or_again_is_found(nodes: list[Node]) -> None:
    port = free_port()
    one = await Node(peers=[f"127.0.0.1:{port}"]).start()
    nodes.append(one)
    await one.until(lambda: "Nothing listens" in one.membership.peers()[0].problem)
    assert (one.membership.peers()[0].id, one.membership.peers()[0].name) == ("", f"127.0.0.1:{port}")
    two = await Node().start(port)
    await one.sees(two)
    assert [info.id for info in one.membership.peers()] == [two.id]
    await two.stop()
    await one.sees()
    assert "It left" in one.peer(two).problem or "Nothing listens" in one.peer(two).problem
    three = await Node().start(port)  # Another node at the same address.
    nodes.append(three)
    await one.sees(three)


async def test_own_address_among_static_peers_is_ignored_quietly(
    nodes: list[Node], caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    one = Node(peers=[f"127.0.0.1:{port}", f"localhost:{port}"])
    nodes.append(await one.start(port))
    await one.until(lambda: one.membership.peers() == [])
    assert not one.events
    assert not caplog.records


@pytest.mark.parametrize("attempt", range(8))
async def test_dialling_at_once_keeps_exactly_one_link(nodes: list[Node], attempt: int) -> None:
    nodes += [await Node().listen() for _ in range(4)]
    for node in nodes:
        await node.start()
    for node in nodes:
        for other in nodes:
            if other is not node:
                node.membership._found(sighting_of(other))
    await asyncio.gather(*(node.sees(*(each for each in nodes if each is not node)) for node in nodes))
    for node in nodes:
        assert len(node.membership._links) == 3
        assert sorted(node.events) == sorted(("up", other.id) for other in nodes if other is not node)
        assert node.membership.broadcast(numbered(1)) == 3
    for node in nodes:
        await node.until(lambda node=node: len(node.messages) == 3)  # type: ignore[misc]


async def test_rumours_of_nodes_that_are_not_there_vanish(nodes: list[Node]) -> None:
    one = await Node().start()
    two = await Node(peers=[one.address]).start()
    nodes += [one, two]
    await asyncio.gather(one.sees(two), two.sees(one))
    rumours = [
        PeerAddress(node_id=new_node_id(), name=f"r{n}", addresses=["nonsense", f"127.0.0.1:{free_port()}"])
        for n in range(20)
    ]
    two.membership.send(one.id, LinkMessage(peer_gossip=PeerGossip(peers=rumours)))
    await one.until(lambda: len(one.membership.peers()) == 21)
    await one.until(lambda: len(one.membership.peers()) == 1)


async def test_a_new_port_in_mdns_is_dialled_and_gone_removes(nodes: list[Node]) -> None:
    one = await Node().start()
    two = await Node().start()
    nodes += [one, two]
    one.membership._found(sighting_of(two, port=free_port(), incarnation=1))
    await one.until(lambda: "Nothing listens" in one.peer(two).problem)
    one.membership._found(sighting_of(two))
    await one.sees(two)
    one.membership._gone(two.id)
    assert one.peer(two).state == UP
    ghost = Node()
    one.membership._found(sighting_of(ghost, port=free_port()))
    assert one.membership.peer(ghost.id) is not None
    one.membership._gone(ghost.id)
    assert one.membership.peer(ghost.id) is None
    ghost.membership._running = False


async def test_a_node_at_the_address_of_another_is_not_taken_for_it(nodes: list[Node]) -> None:
    one, two = await Node().start(), await Node().start()
    nodes += [one, two]
    other = Node()
    one.membership._found(sighting_of(other, port=two.port))
    await one.until(lambda: "Another node answers" in one.peer(other).problem)
    assert not one.membership.up()
