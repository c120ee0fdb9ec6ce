"""A simulated cluster that is watched while it pulls: its leases after each event, and what the hub sends again.

A node is *in trouble* while a fault keeps it from others or from its work, and for some seconds after. What it alone
held when that began may be read once more. What it reads meanwhile is not counted: nobody hears of it, nor it of others.
All else that the hub sends a second time is *again*: races at the end, and what is on its way when leases are cut.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from exo_dl.core.manifest import Manifest
from exo_dl.core.pieces import iter_bits, mask
from exo_dl.sim.cluster import Cluster

__all__ = ["WatchedCluster"]

_RECOVERS_S = 4.0


class WatchedCluster(Cluster):
    """See `Cluster`.

    Attributes:
        wrong: what was found wrong with leases.
        again: bytes that the hub sent again, with no fault to account for them.
        tables: how many nodes have coordinated.
    """

    def __init__(self, manifest: Manifest, **options: Any) -> None:
        super().__init__(manifest, **options)
        self.wrong: list[str] = []
        self.again = 0.0
        self._tables: set[int] = set()
        self._allowed: Counter[int] = Counter()
        self._sent: Counter[int] = Counter()
        self._troubles: defaultdict[str, set[str]] = defaultdict(set)

    # ---------------------------------------------------------------- leases

    def leased(self, node: str) -> None:
        """Looks at the leases of a node's table: each piece is in one, and at most once more in a duplicate."""
        table = self.nodes[node].table
        if table is None:
            return
        self._tables.add(id(table))
        once = doubled = 0
        for lease in table.leases():
            rest = mask(lease.position, lease.end)
            if not lease.first <= lease.position <= lease.end:
                self.wrong.append(f"{self.now:.2f} {lease} is at no piece of its own")
            if rest & (doubled if lease.duplicate else once):
                self.wrong.append(f"{self.now:.2f} {lease} is of pieces that are leased already")
            if lease.duplicate:
                doubled |= rest
            else:
                once |= rest

    @property
    def standing(self) -> list[str]:
        """Leases that stand, by the word of any table or node."""
        found = []
        for node in self.nodes.values():
            if node.alive and node.table is not None:
                found += [f"{node.name} coordinates {lease}" for lease in node.table.leases()]
            if node.alive and node.swarm is not None:
                found += [f"{node.name} has {lease}" for lease in node.swarm.held_leases()]
        return found

    # ----------------------------------------------------------------- bytes

    def hub_sent(self, node: str, piece: int, byte_count: float) -> None:
        """Counts what is sent again."""
        if self._troubles[node]:
            return
        size = self.manifest.piece_bytes(piece)
        before = self._sent[piece]
        self._sent[piece] += byte_count
        allowed = size * (1 + self._allowed[piece])
        self.again += max(0.0, self._sent[piece] - max(before, allowed))

    def lost(self, pieces: int) -> None:
        self._allowed.update(iter_bits(pieces))

    def trouble(self, name: str, why: str) -> None:
        if not self._troubles[name]:
            swarm = self.nodes[name].swarm
            if swarm is not None:
                elsewhere = 0
                for other in self.nodes.values():
                    if other.name != name and other.swarm is not None and not self._troubles[other.name]:
                        elsewhere |= other.swarm.have
                self.lost(swarm.have & ~elsewhere)
        self._troubles[name].add(why)

    def recovered(self, name: str, why: str) -> None:
        self._troubles[name].discard(why)
        self._troubles[name].add(after := f"{why} until {self.now}")
        self.call_in(_RECOVERS_S, self._over, name, after)

    def _over(self, name: str, why: str) -> None:
        self._troubles[name].discard(why)
        if not self._troubles[name]:
            for transfer in self.nodes[name].wire.transfers.values():
                if not transfer.peer:
                    self.lost(mask(transfer.first, transfer.end))

    def kill(self, name: str) -> None:
        self.trouble(name, "dead")
        super().kill(name)

    def start_node(self, name: str) -> None:
        restarts = self.nodes[name].life > 0
        super().start_node(name)
        if restarts:
            self.recovered(name, "dead")
            self.recovered(name, "frozen")

    def freeze(self, name: str) -> None:
        self.trouble(name, "frozen")
        super().freeze(name)

    def thaw(self, name: str) -> None:
        super().thaw(name)
        self.recovered(name, "frozen")

    def cut(self, a: str, b: str) -> None:
        self.trouble(a, f"cut from {b}")
        self.trouble(b, f"cut from {a}")
        super().cut(a, b)

    def mend(self, a: str, b: str) -> None:
        super().mend(a, b)
        self.recovered(a, f"cut from {b}")
        self.recovered(b, f"cut from {a}")
