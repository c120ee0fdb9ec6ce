from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from exo_dl.core.leases import (
    Cut,
    Fault,
    Grant,
    HeldLease,
    LeaseAsked,
    LeaseEnded,
    LeaseEvent,
    LeaseProgressed,
    LeaseResult,
    LeaseTable,
    NodeJoined,
    NodeLost,
    QueryHave,
    Tick,
)
from exo_dl.core.pieces import mask
from exo_dl.sim.scenarios import model
from tests.unit.core.lease_bench import Bench

MIB = 1 << 20


def test_shares_follow_rates() -> None:
    bench = Bench(size_mib=1000)
    bench.join("front", rate=40e6)
    bench.join("fast", rate=30e6)
    bench.join("slow", rate=10e6)
    for slot in (0, 1):
        bench.ask("front", slot=slot, rate=20e6)
    fast, slow = bench.ask("fast", rate=30e6), bench.ask("slow", rate=10e6)
    assert (fast.end - fast.first) / (slow.end - slow.first) == pytest.approx(3, rel=0.15)
    assert mask(fast.first, fast.end) & mask(slow.first, slow.end) == 0


def test_an_unmeasured_node_gets_a_small_lease_first() -> None:
    bench = Bench(size_mib=1000)
    bench.join("a")
    grant = bench.ask("a")
    assert 1 <= grant.end - grant.first <= 16


def test_each_lease_begins_with_the_first_piece_that_nobody_has() -> None:
    bench = Bench()
    for node in ("a", "b"):
        bench.join(node, rate=10e6)
    first, second = bench.ask("a", rate=10e6), bench.ask("b", rate=10e6)
    assert (first.first, second.first) == (0, first.end)
    bench.send(LeaseEnded("a", first.lease_id, first.end - 2, LeaseResult.RETURNED), at=5.0)
    third = bench.ask("a", rate=10e6)
    assert (third.first, third.end) == (first.end - 2, first.end), "what was given back is in the way of all digests"
    bench.send(LeaseEnded("a", third.lease_id, third.end, LeaseResult.DONE), at=6.0)
    assert bench.ask("a", rate=10e6).first == second.end


def test_a_lease_of_a_large_model_lasts_no_longer_than_digests_may_be_behind() -> None:
    bench = Bench(size_mib=40_000)
    for node in ("a", "b", "c"):
        bench.join(node, rate=100e6)
    grants = [bench.ask(node, rate=100e6) for node in ("a", "b", "c")]
    assert bench.manifest.run_bytes(grants[-1].first, grants[-1].end) == pytest.approx(260 * MIB, rel=0.1)


def test_of_leases_that_begin_together_the_one_at_the_front_ends_first() -> None:
    """The digest of a file is computed from its front: what lies behind an unfinished lease waits for that."""
    bench = Bench(size_mib=1000)
    for node in "abcd":
        bench.join(node, rate=10e6)
    grants = [bench.ask(node, rate=10e6) for node in "abcd"]
    sizes = [grant.end - grant.first for grant in grants]
    assert sizes == sorted(sizes)
    assert sizes[0] <= 0.5 * sizes[-1]


def test_the_tail_of_the_last_lease_is_taken_over_so_that_both_end_together() -> None:
    bench = Bench(size_mib=200)
    bench.join("a", rate=10e6)
    slot = 0
    while sum(v.end - v.first for v in bench.table.leases()) < bench.manifest.piece_count:
        bench.ask("a", slot=slot, rate=10e6)
        slot += 1
    longest = max(bench.table.leases(), key=lambda x: x.end - x.first)
    bench.join("b", rate=10e6)
    assert not bench.send(LeaseAsked("b", 0, 10e6)), "a lease just granted may be further than anybody knows"
    for lease in bench.table.leases():
        bench.send(LeaseProgressed("a", lease.lease_id, min(lease.first + 4, lease.end), 10e6), at=0.45)
    (cut,) = bench.send(Tick(), at=0.5)
    assert isinstance(cut, Cut)
    assert bench.send(Tick(), at=0.6) == [], "what a node may be reading is not given to another"
    answer = LeaseProgressed("a", longest.lease_id, longest.first + 5, 10e6, cut.end)
    (grant,) = bench.send(answer, at=0.61)
    assert isinstance(grant, Grant)
    assert cut.lease_id == longest.lease_id
    assert (grant.first, grant.end) == (cut.end, longest.end)
    assert grant.end - grant.first == pytest.approx((longest.end - longest.first - 4) / 2, abs=2)


