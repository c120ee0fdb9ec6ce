from __future__ import annotations

import random

import pytest

from exo_dl.core.pieces import first_set, mask
from exo_dl.core.swarm import (
    Announce,
    AskLease,
    CancelFetch,
    Complete,
    CoordinatorReady,
    EndLease,
    Fault,
    FetchEnded,
    FetchFromHub,
    FetchFromPeer,
    FetchResult,
    Held,
    HubReady,
    LeaseGranted,
    LeaseResult,
    LeaseTrimmed,
    PeerHas,
    PeerJoined,
    PeerLacks,
    PeerLost,
    PieceBad,
    ReportLease,
    SlotLimit,
    Swarm,
    Tick,
    TrimFetch,
)
from tests.unit.core.swarm_bench import MIB, Bench, every, only


def test_leases_are_asked_for_only_with_a_hub_and_a_coordinator() -> None:
    bench = Bench()
    assert not bench.send(HubReady(True))
    assert {a.slot for a in every(AskLease, bench.send(CoordinatorReady()))} == {0, 1}
    assert not every(AskLease, bench.send(Tick(), at=1.0))
    assert every(AskLease, bench.send(CoordinatorReady()))


def test_a_lease_is_read_blob_by_blob_and_ends_once() -> None:
    bench = Bench(size_mib=8, files=2)
    bench.hub()
    fetch = only(FetchFromHub, bench.send(LeaseGranted(1, 0, 2, 6)))
    assert (fetch.first, fetch.end) == (2, 4)
    actions = bench.arrive(fetch, 2, 4, at=1.0)
    assert only(Announce, actions).pieces == mask(2, 4)
    assert only(ReportLease, actions).position == 4
    fetch = only(FetchFromHub, bench.send(FetchEnded(fetch.fetch_id, FetchResult.DONE)))
    assert (fetch.first, fetch.end) == (4, 6)
    bench.arrive(fetch, 4, 6, at=2.0)
    actions = bench.send(FetchEnded(fetch.fetch_id, FetchResult.DONE))
    assert only(EndLease, actions) == EndLease(1, 6, LeaseResult.DONE)
    assert only(AskLease, actions).bytes_per_s == pytest.approx(2 * MIB, rel=0.2)
    assert bench.swarm.bytes_from_hub == 4 * MIB
    assert bench.swarm.bytes_from_peers == 0


def test_a_cut_lease_is_trimmed_and_a_lease_taken_back_cancelled() -> None:
    bench = Bench()
    bench.hub()
    fetch = only(FetchFromHub, bench.send(LeaseGranted(1, 0, 0, 20)))
    assert only(TrimFetch, bench.send(LeaseTrimmed(1, 10))) == TrimFetch(fetch.fetch_id, 10)
    assert bench.swarm.held_leases()[0].end == 10
    assert only(CancelFetch, bench.send(LeaseTrimmed(1, 0))).fetch_id == fetch.fetch_id
    actions = bench.send(FetchEnded(fetch.fetch_id, FetchResult.CANCELLED))
    assert only(EndLease, actions).result is LeaseResult.RETURNED


@pytest.mark.parametrize(
    ("result", "told"),
    [
        (FetchResult.HUB_UNREACHABLE, LeaseResult.HUB_UNREACHABLE),
        (FetchResult.HUB_BUSY, LeaseResult.HUB_BUSY),
        (FetchResult.HUB_REFUSED, LeaseResult.HUB_REFUSED),
        (FetchResult.NO_ROOM, LeaseResult.NO_ROOM),
    ],
)
def test_trouble_at_the_hub_is_told_and_waited_out(result: FetchResult, told: LeaseResult) -> None:
    bench = Bench()
    bench.hub()
    fetch = only(FetchFromHub, bench.send(LeaseGranted(1, 0, 0, 20)))
    actions = bench.send(FetchEnded(fetch.fetch_id, result, 3.0, "why"))
    ended = only(EndLease, actions)
    assert ended.result is told
    assert ended.detail == "why"
    assert not every(AskLease, actions)
    assert every(AskLease, bench.send(Tick(), at=40.0))


def test_a_broken_connection_is_tried_again_before_the_lease_is_given_back() -> None:
    bench = Bench()
    bench.hub()
    fetch = only(FetchFromHub, bench.send(LeaseGranted(1, 0, 0, 20)))
    ended: list[EndLease] = []
    for attempt in range(3):
        ended = every(EndLease, bench.send(FetchEnded(fetch.fetch_id, FetchResult.FAILED)))
        if attempt < 2:
            assert not ended
            fetch = only(FetchFromHub, bench.send(Tick(), at=bench.now + 2.0))
    assert ended[0].result is LeaseResult.RETURNED


