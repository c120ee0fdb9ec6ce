"""Discovery by real mDNS between instances on this machine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo_dl.net import discovery as discovery_module
from exo_dl.net.discovery import Discovery, Sighting, read_sighting
from exo_dl.net.identity import new_node_id

CLUSTER = new_node_id()  # Random: other runs on this network must not be seen.
GOOD = {b"v": b"1", b"id": b"a" * 16, b"cl": CLUSTER.encode(), b"name": b"one", b"pp": b"7", b"ver": b"1", b"inc": b"5"}


class Watcher:
    """One node's discovery, with what it saw."""

    def __init__(self, *, cluster: str = CLUSTER, name: str = "node", node_id: str | None = None) -> None:
        self.node_id = node_id or new_node_id()
        self.discovery = Discovery(node_id=self.node_id, cluster_id=cluster, name=name, version="1.0")
        self.seen: dict[str, Sighting] = {}
        self.changed = asyncio.Event()

    async def start(self, *, grpc_port: int, incarnation: int = 1) -> None:
        await self.discovery.start(
            grpc_port=grpc_port, piece_port=7, incarnation=incarnation, on_found=self._found, on_gone=self._gone
        )

    def _found(self, sighting: Sighting) -> None:
        self.seen[sighting.node_id] = sighting
        self.changed.set()

    def _gone(self, node_id: str) -> None:
        del self.seen[node_id]
        self.changed.set()

    async def until(self, node_id: str, *, port: int | None) -> None:
        async with asyncio.timeout(8):
            while (self.seen[node_id].grpc_port if node_id in self.seen else None) != port:
                self.changed.clear()
                await self.changed.wait()

    async def until_address(self, node_id: str, address: str, *, there: bool) -> None:
        async with asyncio.timeout(8):
            while (address in self.seen[node_id].addresses) != there:
                self.changed.clear()
                await self.changed.wait()


@pytest.fixture
async def watchers() -> AsyncIterator[list[Watcher]]:
    made: list[Watcher] = []
    yield made
    await asyncio.gather(*(each.discovery.stop() for each in made))


async def test_two_nodes_see_each_other_and_the_goodbye_but_no_other_cluster(watchers: list[Watcher]) -> None:
    one, two, stranger = Watcher(name="Küche"), Watcher(), Watcher(cluster=new_node_id())
    watchers += [one, two, stranger]
    await one.start(grpc_port=4001)
    await stranger.start(grpc_port=4003)
    await two.start(grpc_port=4002)
    await two.until(one.node_id, port=4001)
    await one.until(two.node_id, port=4002)
    sighting = two.seen[one.node_id]
    assert (sighting.name, sighting.piece_port, sighting.version) == ("Küche", 7, "1.0")
    assert sighting.addresses
    await one.discovery.stop()
    watchers.remove(one)
    await two.until(one.node_id, port=None)
    assert not stranger.seen
    assert not two.seen


async def test_a_restart_on_another_port_is_seen(watchers: list[Watcher]) -> None:
    one, two = Watcher(), Watcher()
    watchers += [one, two]
    await one.start(grpc_port=4001)
    await two.start(grpc_port=4002)
    await one.until(two.node_id, port=4002)
    again = Watcher(node_id=two.node_id)
    watchers.append(again)
    await again.start(grpc_port=4009, incarnation=2)
    await one.until(two.node_id, port=4009)
    assert one.seen[two.node_id].incarnation == 2


async def test_changed_addresses_are_announced_anew(watchers: list[Watcher], monkeypatch: pytest.MonkeyPatch) -> None:
    real = discovery_module.local_hosts
    extra: list[str] = []
    # Not faster: caches keep a record for its first second whatever is said (RFC 6762, section 10.2).
    monkeypatch.setattr(discovery_module, "_POLL_S", 1.2)
    monkeypatch.setattr(discovery_module, "local_hosts", lambda *a, **k: (*real(*a, **k), *extra))
    one, two = Watcher(), Watcher()
    watchers += [one, two]
    await one.start(grpc_port=4001)
    await two.start(grpc_port=4002)
    await two.until(one.node_id, port=4001)
    extra.append("198.51.100.7")
    await two.until_address(one.node_id, "198.51.100.7", there=True)
    extra.clear()
    await two.until_address(one.node_id, "198.51.100.7", there=False)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"v", b"2"),
        (b"cl", b"another"),
        (b"id", b"short"),
        (b"id", None),
        (b"name", b""),
        (b"name", b"x" * 65),
        (b"name", b"\xff\xfe"),
        (b"name", b"a\x1b[31m"),
        (b"pp", b"0"),
        (b"pp", b"65536"),
        (b"pp", "\u0663".encode()),
        (b"inc", b"-1"),
        (b"ver", b"y" * 100),
    ],
)
def test_records_out_of_bounds_are_not_read(key: bytes, value: bytes | None) -> None:
    assert read_sighting(GOOD, cluster_id=CLUSTER, port=1, addresses=["192.0.2.1"]) is not None
    assert read_sighting({**GOOD, key: value}, cluster_id=CLUSTER, port=1, addresses=["192.0.2.1"]) is None


@given(
    st.dictionaries(st.binary(max_size=40), st.none() | st.binary(max_size=300), max_size=40),
    st.none() | st.integers(-1, 2**17),
    st.lists(st.text(max_size=20) | st.ip_addresses().map(str), max_size=40),
)
def test_any_record_gives_a_bounded_sighting_or_none(
    noise: dict[bytes, bytes | None], port: int | None, addresses: list[str]
) -> None:
    for properties in (noise, {**GOOD, **noise}, {**noise, **GOOD}):
        sighting = read_sighting(properties, cluster_id=CLUSTER, port=port, addresses=addresses)
        if sighting is not None:
            assert 1 <= sighting.grpc_port <= 65535
            assert 1 <= len(sighting.addresses) <= 16
            assert len(sighting.name) <= 64
