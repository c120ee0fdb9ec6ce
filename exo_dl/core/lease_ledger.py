"""The leases that stand, and the set of pieces that they cover."""

from __future__ import annotations

from collections.abc import Iterator

from exo_dl.core.lease_policy import Lease
from exo_dl.core.lease_types import LeaseView
from exo_dl.core.pieces import mask

__all__ = ["LeaseLedger"]


class LeaseLedger:
    """All leases of a pull.

    Attributes:
        leased: pieces that some lease is still to read.
    """

    def __init__(self) -> None:
        self._leases: dict[int, Lease] = {}
        self._slots: dict[tuple[str, int], int] = {}
        self._duplicates = 0
        self.leased = 0

    def __iter__(self) -> Iterator[Lease]:
        """The leases as they stand now: it may be changed while they are gone through."""
        return iter(tuple(self._leases.values()))

    def __len__(self) -> int:
        return len(self._leases)

    def __contains__(self, lease: Lease) -> bool:
        return lease.lease_id in self._leases

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

    @property
    def duplicates(self) -> bool:
        """Whether any lease doubles up another."""
        return self._duplicates > 0

    def add(self, lease: Lease) -> None:
        """A new lease; ``slot`` below 0 where it is not known."""
        self._leases[lease.lease_id] = lease
        if lease.slot >= 0:
            self._slots[lease.node, lease.slot] = lease.lease_id
        self._duplicates += lease.duplicate
        self.leased |= lease.rest

    def drop(self, lease: Lease) -> None:
        """A lease is over."""
        del self._leases[lease.lease_id]
        if self._slots.get((lease.node, lease.slot)) == lease.lease_id:
            del self._slots[lease.node, lease.slot]
        self._duplicates -= lease.duplicate
        self._uncover(lease.rest)

    def shorten(self, lease: Lease, end: int) -> None:
        """A lease ends at ``end`` from now on."""
        gone = mask(end, lease.end)
        lease.end = end
        self._uncover(gone)

    def advance(self, lease: Lease, position: int) -> None:
        """A lease is read up to ``position``."""
        position = min(position, lease.end)
        self.leased &= ~mask(lease.position, position)
        lease.position = position

    def doubled(self, lease: Lease) -> bool:
        """Whether another lease doubles up what is left of this one."""
        return self.duplicates and any(
            x is not lease and x.duplicate and x.rest & lease.rest for x in self._leases.values()
        )

    def views(self) -> tuple[LeaseView, ...]:
        """All leases, for people and tests."""
        return tuple(
            LeaseView(x.lease_id, x.node, x.slot, x.first, x.end, x.position, x.rate, x.duplicate)
            for x in self._leases.values()
        )

    def _uncover(self, bits: int) -> None:
        self.leased &= ~bits
        if self._duplicates:
            for other in self._leases.values():
                self.leased |= other.rest & bits
