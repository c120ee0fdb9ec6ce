"""When a node reads from the hub without a lease: what peers hold but bring more slowly, and what nobody brings.

Reading each byte from the hub once is the rule, and leases see to it. It has two exceptions, both for connections that
asked for a lease and got none. Where a node's hub link is faster than all its peers together, and these have work for
seconds, waiting for them would take longer than reading again. And where nothing came from anywhere for a long time
(peers that cannot reach each other, a coordinator that is gone), a node helps itself.
"""

from __future__ import annotations

import random

from exo_dl.core.hub_side import HubSide, Slot
from exo_dl.core.manifest import Manifest
from exo_dl.core.pieces import first_set, last_set, mask, run_end

__all__ = ["OwnReading"]

_ASKED_S = 0.25
_MEASURED_S = 1.0  # the first piece of all tells how long a connection takes to open, and not what peers can do
_BACKLOG_S, _BACKLOG_REST_S = 5.0, 0.5
_RUN_S, _RUN_PART = 2.0, 0.05
_RUN_MAX_BYTES = 256 << 20
_RUNS_LOOKED_AT = 256
_ALONE_S = 15.0
_ALONE_RUN_BYTES = 32 << 20


class OwnReading:
    """Decides on reading without a lease.

    Args:
        manifest: what is pulled.
        rng: source of randomness.
        gain: how many times as fast as all peers together the hub must be for reading again what they hold.

    Attributes:
        reserved: pieces that are about to be read again from the hub: not to be asked from peers.
    """

    def __init__(self, manifest: Manifest, *, rng: random.Random, gain: float) -> None:
        self._manifest = manifest
        self._rng = rng
        self._gain = gain
        self._progress_at: float | None = None
        self._alone = False
        self._insists = False
        self._rereading = False
        self.reserved = 0
        self._next_piece = rng.randrange(max(1, manifest.piece_count))

    def progressed(self, now: float, *, from_hub: bool) -> None:
        """Pieces came."""
        self._progress_at = now
        if not from_hub:
            self._alone = False

    def begin_alone(self) -> None:
        """What no peer holds is not waited for any more, until nothing is lacking."""
        self._insists = True

    def answered(self) -> None:
        """A coordinator gave a lease."""
        self._alone = False
        self._stop()

    def may_look(self, *, lacking: bool, hub: HubSide, now: float) -> bool:
        """Whether `look` could find anything to do, without looking at pieces.

        Args:
            lacking: whether the node lacks anything that it wants.
            hub: the node's connections.
            now: seconds.
        """
        if self._progress_at is None or not lacking:
            self._progress_at = now
        self._insists = self._insists and lacking
        if not lacking or not hub.ready:
            self._stop()
            return False
        return hub.idle_slot(now, asked_for_s=0.0) is not None

    def look(
        self,
        *,
        lacking: int,
        flying: int,
        covered: int,
        available: int,
        peer_rate: float,
        peers_measured_s: float,
        hub: HubSide,
        have: int,
        now: float,
    ) -> None:
        """Starts a transfer on an idle hub connection where one of the two exceptions holds.

        Args:
            lacking: pieces that are wanted and not here.
            flying: pieces that are on their way from peers.
            covered: pieces that are about to be read from the hub.
            available: pieces that peers hold.
            peer_rate: of all peers together, bytes/s.
            peers_measured_s: for how long that was measured; 0 where they bring nothing now.
            hub: this node's connections to the hub.
            have: pieces that are here.
            now: seconds.
        """
        assert self._progress_at is not None  # noqa: S101 - set by may_look()
        if not lacking:
            return
        if now - self._progress_at >= _ALONE_S:
            self._alone = True
        in_flight = flying | covered
        insisted = lacking & ~in_flight & ~available if self._insists else 0
        at_once = bool(insisted) or self._alone or self._rereading or not hub.coordinated
        slot = hub.idle_slot(now, asked_for_s=0.0 if at_once else _ASKED_S)
        if slot is None:
            return
        rest = lacking & ~in_flight
        if insisted:
            rest = insisted
            budget = float(_ALONE_RUN_BYTES)
        elif self._alone:
            rest = (rest & ~available) or rest
            budget = float(_ALONE_RUN_BYTES)
        else:
            rate = hub.rate(now)
            slower = peers_measured_s >= _MEASURED_S and 0 < self._gain * peer_rate <= rate
            backlog = self._manifest.set_bytes(lacking & available) if slower else 0
            # Once begun it goes on to the end: what is left then would take peers as long as it took to begin.
            slower = slower and backlog / peer_rate >= (_BACKLOG_REST_S if self._rereading else _BACKLOG_S)
            late = lacking & flying & ~covered
            if not slower or not (rest | late) & available:
                self._stop()
                return
            # Both ways are to end together: the hub's part of what is left is kept from the peers, in one place, so
            # that it is read in long runs.
            self._rereading = True
            self.reserved = self._part(rest & available, backlog * rate / (rate + peer_rate))
            rest = self.reserved
            left_s = backlog / (rate + peer_rate)
            budget = min(rate * max(_RUN_S, left_s * _RUN_PART), _RUN_MAX_BYTES)
            if not rest and self._sooner(last_set(late), rate, backlog / peer_rate):
                # Peers are at all that is left, and would be at it for long.
                rest, budget = 1 << last_set(late), 1.0
        if rest:
            self._start(rest, budget, hub, slot, now)
            hub.plan(have, now)

    def _sooner(self, piece: int, rate: float, peers_s: float) -> bool:
        return self._manifest.piece_bytes(piece) / rate < peers_s / 2

    def _stop(self) -> None:
        self._rereading = False
        self.reserved = 0

    def _part(self, rest: int, size: float) -> int:
        """The pieces of ``rest`` from where reading goes on, about ``size`` bytes of them."""
        part, at, wrapped = 0, self._next_piece, False
        for _ in range(_RUNS_LOOKED_AT):
            first = first_set(rest, at)
            if first < 0:
                if wrapped:
                    break
                at, wrapped = 0, True
                continue
            start = self._manifest.position(first)
            at = min(run_end(rest, first), max(first + 1, self._manifest.piece_at(int(start + size))))
            part |= mask(first, at)
            size -= self._manifest.run_bytes(first, at)
            if size <= 0:
                break
        return part

    def _start(self, rest: int, budget: float, hub: HubSide, slot: Slot, now: float) -> None:
        first = first_set(rest, self._next_piece)
        if first < 0:
            first = first_set(rest)
        stop = run_end(rest, first)
        end = self._manifest.piece_at(int(self._manifest.position(first) + budget))
        end = max(first + 1, min(stop, end))
        self._next_piece = end
        hub.read_own(slot, first, end, now)
