from __future__ import annotations

from exo_dl.core.pieces import mask
from exo_dl.core.swarm import FetchEnded, FetchFromPeer, FetchResult, PeerHas, PeerLost, PiecesArrived
from tests.unit.core.swarm_bench import Bench, every, only


def bring(bench: Bench, has: dict[str, int]) -> tuple[FetchFromPeer, FetchFromPeer]:
    """The first transfer from one of some peers, which brings all of it; and what is asked then."""
    first = only(FetchFromPeer, bench.swarm.handle_all([PeerHas(*each) for each in has.items()], 0.0))
    bench.send(PiecesArrived(first.fetch_id, first.pieces, bench.manifest.set_bytes(first.pieces)), at=0.2)
    return first, only(FetchFromPeer, bench.send(FetchEnded(first.fetch_id, FetchResult.DONE)))


def test_the_holder_that_brought_something_is_asked_again_at_once() -> None:
    bench = Bench(size_mib=64, max_peer_fetches=1)
    first, wish = bring(bench, dict.fromkeys("abcdefgh", bench.every))
    assert (wish.peer, wish.stays) == (first.peer, True)
    # It brought nothing this time: who is asked next is chosen as ever.
    other = only(FetchFromPeer, bench.send(FetchEnded(wish.fetch_id, FetchResult.TIMEOUT)))
    assert other.peer != wish.peer and not other.stays


def test_a_holder_that_has_room_for_others_only_is_not_left_alone() -> None:
    bench = Bench(size_mib=64, max_peer_fetches=1)
    _, wish = bring(bench, dict.fromkeys("abcdefgh", bench.every))
    for name in "abcdefgh":
        if name != wish.peer:
            bench.send(PeerLost(name))
    again = only(FetchFromPeer, bench.send(FetchEnded(wish.fetch_id, FetchResult.BUSY, 0.05)))
    assert (again.peer, again.stays) == (wish.peer, False)
    assert not every(FetchFromPeer, bench.send(FetchEnded(again.fetch_id, FetchResult.BUSY, 0.05)))


def test_a_holder_of_what_nobody_else_has_is_not_preferred_for_what_it_brought() -> None:
    bench = Bench(size_mib=64, max_peer_fetches=1)
    first, wish = bring(bench, {**dict.fromkeys("abcdefg", bench.every & ~mask(42, 48)), "z": bench.every})
    assert first.peer == "z" and not wish.stays


def test_with_few_peers_nobody_is_preferred_for_what_it_brought() -> None:
    bench = Bench(size_mib=64, max_peer_fetches=1)
    assert not bring(bench, dict.fromkeys("abcdefg", bench.every))[1].stays
