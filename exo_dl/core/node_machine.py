"""A node's machine: which pieces it reads from which peer, and what it does with its leases at the hub.

What the node wants and lacks is *askable* unless it is in flight, or one of its own hub connections reaches it soon.
Askable pieces are asked from peers (`exo_dl.core.peer_side`; `exo_dl.core.peer_book` says which and of whom); hub
connections ask the coordinator for leases and read them (`exo_dl.core.hub_side`). Rules:

- Every piece that arrives verified counts, whoever sent it and however late.
- Each transfer ends in one `FetchEnded`; what it did not bring is askable again at once. A second end cannot be.
- Pieces in flight are asked a second time only when nothing else is askable and they are long overdue.
- A hub connection that the coordinator leaves idle reads on its own what peers hold, where their path is slower than
  the hub's, and what nobody brings, when nothing came from anywhere for a long time: a node that can reach the hub
  always ends with what it wants.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from exo_dl.core.hub_side import HubSide
from exo_dl.core.manifest import Manifest
from exo_dl.core.own_reading import OwnReading
from exo_dl.core.peer_book import PeerBook
from exo_dl.core.peer_side import PeerSide
from exo_dl.core.pieces import mask
from exo_dl.core.story import Story
from exo_dl.core.swarm_types import (
    Announce,
    Checking,
    Complete,
    CoordinatorReady,
    Fault,
    FetchEnded,
    FetchResult,
    Held,
    HeldLease,
    HubReady,
    LeaseGranted,
    LeaseTrimmed,
    OnOwn,
    PeerHas,
    PeerJoined,
    PeerLacks,
    PeerLimit,
    PeerLost,
    PieceBad,
    PiecesArrived,
    SharesDealt,
    SlotLimit,
    SwarmAction,
    SwarmEvent,
    Tick,
)

__all__ = ["MAX_PEER_FETCHES", "Swarm"]

MAX_PEER_FETCHES = 8
"""Transfers from peers in flight in one pull, where nothing else is said."""

_TICK_S, _SOON_S, _NO_ROOM_S = 0.25, 1.0, 5.0


class Swarm:
    """One node's part in one pull.

    Args:
        manifest: what is pulled.
        node: this node's id.
        want: pieces that it is to end with.
        rng: source of randomness.
        max_peer_fetches: transfers from peers in flight.
        max_per_peer: transfers in flight with one peer.
        max_hub_slots: connections to the hub, never more; how many are used is found by trying.
        hub_bytes_per_s_guess: rate from the hub in earlier pulls; 0 when unknown.
        reread_gain: a hub connection that has nothing to do reads what peers hold already when the hub is at least
            this many times as fast as all peers together; see `OwnReading`.

    Attributes:
        story: what it was told and did lately.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        node: str,
        want: int,
        rng: random.Random,
        max_peer_fetches: int = MAX_PEER_FETCHES,
        max_per_peer: int = 2,
        max_hub_slots: int = 8,
        hub_bytes_per_s_guess: float = 0.0,
        reread_gain: float = 1.0,
    ) -> None:
        self.node = node
        self._manifest = manifest
        self._every = mask(0, manifest.piece_count)
        self._want = want & self._every
        self._have = self._checking = 0
        self._lacking_bytes = manifest.set_bytes(self._want)
        self._book = PeerBook(manifest, node=node, rng=rng, max_per_peer=max_per_peer)
        self._peers = PeerSide(
            manifest, self._book, max_fetches=max_peer_fetches, new_fetch_id=self._new_fetch_id, emit=self._emit
        )
        self._hub = HubSide(
            manifest,
            max_slots=max_hub_slots,
            guess=hub_bytes_per_s_guess,
            new_fetch_id=self._new_fetch_id,
            emit=self._emit,
        )
        self._own = OwnReading(manifest, rng=rng, gain=reread_gain)
        self._last_fetch_id = self._bytes_from_hub = self._bytes_from_peers = 0
        self._complete = self._matters = False
        self._fresh = 0
        self._tick_at: float | None = None
        self._no_room_until = self._coarse_at = self._now = 0.0
        self.story = Story[SwarmAction](manifest.piece_count)
        self._actions: list[SwarmAction] = []

    # ------------------------------------------------------------------ views

    @property
    def have(self) -> int:
        """Verified pieces."""
        return self._have

    @property
    def want(self) -> int:
        """Pieces that this node is to end with."""
        return self._want

    @property
    def lacking_bytes(self) -> int:
        """Bytes of what this node wants and does not hold."""
        return self._lacking_bytes

    @property
    def hub_bytes_per_s(self) -> float:
        """Measured rate from the hub, all connections together; 0 when unknown."""
        return self._hub.rate(self._now)

    @property
    def peer_bytes_per_s(self) -> float:
        """Measured rate from all peers together; 0 when unknown."""
        return self._peers.meter.rate(self._now)

    def peers_load(self, now: float) -> float:
        """Which part of what peers can send is what they do send, 0..1: near 1 the links between nodes are full."""
        return self._peers.load(now)

    def bytes_of(self, pieces: int) -> int:
        """Bytes of a set of pieces."""
        return self._manifest.set_bytes(pieces)

    def seconds_left(self, now: float) -> float:
        """Seconds until this node has what it wants, at the rate at which it gained bytes lately; inf when unknown."""
        rate = self._hub.rate(now) + self._peers.gained.rate(now)
        return self._lacking_bytes / rate if rate > 0 else float("inf") if self._lacking_bytes else 0.0

    @property
    def hub_connections(self) -> int:
        """Hub connections that read now."""
        return self._hub.connections

    @property
    def bytes_from_hub(self) -> int:
        """Verified bytes that came from the hub, each piece counted once."""
        return self._bytes_from_hub

    @property
    def bytes_from_peers(self) -> int:
        """Verified bytes that came from peers, each piece counted once."""
        return self._bytes_from_peers

    @property
    def held_by_peers(self) -> int:
        """Pieces that at least one linked peer holds."""
        return self._book.rarity.available

    def held_by(self, peer: str) -> int:
        """Pieces that a peer holds, as far as it said; 0 for one that takes no part."""
        return self._book.held_by(peer)

    def held_leases(self) -> tuple[HeldLease, ...]:
        """The leases that this node works on: to be told to every new coordinator."""
        return self._hub.leases()

    def next_deadline(self) -> float | None:
        """When a `Tick` is due, on the clock of ``now``; None when nothing waits for time."""
        return self._tick_at

    # ----------------------------------------------------------------- events

    def handle(self, event: SwarmEvent, now: float) -> list[SwarmAction]:
        """Takes one event and says what is to be done.

        Args:
            event: what happened.
            now: seconds on a clock that never goes back.

        Raises:
            IllegalTransitionError: the clock went back, or the event is about a transfer of this node that is not
                there: it ended before, or was never begun. Nothing of the event was taken.
        """
        return self.handle_all((event,), now)

    def take(self, event: SwarmEvent, now: float) -> list[SwarmAction]:
        """As `handle`, where others of the same moment follow: what is to be done is thought about with the last one.

        Raises:
            IllegalTransitionError: as `handle`.
        """
        return self._take_all((event,), now)

    def handle_all(self, events: Sequence[SwarmEvent], now: float) -> list[SwarmAction]:
        """Takes several events that happened at the same time: what is to be done is thought about once for all."""
        actions = self._take_all(events, now)
        if self._matters:
            self._plan(now)
        return actions

    def _take_all(self, events: Sequence[SwarmEvent], now: float) -> list[SwarmAction]:
        self._actions = self.story.begin(events, now)
        self._now = now
        for event in events:
            self._matters = self._take(event, now) or self._matters
        return self._actions

    def _take(self, event: SwarmEvent, now: float) -> bool:
        """Takes one event. Returns whether it may change what is to be done."""
        match event:
            case PeerHas(peer, pieces):
                new = self._book.learn(peer, pieces & self._every)
                return bool(new & self._want & ~self._have) and self._room(now)
            case PiecesArrived():
                self._arrived(event, now)
            case FetchEnded():
                self._ended(event, now)
            case PeerLacks(peer, byte_count):
                self._book.lacks(peer, byte_count, self._lacking_bytes, now)
                return False
            case Tick():
                self._peers.check_stalls(now)
            case LeaseGranted():
                self._own.answered()
                self._hub.granted(event, now)
            case LeaseTrimmed():
                self._hub.trimmed(event, now)
            case PeerJoined(peer):
                self._book.join(peer)
            case SharesDealt(places):
                self._book.dealing.dealt(places)
            case PeerLost(peer):
                self._peers.lost(peer)
            case Held(pieces):
                self._gain(pieces)
                self._peers.settled(pieces, -1)
                self._hub.overtaken(self._have)
            case Checking(pieces):
                self._checking = pieces
            case CoordinatorReady():
                self._hub.coordinator()
            case HubReady(ok):
                self._hub.ready = ok
            case PieceBad(pieces, everywhere):
                self._lacking_bytes += self._manifest.set_bytes(pieces & self._have & self._want)
                self._have &= ~pieces
                for peer in list(self._book.peers) if everywhere else ():
                    self._book.forget(peer, pieces)
                self._complete = self._complete and not self._want & ~self._have
            case OnOwn():
                self._own.begin_alone()
            case SlotLimit(limit):
                self._hub.set_limit(limit)
            case PeerLimit(limit):
                self._peers.set_limit(limit)
        return True

    def _emit(self, action: SwarmAction) -> None:
        self._actions.append(action)

    def _new_fetch_id(self) -> int:
        self._last_fetch_id += 1
        return self._last_fetch_id

    def _gain(self, pieces: int) -> int:
        """Takes pieces in. Returns the bytes of those that are new."""
        new = pieces & self._every & ~self._have
        if not new:
            return 0
        self._have |= new
        self._fresh |= new
        size = self._manifest.set_bytes(new)
        wanted = new & self._want
        self._lacking_bytes -= size if wanted == new else self._manifest.set_bytes(wanted)
        return size

    def _arrived(self, event: PiecesArrived, now: float) -> None:
        if not 0 < event.fetch_id <= self._last_fetch_id:
            what = f"Pieces of transfer {event.fetch_id} arrived, which was never begun."
            raise self.story.illegal(what, transfer=event.fetch_id)
        new_bytes = self._gain(event.pieces)
        from_hub = self._hub.own(event.fetch_id)
        self._own.progressed(now, from_hub=from_hub)
        if from_hub:
            self._bytes_from_hub += new_bytes
            self._hub.arrived(event.fetch_id, event.pieces, event.byte_count, self._have, now)
        else:
            self._bytes_from_peers += new_bytes
            self._peers.arrived(event, new_bytes, now)
            self._hub.overtaken(self._have)
        self._peers.settled(event.pieces, event.fetch_id)

    def _ended(self, event: FetchEnded, now: float) -> None:
        if self._hub.own(event.fetch_id):
            self._hub.ended(event, self._have, now)
        elif self._peers.own(event.fetch_id):
            self._peers.ended(event, now)
        else:
            what = f"Transfer {event.fetch_id} ended ({event.result.name}) and is not under way."
            raise self.story.illegal(what, transfer=event.fetch_id)
        if event.result is FetchResult.NO_ROOM:
            if now >= self._no_room_until:
                self._emit(Fault(event.detail or "There is no room for what arrives: waiting for some."))
            self._no_room_until = now + _NO_ROOM_S

    # ------------------------------------------------------------------- plan

    def _plan(self, now: float) -> None:
        self._matters = False
        if self._fresh:
            self._emit(Announce(self._fresh))
            self._fresh = 0
        self._hub.plan(self._have, now)
        askable = 0
        if now >= self._no_room_until:
            if self._room(now):
                askable = self._askable(now)
                self._peers.plan(askable, now, lacking_bytes=self._lacking_bytes)
            lacking = self._lacking_bytes > 0 and bool(self._want & ~(self._have | self._checking))
            if self._own.may_look(lacking=lacking, hub=self._hub, now=now):
                self._read_own(now)
        if not self._complete and not self._lacking_bytes:
            self._complete = True
            self._emit(Complete())
        self._peers.measure(now)
        self._set_deadline(askable, now)

    def _room(self, now: float) -> bool:
        return self._peers.room(now, self._lacking_bytes)

    def _askable(self, now: float) -> int:
        need = self._want & ~(self._have | self._peers.in_flight | self._checking)
        if not need & self._book.rarity.available:
            return 0
        # What an own connection reaches soon comes from there; what it reaches later is asked for where a peer holds
        # it, unless peers are the slower way and have something else to bring.
        if self.peer_bytes_per_s < self.hub_bytes_per_s:
            rest = need & ~(self._own.reserved | self._hub.covered(ahead_s=None, now=now))
            if rest & self._book.rarity.available:
                return rest
        return need & ~self._hub.covered(ahead_s=_SOON_S, now=now)

    def _read_own(self, now: float) -> None:
        self._own.look(
            lacking=self._want & ~(self._have | self._checking),
            flying=self._peers.in_flight,
            covered=self._hub.covered(ahead_s=None, now=now),
            available=self._book.rarity.available,
            peer_rate=self.peer_bytes_per_s,
            peers_measured_s=self._peers.meter.seconds if self._peers.meter.running else 0.0,
            hub=self._hub,
            have=self._have,
            now=now,
        )

    def _set_deadline(self, askable: int, now: float) -> None:
        room_at = self._no_room_until if self._no_room_until > now else None
        waits = [self._hub.next_deadline(now), self._book.next_wait(askable, now), room_at]
        if self._peers.flying or (self._lacking_bytes and self._hub.ready):
            self._coarse_at = self._coarse_at if now < self._coarse_at <= now + _TICK_S else now + _TICK_S
            waits.append(self._coarse_at)
        self._tick_at = min((w for w in waits if w is not None), default=None)