def test_a_lease_for_a_busy_or_unknown_slot_is_given_back() -> None:
    bench = Bench()
    bench.hub()
    bench.send(LeaseGranted(1, 0, 0, 10))
    for lease in (LeaseGranted(2, 0, 10, 12), LeaseGranted(3, 99, 10, 12), LeaseGranted(4, 1, 30, 99)):
        assert only(EndLease, bench.send(lease)).result is LeaseResult.RETURNED


def test_a_peer_is_asked_for_two_runs_at_a_time() -> None:
    bench = Bench()
    wishes = every(FetchFromPeer, bench.send(PeerHas("p", bench.every)))
    assert len(wishes) == 2
    assert all(w.peer == "p" for w in wishes)
    assert wishes[0].pieces & wishes[1].pieces == 0


def test_a_node_that_is_ahead_has_fewer_transfers_while_another_that_lacks_more_gains() -> None:
    def transfers(*lacking_mib: int) -> int:
        bench = Bench(size_mib=64)
        for index, mib in enumerate(lacking_mib):
            bench.send(PeerJoined("b"), at=index * 0.2)
            bench.send(PeerLacks("b", mib * MIB), at=index * 0.2)
        count = 0
        for name in "bcdef":
            count += len(every(FetchFromPeer, bench.send(PeerHas(name, mask(0, 40)))))
        return count

    assert transfers() == 8
    assert transfers(120) == 8, "as far as is known it gains nothing"
    assert transfers(120, 119) == 3
    assert transfers(60, 59) == 8


def test_who_is_ahead_is_told_by_what_both_lacked_at_one_moment() -> None:
    bench = Bench(size_mib=64)
    bench.send(PeerJoined("b"))
    bench.send(PeerLacks("b", 70 * MIB))
    bench.send(PeerLacks("b", 64 * MIB))
    # What has come here since says nothing of the other one, which has gone on as well.
    bench.send(Held(mask(40, 64)))
    count = sum(len(every(FetchFromPeer, bench.send(PeerHas(name, mask(0, 40))))) for name in "bcdef")
    assert count == 8


def test_a_peer_that_is_behind_is_not_asked_for_what_another_has_no_room_to_give_just_now() -> None:
    bench = Bench(size_mib=64)
    bench.send(PeerJoined("a"))
    both = mask(0, 2) | mask(4, 6)
    # With two peers shares are blocks of two pieces: this node has its own.
    bench.send(Held(sum(mask(at, at + 2) for at in range(2, 64, 4))))
    first, second = every(FetchFromPeer, bench.send(PeerHas("b", both)))
    assert not every(FetchFromPeer, bench.send(PeerHas("a", bench.every)))
    bench.arrive(first, first_set(first.pieces), first_set(first.pieces) + 1, at=0.1)
    assert only(FetchFromPeer, bench.send(FetchEnded(first.fetch_id, FetchResult.DONE))).peer == "b"
    bench.send(FetchEnded(second.fetch_id, FetchResult.BUSY, 1.0))
    # With nothing on its way whoever can give anything is asked.
    other = only(FetchFromPeer, bench.send(FetchEnded(second.fetch_id + 1, FetchResult.BUSY, 1.0)))
    assert other.peer == "a" and not other.pieces & ~both


def test_where_peers_are_many_the_first_pieces_of_one_are_dealt_out_among_all() -> None:
    bench = Bench(size_mib=64)
    for name in "abcdefgh":
        bench.send(PeerJoined(name))
    wishes = every(FetchFromPeer, bench.send(PeerHas("a", mask(0, 30))))
    assert len(wishes) == 2
    assert not (wishes[0].pieces | wishes[1].pieces) & ~sum(1 << at for at in range(7, 30, 8))
    # What somebody else has as well does not cost the holder anything.
    assert only(FetchFromPeer, bench.send(PeerHas("b", mask(0, 1)))).peer == "b"


def test_who_has_no_share_of_the_first_pieces_waits_for_a_moment_only() -> None:
    bench = Bench(size_mib=64)
    for name in "abcdefgh":
        bench.send(PeerJoined(name))
    assert not every(FetchFromPeer, bench.send(PeerHas("a", mask(0, 2))))
    at = bench.swarm.next_deadline()
    assert at is not None and at <= 0.25
    assert {wish.peer for wish in every(FetchFromPeer, bench.send(Tick(), at=at))} == {"a"}


def test_where_most_of_many_peers_are_behind_nobody_waits_for_a_share_of_others() -> None:
    bench = Bench(size_mib=256)
    own_share = sum(1 << at for at in range(7, 256, 8))
    has = {name: mask(20 * index, 20 * index + 20) | mask(200, 220) for index, name in enumerate("abcdefgh")}
    bench.swarm.handle_all([Held(own_share), *(PeerHas(*each) for each in has.items())], 0.0)
    wishes = every(FetchFromPeer, bench.send(Tick(), at=0.5))
    assert len(wishes) == 8
    assert not any(wish.pieces & mask(200, 220) for wish in wishes)


