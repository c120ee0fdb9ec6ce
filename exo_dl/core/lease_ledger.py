"""The leases that stand, and the set of pieces that they cover."""

from __future__ import annotations

from collections.abc import Iterator

from exo_dl.core.lease_policy import Lease
from exo_dl.core.lease_types import LeaseView
from exo_dl.core.pieces import mask

__all__ = ["LeaseLedger", "LedgerError"]

_YOUNG_S = 0.5  # before its first word nobody knows how far a lease is


class LedgerError(Exception):
    """A lease was to take a step that it cannot take: it began twice, ended twice, or went back. Nothing was changed.

    Args:
        what: one sentence.
        lease: which.
    """

    def __init__(self, what: str, lease: Lease) -> None:
        super().__init__(what)
        self.lease = lease


class LeaseLedger:
    """All leases of a pull.

    Each lease is added once, advances and is shortened while it stands, and is dropped once: any other step raises
    `LedgerError`.

    Attributes:
        leased: pieces that some lease is still to read.
    """

    def __init__(self) -> None:
        self._leases: dict[int, Lease] = {}
        self._slots: dict[tuple[str, int], int] = {}
        self._of_node: dict[str, dict[int, Lease]] = {}
        self._doubles: dict[int, Lease] = {}
        self._cuts: dict[tuple[str, int], Lease] = {}
        self.leased = 0

    def __iter__(self) -> Iterator[Lease]:
        """The leases as they stand now: it may be changed while they are gone through."""
        return iter(tuple(self._leases.values()))

    def __len__(self) -> int:
        return len(self._leases)

    def __contains__(self, lease: Lease) -> bool:
        return lease.lease_id in self._leases

    def of(self, node: str) -> tuple[Lease, ...]:
        """The leases of a node as they stand now."""
        return tuple(self._of_node.get(node, {}).values())

    def get(self, lease_id: int, node: str) -> Lease | None:
        """The lease of that id, when it stands and belongs to ``node``."""
        lease = self._leases.get(lease_id)
        return lease if lease is not None and lease.node == node else None

    def knows(self, lease_id: int) -> bool:
        """Whether a lease of that id stands, whoever holds it."""
        return lease_id in self._leases

    def busy(self, node: str, slot: int) -> bool:
        """Whether this connection holds a lease."""
        return (node, slot) in self._slots

    def overlapping(self, lease: Lease, pieces: int) -> list[Lease]:
        """The other leases that are still to read some of ``pieces``, which are a part of this one's."""
        others = self._leases if lease.duplicate else self._doubles
        return [x for x in others.values() if x is not lease and x.rest & pieces]

    def add(self, lease: Lease) -> None:
        """A new lease; ``slot`` below 0 where it is not known."""
        if lease.lease_id in self._leases:
            raise LedgerError(f"Lease {lease.lease_id} began and stands already.", lease)
        if self.busy(lease.node, lease.slot):
            raise LedgerError(f"Lease {lease.lease_id} began on connection {lease.slot}, which holds another.", lease)
        self._leases[lease.lease_id] = lease
        if lease.slot >= 0:
            self._slots[lease.node, lease.slot] = lease.lease_id
        self._of_node.setdefault(lease.node, {})[lease.lease_id] = lease
        if lease.duplicate:
            self._doubles[lease.lease_id] = lease
        self.leased |= lease.rest

    def drop(self, lease: Lease) -> None:
        """A lease is over."""
        self._check_stands(lease, "ended")
        del self._leases[lease.lease_id]
        if self._slots.get((lease.node, lease.slot)) == lease.lease_id:
            del self._slots[lease.node, lease.slot]
        del self._of_node[lease.node][lease.lease_id]
        self._doubles.pop(lease.lease_id, None)
        self._cut_done(lease)
        self._uncover(lease, lease.rest)

    def shorten(self, lease: Lease, end: int) -> None:
        """A lease ends at ``end`` from now on."""
        self._check_stands(lease, "was shortened")
        if not lease.position <= end <= lease.end:
            what = f"Lease {lease.lease_id} at {lease.position}..{lease.end} was to end at {end}."
            raise LedgerError(what, lease)
        gone = mask(end, lease.end)
        lease.end = end
        self._uncover(lease, gone)

    def cut(self, lease: Lease, end: int, node: str, slot: int, now: float) -> None:
        """The lease's node was told to end it at ``end``, for this connection, and has not answered."""
        lease.cut, lease.cut_at, lease.cut_for = end, now, (node, slot)
        self._cuts[node, slot] = lease

    def ends_at(self, lease: Lease, end: int) -> bool:
        """The lease's node says that it ends there (0: says nothing). Returns whether that changes anything."""
        shorter = 0 < end < lease.end
        if shorter:
            self.shorten(lease, max(end, lease.position))
        if lease.cut_for is not None and lease.end <= max(lease.cut, lease.position):
            self._cut_done(lease)
            return True
        return shorter

    def victims(self, now: float) -> list[Lease]:
        """The leases whose end may be given to others."""
        known = [x for x in self._leases.values() if x.position > x.first or now - x.granted_at >= _YOUNG_S]
        return [x for x in known if self.victim(x)]

    def victim(self, lease: Lease) -> bool:
        """Whether this lease stands, has an end to give, and is not giving one."""
        free = lease.end > lease.position and not lease.duplicate and lease.cut_for is None
        return free and lease.lease_id in self._leases

    def is_cut_for(self, node: str, slot: int) -> bool:
        """Whether some lease is being cut for this connection."""
        return (node, slot) in self._cuts

    def being_cut(self) -> tuple[Lease, ...]:
        """The leases whose nodes have not answered a cut."""
        return tuple(self._cuts.values())

    def _cut_done(self, lease: Lease) -> None:
        if lease.cut_for is not None:
            del self._cuts[lease.cut_for]
            lease.cut_for = None

    def advance(self, lease: Lease, position: int) -> None:
        """A lease is read up to ``position``."""
        self._check_stands(lease, "advanced")
        if position < lease.position:
            raise LedgerError(f"Lease {lease.lease_id} went back from {lease.position} to {position}.", lease)
        position = min(position, lease.end)
        self.leased &= ~mask(lease.position, position)
        lease.position = position

    def doubled(self, lease: Lease) -> bool:
        """Whether another lease doubles up what is left of this one, which is no duplicate itself."""
        return bool(self.overlapping(lease, lease.rest))

    def views(self) -> tuple[LeaseView, ...]:
        """All leases, for people and tests."""
        return tuple(
            LeaseView(x.lease_id, x.node, x.slot, x.first, x.end, x.position, x.rate, x.duplicate)
            for x in self._leases.values()
        )

    def _check_stands(self, lease: Lease, step: str) -> None:
        if self._leases.get(lease.lease_id) is not lease:
            raise LedgerError(f"Lease {lease.lease_id} {step} and does not stand.", lease)

    def _uncover(self, lease: Lease, bits: int) -> None:
        self.leased &= ~bits
        for other in self.overlapping(lease, bits):
            self.leased |= other.rest & bits
