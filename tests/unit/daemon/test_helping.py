"""What a node holds for the others of a placement, and when it lets go of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from typing import cast

import pytest

from exo_dl.core import swarm as core
from exo_dl.core.manifest import FileEntry, Manifest
from exo_dl.core.pieces import mask
from exo_dl.store.pullstore import PullStore
from exo_dld.helping import Eviction, Helping

PIECES = 16
MIB = 1 << 20
MANIFEST = Manifest(
    "huggingface", "model", "org/model", "c" * 40, (FileEntry("model.safetensors", PIECES * MIB, bytes(32)),)
)
WANT, SPARE = mask(0, 4), mask(4, PIECES)


def helping(*, limit_bytes: int = 1 << 30) -> Helping:
    return Helping(MANIFEST, want=WANT, others={"b": mask(4, 8), "c": mask(6, PIECES)}, limit_bytes=limit_bytes)


def test_a_piece_goes_when_all_linked_nodes_that_want_it_hold_it() -> None:
    held = {"b": mask(4, 8), "c": mask(0, 7)}
    have = mask(0, PIECES)
    assert helping().handed_over(have, lambda node: held[node], lambda _: True) == mask(4, 7)
    assert helping().handed_over(have, lambda node: held[node], lambda node: node == "b") == SPARE


def test_a_piece_is_told_once() -> None:
    mine = helping()
    assert mine.handed_over(SPARE, lambda _: SPARE, lambda _: True) == SPARE
    assert mine.handed_over(SPARE, lambda _: SPARE, lambda _: True) == 0


def test_pieces_are_gathered_while_there_is_room() -> None:
    mine = helping(limit_bytes=8 * MIB)
    assert mine.wait_s(mask(0, 7)) > 0
    assert mine.wait_s(mask(0, 8)) == 0


def test_a_lease_that_waits_for_room_is_not_kept_waiting() -> None:
    mine = helping(limit_bytes=2 * MIB)
    assert mine.parks(core.AskLease(0, 1e6), mask(0, 6))
    assert mine.wait_s(mask(0, 5)) == 0
    assert mine.unpark() == [core.AskLease(0, 1e6)]


def test_a_node_that_has_all_and_helps_nobody_asks_for_nothing() -> None:
    alone = Helping(MANIFEST, want=WANT, others={}, limit_bytes=1 << 30)
    ask = core.AskLease(0, 1e6)
    assert not alone.parks(ask, mask(0, 3)), "it lacks a piece"
    assert alone.parks(ask, WANT)
    assert alone.unpark() == []
    assert not helping().parks(ask, WANT), "others lack what it does not want"


class Node:
    """A worker's swarm, and a store that notes what is dropped of it."""

    def __init__(self) -> None:
        self.swarm = core.Swarm(MANIFEST, node="a", want=WANT, rng=random.Random(1))
        self.store = cast(PullStore, self)
        self.evicted: list[int] = []
        self.asked: list[core.AskLease] = []
        self.gone = asyncio.Event()

    def evict(self, pieces: int) -> int:
        self.evicted.append(pieces)
        return pieces

    def feed(self, event: core.SwarmEvent) -> None:
        self.swarm.handle(event, 0.0)
        if isinstance(event, core.PieceBad):
            self.gone.set()

    def ask(self, ask: core.AskLease) -> None:
        self.asked.append(ask)


@pytest.mark.parametrize("limit_bytes", [1 << 30, 2 * MIB])
async def test_what_many_words_of_peers_let_go_is_dropped_at_once(limit_bytes: int) -> None:
    node = Node()
    tasks: set[asyncio.Task[None]] = set()
    loop = asyncio.get_running_loop()

    def start(work: Coroutine[None, None, None]) -> None:
        tasks.add(loop.create_task(work))

    mine = helping(limit_bytes=limit_bytes)
    eviction = Eviction(mine, node, linked=lambda _: True, start=start)
    node.feed(core.Held(mask(0, PIECES)))
    for peer in ("b", "c"):
        node.feed(core.PeerJoined(peer))
    for piece in range(4, PIECES):
        for peer in ("b", "c"):
            node.feed(core.PeerHas(peer, 1 << piece))
            eviction.peer_has()
    await asyncio.wait_for(node.gone.wait(), 10)
    assert node.evicted == [SPARE]
    assert node.swarm.have == WANT
    await asyncio.gather(*tasks)
    eviction.close()
