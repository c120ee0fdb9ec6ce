"""Memory or disk runs short: the swarm machine of a pull that runs gets by with fewer transfers, and has all later."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from exo_dl.core import swarm as core
from exo_dl.core.pieces import mask
from exo_dl.net.fetch import Writing
from exo_dl.sim.scenarios import model
from exo_dld.governor import Governor, io_stalled_s

MIB = 1 << 20
RESERVE = 512 * MIB


class Pull:
    """A session and its worker, as far as the governor sees them: a real swarm machine that is short of pieces."""

    def __init__(self) -> None:
        self.manifest = model(size_bytes=256 * MIB, files=1)
        every = mask(0, self.manifest.piece_count)
        self.swarm = core.Swarm(self.manifest, node="me", want=every, rng=random.Random(1), max_hub_slots=4)
        self.worker = self
        self.now = 0.0
        self.flying: dict[int, core.FetchFromPeer] = {}
        for peer in "abcdefgh":
            self.feed(core.PeerHas(peer, every))

    def feed(self, event: core.SwarmEvent) -> None:
        for action in self.swarm.handle(event, self.now):
            if isinstance(action, core.FetchFromPeer):
                self.flying[action.fetch_id] = action

    def bring_one(self) -> None:
        self.now += 0.01
        fetch = self.flying.pop(min(self.flying))
        bits = fetch.pieces
        self.feed(core.PiecesArrived(fetch.fetch_id, bits, self.manifest.set_bytes(bits)))
        self.feed(core.FetchEnded(fetch.fetch_id, core.FetchResult.DONE))


def governor(
    pull: Pull,
    available: Callable[[], int],
    hushed: list[bool],
    *,
    writing: Callable[[], Writing] = lambda: Writing(0.0, 0.0),
    stalled_s: Callable[[], float | None] = lambda: None,
) -> Governor:
    sessions: Any = [pull]
    return Governor(
        running=lambda: sessions,
        max_hub=4,
        max_peers=core.MAX_PEER_FETCHES,
        reserve=RESERVE,
        available=available,
        writing=writing,
        stalled_s=stalled_s,
        hush=hushed.append,
        idle=lambda: False,
    )


async def test_transfers_shrink_while_memory_is_short_and_grow_again() -> None:
    pull, hushed, readings = Pull(), list[bool](), [RESERVE - 1]
    watch = governor(pull, lambda: readings[0], hushed)
    assert len(pull.flying) == 8
    for hub, peers in ((2, 4), (1, 2), (1, 1), (1, 1)):
        watch.look(0.0)
        assert watch.limits == (hub, peers)
        while len(pull.flying) > peers:
            pull.bring_one()
        pull.bring_one()
        assert len(pull.flying) == peers, "what ends is replaced, up to the limit"
    assert hushed == [True]
    readings[0] = int(1.2 * RESERVE)
    watch.look(0.0)
    assert watch.limits == (1, 1), "in between nothing changes"
    readings[0] = 2 * RESERVE
    for _ in range(4):
        watch.look(0.0)
    assert watch.limits == (4, 8)
    assert len(pull.flying) == 8
    assert hushed == [True, False]
    watch.close()


async def test_it_looks_by_itself(monkeypatch: Any) -> None:
    monkeypatch.setattr("exo_dld.governor._EVERY_S", 0.001)
    looked = asyncio.Event()

    def available() -> int:
        looked.set()
        return 0

    watch = governor(Pull(), available, [])
    async with asyncio.timeout(5):
        await looked.wait()
    watch.close()
    assert watch.halvings >= 1


async def test_transfers_shrink_while_the_disk_does_not_keep_up_and_grow_again() -> None:
    pull, hushed = Pull(), list[bool]()
    busy_s = waited_s = now = 0.0
    watch = governor(pull, lambda: 4 * RESERVE, hushed, writing=lambda: Writing(busy_s, waited_s))
    watch.look(now)
    for hub, peers in ((2, 4), (1, 2), (1, 1), (1, 1)):
        now, busy_s, waited_s = now + 4, busy_s + 16, waited_s + 12
        watch.look(now)
        assert watch.limits == (hub, peers)
        while len(pull.flying) > peers:
            pull.bring_one()
        pull.bring_one()
        assert len(pull.flying) == peers, "what ends is replaced, up to the limit"
    for _ in range(6):
        now, busy_s = now + 4, busy_s + 4
        watch.look(now)
    assert watch.limits == (4, 8)
    assert len(pull.flying) == 8
    assert hushed == [], "it is not memory that is short"
    watch.close()


async def test_memory_and_disk_do_not_add_up() -> None:
    available, busy_s, waited_s = RESERVE - 1, 0.0, 0.0
    watch = governor(Pull(), lambda: available, [], writing=lambda: Writing(busy_s, waited_s))
    watch.look(0.0)
    assert watch.limits == (2, 4)
    busy_s, waited_s = 8.0, 7.0
    watch.look(4.0)
    assert watch.limits == (1, 2), "once more for the memory, which is the shorter of both"
    available = 4 * RESERVE
    for _ in range(4):
        watch.look(4.0)
    assert watch.limits == (2, 4), "there is memory again, and now it is the disk"
    watch.close()


def test_what_the_kernel_says_of_waiting(tmp_path: Path) -> None:
    file = tmp_path / "io"
    assert io_stalled_s(file) is None
    file.write_text("some avg10=0.43 avg60=0.63 avg300=1.04 total=74763271\nfull avg10=0.00 total=61251790\n")
    assert io_stalled_s(file) == 74.763271
    for text in ("", "nonsense\n", "some avg10=0.43 total=\n"):
        file.write_text(text)
        assert io_stalled_s(file) is None
