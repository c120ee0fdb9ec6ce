"""When a node reads from the hub without a lease: what peers hold but bring more slowly, and what nobody brings.

Reading each byte from the hub once is the rule, and leases see to it. It has two exceptions, both for connections that
asked for a lease and got none. Where a node's hub link is faster than all its peers together, and these have work for
seconds, waiting for them would take longer than reading again. And where nothing came from anywhere for a long time
(peers that cannot reach each other, a coordinator that is gone), a node helps itself.
"""

from __future__ import annotations

import random

from exo_dl.core.hub_side import HubSide
from exo_dl.core.manifest import Manifest
from exo_dl.core.pieces import first_set, run_end

__all__ = ["OwnReading"]

_ASKED_S = 0.5
_BACKLOG_S = 2.0
_RUN_S = 2.0
_RUN_MAX_BYTES = 256 << 20
_ALONE_S = 15.0
_ALONE_RUN_BYTES = 32 << 20


class OwnReading:
    """Decides on reading without a lease.

    Args:
        manifest: what is pulled.
        rng: source of randomness.
        gain: how many times as fast as all peers together the hub must be for reading again what they hold.
    """

    def __init__(self, manifest: Manifest, *, rng: random.Random, gain: float) -> None:
        self._manifest = manifest
        self._rng = rng
        self._gain = gain
        self._progress_at: float | None = None
        self._alone = False
        self._next_piece = rng.randrange(max(1, manifest.piece_count))

    def progressed(self, now: float, *, from_hub: bool) -> None:
        """Pieces came."""
        self._progress_at = now
        if not from_hub:
            self._alone = False

    def answered(self) -> None:
        """A coordinator gave a lease."""
        self._alone = False

    def look(
        self,
        *,
        lacking: int,
        in_flight: int,
        available: int,
        peer_rate: float,
        peers_busy: bool,
        hub: HubSide,
        have: int,
        now: float,
    ) -> None:
        """Starts a transfer on an idle hub connection where one of the two exceptions holds."""
        if self._progress_at is None or not lacking:
            self._progress_at = now
        if not lacking or not hub.ready:
            return
        if now - self._progress_at >= _ALONE_S:
            self._alone = True
        slot = hub.idle_slot(now, asked_for_s=0.0 if self._alone or not hub.coordinated else _ASKED_S)
        if slot is None:
            return
        rest = lacking & ~in_flight
        if self._alone:
            rest = (rest & ~available) or rest
            budget = float(_ALONE_RUN_BYTES)
        else:
            rest &= available
            rate = hub.rate(now)
            if not rest or not peers_busy or peer_rate <= 0 or rate < self._gain * peer_rate:
                return
            backlog = self._manifest.set_bytes(lacking & available)
            if backlog / peer_rate < _BACKLOG_S:
                return
            # Both ways end together: the hub gets its part of what is left, in steps of two seconds.
            budget = min(rate * _RUN_S, backlog * rate / (rate + peer_rate), _RUN_MAX_BYTES)
        if rest:
            self._start(rest, budget, hub, now)
            hub.plan(have, now)

    def _start(self, rest: int, budget: float, hub: HubSide, now: float) -> None:
        slot = hub.idle_slot(now, asked_for_s=0.0)
        first = first_set(rest, self._next_piece)
        if first < 0:
            first = first_set(rest)
        if slot is None or first < 0:
            return
        stop = run_end(rest, first)
        end = self._manifest.piece_at(int(self._manifest.position(first) + budget))
        end = max(first + 1, min(stop, end))
        self._next_piece = end
        hub.read_own(slot, first, end, now)
