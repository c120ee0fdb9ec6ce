"""A simulated cluster that is watched while it pulls: its leases after each event, and what the hub sends again.

A node is *in trouble* while a fault keeps it from others or from its work, and for some seconds after, until it has met
them again. What it alone held when that began may be read once more, by somebody else, and so may what it was reading
when it ended. What it reads meanwhile is not counted: nobody may hear of it, nor it of what others read. All else that
the hub sends a second time is sent *again*, and `WatchedCluster.allowance` says how much that may be: what the lease
table of each coordinator lets be raced for and cut, and the piece at which a lease was that stood still.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from exo_dl.core.leases import HeldLease, LeaseView
from exo_dl.core.manifest import Manifest
from exo_dl.core.pieces import iter_bits, mask
from exo_dl.core.succession import Claim
from exo_dl.sim.cluster import Cluster

__all__ = ["WatchedCluster"]

_RECOVERS_S = 4.0  # links are made anew, leases told, and what was in doubt is asked for
_RACED_PART, _CUT_PART, _CUT_BYTES = 0.009, 2 * 0.005, 2 << 20


class WatchedCluster(Cluster):
    """See `Cluster`.

    Attributes:
        wrong: what was found wrong with leases.
        again: bytes that the hub sent again, with no fault to account for them.
        same_again: those of them that it sent again to the same node.
    """

    def __init__(self, manifest: Manifest, **options: Any) -> None:
        super().__init__(manifest, **options)
        self.wrong: list[str] = []
        self.again = self.same_again = 0.0
        self._tables: set[Claim] = set()
        self._allowed: Counter[int] = Counter()
        self._sent: defaultdict[tuple[str, int], float] = defaultdict(float)
        self._troubles: defaultdict[str, set[str]] = defaultdict(set)

    # ---------------------------------------------------------------- leases

    def leased(self, node: str) -> None:
        """Looks at the leases of a node's table: each piece is in one, and at most once more in a duplicate."""
        table, claim = self.nodes[node].table, self.claim_of(node)
        if table is None or claim is None:
            return
        self._tables.add(claim)
        covered = {False: 0, True: 0}
        for lease in table.leases():
            rest = mask(lease.position, lease.end)
            if not lease.first <= lease.position <= lease.end:
                self.wrong.append(f"{self.now:.2f} {lease} is at a piece that is not of it")
            if rest & covered[lease.duplicate]:
                self.wrong.append(f"{self.now:.2f} {lease} is of pieces that are leased already")
            covered[lease.duplicate] |= rest

    @property
    def standing(self) -> list[LeaseView | HeldLease]:
        """Leases that stand, by the word of any live table or node."""
        found: list[LeaseView | HeldLease] = []
        for node in self.nodes.values():
            if node.table is not None:
                found += node.table.leases()
            if node.swarm is not None:
                found += node.swarm.held_leases()
        return found

    # ----------------------------------------------------------------- bytes

    def hub_sent(self, node: str, piece: int, byte_count: float) -> None:
        """Counts what is sent again."""
        if self._troubles[node]:
            return
        self.again += self._more("", piece, byte_count)
        self.same_again += self._more(node, piece, byte_count)

    def _more(self, node: str, piece: int, byte_count: float) -> float:
        before = self._sent[node, piece]
        self._sent[node, piece] = after = before + byte_count
        return max(0.0, after - max(before, self.manifest.piece_bytes(piece) * (1 + self._allowed[piece])))

    @property
    def allowance(self) -> float:
        """Bytes that the hub may have sent again."""
        size = self.manifest.total_bytes
        piece = max((self.manifest.piece_bytes(i) for i in range(self.manifest.piece_count)), default=0)
        stalls = sum("read nothing from the hub" in line for n in self.nodes.values() for line in n.count.faults)
        raced, cut = max(piece, _RACED_PART * size), max(_CUT_BYTES, _CUT_PART * size)
        return len(self._tables) * (raced + cut) + stalls * piece

    def lost(self, pieces: int) -> None:
        """These pieces may be read once more."""
        self._allowed.update(iter_bits(pieces))

    # --------------------------------------------------------------- trouble

    def trouble(self, name: str, why: str) -> None:
        """A node is in trouble from now on."""
        if not self._troubles[name]:
            alone = swarm.have if (swarm := self.nodes[name].swarm) is not None else 0
            for other in self.nodes.values():
                if other.name != name and other.swarm is not None and not self._troubles[other.name]:
                    alone &= ~other.swarm.have
            self.lost(alone)
        self._troubles[name].add(why)

    def recovered(self, name: str, why: str) -> None:
        """That trouble is over, in a moment."""
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
        """See `Cluster.kill`. A dead node is in trouble until it is back."""
        self.trouble(name, "dead")
        super().kill(name)

    def start_node(self, name: str) -> None:
        """See `Cluster.start_node`."""
        restarts = self.nodes[name].life > 0
        super().start_node(name)
        if restarts:
            self.recovered(name, "dead")
            self.recovered(name, "frozen")

    def freeze(self, name: str) -> None:
        """See `Cluster.freeze`. So is one that is stopped."""
        self.trouble(name, "frozen")
        super().freeze(name)

    def thaw(self, name: str) -> None:
        """See `Cluster.thaw`."""
        super().thaw(name)
        self.recovered(name, "frozen")

    def cut(self, a: str, b: str) -> None:
        """See `Cluster.cut`. So are both ends of a link that is cut."""
        self.trouble(a, f"cut from {b}")
        self.trouble(b, f"cut from {a}")
        super().cut(a, b)

    def mend(self, a: str, b: str) -> None:
        """See `Cluster.mend`."""
        super().mend(a, b)
        self.recovered(a, f"cut from {b}")
        self.recovered(b, f"cut from {a}")
