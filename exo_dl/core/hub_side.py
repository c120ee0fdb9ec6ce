"""A node's connections to the hub within one pull: asking for leases, reading them, telling how far they are.

A *slot* is one connection. It is idle, has asked, holds a lease (with a transfer in flight or a pause before the next
try), or reads something of the node's own choice (`read_own`). Every lease that was granted here ends in exactly one
`EndLease`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from exo_dl.core.lease_types import HeldLease, LeaseResult
from exo_dl.core.manifest import Manifest
from exo_dl.core.pieces import first_set, mask, run_end
from exo_dl.core.rates import ConnectionController, RateMeter
from exo_dl.core.swarm_types import (
    AskLease,
    CancelFetch,
    EndLease,
    FetchEnded,
    FetchFromHub,
    FetchResult,
    LeaseGranted,
    LeaseTrimmed,
    ReportLease,
    SwarmAction,
    TrimFetch,
)

__all__ = ["HubSide", "Slot"]

_REPORT_S = 0.25
_REPORT_MAX_S = 1.0
_REPORT_LATE_S = 0.1  # a report is made at the first event after its time, and for its own sake so much later
_MEASURED_BYTES = 1 << 20
_ASK_AGAIN_S = 10.0
_TRIES = 3
_RETRY_S = 0.2
_UNREACHABLE_S = 2.0
_UNREACHABLE_MAX_S = 30.0
_REFUSED_S = 30.0
_BUSY_S = 1.0
_NO_ROOM_S = 5.0

_LEASE_RESULT = {
    FetchResult.HUB_UNREACHABLE: LeaseResult.HUB_UNREACHABLE,
    FetchResult.HUB_BUSY: LeaseResult.HUB_BUSY,
    FetchResult.HUB_REFUSED: LeaseResult.HUB_REFUSED,
    FetchResult.NO_ROOM: LeaseResult.NO_ROOM,
}


@dataclass(slots=True)
class _Work:
    """What a slot reads: a lease, or a run of the node's own choice (``lease_id`` below 0)."""

    lease_id: int
    first: int
    end: int
    position: int
    told: int
    tell_at: float
    tries: int = 0
    returned: bool = False

    @property
    def has_news(self) -> bool:
        return self.lease_id >= 0 and self.position > self.told


@dataclass(slots=True)
class Slot:
    """One connection."""

    index: int
    meter: RateMeter
    work: _Work | None = None
    fetch_id: int | None = None
    fetch_end: int = 0
    cancelled: bool = False
    asked_at: float | None = None
    wait_until: float = 0.0
    failures: int = field(default=0)


