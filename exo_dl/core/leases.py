"""The coordinator's machine: which node reads which pieces from the hub.

A *lease* gives one hub connection of one node a contiguous run of pieces. What some node wants and nobody holds, leases
or is about to find on its own disk is *free*. A connection that asks gets a part of what is free in proportion to its
rate, a smaller part each time, so that all end together; when nothing is free it takes over the tail of the lease that
would end last; when no tail can be taken it doubles up the last pieces of a node that is much slower. Rules:

- A piece is leased to one node at a time, except for those last pieces (at most 0.5 % of what is needed).
- A lease ends by `LeaseEnded`, by `NodeLost`, by standing still, or by a `Cut` to nothing; its rest is free at once.
- What a node tells when it joins, again or for the first time, is all that it holds: it may have lost what it read.
- An ask is answered once, at once or later; a new ask of the same connection replaces it.
- Events about leases that do not stand are ignored: they are late.
- What only a lost node held stays in doubt until the others have told what they hold (or 2 s): exchange between nodes
  does not pass here, so they may hold it too.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from itertools import count

from exo_dl.core.lease_grants import Granting
from exo_dl.core.lease_ledger import LeaseLedger, LedgerError
from exo_dl.core.lease_nodes import Ask, NodeBook
from exo_dl.core.lease_policy import Lease
from exo_dl.core.lease_types import (
    Cut,
    Fault,
    Grant,
    HeldLease,
    LeaseAction,
    LeaseAsked,
    LeaseEnded,
    LeaseEvent,
    LeaseProgressed,
    LeaseResult,
    LeaseView,
    NodeJoined,
    NodeLost,
    QueryHave,
    Tick,
)
from exo_dl.core.manifest import Manifest
from exo_dl.core.pieces import first_set, mask
from exo_dl.core.story import Story

__all__ = [
    "Cut",
    "Fault",
    "Grant",
    "HeldLease",
    "LeaseAction",
    "LeaseAsked",
    "LeaseEnded",
    "LeaseEvent",
    "LeaseProgressed",
    "LeaseResult",
    "LeaseTable",
    "LeaseView",
    "NodeJoined",
    "NodeLost",
    "QueryHave",
    "Tick",
]

_STALL_S = 3.0
_STALL_TIMES = 4.0
_GRACE_S = 3.0
_DOUBT_S = 2.0
_TICK_S, _PARKED_TICK_S = 0.25, 0.1


class LeaseTable:
    """The leases of one pull.

    Args:
        manifest: what is pulled.
        rng: source of randomness.
        epoch: the coordinator's epoch; lease ids of different epochs differ.
        shared_hub_bytes_per_s: rate of an uplink that all nodes share, where it is known.
        expected: nodes that are about to join: nothing is leased before they have (or are lost), or ``patience_s``
            seconds have passed, since one of them may hold everything.
        patience_s: how long to wait for them.

    Attributes:
        story: what it was told and did lately.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        rng: random.Random,
        epoch: int,
        shared_hub_bytes_per_s: float | None = None,
        expected: Collection[str] = (),
        patience_s: float = 1.0,
    ) -> None:
        self._manifest = manifest
        self._rng = rng
        self._book = NodeBook(shared_hub_bytes_per_s)
        self._leases = LeaseLedger()
        self._granting = Granting(
            manifest,
            self._book,
            self._leases,
            ids=count((epoch << 32) + 1),
            emit=lambda action: self._actions.append(action),
        )
        self._doubt_until = 0.0
        self._unanswered: set[str] = set()
        self._expected = set(expected)
        self._patience_s = patience_s
        self._quiet_until: float | None = None
        self._tick_at: float | None = None
        self.story = Story[LeaseAction](manifest.piece_count)
        self._actions: list[LeaseAction] = []

    # ------------------------------------------------------------------ views

    @property
    def outstanding_bytes(self) -> int:
        """Bytes that some node wants and none is known to hold."""
        return self._manifest.set_bytes(self._book.needed & ~self._book.held)

    @property
    def leased(self) -> int:
        """Pieces that some lease is still to read."""
        return self._leases.leased

    @property
    def free(self) -> int:
        """Pieces that are to be leased: somebody wants them, and nobody holds, reads or is about to find them."""
        return self._granting.free

    def leases(self) -> tuple[LeaseView, ...]:
        """The leases that stand."""
        return self._leases.views()

    def next_deadline(self) -> float | None:
        """When a `Tick` is due, on the clock of ``now``; None when nothing waits for time."""
        return self._tick_at

    # ----------------------------------------------------------------- events

    def handle(self, event: LeaseEvent, now: float) -> list[LeaseAction]:
        """Takes one event and says what is to be done.

        Args:
            event: what happened.
            now: seconds on a clock that never goes back.

        Raises:
            IllegalTransitionError: the clock went back, or a lease was to take a step that it cannot take: then the
                table is not whole any more. No event does this, whatever nodes say.
        """
        self._actions = self.story.begin((event,), now)
        try:
            self._take(event, now)
        except LedgerError as error:
            lease = error.lease
            raise self.story.illegal(str(error), lease=lease.lease_id, node=lease.node, whole=False) from error
        return self._actions

    def _take(self, event: LeaseEvent, now: float) -> None:
        if self._quiet_until is None:
            self._quiet_until = now + self._patience_s
        asked: Ask | None = None
        changed = False
        match event:
            case NodeJoined():
                self._joined(event, now)
                changed = True
            case NodeLost(node):
                self._lost(node, now)
                changed = True
            case LeaseAsked(name, slot, rate):
                if name in self._book.nodes and not self._leases.busy(name, slot):
                    self._book.asked(name, slot, rate)
                    asked = self._granting.parked[name, slot] = Ask(name, slot, now)
            case LeaseProgressed(node, lease_id, position, rate, end):
                if (lease := self._leases.get(lease_id, node)) is not None:
                    self._moved(lease, position, rate, now)
                    changed = self._granting.answered(lease, end, now)
            case LeaseEnded():
                changed = self._ended(event, now)
            case Tick():
                self._check_stalls(now)
                self._granting.check_cuts(now)
                changed = True
        if self._granting.doubt and (not self._unanswered or now >= self._doubt_until):
            self._granting.doubt = 0
            changed = True
        if self._expected and now < self._quiet_until:
            pass
        elif changed:
            self._granting.serve_all(now)
        elif asked is not None:
            self._granting.serve_one(asked, now)
        if self._granting.parked or self._leases or self._granting.doubt:
            step = _PARKED_TICK_S if self._granting.parked and self._leases else _TICK_S
            if self._tick_at is None or self._tick_at <= now or self._tick_at > now + step:
                self._tick_at = now + step
        else:
            self._tick_at = None

    def _joined(self, event: NodeJoined, now: float) -> None:
        every = mask(0, self._manifest.piece_count)
        known = self._book.joined(event, every, now)
        self._expected.discard(event.node)
        self._unanswered.discard(event.node)
        listed = {held.lease_id for held in event.leases}
        for lease in self._leases.of(event.node):
            # A grant may have crossed with this message: only what should have been known by then is gone.
            if lease.lease_id not in listed and (not known or now - lease.granted_at > _GRACE_S):
                self._leases.drop(lease)
        for held in event.leases:
            if not self._leases.knows(held.lease_id):
                self._adopt(event.node, held, event.hub_bytes_per_s / len(event.leases), now)
            elif (same := self._leases.get(held.lease_id, event.node)) is not None:
                self._moved(same, held.position, same.rate, now, have=event.have)
                self._granting.answered(same, held.end, now)
        for lease in self._leases if self._leases.leased & event.have else ():
            if lease.rest & self._book.held:
                self._cut_held(lease)

    def _adopt(self, node: str, held: HeldLease, rate: float, now: float) -> None:
        if not 0 <= held.first <= held.position <= held.end <= self._manifest.piece_count:
            self._actions.append(Fault(f"{node} reported a lease outside of this pull; it was ignored."))
            return
        end = held.end
        taken = first_set(mask(held.position, end) & (self._leases.leased | self._book.held), held.position)
        if taken >= 0:
            end = taken
            self._actions.append(Cut(node, held.lease_id, end if end > held.position else held.first))
        if end > held.position:
            self._leases.add(Lease(held.lease_id, node, -1, held.first, end, held.position, rate, now, now))

    def _lost(self, name: str, now: float) -> None:
        self._expected.discard(name)
        self._unanswered.discard(name)
        node = self._book.nodes.get(name)
        if node is None:
            return
        for lease in self._leases.of(name):
            self._leases.drop(lease)
        for key in [k for k in self._granting.parked if k[0] == name]:
            del self._granting.parked[key]
        only_there = self._book.lost(name) & self._book.needed
        if only_there and self._book.nodes:
            self._granting.doubt |= only_there
            self._doubt_until = now + _DOUBT_S
            self._unanswered = set(self._book.nodes)
            self._actions.append(QueryHave(tuple(sorted(self._unanswered))))

    def _moved(self, lease: Lease, position: int, rate: float, now: float, *, have: int = -1) -> None:
        """A lease is at ``position``. What it read is held, but for what is not in ``have``."""
        advances = lease.position < position <= self._manifest.piece_count
        # A node that tells a lower rate without a new piece knows of a limit, or of a link that became slow.
        if rate > 0 and (advances or not lease.rate or rate < lease.rate):
            lease.rate = rate = self._granting.bounded(lease, position, rate, now) if advances else rate
            self._book.measured(lease.node, lease.slot, rate)
        if not advances:
            return
        done = mask(lease.position, position) & have
        self._granting.read(lease, position, now)
        self._book.add(lease.node, done)
        self._leases.advance(lease, position)
        lease.moved_at = now
        self._book.nodes[lease.node].stalls = 0
        for other in self._leases.overlapping(lease, done):
            self._cut_held(other)

    def _ended(self, event: LeaseEnded, now: float) -> bool:
        """A lease is over. Returns whether that changes anything for others: not where it was read to its end."""
        slot, left = -1, False
        # Where the lease is unknown the message is late, but what it says about the hub holds all the same.
        if (lease := self._leases.get(event.lease_id, event.node)) is not None:
            slot = lease.slot
            self._moved(lease, event.position, 0.0, now)
            if lease in self._leases:
                left = lease.end > lease.position
                self._leases.drop(lease)
        fault = self._book.ended(event, slot, now)
        if fault:
            self._actions.append(Fault(fault))
        return left

    # ---------------------------------------------------------------- removal

    def _take_back(self, lease: Lease) -> None:
        self._leases.drop(lease)
        self._actions.append(Cut(lease.node, lease.lease_id, lease.first))

    def _shorten(self, lease: Lease, end: int) -> None:
        self._leases.shorten(lease, end)
        self._actions.append(Cut(lease.node, lease.lease_id, end))

    def _cut_held(self, lease: Lease) -> None:
        """Others hold a part of what this lease is still to read."""
        left = lease.rest & ~self._book.held
        if not left:
            self._take_back(lease)
        elif (first := first_set(lease.rest & self._book.held)) > lease.position:
            self._shorten(lease, first)
        # Where it is the piece in progress that is held elsewhere, the node sees that itself.

    def _check_stalls(self, now: float) -> None:
        for lease in self._leases:
            silent = now - lease.moved_at
            if silent < _STALL_S:
                continue
            if lease.position >= lease.end:
                self._leases.drop(lease)
                continue
            node = self._book.nodes[lease.node]
            rate = lease.rate or self._book.cautious_rate(lease.node, lease.slot, now)
            piece_s = self._manifest.piece_bytes(lease.position) / rate
            # Only what was granted after the last stall is waited for longer.
            times = node.stalls if lease.granted_at > node.stalled_at else max(0, node.stalls - 1)
            if silent > max(_STALL_S, _STALL_TIMES * piece_s) * 2**times:
                self._book.measured(lease.node, lease.slot, self._granting.rate(lease, now))
                wait_s = self._book.stalled(lease.node, lease.slot, now)
                self._take_back(lease)
                told = f"{lease.node} read nothing from the hub for {silent:.1f} s"
                self._actions.append(Fault(f"{told}: its lease goes to others, and it gets none for {wait_s:.0f} s."))
