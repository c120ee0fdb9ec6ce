"""Events of one moment: the machine takes them all, and thinks once about what is to be done."""

from __future__ import annotations

import pytest

from exo_dl.core.pieces import mask
from exo_dl.core.story import IllegalTransitionError
from exo_dl.core.swarm import (
    Announce,
    FetchEnded,
    FetchFromPeer,
    FetchResult,
    PeerHas,
    PeerJoined,
    PiecesArrived,
    Tick,
)
from tests.unit.core.swarm_bench import Bench, every, only


def test_events_of_one_moment_are_thought_about_once_and_come_to_the_same() -> None:
    one_by_one, together = Bench(), Bench()
    starts = []
    for bench in (one_by_one, together):
        bench.send(PeerJoined("a"))
        starts.append(every(FetchFromPeer, bench.send(PeerHas("a", mask(0, 8)))))
    assert starts[0] == starts[1]
    fetch = starts[0][0]
    bits = fetch.pieces
    arrived = PiecesArrived(fetch.fetch_id, bits, one_by_one.manifest.set_bytes(bits))
    ended = FetchEnded(fetch.fetch_id, FetchResult.DONE)
    apart = [*one_by_one.send(arrived, at=0.1), *one_by_one.send(ended, at=0.1)]
    at_once = together.swarm.handle_all((arrived, ended), 0.1)
    assert only(Announce, apart) == only(Announce, at_once) == Announce(bits)
    assert len(every(FetchFromPeer, apart)) == len(every(FetchFromPeer, at_once)) == 1
    assert one_by_one.swarm.have == together.swarm.have == bits


def test_what_is_taken_first_is_thought_about_with_the_last_of_its_moment() -> None:
    bench, at_once = Bench(), Bench()
    fetches = []
    for each in (bench, at_once):
        each.send(PeerJoined("a"))
        fetches = every(FetchFromPeer, each.send(PeerHas("a", mask(0, 8))))
    arrived = PiecesArrived(fetches[0].fetch_id, fetches[0].pieces, bench.manifest.set_bytes(fetches[0].pieces))
    ended = FetchEnded(fetches[0].fetch_id, FetchResult.DONE)
    assert not bench.swarm.take(arrived, 0.1), "nothing is told or asked yet"
    assert bench.swarm.have == fetches[0].pieces
    assert bench.swarm.handle(ended, 0.1) == at_once.swarm.handle_all((arrived, ended), 0.1)


def test_an_error_in_the_last_of_a_moment_does_not_take_the_others_from_what_comes_next() -> None:
    bench = Bench()
    bench.send(PeerJoined("a"))
    fetch = every(FetchFromPeer, bench.send(PeerHas("a", mask(0, 8))))[0]
    bench.swarm.take(PiecesArrived(fetch.fetch_id, fetch.pieces, bench.manifest.set_bytes(fetch.pieces)), 0.1)
    with pytest.raises(IllegalTransitionError):
        bench.swarm.handle(FetchEnded(999, FetchResult.DONE), 0.1)
    assert only(Announce, bench.send(Tick(), at=0.2)) == Announce(fetch.pieces)
