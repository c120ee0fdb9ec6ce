"""What a machine tells of itself: the story of a piece, a lease, a node, a transfer, and of what cannot be."""

from __future__ import annotations

import pytest

from exo_dl.core.lease_ledger import LeaseLedger, LedgerError
from exo_dl.core.lease_policy import Lease
from exo_dl.core.lease_types import Grant, HeldLease, LeaseEnded, LeaseResult, NodeJoined, NodeLost
from exo_dl.core.lease_types import Tick as TableTick
from exo_dl.core.pieces import mask
from exo_dl.core.story import IllegalTransitionError, Story
from exo_dl.core.swarm import (
    FetchEnded,
    FetchFromHub,
    FetchFromPeer,
    FetchResult,
    LeaseGranted,
    PeerHas,
    PeerJoined,
    PiecesArrived,
    Tick,
)
from tests.unit.core.lease_bench import Bench as TableBench
from tests.unit.core.swarm_bench import Bench, every, only


def test_a_transfer_that_ends_twice_is_refused_with_its_story() -> None:
    bench = Bench(size_mib=2)
    bench.send(PeerJoined("stranger"))
    fetch = every(FetchFromPeer, bench.send(PeerHas("a", bench.every)))[0]
    bench.arrive(fetch, 0, 1, at=0.5)
    bench.send(FetchEnded(fetch.fetch_id, FetchResult.FAILED), at=1.0)
    deadline, have = bench.swarm.next_deadline(), bench.swarm.have
    with pytest.raises(IllegalTransitionError) as caught:
        bench.send(FetchEnded(fetch.fetch_id, FetchResult.DONE), at=2.0)
    assert caught.value.whole
    assert str(caught.value).splitlines()[0] == f"Transfer {fetch.fetch_id} ended (DONE) and is not under way."
    begun, arrived, ended, again = caught.value.story
    assert begun.startswith("0.000 PeerHas(peer=a, ") and f"FetchFromPeer(fetch_id={fetch.fetch_id}, peer=a" in begun
    assert arrived == f"0.500 PiecesArrived(fetch_id={fetch.fetch_id}, pieces=[0], byte_count={1 << 20})"
    assert ended == f"1.000 FetchEnded(fetch_id={fetch.fetch_id}, result=FAILED)"
    assert again == f"2.000 FetchEnded(fetch_id={fetch.fetch_id}, result=DONE)"
    assert (bench.swarm.next_deadline(), bench.swarm.have) == (deadline, have)
    assert every(FetchFromPeer, bench.send(PeerHas("b", bench.every), at=2.0)), "it goes on"


def test_what_comes_of_a_transfer_that_was_never_begun_is_refused() -> None:
    bench = Bench()
    for event in (FetchEnded(7, FetchResult.DONE), PiecesArrived(7, 1, 1 << 20)):
        with pytest.raises(IllegalTransitionError, match=r"ransfer 7 .*\n  Story:\n    0.000 .*fetch_id=7"):
            bench.send(event)
    assert not bench.swarm.have


def test_pieces_that_are_late_count() -> None:
    bench = Bench(size_mib=2)
    fetch = every(FetchFromPeer, bench.send(PeerHas("a", bench.every)))[0]
    bench.send(FetchEnded(fetch.fetch_id, FetchResult.TIMEOUT))
    bench.arrive(fetch, 0, 1, at=0.1)
    assert bench.swarm.have == 1


def test_a_clock_that_goes_back_is_refused() -> None:
    bench, table = Bench(), TableBench()
    bench.send(Tick(), at=5.0)
    with pytest.raises(IllegalTransitionError, match=r"went back from 5\.0"):
        bench.send(Tick(), at=4.0)
    table.send(TableTick(), at=5.0)
    with pytest.raises(IllegalTransitionError, match=r"went back from 5\.0"):
        table.send(TableTick(), at=4.0)


def test_a_lease_and_its_transfers_have_one_story() -> None:
    bench = Bench()
    bench.hub()
    fetch = only(FetchFromHub, bench.send(LeaseGranted(70, 0, 4, 8)))
    bench.arrive(fetch, 4, 8, at=1.0)
    bench.send(FetchEnded(fetch.fetch_id, FetchResult.DONE))
    story = bench.swarm.story.of(lease=70)
    assert [line.split()[1].split("(")[0] for line in story] == ["LeaseGranted", "PiecesArrived", "FetchEnded"]
    assert "FetchFromHub(fetch_id=1, lease_id=70" in story[0] and "EndLease(lease_id=70" in story[2]
    brought = bench.swarm.story.of(piece=5)
    assert "Announce(pieces=[4-7])" in brought[1]
    assert [brought[0], brought[2]] == [story[0], story[2]], "the lease was to bring it"
    assert not any("AskLease" in line for line in story), "it is about the next one"
    assert not bench.swarm.story.of(piece=8)
    assert len(bench.swarm.story.of()) == 5, "all that it was told"


