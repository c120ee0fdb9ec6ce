"""The coordinator's machine: which node reads which pieces from the hub.

A *lease* gives one hub connection of one node a contiguous run of pieces. What some node wants and nobody holds, leases
or is about to find on its own disk is *free*. A connection that asks gets a part of what is free in proportion to its
rate, a smaller part each time, so that all end together; when nothing is free it takes over the tail of the lease that
would end last; when no tail can be taken it doubles up the last pieces of a node that is much slower. Rules:

- A piece is leased to one node at a time, except for those last pieces (at most 0.5 % of what is needed).
- A lease ends by `LeaseEnded`, by `NodeLost`, by standing still, or by a `Cut` to nothing; its rest is free at once.
- An ask is answered once, at once or later; a new ask of the same connection replaces it.
- Events about leases that do not stand are ignored: they are late.
- What only a lost node held stays in doubt until the others have told what they hold (or 2 s): exchange between nodes
  does not pass here, so they may hold it too.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from itertools import count

from exo_dl.core import lease_policy as policy
from exo_dl.core.lease_ledger import LeaseLedger
from exo_dl.core.lease_nodes import Ask, NodeBook
from exo_dl.core.lease_policy import START_S, CostMap, Lease, ReadTwice, choose_run, seconds_left
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

_FIRST_LEASE_BYTES = 16 << 20
_ANSWER_S = 0.5  # a node answers a cut within milliseconds, unless it has no time at all
_GAIN_S = 0.2  # each cut is a request more, and a round trip
_TWICE_GAIN_S = 0.1  # a piece is read twice only for this much: on a busy machine rates waver by less
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
        self._costs = CostMap(manifest)
        self._rng = rng
        self._ids = count((epoch << 32) + 1)
        self._book = NodeBook(shared_hub_bytes_per_s)
        self._leases = LeaseLedger()
        self._parked: dict[tuple[str, int], Ask] = {}
        self._doubt = 0
        self._doubt_until = 0.0
        self._unanswered: set[str] = set()
        self._expected = set(expected)
        self._patience_s = patience_s
        self._quiet_until: float | None = None
        self._twice = ReadTwice(self._costs, lambda: self._book.needed)
        self._tick_at: float | None = None
        self._actions: list[LeaseAction] = []

    # ------------------------------------------------------------------ views

    @property
    def outstanding_bytes(self) -> int:
        """Bytes that some node wants and none is known to hold."""
        return self._manifest.set_bytes(self._book.needed & ~self._book.held)

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
        """
        if self._quiet_until is None:
            self._quiet_until = now + self._patience_s
        self._actions = []
        changed = True
        match event:
            case NodeJoined():
                self._joined(event, now)
            case NodeLost(node):
                self._lost(node, now)
            case LeaseAsked(name, slot, rate):
                if name in self._book.nodes and not self._leases.busy(name, slot):
                    self._book.asked(name, slot, rate)
                    self._parked[name, slot] = Ask(name, slot, now)
            case LeaseProgressed(node, lease_id, position, rate, end):
                changed = False
                if (lease := self._leases.get(lease_id, node)) is not None:
                    self._moved(lease, position, rate, now)
                    changed = self._answered(lease, end, now)
            case LeaseEnded():
                self._ended(event, now)
            case Tick():
                self._check_stalls(now)
                self._check_cuts(now)
        if self._doubt and (not self._unanswered or now >= self._doubt_until):
            self._doubt = 0
        if changed:
            self._serve(now)
        if self._parked or self._leases or self._doubt:
            step = _PARKED_TICK_S if self._parked and self._leases else _TICK_S
            if self._tick_at is None or self._tick_at <= now or self._tick_at > now + step:
                self._tick_at = now + step
        else:
            self._tick_at = None
        return self._actions

    def _joined(self, event: NodeJoined, now: float) -> None:
        every = mask(0, self._manifest.piece_count)
        known = self._book.joined(event, every, now)
        self._expected.discard(event.node)
        self._unanswered.discard(event.node)
        listed = {held.lease_id for held in event.leases}
        for lease in self._leases:
            # A grant may have crossed with this message: only what should have been known by then is gone.
            mine = lease.node == event.node and lease.lease_id not in listed
            if mine and (not known or now - lease.granted_at > _GRACE_S):
                self._leases.drop(lease)
        for held in event.leases:
            if not self._leases.knows(held.lease_id):
                self._adopt(event.node, held, event.hub_bytes_per_s / len(event.leases), now)
            elif (same := self._leases.get(held.lease_id, event.node)) is not None:
                self._moved(same, held.position, same.rate, now)
                self._answered(same, held.end, now)
        for lease in self._leases:
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
        for lease in self._leases:
            if lease.node == name:
                self._leases.drop(lease)
        for key in [k for k in self._parked if k[0] == name]:
            del self._parked[key]
        only_there = self._book.lost(name) & self._book.needed
        if only_there and self._book.nodes:
            self._doubt |= only_there
            self._doubt_until = now + _DOUBT_S
            self._unanswered = set(self._book.nodes)
            self._actions.append(QueryHave(tuple(sorted(self._unanswered))))

    def _moved(self, lease: Lease, position: int, rate: float, now: float) -> None:
        advances = lease.position < position <= self._manifest.piece_count
        if rate > 0 and (advances or not lease.rate):
            rate = policy.slowed_rate(self._costs, lease, position, rate, now) if advances else rate
            lease.rate = rate
            self._book.measured(lease.node, lease.slot, rate)
        if not advances:
            return
        done = mask(lease.position, position)
        self._book.add(lease.node, done)
        self._leases.advance(lease, position)
        lease.moved_at = now
        self._book.nodes[lease.node].stalls = 0
        if self._leases.duplicates:
            for other in self._leases:
                if other is not lease and other.rest & done:
                    self._cut_held(other)

    def _ended(self, event: LeaseEnded, now: float) -> None:
        slot = -1
        # Where the lease is unknown the message is late, but what it says about the hub holds all the same.
        if (lease := self._leases.get(event.lease_id, event.node)) is not None:
            slot = lease.slot
            self._moved(lease, event.position, 0.0, now)
            if lease in self._leases:
                self._leases.drop(lease)
        fault = self._book.ended(event, slot, now)
        if fault:
            self._actions.append(Fault(fault))

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
            rate = lease.rate or self._book.cautious_rate(lease.node, lease.slot)
            piece_s = self._manifest.piece_bytes(lease.position) / rate
            # Only what was granted after the last stall is waited for longer.
            times = node.stalls if lease.granted_at > node.stalled_at else max(0, node.stalls - 1)
            if silent > max(_STALL_S, _STALL_TIMES * piece_s) * 2**times:
                self._book.measured(lease.node, lease.slot, self._rate(lease, now))
                wait_s = self._book.stalled(lease.node, lease.slot, now)
                self._take_back(lease)
                told = f"{lease.node} read nothing from the hub for {silent:.1f} s"
                self._actions.append(Fault(f"{told}: its lease goes to others, and it gets none for {wait_s:.0f} s."))

    # --------------------------------------------------------------- granting

    def _serve(self, now: float) -> None:
        assert self._quiet_until is not None  # noqa: S101 - set by handle()
        if not self._parked or (self._expected and now < self._quiet_until):
            return
        for ask in sorted(self._parked.values(), key=lambda a: -self._book.slot_rate(a.node, a.slot, now)):
            if self._book.banned(ask.node, ask.slot, now):
                continue
            if not self._grant_free(ask, now) and not self._grant_tail(ask, now) and not self._grant_twice(ask, now):
                # A slower one could gain even less.
                break

    def _grant_free(self, ask: Ask, now: float) -> bool:
        free = self._book.needed & ~(self._book.held | self._leases.leased | self._book.checking | self._doubt)
        if not free:
            return False
        node = self._book.nodes[ask.node]
        rate = self._book.slot_rate(ask.node, ask.slot, now)
        total_rate = self._book.total_rate(now)
        left_s = self._costs.of(free | self._leases.leased) / total_rate
        fair = rate * left_s
        if self._book.known_rate(ask.node, ask.slot) > 0:
            least = rate * policy.least_lease_s(self._costs.total / total_rate)
            most = rate * policy.wave_s(total_rate, self._book.connections)
            aim = min(max(fair * policy.lease_part(left_s), least), most)
        else:
            least, aim = 0.0, min(max(fair / 8, 1.0), float(_FIRST_LEASE_BYTES))
        first, end = choose_run(free & node.want or free, self._costs, aim=aim, least=min(least, fair) / 2)
        piece_s = self._costs.run(first, first + 1) / rate
        if piece_s > max(left_s, START_S) and any(x.rate > rate for x in self._leases):
            # Alone with this piece it would take longer than the others need for all that is left.
            return False
        self._grant(ask, first, end, now, duplicate=False)
        return True

    def _grant_tail(self, ask: Ask, now: float) -> bool:
        """Asks the node whose lease would end last to end it earlier; what it then says it leaves is free."""
        if self._leases.is_cut_for(ask.node, ask.slot):
            return True
        thief_rate = self._book.slot_rate(ask.node, ask.slot, now)
        victim = max(self._leases.victims(now), key=lambda x: self._eta(x, now), default=None)
        if victim is None:
            return False
        rate = self._rate(victim, now)
        split = policy.split_lease(self._costs, victim, rate=rate, thief_rate=thief_rate, now=now)
        if split.end >= victim.end or split.saved_s < _GAIN_S or not self._twice.cut(split, victim.end):
            return False
        self._leases.cut(victim, split.end, ask.node, ask.slot, now)
        self._actions.append(Cut(victim.node, victim.lease_id, split.end))
        return True

    def _answered(self, lease: Lease, end: int, now: float) -> bool:
        """The node of a lease said where it ends (0: nothing). Returns whether that changes anything."""
        before, cut_for = lease.end, lease.cut_for
        if not self._leases.ends_at(lease, end):
            return False
        ask = self._parked.get(cut_for) if cut_for is not None else None
        if ask is not None and lease.end < before and not self._book.banned(ask.node, ask.slot, now):
            self._grant(ask, lease.end, before, now, duplicate=False)
        return True

    def _check_cuts(self, now: float) -> None:
        """A node that is late to answer may be reading on: what it was to leave is raced for, where that is allowed."""
        for lease in self._leases.being_cut():
            first = max(lease.cut, lease.position)
            if now - lease.cut_at >= _ANSWER_S and self._twice.race(self._costs.run(first, lease.end)):
                self._answered(lease, first, now)

    def _grant_twice(self, ask: Ask, now: float) -> bool:
        thief_rate = self._book.slot_rate(ask.node, ask.slot, now)
        for owner in sorted(self._leases.victims(now), key=lambda x: -self._eta(x, now))[:4]:
            if owner.duplicate or owner.node == ask.node or self._leases.doubled(owner):
                continue
            cost = self._costs.run(owner.position, owner.end)
            thief_s = START_S + cost / thief_rate
            first_ever = owner.end - owner.position == 1
            late = self._eta(owner, now) > 2 * thief_s + _TWICE_GAIN_S
            if late and self._twice.race(cost, first_ever=first_ever):
                self._grant(ask, owner.position, owner.end, now, duplicate=True)
                return True
        return False

    def _rate(self, lease: Lease, now: float) -> float:
        rate = lease.rate or self._book.slot_rate(lease.node, lease.slot, now)
        return policy.slowed_rate(self._costs, lease, lease.position + 1, rate, now)

    def _eta(self, lease: Lease, now: float) -> float:
        return seconds_left(self._costs, lease, self._rate(lease, now), now)

    def _grant(self, ask: Ask, first: int, end: int, now: float, *, duplicate: bool) -> None:
        lease_id = next(self._ids)
        rate = self._book.known_rate(ask.node, ask.slot)
        self._leases.add(Lease(lease_id, ask.node, ask.slot, first, end, first, rate, now, now, duplicate))
        self._parked.pop((ask.node, ask.slot), None)
        self._actions.append(Grant(ask.node, ask.slot, lease_id, first, end))
