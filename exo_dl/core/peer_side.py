"""A node's transfers from its peers within one pull: starting them, giving up on them, learning from how they end."""

from __future__ import annotations

from collections.abc import Callable

from exo_dl.core.manifest import Manifest
from exo_dl.core.peer_book import Fetch, PeerBook, Wish
from exo_dl.core.pieces import first_set
from exo_dl.core.rates import RateMeter
from exo_dl.core.swarm_types import (
    CancelFetch,
    Fault,
    FetchEnded,
    FetchFromPeer,
    FetchResult,
    PiecesArrived,
    SwarmAction,
)

__all__ = ["FULL", "PeerSide"]

FULL = 0.8
"""From this load on (see `PeerSide.load`) the links between nodes are what all wait for."""

_STALL_S = 3.0
_STALL_TIMES = 4.0
_SLOWEST_RATE = 256e3
_OVERDUE_TIMES = 2.0
_OVERDUE_S = 0.2
_AGAIN_S = 0.05
_AHEAD_S, _AHEAD_PART = 0.3, 0.02
_FEW = 3
_FAR = 3.0


class PeerSide:
    """The transfers of one node from its peers.

    Args:
        manifest: what is pulled.
        book: what is known of the peers.
        max_fetches: transfers in flight.
        new_fetch_id: gives the next id of a transfer.
        emit: takes actions.

    Attributes:
        flying: number of transfers on their way, without those that were cancelled.
        meter: what comes while any is on its way.
        gained: what comes, and was not there before, whether any is on its way or not.
    """

    def __init__(
        self,
        manifest: Manifest,
        book: PeerBook,
        *,
        max_fetches: int,
        new_fetch_id: Callable[[], int],
        emit: Callable[[SwarmAction], None],
    ) -> None:
        self._manifest = manifest
        self.book = book
        self._max_fetches = self._limit = max_fetches
        self._new_fetch_id = new_fetch_id
        self._emit = emit
        self._fetches: dict[int, Fetch] = {}
        self._in_flight: int | None = 0
        self.flying = 0
        self._again_at = 0.0
        self.meter = RateMeter()
        self.gained = RateMeter()

    @property
    def in_flight(self) -> int:
        """Pieces that are on their way."""
        if self._in_flight is None:
            bits = 0
            for fetch in self._fetches.values():
                if not fetch.cancelled:
                    bits |= fetch.missing
            self._in_flight = bits
        return self._in_flight

    def own(self, fetch_id: int) -> bool:
        """Whether this transfer is one of these, and has not ended."""
        return fetch_id in self._fetches

    def room(self, now: float, lacking_bytes: int) -> bool:
        """Whether there may be another transfer.

        Args:
            now: seconds.
            lacking_bytes: what this node lacks. The pull ends with the node that lacks the most: others have fewer
                transfers the more it lacks, so that it gets the larger part of links that both want.
        """
        if self.flying < _FEW or self.flying >= self._limit:
            return self.flying < self._limit
        ahead = self.book.most_behind(now)
        near = max(self.meter.rate(now) * _AHEAD_S, lacking_bytes * _AHEAD_PART)
        part = 1.0 - (ahead - near) / (_FAR * near) if near > 0 else float(ahead <= 0)
        return self.flying < _FEW + (self._limit - _FEW) * min(1.0, part)

    # ----------------------------------------------------------------- events

    def set_limit(self, limit: int) -> None:
        """At most ``limit`` transfers from now on, and never more than at the start."""
        self._limit = max(1, min(limit, self._max_fetches))

    def lost(self, name: str) -> None:
        """A peer is gone, and its transfers with it."""
        self.book.leave(name)
        for fetch in self._fetches.values():
            if fetch.peer == name:
                self._cancel(fetch)

    def load(self, now: float) -> float:
        """What comes from peers as a part of what comes while anything is on its way from them, 0..1."""
        rate = self.meter.rate(now)
        return min(1.0, self.gained.rate(now) / rate) if rate > 0 else 0.0

    def arrived(self, event: PiecesArrived, new_bytes: int, now: float) -> None:
        """Bytes of a transfer were stored, ``new_bytes`` of them for the first time."""
        self.meter.add(event.byte_count, now)
        self.gained.add(new_bytes, now)
        fetch = self._fetches.get(event.fetch_id)
        if fetch is not None:
            fetch.moved_at = now
            fetch.byte_count += event.byte_count
            if (peer := self.book.peers.get(fetch.peer)) is not None:
                self.book.delivered(peer, fetch, now if event.stored_at is None else min(now, event.stored_at))

    def settled(self, pieces: int, fetch_id: int) -> None:
        """Pieces are there, by transfer ``fetch_id``: others that would only bring them again are cancelled."""
        for fetch in self._fetches.values():
            if fetch.missing & pieces:
                fetch.missing &= ~pieces
                self._in_flight = None
                if not fetch.missing and fetch.fetch_id != fetch_id:
                    self._cancel(fetch)

    def ended(self, event: FetchEnded, now: float) -> None:
        """One of these transfers is over."""
        fetch = self._fetches.pop(event.fetch_id)
        if not fetch.cancelled:
            self.flying -= 1
            self._in_flight = None
        peer = self.book.peers.get(fetch.peer)
        if peer is None:
            return
        peer.fetches.discard(fetch.fetch_id)
        match event.result:
            case FetchResult.DONE if not fetch.missing:
                self.book.brought(peer)
            case FetchResult.CANCELLED if fetch.cancelled:
                pass
            case FetchResult.BUSY if fetch.stays:
                # It has room for others still, and may be asked as one of them.
                pass
            case FetchResult.BUSY:
                self.book.was_busy(peer, event.retry_after_s, now)
            case FetchResult.MISSING:
                self.book.forget(fetch.peer, fetch.missing)
            case FetchResult.NO_ROOM:
                pass
            case FetchResult.CORRUPT:
                if self.book.lied(peer, now):
                    text = f"{fetch.peer} sent wrong bytes several times: it is asked only for what nobody else holds."
                    self._emit(Fault(text))
            case _:
                self.book.has_failed(peer, now)

    def check_stalls(self, now: float) -> None:
        """Gives up on transfers that stand still."""
        for fetch in self._fetches.values():
            peer = self.book.peers.get(fetch.peer)
            silent = now - fetch.moved_at
            if fetch.cancelled or not fetch.missing or peer is None or silent < _STALL_S:
                continue
            piece_s = self._manifest.piece_bytes(first_set(fetch.missing)) / (peer.rate or _SLOWEST_RATE)
            if silent > max(_STALL_S, _STALL_TIMES * piece_s) * 2.0**peer.failures:
                self._cancel(fetch)
                self.book.has_failed(peer, now)

    # ------------------------------------------------------------------- plan

    def plan(self, askable: int, now: float, *, lacking_bytes: int) -> None:
        """Asks for as much of ``askable`` as there is room for."""
        full = self.load(now) >= FULL
        while askable and self.room(now, lacking_bytes):
            wish = self.book.choose(askable, now, idle=not self.flying, full=full)
            if wish is None:
                break
            self._fetch(wish, now)
            askable &= ~wish.pieces
        if now >= self._again_at and self.flying < self._limit and not askable & self.book.rarity.available:
            self._again_at = now + _AGAIN_S
            self._ask_again(now)

    def measure(self, now: float) -> None:
        """Lets the meter run while anything is on its way."""
        if self.flying:
            self.meter.begin(now)
        else:
            self.meter.pause(now)

    def _fetch(self, wish: Wish, now: float, *, doubled: bool = False) -> None:
        fetch = Fetch(self._new_fetch_id(), wish.peer, wish.pieces, now, now, doubled=doubled, stays=wish.stays)
        self._fetches[fetch.fetch_id] = fetch
        self.flying += 1
        self._in_flight = self.in_flight | fetch.missing
        self.book.peers[wish.peer].fetches.add(fetch.fetch_id)
        self._emit(FetchFromPeer(fetch.fetch_id, wish.peer, wish.pieces, wish.stays))

    def _cancel(self, fetch: Fetch) -> None:
        if not fetch.cancelled:
            fetch.cancelled = True
            self.flying -= 1
            self._in_flight = None
            self._emit(CancelFetch(fetch.fetch_id))
            if (peer := self.book.peers.get(fetch.peer)) is not None:
                peer.fetches.discard(fetch.fetch_id)

    def _ask_again(self, now: float) -> None:
        """Nothing is left to ask: a piece that is long overdue is asked from another holder as well."""
        for fetch in self._fetches.values():
            peer = self.book.peers.get(fetch.peer)
            if fetch.cancelled or fetch.doubled or not fetch.missing or peer is None:
                continue
            piece = first_set(fetch.missing)
            usual_s = self._manifest.piece_bytes(piece) / peer.rate if peer.rate > 0 else _STALL_S
            if now - fetch.moved_at <= min(_STALL_S, _OVERDUE_TIMES * usual_s) + _OVERDUE_S:
                continue
            holder = self.book.holder(piece, [p for p in self.book.eligible(now) if p is not peer], now)
            if holder is not None:
                fetch.doubled = True
                self._fetch(Wish(holder.name, 1 << piece), now, doubled=True)
                return