def cut_for_b(bench: Bench, *, left_mib: int = 200) -> tuple[Grant, Cut]:
    """A lease of "a" that it was just told to end earlier, for "b"."""
    have = mask(0, bench.manifest.piece_at(bench.manifest.total_bytes - left_mib * MIB))
    bench.join("a", rate=10e6, have=have)
    bench.join("b", rate=10e6, have=have)
    slot = 0
    grants = [bench.ask("a", rate=10e6)]
    while sum(v.end - v.first for v in bench.table.leases()) + have.bit_count() < bench.manifest.piece_count:
        slot += 1
        grants.append(bench.ask("a", slot=slot, rate=10e6))
    bench.send(LeaseAsked("b", 0, 10e6))
    for grant in grants:
        bench.send(LeaseProgressed("a", grant.lease_id, grant.first + 1, 10e6, grant.end), at=0.4)
    (cut,) = bench.send(Tick(), at=0.5)
    assert isinstance(cut, Cut)
    return next(g for g in grants if g.lease_id == cut.lease_id), cut


def test_a_node_that_was_further_than_the_cut_keeps_what_it_says_that_it_reads() -> None:
    bench = Bench(size_mib=200)
    held, cut = cut_for_b(bench)
    position = cut.end + 3
    assert bench.send(LeaseProgressed("a", held.lease_id, position, 10e6, held.end), at=0.6) == [], "no answer yet"
    (grant,) = bench.send(LeaseEnded("a", held.lease_id, position, LeaseResult.RETURNED), at=0.7)
    assert isinstance(grant, Grant)
    assert grant.node == "b"
    assert position <= grant.first < grant.end <= held.end


@pytest.mark.parametrize(("size_mib", "raced"), [(100, False), (4000, True)])
def test_a_node_that_does_not_answer_a_cut_is_raced_only_within_the_allowance(size_mib: int, raced: bool) -> None:
    bench = Bench(size_mib=size_mib)
    _, cut = cut_for_b(bench, left_mib=50)
    granted = [a for at in (0.9, 1.1, 1.3) for a in bench.send(Tick(), at=at) if isinstance(a, Grant)]
    assert [grant.first for grant in granted] == [cut.end] * raced


def test_what_a_lost_node_leased_is_free_at_once_and_what_it_read_is_asked_for() -> None:
    bench = Bench(size_mib=64)
    bench.join("a", rate=10e6)
    bench.join("b", rate=10e6)
    grant = bench.ask("a", rate=10e6)
    bench.send(LeaseProgressed("a", grant.lease_id, grant.first + 3, 10e6))
    actions = bench.send(NodeLost("a"))
    assert actions == [QueryHave(("b",))]
    assert not bench.table.leases()
    taken = mask(0, 0)
    for slot in range(20):
        for action in bench.send(LeaseAsked("b", slot, 10e6)):
            if isinstance(action, Grant):
                taken |= mask(action.first, action.end)
    # Nobody knows yet whether b has the three pieces from a.
    assert taken & mask(grant.first, grant.first + 3) == 0
    # b has one of them: the other two are leased again.
    bench.send(NodeJoined("b", mask(grant.first, grant.first + 1), 0, bench.every, bench_leases(bench), 10e6))
    bench.send(LeaseAsked("b", 99, 10e6))
    again = mask(0, 0)
    for view in bench.table.leases():
        again |= mask(view.first, view.end)
    assert again & mask(grant.first, grant.first + 3) == mask(grant.first + 1, grant.first + 3)