class HubSide:
    """The slots of one node in one pull.

    Args:
        manifest: what is pulled.
        max_slots: never more connections than this.
        guess: bytes/s of all connections together, from earlier pulls; 0 when unknown.
        new_fetch_id: gives the next id of a transfer.
        emit: takes actions.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        max_slots: int,
        guess: float,
        new_fetch_id: Callable[[], int],
        emit: Callable[[SwarmAction], None],
    ) -> None:
        self._manifest = manifest
        self._guess = guess
        self._new_fetch_id = new_fetch_id
        self._emit = emit
        self._max_slots = max_slots
        self.controller = ConnectionController(limit=max_slots)
        self.slots = [Slot(i, RateMeter(guess=guess if i == 0 else 0.0)) for i in range(max_slots)]
        self._by_fetch: dict[int, Slot] = {}
        self._arrivals = 0
        self._bytes = 0
        self._own_id = 0
        self.ready = False
        self.coordinated = False
        self.wait_until = 0.0

    # ------------------------------------------------------------------ views

    def rate(self, now: float) -> float:
        """Bytes/s of all connections that read, or of the first where none does."""
        if self._by_fetch:
            return sum(slot.meter.rate(now) for slot in self._by_fetch.values())
        return self.slots[0].meter.rate(now) if self.slots else 0.0

    @property
    def connections(self) -> int:
        """Connections that read now."""
        return len(self._by_fetch)

    def leases(self) -> tuple[HeldLease, ...]:
        """The coordinator's leases that this node works on."""
        works = [s.work for s in self.slots if s.work is not None and s.work.lease_id >= 0]
        return tuple(HeldLease(w.lease_id, w.first, w.end, w.position) for w in works)

    def own(self, fetch_id: int) -> bool:
        """Whether this transfer is one of the hub's."""
        return fetch_id in self._by_fetch

    def covered(self, *, ahead_s: float | None, now: float) -> int:
        """Pieces that these connections will read: all, or only those that they reach within ``ahead_s``."""
        bits = 0
        for slot in self.slots:
            if slot.work is None or slot.cancelled:
                continue
            end = slot.work.end
            rate = slot.meter.rate(now)
            if ahead_s is not None and rate > 0:
                reach = self._manifest.position(slot.work.position) + rate * ahead_s
                end = min(end, self._manifest.piece_at(int(reach)))
            bits |= mask(slot.work.position, end)
        return bits

    def idle_slot(self, now: float, *, asked_for_s: float) -> Slot | None:
        """A slot that has nothing to do, and asked at least so long ago without an answer (0: asked or not)."""
        if not self.ready or now < self.wait_until:
            return None
        for slot in self.slots[: self.controller.target]:
            if slot.work is None and slot.fetch_id is None and now >= slot.wait_until:
                since = slot.asked_at
                if asked_for_s <= 0 or (since is not None and now - since >= asked_for_s):
                    return slot
        return None

    # ----------------------------------------------------------------- events

    def set_limit(self, limit: int) -> None:
        """At most ``limit`` connections from now on."""
        self.controller.limit = max(0, min(limit, self._max_slots))

    def coordinator(self) -> None:
        """A coordinator knows this node: what was asked before is forgotten."""
        self.coordinated = True
        for slot in self.slots:
            slot.asked_at = None

    def granted(self, event: LeaseGranted, now: float) -> None:
        """The coordinator answered an ask."""
        fits = 0 <= event.first < event.end <= self._manifest.piece_count
        slot = self.slots[event.slot] if 0 <= event.slot < len(self.slots) else None
        usable = slot is not None and slot.work is None and slot.fetch_id is None and self.ready
        if slot is None or not fits or not usable or event.slot >= self.controller.target:
            self._emit(EndLease(event.lease_id, event.first, LeaseResult.RETURNED))
            return
        for other, own in self._without_lease():
            if own.position < event.end and event.first < own.end:
                self._shorten(other, own, max(event.first, own.position + (other.fetch_id is not None)))
        slot.asked_at = None
        slot.work = _Work(event.lease_id, event.first, event.end, event.first, event.first, now + _REPORT_S)

    def trimmed(self, event: LeaseTrimmed, now: float) -> None:
        """The coordinator ends a lease earlier; it gives nothing of that to others before it hears of it."""
        for slot in self.slots:
            if slot.work is not None and slot.work.lease_id == event.lease_id:
                if event.end < slot.work.end:
                    if event.end <= slot.work.position:
                        slot.work.returned = True
                    self._shorten(slot, slot.work, event.end)
                    self._report(slot, slot.work, now)
                return

    def read_own(self, slot: Slot, first: int, end: int, now: float) -> None:
        """Reads a run without a lease: nothing is told to the coordinator."""
        self._own_id -= 1
        slot.work = _Work(self._own_id, first, end, first, first, now)

    def overtaken(self, have: int) -> None:
        """Pieces came from elsewhere: transfers that would read them again are cut or cancelled."""
        for slot in self.slots:
            if slot.work is None or slot.fetch_id is None or slot.cancelled:
                continue
            if have >> slot.work.position & 1:
                self._cancel(slot)
            elif 0 <= (held := first_set(have, slot.work.position)) < slot.fetch_end:
                slot.fetch_end = held
                self._emit(TrimFetch(slot.fetch_id, held))

    def arrived(self, fetch_id: int, pieces: int, byte_count: int, have: int, now: float) -> None:
        """Pieces of one of these transfers were stored."""
        slot = self._by_fetch[fetch_id]
        slot.meter.add(byte_count, now)
        slot.failures = 0
        self._bytes += byte_count
        self._arrivals += pieces.bit_count()
        if slot.work is not None:
            slot.work.tries = 0
            self._advance(slot.work, have)
        reading = [s for s in self.slots[: self.controller.target] if s.fetch_id is not None and s.work is not None]
        self.controller.observe(
            total_bytes=self._bytes,
            arrivals=self._arrivals,
            busy=len(reading),
            rest_s=max((self._rest_s(s, now) for s in reading), default=0.0),
            now=now,
        )

    def ended(self, event: FetchEnded, have: int, now: float) -> None:
        """One of these transfers is over."""
        slot = self._by_fetch.pop(event.fetch_id)
        slot.meter.pause(now)
        asked_for = slot.cancelled
        slot.fetch_id = None
        slot.cancelled = False
        work = slot.work
        if work is None:
            return
        before = work.position
        self._advance(work, have)
        if work.position >= work.end:
            self._end(slot, work, LeaseResult.RETURNED if work.returned else LeaseResult.DONE, now)
            return
        if work.returned:
            self._end(slot, work, LeaseResult.RETURNED, now)
            return
        match event.result:
            case FetchResult.CANCELLED if asked_for or work.position >= slot.fetch_end:
                return
            case FetchResult.DONE if work.position > before or work.position >= slot.fetch_end:
                return
            case FetchResult.HUB_UNREACHABLE:
                wait_s = min(_UNREACHABLE_MAX_S, _UNREACHABLE_S * 2**slot.failures)
                slot.failures = min(slot.failures + 1, 6)
            case FetchResult.HUB_REFUSED:
                wait_s = _REFUSED_S
            case FetchResult.HUB_BUSY:
                self.controller.refused(now)
                wait_s = max(_BUSY_S, event.retry_after_s)
            case FetchResult.NO_ROOM:
                wait_s = _NO_ROOM_S
                self.wait_until = now + wait_s
            case _:
                work.tries += 1
                slot.wait_until = now + _RETRY_S * 2**work.tries
                if work.tries < _TRIES:
                    return
                wait_s = _UNREACHABLE_S
        slot.wait_until = max(slot.wait_until, now + wait_s)
        result = _LEASE_RESULT.get(event.result, LeaseResult.RETURNED)
        self._end(slot, work, result, now, retry_after_s=wait_s, detail=event.detail)

    # ------------------------------------------------------------------- plan

    def plan(self, have: int, now: float) -> None:
        """Starts, ends, asks and tells whatever is due."""
        target = self.controller.target
        for slot in self.slots:
            work = slot.work
            if work is not None:
                self._advance(work, have)
                if slot.index >= target and not work.returned:
                    # One connection fewer: the piece in progress is read to its end, the rest given back.
                    work.returned = True
                    keep = min(work.end, work.position + 1) if slot.fetch_id is not None else work.position
                    self._shorten(slot, work, keep)
                if slot.fetch_id is None and work.position >= work.end:
                    self._end(slot, work, LeaseResult.RETURNED if work.returned else LeaseResult.DONE, now)
                elif slot.fetch_id is None and now >= slot.wait_until:
                    self._start(slot, work, have, now)
                if slot.work is work and work.has_news and now >= work.tell_at:
                    self._report(slot, work, now)
            if slot.work is None and slot.index < target and slot.fetch_id is None:
                self._ask(slot, now)

    def next_deadline(self, now: float) -> float | None:
        """When `plan` has something to do, if nothing else happens."""
        waits: list[float] = []
        target = self.controller.target
        for slot in self.slots:
            if slot.work is not None and slot.work.has_news:
                waits.append(slot.work.tell_at + _REPORT_LATE_S)
            if slot.fetch_id is None and slot.index < target:
                if slot.wait_until > now:
                    waits.append(slot.wait_until)
                elif slot.work is None and self.ready and self.coordinated and slot.asked_at is not None:
                    waits.append(max(slot.asked_at + _ASK_AGAIN_S, self.wait_until))
        return min(waits, default=None)

    def _ask(self, slot: Slot, now: float) -> None:
        if not self.ready or not self.coordinated or now < max(slot.wait_until, self.wait_until):
            return
        if slot.asked_at is None or now - slot.asked_at >= _ASK_AGAIN_S:
            slot.asked_at = now
            self._emit(AskLease(slot.index, self._measured(slot, now)))

    def _without_lease(self) -> list[tuple[Slot, _Work]]:
        return [(s, s.work) for s in self.slots if s.work is not None and s.work.lease_id < 0]

    def _start(self, slot: Slot, work: _Work, have: int, now: float) -> None:
        end = min(work.end, self._manifest.blob_of(work.position).end_piece)
        read = sum(mask(own.position, own.end) for _, own in self._without_lease() if own is not work)
        if (held := first_set(have | read, work.position)) >= 0:
            end = min(end, held)
        if end == work.position:
            return  # another connection is at it
        slot.fetch_id = self._new_fetch_id()
        slot.fetch_end = end
        self._by_fetch[slot.fetch_id] = slot
        slot.meter.begin(now)
        self._emit(FetchFromHub(slot.fetch_id, work.lease_id, slot.index, work.position, end))

    def _report(self, slot: Slot, work: _Work, now: float) -> None:
        work.told, work.tell_at = work.position, now + self._report_s(slot, now)
        self._emit(ReportLease(work.lease_id, work.position, self._measured(slot, now), work.end))

    @staticmethod
    def _measured(slot: Slot, now: float) -> float:
        """The rate to be told, bytes/s; 0 while only small files were read: theirs is that of round trips."""
        meter = slot.meter
        return meter.rate(now) if meter.total_bytes >= _MEASURED_BYTES or not meter.measured else 0.0

    def _report_s(self, slot: Slot, now: float) -> float:
        """Seconds between two reports: a long lease needs no news four times a second."""
        return min(_REPORT_MAX_S, max(_REPORT_S, self._rest_s(slot, now) / 40))

    def _rest_s(self, slot: Slot, now: float) -> float:
        rate = slot.meter.rate(now)
        if slot.work is None or rate <= 0:
            return 0.0
        return self._manifest.run_bytes(slot.work.position, slot.work.end) / rate

    def _end(
        self, slot: Slot, work: _Work, result: LeaseResult, now: float, *, retry_after_s: float = 0.0, detail: str = ""
    ) -> None:
        slot.work = None
        slot.asked_at = None
        if work.lease_id >= 0:
            if work.position > work.told:
                # The rate goes with a report, so that the coordinator knows it before it shares out more.
                self._report(slot, work, now)
            self._emit(EndLease(work.lease_id, work.position, result, retry_after_s, detail))

    def _shorten(self, slot: Slot, work: _Work, end: int) -> None:
        work.end = max(min(work.end, end), work.position)
        if slot.fetch_id is None or slot.cancelled:
            return
        if work.end <= work.position:
            self._cancel(slot)
        elif work.end < slot.fetch_end:
            slot.fetch_end = work.end
            self._emit(TrimFetch(slot.fetch_id, work.end))

    def _cancel(self, slot: Slot) -> None:
        if slot.fetch_id is not None and not slot.cancelled:
            slot.cancelled = True
            self._emit(CancelFetch(slot.fetch_id))

    @staticmethod
    def _advance(work: _Work, have: int) -> None:
        work.position = min(work.end, run_end(have, work.position))
