"""What must hold of leases while a simulated cluster pulls: none is lost, and none is held twice beyond endgame.

After each event of a lease table: each piece is in one lease, and at most once more in a duplicate; what the table
takes for leased is what its leases cover; a lease whose end was told is gone. And where nodes hear each other, at all
times but for the moments in which a word is on its way: a lease of the table is one that its node works on, and the
other way round; a piece that somebody wants and nobody holds is in a lease or free to be leased.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from exo_dl.core.leases import LeaseEnded, LeaseEvent, LeaseTable
from exo_dl.core.pieces import mask
from exo_dl.sim.node import SimNode

__all__ = ["LeaseWatch"]

_ON_ITS_WAY_S = 1.0  # a word and the answer to it: twice two radios' latency, and a request that is cut short
_IN_DOUBT_S = 5.0  # what a node is still checking, or only a lost node held, is not free


class LeaseWatch:
    """Attributes:
    wrong: what was found, each thing once.
    """

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self._apart: dict[tuple[str, int], float] = {}
        self._astray: list[tuple[float, int]] = []

    def took(self, table: LeaseTable, event: LeaseEvent, now: float) -> None:
        """A table took an event."""
        leases = table.leases()
        covered = {False: 0, True: 0}
        for lease in leases:
            rest = mask(lease.position, lease.end)
            if not lease.first <= lease.position <= lease.end:
                self.wrong.append(f"{now:.2f} {lease} is at a piece that is not of it")
            if rest & covered[lease.duplicate]:
                self.wrong.append(f"{now:.2f} {lease} is of pieces that are leased already")
            covered[lease.duplicate] |= rest
        if covered[False] | covered[True] != table.leased:
            self.wrong.append(f"{now:.2f} the table takes {table.leased:x} for leased: {leases}")
        if isinstance(event, LeaseEnded) and any(x.lease_id == event.lease_id and x.node == event.node for x in leases):
            self.wrong.append(f"{now:.2f} {event} was told, and it stands")

    def look(self, nodes: Iterable[SimNode], now: float, *, mute: Collection[str]) -> None:
        """Compares what the coordinator and the nodes know. ``mute``: nodes of which some may not hear some others."""
        live = [n for n in nodes if n.alive and n.swarm is not None and n.succession is not None]
        tables = [(n.name, n.table) for n in live if n.table is not None]
        claims = {n.succession.claim for n in live if n.succession is not None and n.name not in mute}
        if len(claims) != 1 or len(tables) != 1 or tables[0][0] in mute:
            self._apart, self._astray = {}, []
            return
        table = tables[0][1]
        stand = {(lease.node, lease.lease_id) for lease in table.leases() if lease.node not in mute}
        worked, want, have = set(), 0, 0
        for node in live:
            assert node.swarm is not None  # noqa: S101 - of these
            if node.name not in mute:
                worked |= {(node.name, lease.lease_id) for lease in node.swarm.held_leases()}
            want |= node.swarm.want
            have |= node.swarm.have
        self._apart = {lease: self._apart.get(lease, now) for lease in stand ^ worked}
        for lease, since in self._apart.items():
            if now - since > _ON_ITS_WAY_S:
                whose = "stands, and its node is not at it" if lease in stand else "is worked on, and does not stand"
                self.wrong.append(f"{now:.2f} {lease} {whose} since {since:.2f}")
        if mute:
            self._astray = []
            return
        # Pieces that are astray at every look of some seconds.
        lost = want & ~have & ~(table.free | table.leased)
        self._astray = [(since, kept) for since, bits in self._astray if (kept := bits & lost)]
        if self._astray and now - self._astray[0][0] > _IN_DOUBT_S:
            self.wrong.append(f"{now:.2f} {self._astray[0][1]:x} is wanted, held by nobody, and not to be leased")
        self._astray.append((now, lost))
