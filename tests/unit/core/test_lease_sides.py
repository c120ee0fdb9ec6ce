"""What the connections of one node have to do with each other: small files beside large ones, and tails."""

from __future__ import annotations

import hashlib
import random

import pytest

from exo_dl.core.lease_nodes import NodeBook
from exo_dl.core.lease_policy import CostMap
from exo_dl.core.leases import (
    Cut,
    Grant,
    HeldLease,
    LeaseAsked,
    LeaseEnded,
    LeaseProgressed,
    LeaseResult,
    NodeJoined,
    Tick,
)
from exo_dl.core.manifest import FileEntry, Manifest
from exo_dl.core.pieces import mask
from exo_dl.core.swarm import (
    AskLease,
    CoordinatorReady,
    FetchEnded,
    FetchFromHub,
    FetchResult,
    HubReady,
    LeaseGranted,
    PiecesArrived,
    ReportLease,
    Swarm,
)
from tests.unit.core.lease_bench import MIB, Bench


def of_files(*sizes: int) -> Manifest:
    entries = [FileEntry(f"{i:03}", size, hashlib.sha256(bytes([i])).digest()) for i, size in enumerate(sizes)]
    return Manifest(hub="sim", repo_type="model", repo="o/m", commit="0" * 40, files=tuple(entries))


def test_small_files_are_those_for_which_a_request_is_dear_where_they_are_a_small_part() -> None:
    assert CostMap(of_files(1000, 200 * MIB, MIB, 20_000)).small == 1 | 1 << 202
    assert CostMap(of_files(*[1000] * 50, 100 * MIB)).small == 0, "read in long runs, like others"


def test_a_node_reads_small_files_beside_something_else() -> None:
    bench = Bench(manifest=of_files(1000, 2000, 200 * MIB, 3000))
    bench.join("a")
    first, beside = bench.ask("a"), bench.ask("a", 1)
    assert first.first == 2, "the large file"
    assert (beside.first, beside.end) == (0, 2)
    bench.send(LeaseEnded("a", beside.lease_id, 2, LeaseResult.DONE))
    assert bench.ask("a", 1).first == 202
    bench.join("b")
    assert bench.ask("b").first == first.end


def test_small_files_are_read_alone_where_nothing_else_is_left() -> None:
    bench = Bench(manifest=of_files(1000, 3 * MIB))
    bench.join("a", have=mask(1, 4))
    assert bench.ask("a").first == 0


def test_two_leases_of_one_node_do_not_end_together() -> None:
    """Its link would stand idle until both connections have something new."""
    gaps = []
    for left in range(5, 200):
        bench = Bench(size_mib=2000)
        held = HeldLease(7, 0, left, 0)
        bench.send(NodeJoined("a", 0, 0, bench.every, (held,), 10e6))
        bench.join("b", rate=20e6)
        lease = bench.ask("a", 1, 10e6)
        gaps.append(lease.end - lease.first - left)
    assert 0 not in gaps
    assert 1 in gaps
    assert -1 in gaps


@pytest.mark.parametrize(
    ("other_rate", "asks", "takes"),
    [
        pytest.param(20e6, "a", False, id="another connection of a slow node helps nobody"),
        pytest.param(20e6, "b", True, id="a faster node takes it"),
        pytest.param(0.5e6, "a", True, id="of the fastest node, as a hub may limit each connection"),
        pytest.param(None, "a", True, id="nobody else is there"),
    ],
)
def test_whose_connection_takes_over_the_tail_of_a_lease(other_rate: float | None, asks: str, takes: bool) -> None:
    bench = Bench(size_mib=64)
    have = mask(0, 52)
    lease = (HeldLease(7, 50, bench.manifest.piece_count, 52),)
    bench.send(NodeJoined("a", have, 0, bench.every, lease, 2e6))
    if other_rate is not None:
        bench.send(NodeJoined("b", have, 0, bench.every, (), other_rate))
    bench.send(LeaseProgressed("a", 7, 53, 2e6, bench.manifest.piece_count), at=0.6)
    actions = bench.send(LeaseAsked(asks, 1, other_rate if asks == "b" and other_rate else 2e6))
    assert [a.node for a in actions if isinstance(a, Cut)] == ["a"] * takes


def test_a_rate_is_told_once_more_than_small_files_were_read() -> None:
    """A small file's rate is that of a round trip: leases would be sized by it."""
    manifest = of_files(1000, 4 * MIB)
    swarm = Swarm(manifest, node="a", want=mask(0, 5), rng=random.Random(1), max_hub_slots=1)
    swarm.handle(HubReady(ok=True), 0.0)
    assert AskLease(0, 0.0) in swarm.handle(CoordinatorReady(), 0.0)
    told = []
    for lease_id, first, end, seconds in ((1, 0, 1, 0.05), (2, 1, 3, 0.4), (3, 3, 5, 0.4)):
        now = lease_id * 1.0
        (fetch,) = [x for x in swarm.handle(LeaseGranted(lease_id, 0, first, end), now) if isinstance(x, FetchFromHub)]
        arrived = PiecesArrived(fetch.fetch_id, mask(first, end), sum(map(manifest.piece_bytes, range(first, end))))
        actions = swarm.handle(arrived, now + seconds)
        actions += swarm.handle(FetchEnded(fetch.fetch_id, FetchResult.DONE), now + seconds)
        told += [x.bytes_per_s for x in actions if isinstance(x, ReportLease)]
    assert told[0] == 0
    assert told[1:] == pytest.approx([5e6, 5e6], rel=0.1)