def bench_leases(bench: Bench) -> tuple[HeldLease, ...]:
    return tuple(HeldLease(v.lease_id, v.first, v.end, v.position) for v in bench.table.leases())


def test_doubt_about_pieces_ends_after_two_seconds() -> None:
    bench = Bench(size_mib=8)
    bench.join("a", rate=10e6, have=bench.every)
    bench.join("b", rate=10e6)
    bench.send(NodeLost("a"))
    assert bench.send(LeaseAsked("b", 0, 10e6)) == []
    assert bench.table.next_deadline() is not None
    assert any(isinstance(a, Grant) for a in bench.send(Tick(), at=2.5))


def test_what_a_node_has_lost_is_free_though_its_lease_is_past_it() -> None:
    bench = Bench(size_mib=64)
    bench.join("a", rate=10e6)
    lease = bench.ask("a", rate=10e6)
    past = HeldLease(lease.lease_id, lease.first, lease.end, lease.first + 2)
    bench.send(NodeJoined("a", 0, 0, bench.every, (past,), 10e6))
    bench.join("b", rate=10e6)
    assert bench.ask("b", rate=10e6).first == lease.first


def test_a_lease_that_stands_still_goes_to_others() -> None:
    bench = Bench(size_mib=64)
    bench.join("a", rate=10e6)
    bench.join("b", rate=10e6)
    grant = bench.ask("a", rate=10e6)
    assert not bench.send(Tick(), at=2.0)
    actions = bench.send(Tick(), at=4.0)
    assert Cut("a", grant.lease_id, grant.first) in actions
    assert any(isinstance(a, Fault) for a in actions)
    assert bench.send(LeaseAsked("a", 0, 10e6)) == []
    assert bench.ask("b", rate=10e6).first >= 0
    assert any(isinstance(a, Grant) and a.node == "a" for a in bench.send(Tick(), at=30.0))


@pytest.mark.parametrize("result", [LeaseResult.HUB_UNREACHABLE, LeaseResult.HUB_REFUSED, LeaseResult.NO_ROOM])
def test_a_node_that_cannot_read_waits_and_others_go_on(result: LeaseResult) -> None:
    bench = Bench(size_mib=64)
    bench.join("a", rate=10e6)
    bench.join("b", rate=10e6)
    grant = bench.ask("a", rate=10e6)
    actions = bench.send(LeaseEnded("a", grant.lease_id, grant.first, result))
    assert any(isinstance(a, Fault) for a in actions)
    assert bench.send(LeaseAsked("a", 0, 10e6)) == []
    assert bench.ask("b", rate=10e6)
    assert any(isinstance(a, Grant) and a.node == "a" for a in bench.send(Tick(), at=20.0))


def test_pieces_that_a_node_is_checking_are_held_back() -> None:
    bench = Bench(size_mib=16)
    bench.join("a", rate=10e6)
    bench.join("b", rate=10e6, checking=bench.every)
    assert bench.send(LeaseAsked("a", 0, 10e6)) == []
    actions = bench.send(NodeJoined("b", mask(0, 10), 0, bench.every, (), 10e6))
    grant = next(a for a in actions if isinstance(a, Grant))
    assert grant.first >= 10


def test_nothing_is_leased_before_the_expected_nodes_have_joined() -> None:
    bench = Bench(size_mib=16, expected=("a", "b"))
    bench.join("a", rate=10e6)
    assert bench.send(LeaseAsked("a", 0, 10e6)) == []
    assert [a for a in bench.join("b", have=bench.every) if isinstance(a, Grant)] == []
    assert bench.table.outstanding_bytes == 0


