"""How many of very many nodes read at a time."""

from __future__ import annotations

from exo_dl.core.lease_readers import Readers


def test_a_trial_with_all_nodes_is_the_last() -> None:
    """Leases are short while more are tried: not for the rest of the pull."""
    readers = Readers(1024)
    assert (readers.most, readers.trying) == (32, False)
    for now, most, trying in ((1.0, 40, True), (2.0, 40, False), (3.0, 40, False)):
        readers.stand(80, now - 0.5)
        readers.read(now * 1e9, 40, free=900, nodes=40, now=now)
        assert (readers.most, readers.trying) == (most, trying)


def test_a_trial_that_brings_nothing_ends_with_as_many_as_before() -> None:
    readers = Readers(1024)
    for now, most, trying in ((1.0, 40, True), (2.0, 32, False), (3.0, 32, False)):
        readers.stand(80, now - 0.5)
        readers.read(1e9, 40, free=900, nodes=40, now=now)
        assert (readers.most, readers.trying) == (most, trying)


def test_a_node_of_many_has_one_connection() -> None:
    """Two would bring each piece later, and others wait for these."""
    readers = Readers(4096)
    assert readers.most >= 64
    assert not readers.full(10, 64, reads=False) and readers.full(10, 64, reads=True)
    assert not readers.full(10, 32, reads=True), "few nodes may have more"