def test_the_rarest_are_asked_for_first() -> None:
    bench = Bench(max_peer_fetches=1)
    bench.send(Held(mask(2, 30)))
    bench.send(PeerHas("a", 0))
    for peer in ("a", "b", "c"):
        actions = bench.send(PeerHas(peer, mask(0, 1) | mask(30, 31)))
        for wish in every(FetchFromPeer, actions):
            bench.send(FetchEnded(wish.fetch_id, FetchResult.BUSY, 1.0))
    for peer in ("d", "e"):
        for wish in every(FetchFromPeer, bench.send(PeerHas(peer, mask(1, 2)))):
            bench.send(FetchEnded(wish.fetch_id, FetchResult.BUSY, 1.0))
    wish = only(FetchFromPeer, bench.send(Tick(), at=5.0))
    assert wish.pieces == mask(1, 2)


def test_busy_peers_are_left_alone_for_a_moment() -> None:
    bench = Bench()
    for wish in every(FetchFromPeer, bench.send(PeerHas("p", bench.every))):
        assert not every(FetchFromPeer, bench.send(FetchEnded(wish.fetch_id, FetchResult.BUSY)))
    deadline = bench.swarm.next_deadline()
    assert deadline is not None
    assert deadline <= 0.25
    assert every(FetchFromPeer, bench.send(Tick(), at=1.0))


def test_what_a_peer_does_not_have_after_all_is_forgotten() -> None:
    bench = Bench(size_mib=1)
    wish = only(FetchFromPeer, bench.send(PeerHas("p", bench.every)))
    assert not bench.send(FetchEnded(wish.fetch_id, FetchResult.MISSING))
    assert only(FetchFromPeer, bench.send(PeerHas("p", bench.every))).pieces & 1


def test_a_peer_that_sends_wrong_bytes_is_asked_last() -> None:
    bench = Bench(size_mib=2)
    actions = bench.send(PeerHas("liar", bench.every))
    for _ in range(6):
        for fetch in every(FetchFromPeer, actions):
            actions += bench.send(FetchEnded(fetch.fetch_id, FetchResult.CORRUPT))
        told = every(Fault, actions)
        actions = [*told, *bench.send(Tick(), at=bench.now + 11.0)]
    assert len(told) == 1
    bench.send(PeerHas("honest", bench.every), at=bench.now + 400.0)
    wishes = every(FetchFromPeer, bench.send(Tick()))
    assert all(w.peer == "honest" for w in wishes)


def test_the_transfers_of_a_lost_peer_are_cancelled_and_asked_elsewhere() -> None:
    bench = Bench(size_mib=2)
    wishes = every(FetchFromPeer, bench.send(PeerHas("a", bench.every)))
    bench.send(PeerHas("b", bench.every))
    actions = bench.send(PeerLost("a"))
    assert {c.fetch_id for c in every(CancelFetch, actions)} == {w.fetch_id for w in wishes}
    assert {w.peer for w in every(FetchFromPeer, actions)} == {"b"}


def test_an_overdue_piece_is_asked_twice_and_the_loser_cancelled() -> None:
    bench = Bench(size_mib=1)
    slow = only(FetchFromPeer, bench.send(PeerHas("a", bench.every)))
    assert not every(FetchFromPeer, bench.send(PeerHas("b", bench.every)))
    quick = only(FetchFromPeer, bench.send(Tick(), at=5.0))
    assert quick.peer == "b" or slow.peer == "b"
    actions = bench.arrive(quick, 0, 1, at=5.1)
    assert only(CancelFetch, actions).fetch_id == slow.fetch_id
    assert every(Complete, actions)
    assert bench.swarm.bytes_from_peers == MIB


def test_a_piece_of_the_own_lease_that_a_peer_holds_is_not_read_from_the_hub() -> None:
    bench = Bench(size_mib=32)
    bench.hub()
    reading = only(FetchFromHub, bench.send(LeaseGranted(1, 0, 0, 32)))
    bench.arrive(reading, 0, 1, at=0.5)
    assert not every(FetchFromPeer, bench.send(PeerHas("p", mask(1, 2))))
    fetch = only(FetchFromPeer, bench.send(PeerHas("p", mask(20, 21))))
    actions = bench.arrive(fetch, 20, 21, at=0.6)
    assert only(TrimFetch, actions).end == 20