def test_expected_nodes_are_not_waited_for_for_ever() -> None:
    bench = Bench(size_mib=16, expected=("a", "b"), patience_s=1.0)
    bench.join("a", rate=10e6)
    bench.send(LeaseAsked("a", 0, 10e6))
    assert any(isinstance(a, Grant) for a in bench.send(Tick(), at=1.1))


def test_a_new_coordinator_adopts_leases_and_cuts_what_overlaps() -> None:
    bench = Bench(size_mib=64, epoch=2)
    bench.send(NodeJoined("a", mask(0, 5), 0, bench.every, (HeldLease(7, 0, 20, 5),), 10e6))
    actions = bench.send(NodeJoined("b", 0, 0, bench.every, (HeldLease(8, 10, 30, 10), HeldLease(9, 30, 40, 30)), 10e6))
    assert actions == [Cut("b", 8, 10)]
    assert {view.lease_id for view in bench.table.leases()} == {7, 9}
    assert bench.ask("b", slot=1, rate=10e6).lease_id >> 32 == 2


@pytest.mark.parametrize(
    ("fast", "at", "granted"),
    [
        pytest.param(3.6e6, 60, True, id="a piece takes it 0.3 s, and there are four"),
        pytest.param(100e6, 60, False, id="it reads all four before a slow one had read one"),
        pytest.param(100e6, 61, False, id="it is through, and about to ask"),
    ],
)
def test_last_pieces_wait_for_a_faster_connection_only_where_it_has_read_them_all_before(
    fast: float, at: int, granted: bool
) -> None:
    bench = Bench(size_mib=64)
    have = mask(0, 60)
    bench.send(NodeJoined("fast", have, 0, bench.every, (HeldLease(7, 59, 61, 60),), fast))
    bench.send(LeaseProgressed("fast", 7, at, fast, 61))
    bench.send(NodeJoined("slow", have, 0, bench.every, (), 1e6))
    answer = bench.send(LeaseAsked("slow", 0, 1e6))
    assert any(isinstance(action, Grant) for action in answer) is granted


def test_the_last_pieces_of_a_slow_node_are_doubled_up() -> None:
    bench = Bench(size_mib=1)
    bench.join("slow", rate=0.1e6)
    bench.join("fast", rate=100e6)
    slow = bench.ask("slow", rate=0.1e6)
    assert not bench.send(LeaseAsked("fast", 0, 100e6)), "a lease just granted may be further than anybody knows"
    actions = bench.send(Tick(), at=0.5)
    (twice,) = [a for a in actions if isinstance(a, Grant)]
    assert (twice.first, twice.end) == (slow.first, slow.end)
    actions = bench.send(LeaseEnded("fast", twice.lease_id, twice.end, LeaseResult.DONE), at=0.6)
    assert actions == [Cut("slow", slow.lease_id, slow.first)]


def test_late_and_foreign_messages_change_nothing() -> None:
    bench = Bench(size_mib=16)
    bench.join("a", rate=10e6)
    bench.join("b", rate=10e6)
    grant = bench.ask("a", rate=10e6)
    assert bench.send(LeaseProgressed("b", grant.lease_id, grant.end, 1e6)) == []
    assert bench.send(LeaseProgressed("a", 12345, 3, 1e6)) == []
    assert bench.send(LeaseAsked("nobody", 0, 1e6)) == []
    assert bench.send(NodeLost("nobody")) == []
    assert bench.send(LeaseAsked("a", 0, 1e6)) == []
    (view,) = bench.table.leases()
    assert view.position == view.first


def test_an_empty_pull_needs_nothing() -> None:
    bench = Bench(manifest=model(size_bytes=0, files=0))
    bench.join("a")
    assert bench.send(LeaseAsked("a", 0, 0.0)) == []
    assert bench.table.outstanding_bytes == 0


