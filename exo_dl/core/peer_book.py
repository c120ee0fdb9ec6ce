"""What a node knows of its peers in one pull, and which of them it asks for which pieces.

Rarest first among what the node wants; ties fall to pieces at a random place of the node's own, so that nodes that
begin together ask for different pieces; of a piece's holders the one that is expected to bring it first, by its
rate and load, is asked for pieces worth some tenths of a second: neighbours first, then others that are as rare.

Pieces that one peer alone holds are dealt out among all nodes by their number, some neighbours at a time, so that one
request can bring them: each node asks the holder for its own share of them first, then for what others hold as well,
and only then for the others' shares. A holder that cannot send as fast as it reads from the hub so sends each piece
about once, and the nodes pass it on among themselves. One that is not behind is asked for all that it alone holds, and
so is each where most of many are behind: in a large cluster a peer's neighbours are not all neighbours of each other,
so that some of what is dealt out is nobody's share.

Where peers are many, who has brought something is asked again at once, unless it has what nobody else does, and says
"busy" to that earlier than to others: so the load stays where it is even, and moves from where it is not
(`docs/adr/0017-staying.md`).

There, dealing out matters most when the first pieces come: if all asked for these at once, the holder would send one
piece to ten nodes while the others' links stand idle. So for a moment each node asks for its own share alone, dealt out
piece by piece, and for what a node without such pieces holds; until the holder is free of these.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from exo_dl.core.dealing import Dealing
from exo_dl.core.manifest import Manifest
from exo_dl.core.neighbours import MANY
from exo_dl.core.pieces import first_set, mask, run_end
from exo_dl.core.rarity import RarityMap

__all__ = ["Fetch", "Peer", "PeerBook", "Wish"]

_REQUEST_S, _REQUEST_FULL_S = 0.4, 0.2
_REQUEST_MAX_BYTES = 16 << 20
_REQUEST_RUNS = 16
_FIRST_S, _FINE_S = 0.2, 1.0
_BUSY_MIN_S = 0.03
_BUSY_MAX_S = 1.0
_FAILED_MIN_S = 0.2
_FAILED_MAX_S = 10.0
_STRIKES = 3
_BEHIND = 8
_KEEPS_UP = 4
_AGES_S = 4.0
_HOLDER_FIRST = 6
_GAINING_S = 2.0
_DISTRUST_S = 20.0
_DISTRUST_MAX_S = 300.0


def _held(peers: list[Peer]) -> int:
    bits = 0
    for peer in peers:
        bits |= peer.has
    return bits


@dataclass(slots=True)
class Fetch:
    """A transfer in flight.

    ``missing`` are its pieces that did not arrive from anywhere yet; ``stays``: see `FetchFromPeer`.
    """

    fetch_id: int
    peer: str
    missing: int
    started_at: float
    moved_at: float
    byte_count: int = 0
    cancelled: bool = False
    doubled: bool = False
    stays: bool = False


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
    lacking: int = 0
    behind: int = 0
    gained_at: float = float("-inf")
    measured_at: float = 0.0

    @property
    def distrusted(self) -> bool:
        """It sent wrong bytes too often: asked for nothing that another peer holds, and rarely at all."""
        return self.strikes >= _STRIKES


@dataclass(frozen=True, slots=True)
class Wish:
    """These pieces are to be asked from ``peer``; ``stays``: see `FetchFromPeer`."""

    peer: str
    pieces: int
    stays: bool = False


class PeerBook:
    """All peers of a node.

    Args:
        manifest: what is pulled.
        node: the node that asks.
        rng: source of randomness.
        max_per_peer: transfers in flight with one peer.
    """

    def __init__(self, manifest: Manifest, *, node: str, rng: random.Random, max_per_peer: int) -> None:
        self._manifest = manifest
        self._node = node
        self.dealing = Dealing(manifest, node)
        self._began: float | None = None
        self._rng = rng
        self._max_per_peer = max_per_peer
        self._stay_with = ""
        self._offset = rng.randrange(max(1, manifest.piece_count))
        self.peers: dict[str, Peer] = {}
        self.rarity = RarityMap()

    def join(self, name: str) -> Peer:
        """The peer of that name, new when it was not known."""
        if name not in self.peers:
            self.peers[name] = Peer(name)
            self.dealing.peers(self.peers)
        return self.peers[name]

    def learn(self, name: str, pieces: int) -> int:
        """A peer holds these pieces too. Returns those that it was not known to hold."""
        peer = self.join(name)
        new = pieces & ~peer.has
        peer.has |= new
        self.rarity.add(new)
        return new

    def held_by(self, name: str) -> int:
        """Pieces that a peer holds."""
        peer = self.peers.get(name)
        return peer.has if peer is not None else 0

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
            self.dealing.peers(self.peers)
        return peer

    def lacks(self, name: str, byte_count: int, own: int, now: float) -> None:
        """A peer lacks this many bytes of what it wants, while this node lacks ``own``."""
        peer = self.peers.get(name)
        if peer is not None:
            if byte_count < peer.lacking:
                peer.gained_at = now
            peer.lacking = byte_count
            peer.behind = byte_count - own

    def most_behind(self, now: float) -> int:
        """Bytes that the peer lacks more than this node which lacks the most, of those that gained some lately.

        Each was compared when its word came: while both go on their difference stays, but what it lacked does not.
        """
        return max((p.behind for p in self.peers.values() if now - p.gained_at < _GAINING_S), default=0)

    def eligible(self, now: float) -> list[Peer]:
        """Peers that may be asked now."""
        return [
            p
            for p in self.peers.values()
            if len(p.fetches) < (1 if p.distrusted else self._max_per_peer) and p.wait_until <= now and p.has
        ]

    def choose(self, need: int, now: float, *, idle: bool, full: bool = False) -> Wish | None:
        """What to ask next, and of whom; None when there is nothing that should be asked now.

        Args:
            need: pieces to choose from.
            now: seconds.
            idle: no transfer is in flight: then something is asked wherever a peer can give it.
            full: links between nodes are what all wait for: requests are small, so that they are shared evenly.
        """
        peers = self.eligible(now)
        eligible = len(peers)
        available = need & _held(peers)
        if not available:
            return None
        self._began = now if self._began is None else self._began
        begins = self._first_until() > now
        lacking, single = need, available & self.rarity.single
        many, stays = len(self.peers) >= MANY, False
        mine, several = 0, available & ~single
        for peer in peers:
            if alone := peer.has & single:
                mine |= alone & self.dealing.share(peer.name, fine=many and now - self._began < _FINE_S)
                if self.dealing.among_neighbours and not begins and alone.bit_count() <= _KEEPS_UP:
                    several |= alone
        if mine:
            wanted = need = mine
        elif several:
            single &= ~several
            wanted, need = self.rarity.rarest(several), need & ~single
            # A holder that is behind with what it alone holds is spared what others can give.
            spared = 0 if begins else _BEHIND
            ready = [p for p in peers if p.has & several and (p.has & single).bit_count() <= spared]
            if not ready and not begins and self._all_behind(lacking):
                wanted = need = single
                ready = [p for p in peers if p.has & single]
            elif not ready and (begins or not idle):
                # What they send of it is lacking where only they can help. Others give it soon.
                return None
            peers = ready or [p for p in peers if p.has & several]
            if len(self.peers) >= _HOLDER_FIRST:
                # The holder first, then the rarest that it holds: the rarest of all would bring everybody to the few
                # that hold it, while others send nothing.
                most = _BEHIND if self.dealing.among_neighbours else 0
                same = [p for p in peers if many and p.name == self._stay_with and (p.has & single).bit_count() <= most]
                stays, peers = bool(same), same or [self.quickest(peers, now)]
            among = _held(peers)
            wanted = wanted & among or self.rarity.rarest(several & among)
        elif not begins and (idle or single.bit_count() <= _BEHIND or self._all_behind(lacking)):
            wanted = single
        else:
            # Its holder is behind, or would be: the nodes whose share it is will have it soon.
            return None
        first = first_set(wanted, self._offset)
        if first < 0:
            first = first_set(wanted)
        holder = self.holder(first, peers, now)
        assert holder is not None  # noqa: S101 - `available` is what these peers hold
        # The last pieces are spread over all that can give them.
        most = max(1, available.bit_count() // (2 * eligible))
        if single >> first & 1:
            # It has to come from there, and together it costs least.
            most = self._manifest.piece_count
            need = wanted = single if (holder.has & single).bit_count() <= _BEHIND else need & single
        self._stay_with = "" if stays else self._stay_with
        request_s = _REQUEST_FULL_S if full or len(self.peers) >= MANY else _REQUEST_S
        budget = min(holder.rate * request_s, _REQUEST_MAX_BYTES)
        return Wish(holder.name, self._request(first, holder, need, wanted, most, budget), stays)

    def _all_behind(self, need: int) -> bool:
        """Whether of many peers most alone hold more of ``need`` than they send soon: then nobody is to be spared."""
        if len(self.peers) < MANY:
            return False
        single = need & self.rarity.single
        return 2 * sum((p.has & single).bit_count() > _BEHIND for p in self.peers.values()) > len(self.peers)

    def _first_until(self) -> float:
        """Until when the first pieces are asked for as the head of this module says, where peers are many."""
        return self._began + _FIRST_S if self._began is not None and len(self.peers) >= MANY else 0.0

    def holder(self, piece: int, peers: list[Peer], now: float) -> Peer | None:
        """Which of ``peers`` would bring a piece first, by load and rate; None when none holds it."""
        holders = [p for p in peers if p.has >> piece & 1]
        return self.quickest(holders, now) if holders else None

    def quickest(self, peers: list[Peer], now: float) -> Peer:
        """Which of ``peers``, at least one, would bring something first, by load and rate."""
        if len(peers) == 1:
            return peers[0]

        def key(peer: Peer) -> tuple[bool, bool, float]:
            # Rates are blurred, so that a peer that looked slow once is tried again, and equals take turns.
            blur = self._rng.uniform(0.5, 1.0)
            if peer.rate > 0 and not peer.fetches:
                blur *= 2.0 ** min(30.0, max(0.0, now - peer.measured_at) / _AGES_S)
            return peer.distrusted, peer.rate > 0, (len(peer.fetches) + 1) / ((peer.rate or 1.0) * blur)

        return min(peers, key=key)

    def _request(self, first: int, holder: Peer, need: int, wanted: int, most: int, budget: float) -> int:
        """The pieces of one request: ``first``, needed neighbours of it, and more of ``wanted``.

        At most ``most`` pieces and, but for the first, ``budget`` bytes.
        """
        end = self._stop(need & holder.has, first, budget, most)
        pieces, count = mask(first, end), end - first
        budget -= self._manifest.run_bytes(first, end)
        rest = wanted & holder.has & ~pieces
        for _ in range(_REQUEST_RUNS - 1):
            at = first_set(rest, end)
            at = first_set(rest) if at < 0 else at
            if at < 0 or count >= most or self._manifest.piece_bytes(at) > budget:
                break
            end = self._stop(rest, at, budget, most - count)
            pieces |= mask(at, end)
            rest &= ~pieces
            count += end - at
            budget -= self._manifest.run_bytes(at, end)
        return pieces

    def _stop(self, bits: int, first: int, budget: float, most: int) -> int:
        """The end of the run that begins at ``first``, cut to a number of bytes and of pieces; one piece at least."""
        stop = min(run_end(bits, first), first + most)
        return max(first + 1, min(stop, self._manifest.piece_at(int(self._manifest.position(first) + budget))))

    # ---------------------------------------------------------------- outcome

    def brought(self, peer: Peer) -> None:
        """A transfer brought all that was asked for: its peer is asked again next, where it is one of many."""
        self._stay_with = "" if peer.distrusted else peer.name

    def delivered(self, peer: Peer, fetch: Fetch, at: float) -> None:
        """Bytes of a transfer arrived, the last of them ``at`` that time: its peer is well."""
        peer.busy = 0
        peer.failures //= 2
        elapsed = at - fetch.started_at
        if elapsed > 0 and fetch.byte_count:
            rate = fetch.byte_count / elapsed
            peer.rate = (peer.rate + rate) / 2 if peer.rate else rate
            peer.measured_at = at

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
        if peer.distrusted:
            peer.wait_until = now + min(_DISTRUST_MAX_S, _DISTRUST_S * 2.0 ** (peer.strikes - _STRIKES))
        return peer.strikes == _STRIKES

    def next_wait(self, need: int, now: float) -> float | None:
        """When a peer that holds some of ``need`` may be asked again."""
        waits = [p.wait_until for p in self.peers.values() if p.wait_until > now and p.has & need]
        if need and (first_until := self._first_until()) > now:
            waits.append(first_until)
        return min(waits, default=None)

    def piece_range(self, first: int, end: int) -> int:
        """The set ``first .. end``, clipped to the manifest."""
        return mask(max(0, first), min(end, self._manifest.piece_count))