def test_the_coordinator_has_a_story_of_each_node() -> None:
    bench = TableBench()
    for node in "ab":
        bench.join(node)
    grant = bench.ask("a")
    bench.send(LeaseEnded("a", grant.lease_id, grant.first, LeaseResult.HUB_REFUSED), at=1.0)
    bench.ask("b")
    story = bench.table.story.of(node="a")
    assert [line.split()[1].split("(")[0] for line in story] == ["NodeJoined", "LeaseAsked", "LeaseEnded"]
    assert f"Grant(node=a, slot=0, lease_id={grant.lease_id}" in story[1]
    assert "result=HUB_REFUSED" in story[2]
    assert bench.table.story.of(lease=grant.lease_id) == story[1:]


def test_a_story_is_bounded() -> None:
    small, large = Story[object](100), Story[object](1_000_000)
    for story, most in ((small, 1000), (large, 127)):
        for second in range(2000):
            story.begin((PeerHas("a", 1 << second),), float(second))
        assert len(story) == most
        assert len(story.of(node="a")) == 40
        assert story.of(node="a")[-1] == "1999.000 PeerHas(peer=a, pieces=[1999])"
    large.begin((PeerHas("b", 1 << 700_000), PeerHas("b", 7)), 2000.0)
    assert large.of(node="b") == ["2000.000 PeerHas(peer=b, pieces=[not kept]), PeerHas(peer=b, pieces=[0-2])"]
    scattered = sum(1 << at for at in range(0, 100, 2))
    small.begin((PeerHas("b", scattered), PeerHas("n" * 500, 7)), 2000.0)
    (line,) = small.of(node="b")
    assert line == "2000.000 PeerHas(peer=b, pieces=[0 2 4 6 ...] (50))"
    assert len(small.of()[-1]) < 300


def test_each_step_of_a_lease_can_be_once() -> None:
    ledger = LeaseLedger()
    lease, same = (Lease(1, "a", 0, 0, 8, 0, 0.0, 0.0, 0.0) for _ in range(2))
    ledger.add(lease)
    ledger.advance(lease, 4)
    for step in (
        lambda: ledger.add(same),
        lambda: ledger.add(Lease(2, "a", 0, 8, 9, 8, 0.0, 0.0, 0.0)),
        lambda: ledger.drop(same),
        lambda: ledger.advance(lease, 3),
        lambda: ledger.shorten(lease, 3),
        lambda: ledger.shorten(lease, 9),
    ):
        with pytest.raises(LedgerError):
            step()
    assert [(view.lease_id, view.position, view.end) for view in ledger.views()] == [(1, 4, 8)]
    assert ledger.leased == mask(4, 8)
    ledger.drop(lease)
    for late in (lambda: ledger.drop(lease), lambda: ledger.advance(lease, 5), lambda: ledger.shorten(lease, 5)):
        with pytest.raises(LedgerError, match="does not stand"):
            late()
    assert not ledger.leased


def test_a_table_that_broke_says_so_with_the_story_of_its_lease() -> None:
    bench = TableBench()
    bench.join("a")
    grant = bench.ask("a")
    del bench.table._leases._leases[grant.lease_id]  # as if it had been ended by half
    with pytest.raises(IllegalTransitionError) as caught:
        bench.send(NodeLost("a"), at=3.0)
    assert not caught.value.whole
    assert caught.value.what == f"Lease {grant.lease_id} ended and does not stand."
    assert any(f"Grant(node=a, slot=0, lease_id={grant.lease_id}" in line for line in caught.value.story)
    assert caught.value.story[-1] == "3.000 NodeLost(node=a)"


def test_leases_of_another_coordinator_of_the_same_epoch_keep_their_numbers() -> None:
    """Two nodes may begin to coordinate at once: each counts from the same number, and one takes the other's over."""
    bench = TableBench(epoch=1)
    other = HeldLease((1 << 32) + 1, 0, 4, 0)
    bench.send(NodeJoined("a", 0, 0, bench.every, (other,), 0.0))
    bench.join("b")
    grant = bench.ask("b")
    assert grant.lease_id != other.lease_id
    assert {view.node: view.lease_id for view in bench.table.leases()} == {"a": other.lease_id, "b": grant.lease_id}
    again = [a for a in bench.send(NodeLost("a"), at=1.0) if isinstance(a, Grant)]
    assert not again
    assert bench.ask("b", slot=1).first == 0, "what it was to read is free again"
