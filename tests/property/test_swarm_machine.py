"""Any order of events leaves a node's machine whole: actions make sense, leases end once, and it ends with all.

What cannot be, an end of a transfer that is not under way, is refused and tells the story of that transfer.
"""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from exo_dl.core.pieces import first_set, iter_bits, iter_runs, mask
from exo_dl.core.story import IllegalTransitionError
from exo_dl.core.swarm import (
    Announce,
    AskLease,
    CancelFetch,
    Complete,
    CoordinatorReady,
    EndLease,
    FetchEnded,
    FetchFromHub,
    FetchFromPeer,
    FetchResult,
    Held,
    HubReady,
    LeaseGranted,
    LeaseTrimmed,
    PeerHas,
    PeerJoined,
    PeerLacks,
    PeerLimit,
    PeerLost,
    PieceBad,
    PiecesArrived,
    ReportLease,
    SharesDealt,
    SlotLimit,
    Swarm,
    SwarmEvent,
    Tick,
    TrimFetch,
)
from exo_dl.sim.scenarios import model

PEERS = ("p", "q", "r")
PLACES = st.integers(0, 100)
PEER_RESULTS = [r for r in FetchResult if not r.name.startswith("HUB")]
HUB_RESULTS = [r for r in FetchResult if r is not FetchResult.MISSING]


