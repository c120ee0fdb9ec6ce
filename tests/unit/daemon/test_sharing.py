"""The cluster's limit on hub traffic, divided by real memberships over gRPC: never more than the limit in all."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable

import pytest

from exo_dl.errors import ProtocolError
from exo_dl.net.limits import RateLimit
from exo_dl.rpc.v1.swarm_pb2 import Beat, HubShare, LinkMessage
from exo_dld import sharing
from exo_dld.sharing import Sharing
from tests.unit.daemon.members import Node

LIMIT = 8e6


class Group:
    """Nodes in one event loop, so that all of their shares can be added up at each change."""

    def __init__(self) -> None:
        self.members: list[Member] = []
        self.most = 0.0
        self.changed = asyncio.Event()

    def note(self) -> None:
        self.most = max(self.most, sum(member.sharing.share for member in self.members))
        self.changed.set()

    async def until(self, condition: Callable[[], bool], *, seconds: float = 8.0) -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


class Member:
    """A node with its share, and a thread that reads as much as it may while it is `hungry`."""

    def __init__(self, group: Group, node: Node) -> None:
        self.group = group
        self.node = node
        self.limiter = RateLimit()
        self.sharing = Sharing(node.membership, limiter=self.limiter, changed=self._share)
        node.membership._status = self._beat
        node.membership.on_message.append(self._message)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def _share(self, share: float) -> None:
        self.limiter.set_rate(share)
        self.group.note()

    def _beat(self) -> Beat:
        beat = Beat()
        self.sharing.mark(beat)
        return beat

    def _message(self, peer: str, message: LinkMessage) -> None:
        if message.WhichOneof("body") == "hub_share":
            self.sharing.on_share(peer, message.hub_share)

    def hunger(self) -> None:
        def read() -> None:
            while not self._stop.is_set():
                self.limiter.take(self.limiter.chunk_bytes, stopped=self._stop.is_set)

        self._thread = threading.Thread(target=read)
        self._thread.start()

    async def end(self) -> None:
        self.sharing.close()
        self._stop.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)


@pytest.fixture
async def group(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Group]:
    monkeypatch.setattr(sharing, "EVERY_S", 0.1)
    monkeypatch.setattr(sharing, "_RESERVE_S", 0.5)
    made = Group()
    first = Node(node_id="a" * 16)
    await first.start()
    others = [Node(node_id=letter * 16, peers=[first.address]) for letter in "bc"]
    nodes = [first, *[await node.start() for node in others]]
    made.members = [Member(made, node) for node in nodes]
    await asyncio.gather(*(node.sees(*(other for other in nodes if other is not node)) for node in nodes))
    yield made
    for member in made.members:
        await member.end()
    await asyncio.gather(*(member.node.stop() for member in made.members))


async def test_the_limit_is_divided_and_follows_use_and_loss(group: Group) -> None:
    one, two, three = group.members
    for member in group.members:
        member.sharing.set_limit(LIMIT)
    await group.until(lambda: all(m.sharing.share > 0.9 * LIMIT / 3 for m in group.members))
    three.hunger()
    await group.until(lambda: three.sharing.share > 0.85 * LIMIT)
    assert min(one.sharing.share, two.sharing.share) > 0
    two.hunger()
    await group.until(lambda: two.sharing.share > 0.4 * LIMIT)
    assert group.most <= LIMIT * 1.000001

    # The node that divides is lost. The next one goes on, and what the lost one had is free after a while.
    await one.end()
    await one.node.kill()
    await group.until(lambda: two.sharing.share + three.sharing.share > 0.98 * LIMIT)
    assert group.most <= LIMIT * 1.000001
    group.members.remove(one)

    # Another one with a smaller id comes, and divides from now on.
    newcomer = Member(group, Node(node_id="a" * 15 + "b", peers=[two.node.address]))
    newcomer.node.membership.on_up.append(
        lambda _: group.members.append(newcomer) if newcomer not in group.members else None
    )
    newcomer.sharing.set_limit(LIMIT)
    await newcomer.node.start()
    newcomer.hunger()
    await group.until(lambda: newcomer.sharing.share < 0.5 * LIMIT and newcomer in group.members)
    shares = [m.sharing for m in group.members]
    await group.until(lambda: min(s.share for s in shares) > 0.3 * LIMIT and sum(s.share for s in shares) <= LIMIT)

    for member in group.members:
        member.sharing.set_limit(LIMIT / 2)
    assert sum(member.sharing.share for member in group.members) <= LIMIT / 2 * 1.000001
    for member in group.members:
        member.sharing.set_limit(0)
    assert [member.sharing.share for member in group.members] == [0, 0, 0]


async def test_a_share_that_is_none_or_comes_from_anybody_does_not_count(group: Group) -> None:
    one, two, three = group.members
    for member in group.members:
        member.sharing.set_limit(LIMIT)
    await group.until(lambda: all(m.sharing.share > 0.9 * LIMIT / 3 for m in group.members))
    before = two.sharing.share
    two.sharing.on_share(three.node.id, HubShare(bytes_per_s=LIMIT))
    assert two.sharing.share == before
    for rate in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ProtocolError):
            two.sharing.on_share(one.node.id, HubShare(bytes_per_s=rate))