def test_complete_is_told_once_and_again_after_a_loss() -> None:
    bench = Bench()
    assert every(Complete, bench.send(Held(bench.every)))
    assert not every(Complete, bench.send(Tick()))
    assert not every(Complete, bench.send(PieceBad(mask(3, 4))))
    assert bench.swarm.have == bench.every & ~mask(3, 4)
    assert every(Complete, bench.send(Held(mask(3, 4))))


def test_nothing_wanted_is_complete_at_once() -> None:
    bench = Bench(size_mib=1)
    swarm = Swarm(bench.manifest, node="me", want=0, rng=random.Random(1))
    assert every(Complete, swarm.handle(Tick(), 0.0))


def test_a_limit_gives_leases_back() -> None:
    bench = Bench()
    bench.hub()
    fetch = only(FetchFromHub, bench.send(LeaseGranted(1, 0, 0, 20)))
    assert only(TrimFetch, bench.send(SlotLimit(0))).end == 1
    bench.arrive(fetch, 0, 1, at=1.0)
    actions = bench.send(FetchEnded(fetch.fetch_id, FetchResult.DONE))
    assert only(EndLease, actions) == EndLease(1, 1, LeaseResult.RETURNED)
    assert not every(AskLease, actions)


def test_slow_peers_are_known_as_slow_only_after_a_while() -> None:
    """The hub is read again for what they hold, but not because their first piece took a moment to come."""
    bench = Bench(size_mib=400)
    bench.hub()
    reading = only(FetchFromHub, bench.send(LeaseGranted(1, 0, 0, 100)))
    flying = every(FetchFromPeer, bench.send(PeerHas("p", mask(100, 400)), at=0.1))
    own: list[float] = []
    for step in range(1, 13):
        actions = bench.arrive(reading, 3 * (step - 1), 3 * step, at=step * 0.25)
        if step % 2 == 0:
            slow = flying.pop(0)
            piece = first_set(slow.pieces)
            actions += bench.arrive(slow, piece, piece + 1, at=step * 0.25)
            actions += bench.send(FetchEnded(slow.fetch_id, FetchResult.DONE))
        flying += every(FetchFromPeer, actions)
        own += [bench.now for fetch in every(FetchFromHub, actions) if fetch.lease_id < 0]
    assert own
    assert own[0] > 1.0


def test_left_alone_a_node_reads_from_the_hub_by_itself() -> None:
    bench = Bench()
    bench.send(HubReady(True))
    fetches: list[FetchFromHub] = []
    for step in range(1, 80):
        fetches += every(FetchFromHub, bench.send(Tick(), at=step * 0.25))
    assert fetches
    assert all(f.lease_id < 0 for f in fetches)
    actions = bench.arrive(fetches[0], fetches[0].first, fetches[0].end, at=21.0)
    assert not every(ReportLease, actions)
    assert not bench.swarm.held_leases()


def test_what_is_read_without_a_lease_is_not_read_by_a_lease_of_the_same_node_as_well() -> None:
    bench = Bench()
    bench.send(SlotLimit(1))
    bench.send(HubReady(True))
    fetches: list[FetchFromHub] = []
    while not fetches:
        fetches += every(FetchFromHub, bench.send(Tick(), at=bench.now + 0.25))
    own, at = fetches[0], fetches[0].first
    assert at >= 2 and at + 3 < own.end
    actions = bench.swarm.handle_all((SlotLimit(2), LeaseGranted(1, 1, at - 2, at + 3)), bench.now)
    assert only(TrimFetch, actions) == TrimFetch(own.fetch_id, at + 1), "it ends with the piece in progress"
    leased = only(FetchFromHub, actions)
    assert (leased.lease_id, leased.first, leased.end) == (1, at - 2, at)
    bench.arrive(leased, at - 2, at, at=bench.now + 1)
    actions = bench.send(FetchEnded(leased.fetch_id, FetchResult.DONE))
    assert not [f for f in every(FetchFromHub, actions) if f.lease_id == 1], "the other connection is at it"
    actions = bench.arrive(own, at, at + 1, at=bench.now + 1)
    leased = only(FetchFromHub, actions)
    assert (leased.lease_id, leased.first, leased.end) == (1, at + 1, at + 3)


def test_with_a_reading_that_was_wrong_goes_what_peers_hold_of_it() -> None:
    bench = Bench(size_mib=4)
    bench.send(PeerHas("a", mask(0, 4)))
    bench.send(PieceBad(mask(1, 3)))
    assert bench.swarm.held_by("a") == mask(0, 4)
    bench.send(PieceBad(mask(1, 3), everywhere=True))
    assert bench.swarm.held_by("a") == mask(0, 1) | mask(3, 4)
    bench.send(PeerHas("a", mask(1, 3)))
    assert bench.swarm.held_by("a") == mask(0, 4), "it has read them anew"
