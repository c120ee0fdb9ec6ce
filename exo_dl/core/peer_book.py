"""What a node knows of its peers in one pull, and which of them it asks for which pieces.

Rarest first among what the node wants; ties fall to pieces at a random place of the node's own, so that nodes that
begin together ask for different pieces; of a piece's holders the one with the fewest transfers in flight, then the
fastest, is asked for a run of neighbouring pieces worth about a fifth of a second.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from exo_dl.core.manifest import Manifest
from exo_dl.core.pieces import first_set, mask, run_end
from exo_dl.core.rarity import RarityMap

__all__ = ["Fetch", "Peer", "PeerBook", "Wish"]

_REQUEST_S = 0.2
_REQUEST_MAX_BYTES = 16 << 20
_BUSY_MIN_S = 0.03
_BUSY_MAX_S = 1.0
_FAILED_MIN_S = 0.2
_FAILED_MAX_S = 10.0
_STRIKES = 3


@dataclass(slots=True)
class Fetch:
    """A transfer in flight. ``missing`` are its pieces that did not arrive from anywhere yet."""

    fetch_id: int
    peer: str
    first: int
    end: int
    missing: int
    started_at: float
    moved_at: float
    byte_count: int = 0
    cancelled: bool = False
    doubled: bool = False


@dataclass(slots=True)
class Peer:
    """One peer: the pieces that it holds, its transfers in flight, its rate for one transfer in bytes/s."""

    name: str
    has: int = 0
    fetches: set[int] = field(default_factory=set)
    rate: float = 0.0
    wait_until: float = 0.0
    busy: int = 0
    failures: int = 0
    strikes: int = 0

    @property
    def banned(self) -> bool:
        """It sent wrong bytes too often: not asked any more in this pull."""
        return self.strikes >= _STRIKES


@dataclass(frozen=True, slots=True)
class Wish:
    """Pieces ``first .. end`` to be asked from ``peer``."""

    peer: str
    first: int
    end: int


class PeerBook:
    """All peers of a node.

    Args:
        manifest: what is pulled.
        rng: source of randomness.
        max_per_peer: transfers in flight with one peer.
    """

    def __init__(self, manifest: Manifest, *, rng: random.Random, max_per_peer: int) -> None:
        self._manifest = manifest
        self._rng = rng
        self._max_per_peer = max_per_peer
        self._offset = rng.randrange(max(1, manifest.piece_count))
        self.peers: dict[str, Peer] = {}
        self.rarity = RarityMap()

    def join(self, name: str) -> Peer:
        """The peer of that name, new when it was not known."""
        return self.peers.setdefault(name, Peer(name))

    def learn(self, name: str, pieces: int) -> None:
        """A peer holds these pieces too."""
        peer = self.join(name)
        new = pieces & ~peer.has
        peer.has |= new
        self.rarity.add(new)

    def forget(self, name: str, pieces: int) -> None:
        """A peer does not hold these pieces after all."""
        peer = self.peers.get(name)
        if peer is not None:
            gone = pieces & peer.has
            peer.has &= ~gone
            self.rarity.remove(gone)

    def leave(self, name: str) -> Peer | None:
        """A peer is gone."""
        peer = self.peers.pop(name, None)
        if peer is not None:
            self.rarity.remove(peer.has)
        return peer

    def eligible(self, now: float) -> list[Peer]:
        """Peers that may be asked now."""
        return [
            p
            for p in self.peers.values()
            if len(p.fetches) < self._max_per_peer and p.wait_until <= now and p.has and not p.banned
        ]

    def choose(self, need: int, now: float) -> Wish | None:
        """What to ask next, and of whom; None when no peer that may be asked holds any of ``need``."""
        peers = self.eligible(now)
        available = 0
        for peer in peers:
            available |= peer.has
        available &= need
        if not available:
            return None
        rarest = self.rarity.rarest(available)
        first = first_set(rarest, self._offset)
        if first < 0:
            first = first_set(rarest)
        holder = self.holder(first, peers)
        assert holder is not None  # noqa: S101 - `available` is what these peers hold
        # The last pieces are spread over all that can give them.
        most = max(1, available.bit_count() // (2 * len(peers)))
        return Wish(holder.name, first, self._request_end(first, holder, need, most))

    def holder(self, piece: int, peers: list[Peer]) -> Peer | None:
        """Which of ``peers`` to ask for a piece: the least loaded, then the fastest; None when none holds it."""
        best: Peer | None = None
        best_key = (0, 0.0)
        for peer in peers:
            if peer.has >> piece & 1:
                # Rates are blurred, so that a peer that looked slow once is tried again, and equals take turns.
                key = (len(peer.fetches), -peer.rate * self._rng.uniform(0.5, 1.0))
                if best is None or key < best_key:
                    best, best_key = peer, key
        return best

    def _request_end(self, first: int, holder: Peer, need: int, most: int) -> int:
        stop = min(run_end(need & holder.has, first), first + most)
        budget = min(holder.rate * _REQUEST_S, _REQUEST_MAX_BYTES)
        size = self._manifest.piece_bytes(first)
        end = first + 1
        start = self._manifest.position(first)
        if size >= budget:
            return end
        end = self._manifest.piece_at(int(start + budget))
        return max(first + 1, min(stop, end))

    # ---------------------------------------------------------------- outcome

    def delivered(self, peer: Peer, fetch: Fetch, now: float) -> None:
        """Bytes of a transfer arrived: its peer is well."""
        peer.busy = peer.failures = 0
        elapsed = now - fetch.started_at
        if elapsed > 0 and fetch.byte_count:
            rate = fetch.byte_count / elapsed
            peer.rate = 0.7 * peer.rate + 0.3 * rate if peer.rate else rate

    def was_busy(self, peer: Peer, retry_after_s: float, now: float) -> None:
        """It has no room for another transfer: a growing pause, with jitter."""
        wait_s = min(_BUSY_MAX_S, _BUSY_MIN_S * 2**peer.busy)
        peer.busy = min(peer.busy + 1, 6)
        wait_s = max(wait_s, min(retry_after_s, _BUSY_MAX_S))
        peer.wait_until = max(peer.wait_until, now + wait_s * self._rng.uniform(0.5, 1.0))

    def has_failed(self, peer: Peer, now: float) -> None:
        """A transfer failed or stood still: a growing pause."""
        wait_s = min(_FAILED_MAX_S, _FAILED_MIN_S * 2**peer.failures)
        peer.failures = min(peer.failures + 1, 8)
        peer.wait_until = max(peer.wait_until, now + wait_s * self._rng.uniform(0.5, 1.0))

    def lied(self, peer: Peer, now: float) -> bool:
        """It sent wrong bytes. Returns whether this was once too often."""
        peer.strikes += 1
        self.has_failed(peer, now)
        return peer.strikes == _STRIKES

    def next_wait(self, need: int, now: float) -> float | None:
        """When a peer that holds some of ``need`` may be asked again."""
        waits = [p.wait_until for p in self.peers.values() if p.wait_until > now and not p.banned and p.has & need]
        return min(waits, default=None)

    def piece_range(self, first: int, end: int) -> int:
        """The set ``first .. end``, clipped to the manifest."""
        return mask(max(0, first), min(end, self._manifest.piece_count))