class SwarmMachine(RuleBasedStateMachine):
    """Plays the daemon, its peers, its coordinator and the hub."""

    @initialize(
        small=st.integers(0, 12),
        size=st.integers(1, 40),
        files=st.integers(1, 3),
        want=st.one_of(st.none(), st.integers(0)),
        seed=st.integers(0, 1000),
    )
    def begin(self, small: int, size: int, files: int, want: int | None, seed: int) -> None:
        self.manifest = model(size_bytes=size << 20, files=files, small_files=small)
        self.every = mask(0, self.manifest.piece_count)
        wanted = self.every if want is None else want & self.every
        self.swarm = Swarm(self.manifest, node="me", want=wanted, rng=random.Random(seed))
        self.now = 0.0
        self.flying: dict[int, tuple[str, int]] = {}
        self.cancelled: set[int] = set()
        self.peers: dict[str, int] = {}
        self.asks: set[int] = set()
        self.open_leases: dict[int, list[int]] = {}
        self.next_lease = 1
        self.announced = 0
        self.complete = False
        self.fetch_ids: set[int] = set()
        self.peer_limit = 8
        self.missing: dict[int, int] = {}  # of transfers from peers: what nobody brought since they began

    def send(self, event: SwarmEvent) -> None:
        if isinstance(event, PiecesArrived | Held):
            self.missing = {fetch_id: bits & ~event.pieces for fetch_id, bits in self.missing.items()}
        for action in self.swarm.handle(event, self.now):
            match action:
                case FetchFromPeer(fetch_id, peer, pieces):
                    assert fetch_id not in self.fetch_ids
                    assert peer in self.peers
                    assert pieces, "asked for nothing"
                    assert pieces & ~self.peers[peer] == 0, "asked for what the peer does not have"
                    assert pieces & self.swarm.have == 0, "asked for what it holds"
                    assert sum(1 for _ in iter_runs(pieces)) <= 64, "more runs than a request may name"
                    assert len(self.from_peers()) < self.peer_limit, "more transfers than there may be"
                    self.fetch_ids.add(fetch_id)
                    self.flying[fetch_id] = (peer, pieces)
                    self.missing[fetch_id] = pieces
                case FetchFromHub(fetch_id, lease_id, slot, first, end):
                    assert fetch_id not in self.fetch_ids
                    assert 0 <= slot < 4 and first < end
                    blob = self.manifest.blob_of(first)
                    assert blob.first_piece <= first < end <= blob.end_piece, "crosses a blob"
                    if lease_id >= 0:
                        lease = self.open_leases[lease_id]
                        assert lease[0] <= first < end <= lease[1]
                    self.fetch_ids.add(fetch_id)
                    self.flying[fetch_id] = ("", mask(first, end))
                case TrimFetch(fetch_id, end):
                    peer, before = self.flying[fetch_id]
                    assert first_set(before) < end <= before.bit_length()
                    self.flying[fetch_id] = (peer, before & mask(0, end))
                case CancelFetch(fetch_id):
                    assert fetch_id in self.flying
                    self.cancelled.add(fetch_id)
                case AskLease(slot, _):
                    assert 0 <= slot < 4
                    self.asks.add(slot)
                case ReportLease(lease_id, position, _, _):
                    lease = self.open_leases[lease_id]
                    assert lease[0] <= position <= lease[1]
                case EndLease(lease_id, position, _, _, _):
                    lease = self.open_leases.pop(lease_id)
                    assert lease[0] <= position <= lease[1], "a lease ends outside of itself"
                case Announce(pieces):
                    assert pieces and pieces & ~self.swarm.have == 0
                    self.announced |= pieces
                case Complete():
                    assert not self.complete, "complete twice"
                    self.complete = True
        flying = self.from_peers()
        assert len(flying) <= 8
        for name in PEERS:
            assert sum(f[0] == name for f in flying) <= 2

    def from_peers(self) -> list[tuple[str, int]]:
        return [f for i, f in self.flying.items() if i not in self.cancelled and f[0]]

    @rule(name=st.sampled_from(PEERS), pieces=st.one_of(st.integers(0), st.just(-1)))
    def peer_has(self, name: str, pieces: int) -> None:
        if name not in self.peers:
            self.peers[name] = 0
            self.send(PeerJoined(name))
        self.peers[name] |= pieces & self.every
        self.send(PeerHas(name, pieces & self.every))

    @rule(name=st.sampled_from(PEERS))
    def peer_lost(self, name: str) -> None:
        self.peers.pop(name, None)
        self.send(PeerLost(name))
        assert all(f[0] != name or i in self.cancelled for i, f in self.flying.items())

    @rule(name=st.sampled_from(PEERS), byte_count=st.integers(0, 1 << 64))
    def peer_lacks(self, name: str, byte_count: int) -> None:
        self.send(PeerLacks(name, byte_count))

    @rule(pieces=st.integers(0))
    def found(self, pieces: int) -> None:
        self.send(Held(pieces & self.every))

    @rule(ok=st.booleans())
    def hub_ready(self, ok: bool) -> None:
        self.send(HubReady(ok))
        self.send(CoordinatorReady())

    @precondition(lambda self: self.asks)
    @rule(data=st.data(), length=st.integers(1, 30))
    def grant(self, data: st.DataObject, length: int) -> None:
        slot = data.draw(st.sampled_from(sorted(self.asks)))
        self.asks.discard(slot)
        self.give(slot, data.draw(st.integers(0, self.manifest.piece_count - 1)), length)

    def give(self, slot: int, first: int, length: int) -> None:
        end = min(self.manifest.piece_count, first + length)
        lease_id, self.next_lease = self.next_lease, self.next_lease + 1
        self.open_leases[lease_id] = [first, end]
        self.send(LeaseGranted(lease_id, slot, first, end))

    @rule(slot=st.integers(-1, 9))
    def grant_unasked(self, slot: int) -> None:
        self.give(slot, 0, 2)

    @rule(lease_id=st.integers(0, 20), end=st.integers(0, 60))
    def trim(self, lease_id: int, end: int) -> None:
        self.send(LeaseTrimmed(lease_id, end))

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), count=st.integers(1, 10))
    def arrive(self, data: st.DataObject, count: int) -> None:
        fetch_id = data.draw(st.sampled_from(sorted(self.flying)))
        bits = sum(1 << p for p in list(iter_bits(self.flying[fetch_id][1] & ~self.swarm.have))[:count])
        if bits:
            self.send(PiecesArrived(fetch_id, bits, self.manifest.set_bytes(bits)))

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        fetch_id = data.draw(st.sampled_from(sorted(self.flying)))
        results = PEER_RESULTS if self.flying[fetch_id][0] else HUB_RESULTS
        self.finish(fetch_id, data.draw(st.sampled_from(results)))

    def finish(self, fetch_id: int, result: FetchResult) -> None:
        peer, pieces = self.flying.pop(fetch_id)
        self.cancelled.discard(fetch_id)
        if result is FetchResult.MISSING and peer in self.peers:
            self.peers[peer] &= ~(self.missing[fetch_id] & pieces)
        self.send(FetchEnded(fetch_id, result, 0.1))

    @rule(pieces=st.integers(0))
    def bad(self, pieces: int) -> None:
        if pieces & self.swarm.have & self.swarm.want:
            self.complete = False
        self.send(PieceBad(pieces))

    @rule(limit=st.integers(0, 5))
    def limit(self, limit: int) -> None:
        self.send(SlotLimit(limit))

    @rule(limit=st.integers(-1, 10))
    def peer_limit_set(self, limit: int) -> None:
        self.peer_limit = min(8, max(1, limit))
        self.send(PeerLimit(limit))

    @rule(places=st.dictionaries(st.sampled_from((*PEERS, "good", "stranger")), st.tuples(PLACES, st.integers(1, 9))))
    def dealt(self, places: dict[str, tuple[int, int]]) -> None:
        self.send(SharesDealt({name: (place % nodes, nodes) for name, (place, nodes) in places.items()}))

    @rule(seconds=st.sampled_from([0.0, 0.1, 0.5, 4.0, 70.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.send(Tick())

    @precondition(lambda self: self.fetch_ids - self.flying.keys())
    @rule(data=st.data())
    def late(self, data: st.DataObject) -> None:
        """Pieces of a transfer that has ended still count; another end of it is refused, with its story."""
        fetch_id = data.draw(st.sampled_from(sorted(self.fetch_ids - self.flying.keys())))
        self.send(PiecesArrived(fetch_id, 0, 0))
        story = self.refused(FetchEnded(fetch_id, data.draw(st.sampled_from(FetchResult))))
        begun, ended = f"FetchFrom(Peer|Hub)\\(fetch_id={fetch_id},", f"FetchEnded\\(fetch_id={fetch_id},"
        assert re.search(f"{begun}.*{ended}.*{ended}", story, re.DOTALL), story

    @rule(fetch_id=st.sampled_from([-1, 0, 10_000_000]))
    def never_begun(self, fetch_id: int) -> None:
        for event in (PiecesArrived(fetch_id, 1, 1), FetchEnded(fetch_id, FetchResult.DONE)):
            assert f"(fetch_id={fetch_id}" in self.refused(event)

    def refused(self, event: SwarmEvent) -> str:
        """The machine says why an event cannot be, and is as it was before."""
        before = self.swarm.have, self.swarm.held_leases(), self.swarm.next_deadline(), self.swarm.lacking_bytes
        with pytest.raises(IllegalTransitionError) as caught:
            self.swarm.handle(event, self.now)
        assert caught.value.whole
        swarm = self.swarm
        assert before == (swarm.have, swarm.held_leases(), swarm.next_deadline(), swarm.lacking_bytes)
        return str(caught.value)

    @invariant()
    def it_knows_what_it_lacks(self) -> None:
        lacking = self.swarm.want & ~self.swarm.have
        assert self.swarm.lacking_bytes == self.manifest.set_bytes(lacking)

    @invariant()
    def consistent(self) -> None:
        if not hasattr(self, "swarm"):
            return
        assert {lease.lease_id for lease in self.swarm.held_leases()} == set(self.open_leases)
        for lease in self.swarm.held_leases():
            assert lease.first <= lease.position <= lease.end
        deadline = self.swarm.next_deadline()
        assert deadline is None or deadline >= self.now - 1e-6

    def teardown(self) -> None:
        """Whatever happened: with one good peer that holds everything, the node ends with all that it wants."""
        if not hasattr(self, "swarm"):
            return
        self.send(HubReady(False))
        self.peers["good"] = self.every
        self.send(PeerHas("good", self.every))
        for _ in range(600):
            for fetch_id in sorted(self.flying):
                if fetch_id not in self.flying:
                    continue
                peer, pieces = self.flying[fetch_id]
                if fetch_id in self.cancelled:
                    self.finish(fetch_id, FetchResult.CANCELLED)
                elif peer == "good" or not peer:
                    bits = pieces & ~self.swarm.have
                    self.send(PiecesArrived(fetch_id, bits, self.manifest.set_bytes(bits)))
                    if fetch_id in self.flying:
                        self.finish(fetch_id, FetchResult.DONE)
                else:
                    self.finish(fetch_id, FetchResult.FAILED)
            self.now += 1.0
            self.send(Tick())
            if not self.swarm.want & ~self.swarm.have and not self.open_leases and not self.flying:
                break
        left = list(iter_bits(self.swarm.want & ~self.swarm.have))
        assert not left, f"never asked for {left}"
        assert not self.open_leases, "leases that never end"
        assert not self.flying
        assert self.complete
        assert self.swarm.bytes_from_hub + self.swarm.bytes_from_peers >= 0


TestSwarm = SwarmMachine.TestCase
TestSwarm.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