def many_readers(nodes: int, *, uplink: float, pieces: int = 4096) -> Iterator[LeaseTable]:
    """A pull of nodes that could read 8 MiB/s each and share ``uplink`` bytes/s, each time that somebody read."""
    bench = Bench(size_mib=pieces * 16)
    for index in range(nodes):
        bench.join(f"n{index}")
    for index in range(nodes):
        for slot in (0, 1):
            bench.send(LeaseAsked(f"n{index}", slot, 0.0))
    read: dict[int, float] = {}
    while leases := bench.table.leases():
        yield bench.table
        bench.now += 0.25
        rate = min(8 * MIB, uplink / len(leases))
        for lease in leases:
            read[lease.lease_id] = read.get(lease.lease_id, 0.0) + rate * 0.25
            at = min(lease.end, lease.first + int(read[lease.lease_id] / bench.manifest.piece_bytes(lease.first)))
            if at > lease.position:
                bench.send(LeaseProgressed(lease.node, lease.lease_id, at, rate, lease.end))
            if at == lease.end:
                bench.send(LeaseEnded(lease.node, lease.lease_id, at, LeaseResult.DONE))
                bench.send(LeaseAsked(lease.node, lease.slot, rate))
        bench.send(Tick())


def test_of_hundreds_of_nodes_behind_one_uplink_some_read_and_pieces_come_soon() -> None:
    """With a piece of each node on its way, nobody would have any to pass on for half of the pull."""
    standing = [len(table.leases()) for table in many_readers(1000, uplink=1000 * MIB)]
    assert standing[0] == 128
    assert max(standing) <= 256
    assert sum(count > 128 for count in standing) <= len(standing) / 3, "a trial ends where it brings nothing"
    assert len(standing) * 0.25 <= 1.1 * 4096 * 16 / 1000


def test_hundreds_of_nodes_get_one_lease_each_where_that_brings_more() -> None:
    table = next(table for table in many_readers(300, uplink=1e12) if len(table.leases()) >= 300)
    leases = table.leases()
    assert len({lease.node for lease in leases}) == 300
    assert sum(lease.end - lease.first for lease in leases) <= 4096


def test_every_node_of_a_small_cluster_reads_at_once() -> None:
    table = next(many_readers(32, uplink=100 * MIB, pieces=1024))
    assert len(table.leases()) == 64


def pull_with(nodes: int) -> Iterator[LeaseEvent]:
    """What a table hears of that many nodes of two connections each, from their joining to the end of their leases."""
    bench = Bench(size_mib=nodes * 128)
    names = [f"n{index}" for index in range(nodes)]
    slots = [(name, slot) for name in names for slot in (0, 1)]

    def hears(event: LeaseEvent) -> LeaseEvent:
        bench.send(event)
        return event

    for name in names:
        yield hears(NodeJoined(name, 0, 0, bench.every, (), 0.0))
    for name, slot in slots:
        yield hears(LeaseAsked(name, slot, 0.0))
    for _ in range(16):
        bench.now += 0.25
        for lease in bench.table.leases():
            at = min(lease.position + 2, lease.end)
            yield hears(LeaseProgressed(lease.node, lease.lease_id, at, 8e6, lease.end))
            if at == lease.end:
                yield hears(LeaseEnded(lease.node, lease.lease_id, at, LeaseResult.DONE))
                yield hears(LeaseAsked(lease.node, lease.slot, 8e6))
        yield hears(Tick())


def test_what_a_node_costs_its_coordinator_does_not_grow_with_the_cluster() -> None:
    """Counted in calls, which are the same on every machine."""

    def calls_per_node(nodes: int) -> float:
        count = 0

        def called(frame: object, event: str, argument: object) -> None:
            nonlocal count
            count += event in ("call", "c_call")

        events = pull_with(nodes)
        before = sys.getprofile()
        sys.setprofile(called)
        try:
            for _ in events:
                pass
        finally:
            sys.setprofile(before)
        return count / nodes

    assert calls_per_node(400) <= 1.1 * calls_per_node(100)
