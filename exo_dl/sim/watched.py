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

from exo_dl.core.budget import HELD_BYTES
from exo_dl.core.leases import HeldLease, LeaseEvent, LeaseView
from exo_dl.core.manifest import Manifest
from exo_dl.core.pieces import iter_bits, mask
from exo_dl.core.succession import Claim
from exo_dl.sim.cluster import Cluster
from exo_dl.sim.lease_watch import LeaseWatch
from exo_dl.sim.wire import Transfer

__all__ = ["WatchedCluster"]

_HEARS = ("hub", "silent hub", "corrupt", "full")  # troubles in which a node hears the others all the same
_RECOVERS_S = 4.0  # links are made anew, leases told, and what was in doubt is asked for
_RACED_PART, _CUT_PART, _CUT_BYTES = 0.009, 2 * 0.005, 2 << 20


class WatchedCluster(Cluster):
    """See `Cluster`.

    Attributes:
        wrong: what was found wrong with leases and budgets.
        again: bytes that the hub sent again, with no fault to account for them.
        same_again: those of them that it sent again to the same node.
    """

    def __init__(self, manifest: Manifest, **options: Any) -> None:
        super().__init__(manifest, **options)
        self.measures_cpu = False
        self._watch = LeaseWatch()
        self.wrong = self._watch.wrong
        self.again = self.same_again = 0.0
        self._tables: set[Claim] = set()
        self._allowed: Counter[int] = Counter()
        self._sent: defaultdict[tuple[str, int], float] = defaultdict(float)
        self._troubles: defaultdict[str, set[str]] = defaultdict(set)

    # ---------------------------------------------------------------- leases

    def leased(self, node: str, event: LeaseEvent) -> None:
        """Looks at the leases of a node's table."""
        table, claim = self.nodes[node].table, self.claim_of(node)
        if table is None or claim is None:
            return
        self._tables.add(claim)
        self._watch.took(table, event, self.now)

    def look(self) -> None:
        """Looks at all leases twice a second."""
        mute = {name for name, whys in self._troubles.items() if any(not why.startswith(_HEARS) for why in whys)}
        self._watch.look(self.nodes.values(), self.now, mute=mute)

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

    # --------------------------------------------------------------- budgets

    def asked(self, node: str, transfer: Transfer) -> None:
        """Looks at whether a node's machine keeps to what it was told when memory became short."""
        wire = self.nodes[node].wire
        if wire.limits is None:
            return
        hub, peers = wire.limits
        flying = sum(bool(t.peer) and not t.cancelled for t in wire.transfers.values())
        if transfer.peer and flying > peers:
            self.wrong.append(f"{self.now:.2f} {node} has {flying} transfers from peers, and may have {peers}")
        if not transfer.peer and transfer.slot >= hub:
            self.wrong.append(f"{self.now:.2f} {node} reads by connection {transfer.slot}, and may have {hub}")

    def began(self, node: str) -> None:
        """Looks at whether the buffers of a node's transfers are within its budget."""
        wire = self.nodes[node].wire
        held = sum(wire.buffers.holds(fetch_id) for fetch_id in wire.transfers) * HELD_BYTES
        if held > wire.buffers.budget_bytes:
            self.wrong.append(
                f"{self.now:.2f} {node} holds {held} bytes in buffers: {wire.buffers.budget_bytes} are all"
            )

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
