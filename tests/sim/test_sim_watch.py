"""A watched cluster notices what it is there to notice: each test breaks one thing."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from exo_dl.core.hub_side import HubSide
from exo_dl.core.lease_ledger import LeaseLedger
from exo_dl.core.lease_nodes import NodeBook
from exo_dl.core.leases import LeaseTable
from exo_dl.core.peer_side import PeerSide
from exo_dl.sim.buffers import Buffers
from exo_dl.sim.faults import random_cluster


def found(seeds: Iterator[int] | range) -> str:
    """What is wrong in the first of these seeds where anything is; "" where nothing is."""
    for seed in seeds:
        cluster, _ = random_cluster(seed, largest_mib=12, within_s=4)
        cluster.run(until_s=60, settle_s=10, stop=lambda: bool(cluster.wrong))  # noqa: B023 - called before the next
        if cluster.wrong:
            return cluster.wrong[0]
    return ""


def ignore(*_: object) -> None:
    return None


@pytest.mark.parametrize(
    ("broken", "method", "seeds", "words"),
    [
        (LeaseTable, "_ended", range(1000, 1003), "was told, and it stands"),
        (LeaseLedger, "_uncover", range(1000, 1020), "for leased"),
        (LeaseTable, "_take_back", range(1073, 1074), "is worked on, and does not stand"),
        (PeerSide, "set_limit", range(1016, 1017), "transfers from peers, and may have"),
        (HubSide, "set_limit", range(1009, 1010), "reads by connection"),
    ],
)
def test_what_is_broken_is_noticed(
    broken: type, method: str, seeds: range, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found(seeds) == ""
    what: Callable[..., object] = ignore
    if method == "_take_back":
        what = lambda table, lease: table._leases.drop(lease)  # noqa: E731
    monkeypatch.setattr(broken, method, what)
    assert words in found(seeds)


def test_a_piece_that_is_lost_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A coordinator that goes on to believe that somebody holds what was found to be bad."""
    unite = NodeBook._unite

    def never_forgets(book: NodeBook) -> None:
        before = book._held
        unite(book)
        book._held |= before

    assert found(range(1093, 1094)) == ""
    monkeypatch.setattr(NodeBook, "_unite", never_forgets)
    assert "held by nobody, and not to be leased" in found(range(1093, 1094))


def test_a_thread_more_than_memory_allows_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = Buffers._go_on

    def one_more(buffers: Buffers) -> None:
        buffers._most += 1
        go_on(buffers)
        buffers._most -= 1

    monkeypatch.setattr(Buffers, "_go_on", one_more)
    assert "bytes in buffers" in found(range(1000, 1010))