@pytest.mark.parametrize(("told", "taken"), [(0.2e6, False), (0.0, True)], ids=["it is limited", "it says nothing"])
def test_a_lease_of_a_node_that_says_it_is_slower_now_is_not_taken_for_one_that_stands_still(
    told: float, taken: bool
) -> None:
    """A limit that is set in the middle of a piece is told before the piece has come."""
    bench = Bench(size_mib=64)
    bench.join("a", rate=10e6)
    grant = bench.ask("a", rate=10e6)
    bench.send(LeaseProgressed("a", grant.lease_id, grant.first, told, grant.end), at=0.5)
    assert bool(bench.send(Tick(), at=10.0)) == taken


def test_the_last_piece_waits_for_a_node_that_is_through_before_one_that_reads_something_else() -> None:
    """Both pieces would share one link, and another would stand idle."""
    bench = Bench(size_mib=64)
    for node in "ab":
        bench.join(node, rate=2e6, have=mask(0, 61))
    first = bench.ask("b", rate=2e6)
    bench.now = 0.4
    bench.ask("a", rate=2e6)
    assert bench.send(LeaseAsked("a", 1, 0.0), at=0.45) == []
    assert bench.send(Tick(), at=0.5) == []
    bench.send(LeaseEnded("b", first.lease_id, first.end, LeaseResult.DONE), at=0.53)
    assert bench.ask("b", rate=2e6).first == 63


def test_one_that_has_to_wait_for_a_last_piece_keeps_it_from_no_slower_one() -> None:
    bench = Bench(size_mib=64)
    for node in "abc":
        bench.join(node, rate=2e6, have=mask(0, 61))
    given_back = bench.ask("c", rate=2e6)
    bench.ask("b", rate=2e6)
    bench.now = 0.4
    bench.ask("a", rate=2.2e6)
    for node in "ab":
        assert bench.send(LeaseAsked(node, 1, 0.0), at=0.45) == [], "nothing is free"
    actions = bench.send(LeaseEnded("c", given_back.lease_id, 61, LeaseResult.RETURNED, 9.0), at=0.5)
    assert [(a.node, a.first) for a in actions if isinstance(a, Grant)] == [("b", 61)]


@pytest.mark.parametrize(("rates", "granted"), [((1e6,), False), ((1e6, 1e6), True)], ids=["one", "two"])
def test_a_connection_that_reads_alone_has_what_its_nodes_connections_had_together(
    rates: tuple[float, ...], granted: bool
) -> None:
    bench = Bench(size_mib=64)
    have = mask(0, 60)
    bench.send(NodeJoined("fast", have, 0, bench.every, (HeldLease(7, 59, 61, 60),), 20e6))
    bench.send(LeaseProgressed("fast", 7, 61, 20e6, 61))
    bench.join("a", have=have)
    for slot, rate in enumerate(rates):
        bench.table._book.measured("a", slot, rate * 6)
    answer = bench.send(LeaseAsked("a", 0, rates[0] * 6))
    assert any(isinstance(action, Grant) for action in answer) is granted


def test_what_is_a_nodes_own_and_refused_to_its_other_connection_another_node_may_take() -> None:
    """A node that became slow asked first, again and again: the others were idle until it had read all alone."""
    bench = Bench(size_mib=64)
    end = bench.manifest.piece_count
    have = mask(0, 52)
    bench.send(NodeJoined("a", have, 0, bench.every, (HeldLease(7, 50, end, 52),), 2e6))
    bench.send(NodeJoined("b", have, 0, bench.every, (), 20e6))
    bench.send(NodeJoined("c", have, 0, bench.every, (), 50e6))
    bench.send(LeaseProgressed("a", 7, 53, 2e6, end), at=0.6)
    assert not bench.send(LeaseAsked("a", 1, 30e6)), "c is faster than all of a"
    told = [*bench.send(LeaseAsked("b", 0, 20e6), at=0.7), *bench.send(Tick(), at=0.8)]
    assert [action.node for action in told if isinstance(action, Cut)] == ["a"]


def test_a_connection_that_was_not_measured_is_as_slow_as_its_nodes_others() -> None:
    """Taken for as fast as all nodes in the mean, one of a node that became slow got the last pieces of a fast one."""
    book = NodeBook(None)
    for name in ("a", "b", "c"):
        book.joined(NodeJoined(name, 0, 0, 1, (), 0.0), 1, 0.0)
    book.measured("a", 0, 0.5e6)
    book.measured("b", 0, 6e6)
    assert [book.slot_rate(*each, 0.0) for each in (("a", 0), ("a", 1), ("b", 1), ("c", 0))] == [
        0.5e6,
        0.5e6,
        3.25e6,
        3.25e6,
    ]
