"""What the coordinator gives to connections that ask: free pieces, tails of other leases, pieces to be read twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from math import ceil

from exo_dl.core import lease_policy as policy
from exo_dl.core.lease_ledger import LeaseLedger
from exo_dl.core.lease_nodes import Ask, NodeBook
from exo_dl.core.lease_policy import START_S, CostMap, Lease, ReadTwice, choose_run, seconds_left
from exo_dl.core.lease_readers import Readers
from exo_dl.core.lease_types import Cut, Grant, LeaseAction
from exo_dl.core.manifest import Manifest
from exo_dl.core.pieces import first_set, mask

__all__ = ["Granting"]

_FIRST_LEASE_BYTES = 4 << 20
_ANSWER_S = 0.5  # a node answers a cut within milliseconds, unless it has no time at all
_GAIN_S = 0.2  # each cut is a request more, and a round trip
_TWICE_GAIN_S = 0.1  # a piece is read twice only for this much: on a busy machine rates waver by less
_LOOK_S = 50e-6  # between two looks at all leases, for each of them: a few hundredths of a core
_LOOKED_AT = 64  # nodes whose leases are gone through for one ask
_RACED = 4  # leases that are looked at for a race


class Granting:
    """The part of a lease table that decides who gets what.

    Args:
        manifest: what is pulled.
        book: the nodes.
        leases: the leases that stand.
        ids: the ids of new ones.
        emit: takes actions.

    Attributes:
        parked: the connections that wait for a lease.
        doubt: pieces that are not given away, because somebody may hold them.
    """

    def __init__(
        self,
        manifest: Manifest,
        book: NodeBook,
        leases: LeaseLedger,
        *,
        ids: Iterator[int],
        emit: Callable[[LeaseAction], None],
    ) -> None:
        self._costs = CostMap(manifest)
        self._book = book
        self._leases = leases
        self._ids = ids
        self._emit = emit
        self.parked: dict[tuple[str, int], Ask] = {}
        self.doubt = 0
        self._twice = ReadTwice(self._costs, lambda: book.needed)
        self._readers = Readers(manifest.piece_count)
        self._refused_rate = 0.0
        self._look_at = self._last_at = float("-inf")
        self._last: list[Lease] = []

    def serve_all(self, now: float) -> None:
        """Gives all that wait what there is, the fastest first."""
        self._refused_rate = 0.0
        if not self.parked or self._full() or not self._may_serve(now):
            return
        for ask in sorted(self.parked.values(), key=lambda a: -self._book.slot_rate(a.node, a.slot, now)):
            if not self._book.banned(ask.node, ask.slot, now) and not self._serve(ask, now):
                # A slower one could gain even less.
                break
            if self._full():
                break

    def serve_one(self, ask: Ask, now: float) -> None:
        """Gives a connection that has just asked what there is: those that wait already got nothing a moment ago."""
        faster = self._book.slot_rate(ask.node, ask.slot, now) > self._refused_rate
        if faster and self._may_serve(now) and not self._book.banned(ask.node, ask.slot, now):
            self._serve(ask, now)

    def _may_serve(self, now: float) -> bool:
        return bool(self.free) or (bool(self._leases) and now >= self._look_at)

    @property
    def free(self) -> int:
        """Pieces that somebody wants and nobody holds, reads or is about to find on its disks."""
        return self._book.needed & ~(self._book.held | self._leases.leased | self._book.checking | self.doubt)

    def _full(self) -> bool:
        return self._readers.full(len(self._leases), len(self._book.nodes), reads=False)

    def read(self, lease: Lease, position: int, now: float) -> None:
        """A lease was read up to ``position``; the ledger does not know it yet."""
        nodes = len(self._book.nodes)
        if self._readers.counts(nodes):
            cost, count = self._costs.run(lease.position, position), position - lease.position
            self._readers.read(cost, count, free=self.free.bit_count(), nodes=nodes, now=now)

    def _serve(self, ask: Ask, now: float) -> bool:
        nodes = len(self._book.nodes)
        if self._readers.full(len(self._leases), nodes, reads=bool(self._leases.of(ask.node))):
            return True
        if self._leases.of(ask.node) and self._others_end_sooner(ask.node, now):
            return True  # others' links would stand idle, and its own does not: it waits
        if self._grant_free(ask, now) or self._grant_tail(ask, now) or self._grant_twice(ask, now):
            return True
        if any(lease.node == ask.node for lease in islice(self._last_to_end(now), 1)):
            return True  # the one that would end last is its own: what this one cannot take others may
        self._refused_rate = max(self._refused_rate, self._book.slot_rate(ask.node, ask.slot, now))
        return False

    def _last_to_end(self, now: float) -> Iterator[Lease]:
        """The leases whose end may be given to others, those first that would end last."""
        if now >= self._look_at:
            # All leases are looked at: the more there are, the more rarely.
            self._look_at = now + len(self._leases) * _LOOK_S
            self._last = sorted(self._leases.victims(now), key=lambda x: self._eta(x, now))
            self._last_at = now
        if self._last_at != now:
            return iter(())
        while self._last and not self._leases.victim(self._last[-1]):
            del self._last[-1]
        return filter(self._leases.victim, reversed(self._last))

    def _grant_free(self, ask: Ask, now: float) -> bool:
        free = self.free
        if not free:
            return False
        beside = self._leases.of(ask.node)
        candidates = self._small_beside(free & self._book.nodes[ask.node].want or free, bool(beside))
        rate = self._book.slot_rate(ask.node, ask.slot, now)
        part = self._readers.part(len(self._book.nodes))
        total_rate = self._book.total_rate(now) * part
        left_s = self._costs.of(free | self._leases.leased) / total_rate
        fair = rate * left_s
        if self._book.known_rate(ask.node, ask.slot) > 0 and not self._readers.trying:
            whole_s = self._costs.total / total_rate
            least = rate * policy.least_lease_s(whole_s)
            most = rate * policy.wave_s(total_rate, self._book.connections(now) * part, whole_s)
            aim = min(fair * policy.lease_part(left_s), most)
            before = self._costs.of(self._leases.leased & mask(0, first_set(candidates)))
            aim = max(aim * policy.front_part(before * rate / (aim * total_rate)), min(least, most))
        else:
            least, aim = 0.0, min(max(fair / 8, 1.0), float(_FIRST_LEASE_BYTES))
        first, end = choose_run(candidates, self._costs, aim=aim, least=min(least, fair) / 2)
        if fair > 2 * aim and end - first > 1 and self._end_together(first, end, beside, rate, now):
            end -= 1
        piece = self._costs.run(first, first + 1)
        # A connection that reads alone has what its node's connections had together.
        alone = rate if beside else max(rate, self._book.nodes[ask.node].rate)
        if piece / alone > max(left_s, START_S) and self._faster_ones_s(alone, piece, free, now) < piece / alone:
            # Alone with this piece it would take longer than faster ones need for all that is free.
            return False
        self._grant(ask, first, end, now, duplicate=False)
        return True

    def _small_beside(self, candidates: int, beside: bool) -> int:
        """Small files for a connection of a node that reads something else as well, others for one that does not.

        A small file takes a round trip in which its connection stands idle: there the node's link is used all the same.
        """
        return (candidates & self._costs.small if beside else candidates & ~self._costs.small) or candidates

    def _end_together(self, first: int, end: int, beside: Iterable[Lease], rate: float, now: float) -> bool:
        """Whether such a lease would end when another of its node does: its link stood idle until both have others."""
        end_s = self._costs.run(first, end) / rate
        return any(abs(self._eta(lease, now) - end_s) < START_S for lease in beside)

    def _faster_ones_s(self, rate: float, piece: float, free: int, now: float) -> float:
        """Seconds until connections that are faster than ``rate`` had read all that is free, a ``piece`` at least.

        They go on with it when they are through with what they have now. Without end where there is none.
        """
        faster = [(self._eta(lease, now), lease.rate) for lease in self._leases if lease.rate > rate]
        if not faster:
            return float("inf")
        all_s = (self._costs.of(free) + sum(eta * speed for eta, speed in faster)) / sum(speed for _, speed in faster)
        return max(all_s, min(eta + piece / speed for eta, speed in faster))

    def _others_end_sooner(self, name: str, now: float) -> bool:
        """Whether other nodes, when they are through with what they have, read all that is free before this one could
        have read a piece of it beside what it has. Only asked for the last pieces.
        """
        nodes, free = self._book.nodes, self.free
        count = free.bit_count()
        if not 0 < count <= len(nodes) <= _LOOKED_AT:
            return False
        piece = self._costs.run(first_set(free), first_set(free) + 1)
        until_s = self._left_s(name, now) + piece / (nodes[name].rate or piece)
        waiting = {ask.node for ask in self.parked.values() if not self._book.banned(ask.node, ask.slot, now)}
        for other in nodes.values():
            if other.name != name and other.rate and (other.name in waiting or self._leases.of(other.name)):
                spare_s = until_s - self._left_s(other.name, now)
                count -= max(0, ceil(spare_s * other.rate / piece) - 1)  # those that it has before, not just then
                if count <= 0:
                    return True
        return False

    def _left_s(self, name: str, now: float) -> float:
        """Seconds until a node, whose rate is known, has read what it has; at least as long as an ask takes."""
        leases, rate = self._leases.of(name), self._book.nodes[name].rate or 1.0
        left = 0.0
        for lease in leases:
            piece = self._costs.run(lease.position, lease.position + 1)
            done = min(piece, (now - lease.moved_at) * rate / len(leases))
            left += max(0.0, self._costs.run(lease.position, lease.end) - done)
        return max(left / rate, START_S)

    def _grant_tail(self, ask: Ask, now: float) -> bool:
        """Asks the node whose lease would end last to end it earlier; what it then says it leaves is free."""
        if self._leases.is_cut_for(ask.node, ask.slot):
            return True
        thief_rate = self._book.slot_rate(ask.node, ask.slot, now)
        victim = next((lease for lease in self._last_to_end(now) if self._may_take(ask.node, lease)), None)
        if victim is None:
            return False
        rate = self.rate(victim, now)
        split = policy.split_lease(self._costs, victim, rate=rate, thief_rate=thief_rate, now=now)
        if split.end >= victim.end or split.saved_s < _GAIN_S or not self._twice.cut(split, victim.end):
            return False
        self._leases.cut(victim, split.end, ask.node, ask.slot, now)
        self._emit(Cut(victim.node, victim.lease_id, split.end))
        return True

    def _may_take(self, node: str, lease: Lease) -> bool:
        """Whether a node may take over the tail of a lease. Of its own only where no other node is faster.

        Connections of one node share its link: another one there helps only where a hub limits each of them, and what
        is dealt out among them is in pieces that are being read, and can be taken by a faster node no more.
        """
        nodes = self._book.nodes
        return lease.node != node or nodes[node].rate >= max(other.rate for other in nodes.values())

    def answered(self, lease: Lease, end: int, now: float) -> bool:
        """The node of a lease said where it ends (0: nothing). Returns whether that changes anything."""
        before, cut_for = lease.end, lease.cut_for
        if not self._leases.ends_at(lease, end):
            return False
        ask = self.parked.get(cut_for) if cut_for is not None else None
        if ask is not None and lease.end < before and not self._book.banned(ask.node, ask.slot, now):
            self._grant(ask, lease.end, before, now, duplicate=False)
        return True

    def check_cuts(self, now: float) -> None:
        """A node that is late to answer may be reading on: what it was to leave is raced for, where that is allowed."""
        for lease in self._leases.being_cut():
            first = max(lease.cut, lease.position)
            if now - lease.cut_at >= _ANSWER_S and self._twice.race(self._costs.run(first, lease.end)):
                self.answered(lease, first, now)

    def _grant_twice(self, ask: Ask, now: float) -> bool:
        thief_rate = self._book.slot_rate(ask.node, ask.slot, now)
        for owner in islice(self._last_to_end(now), _RACED):
            if owner.node == ask.node or self._leases.doubled(owner):
                continue
            cost = self._costs.run(owner.position, owner.end)
            thief_s = START_S + cost / thief_rate
            first_ever = owner.end - owner.position == 1
            late = self._eta(owner, now) > 2 * thief_s + _TWICE_GAIN_S
            if late and self._twice.race(cost, first_ever=first_ever):
                self._grant(ask, owner.position, owner.end, now, duplicate=True)
                return True
        return False

    def rate(self, lease: Lease, now: float) -> float:
        """What a lease is read at, bytes/s, as far as it can be seen from here."""
        rate = lease.rate or self._book.slot_rate(lease.node, lease.slot, now)
        return self.bounded(lease, lease.position + 1, rate, now)

    def bounded(self, lease: Lease, position: int, rate: float, now: float) -> float:
        """What is left of ``rate`` for a lease that is at ``position`` just now, or will be there at the earliest."""
        return policy.slowed_rate(self._costs, lease, position, rate, now)

    def _eta(self, lease: Lease, now: float) -> float:
        if lease.position >= lease.end:  # read, and its end is about to be told
            return 0.0
        return seconds_left(self._costs, lease, self.rate(lease, now), now)

    def _grant(self, ask: Ask, first: int, end: int, now: float, *, duplicate: bool) -> None:
        # One that was adopted from a coordinator of the same epoch may have the next number.
        lease_id = next(i for i in self._ids if not self._leases.knows(i))
        rate = self._book.known_rate(ask.node, ask.slot)
        self._leases.add(Lease(lease_id, ask.node, ask.slot, first, end, first, rate, now, now, duplicate))
        self._readers.stand(len(self._leases), now)
        self.parked.pop((ask.node, ask.slot), None)
        self._emit(Grant(ask.node, ask.slot, lease_id, first, end))
