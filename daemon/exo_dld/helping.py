"""What a node does for the others of a placement: it reads what it does not want itself, and hands it over.

Such pieces are *spare*. They are dropped when all linked nodes that want them hold them: many together, since each
time costs a thread's turn and a look at every file; at once where there is little room for them. While a node holds
more of them than it may and needs nothing for itself, it asks for no leases.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from functools import reduce
from operator import or_
from typing import Protocol

from exo_dl.core import swarm as core
from exo_dl.core.manifest import Manifest
from exo_dl.store.pullstore import PullStore
from exo_dld.alarm import Alarm

__all__ = ["Eviction", "Helping"]

_GATHER_S = 1.0


class Helping:
    """One node's spare pieces in one pull.

    Args:
        manifest: what is pulled.
        want: the pieces that this node wants.
        others: the pieces that each other node of the placement wants; empty without a placement.
        limit_bytes: the most that it holds for others; what is on its way comes on top.

    Attributes:
        spare: pieces that others want and this node does not.
        active: the pull runs, and there is something to do for others.
    """

    def __init__(self, manifest: Manifest, *, want: int, others: Mapping[str, int], limit_bytes: int) -> None:
        self._manifest = manifest
        self._want = want
        self._others = others
        self._limit_bytes = limit_bytes
        self._going = 0
        self._parked: dict[int, core.AskLease] = {}
        self.spare = reduce(or_, others.values(), 0) & ~want
        self.active = bool(self.spare)

    def parks(self, ask: core.AskLease, have: int) -> bool:
        """Whether the node shall not ask now: it is kept for `unpark`, unless nothing is wanted here at all.

        Then a node that lacks something again (its reading was wrong) joins anew, and asks with that.
        """
        held = have & ~self._want
        if self._want & ~have or (self.active and not held):
            return False
        if not self.active:
            return True
        if self._manifest.set_bytes(held) < self._limit_bytes:
            return False
        self._parked[ask.slot] = ask
        return True

    def wait_s(self, have: int) -> float:
        """For how long pieces that may go are gathered, with these held; not at all where room is short."""
        held = have & ~self._want
        return 0.0 if self._parked or self._manifest.set_bytes(held) * 2 >= self._limit_bytes else _GATHER_S

    def unpark(self) -> list[core.AskLease]:
        """What was kept from being asked."""
        parked = list(self._parked.values())
        self._parked.clear()
        return parked

    def handed_over(self, have: int, held_by: Callable[[str], int], linked: Callable[[str], object]) -> int:
        """The spare pieces in ``have`` that no linked node lacks, each told once.

        ``linked`` gives something for nodes that are.
        """
        spare = have & ~(self._want | self._going)
        self._going &= have
        if not spare or not self.active:
            return 0
        lacking = 0
        for node, want in self._others.items():
            if linked(node):
                lacking |= want & ~held_by(node)
        self._going |= spare & ~lacking
        return spare & ~lacking


class Helper(Protocol):
    """A worker, as its eviction knows it.

    Attributes:
        swarm: the machine, to be read only.
        store: where pieces are.
    """

    store: PullStore

    @property
    def swarm(self) -> core.Swarm:
        """The machine, to be read only."""

    def feed(self, event: core.SwarmEvent) -> None:
        """Takes an event for the machine."""

    def ask(self, ask: core.AskLease) -> None:
        """Asks the coordinator for a lease, where there is room for more."""


class Eviction:
    """Drops the spare pieces of one worker.

    Args:
        helping: which they are.
        worker: whose.
        linked: gives something for nodes that are linked.
        start: runs a coroutine as a task of the worker.
    """

    def __init__(
        self,
        helping: Helping,
        worker: Helper,
        *,
        linked: Callable[[str], object],
        start: Callable[[Coroutine[None, None, None]], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._helping = helping
        self._worker = worker
        self._linked = linked
        self._start = start
        self._alarm = Alarm(self._loop, self._look)

    def close(self) -> None:
        """Drops nothing more."""
        self._alarm.set(None)

    def peer_has(self) -> None:
        """A peer told that it holds pieces: some that are held for it may be wanted no more."""
        have = self._worker.swarm.have
        if self._helping.active and have & ~self._worker.swarm.want:
            self._alarm.set(self._loop.time() + self._helping.wait_s(have))

    def evict(self, pieces: int) -> None:
        """Drops these pieces."""
        self._start(self._evict(pieces))

    def _look(self) -> None:
        swarm = self._worker.swarm
        if over := self._helping.handed_over(swarm.have, swarm.held_by, self._linked):
            self.evict(over)

    async def _evict(self, pieces: int) -> None:
        self._worker.feed(core.PieceBad(await asyncio.to_thread(self._worker.store.evict, pieces)))
        for ask in self._helping.unpark():
            self._worker.ask(ask)
