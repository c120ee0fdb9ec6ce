from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo_dl.core.lease_policy import BLOB_OVERHEAD_BYTES, CostMap, Lease, choose_run, choose_split, split_lease
from exo_dl.core.pieces import mask
from exo_dl.sim.scenarios import model

MIB = 1 << 20


def test_small_files_cost_more_than_their_bytes() -> None:
    manifest = model(size_bytes=0, files=0, small_files=100)
    costs = CostMap(manifest)
    assert costs.total == manifest.total_bytes + 100 * BLOB_OVERHEAD_BYTES
    assert costs.run(0, manifest.piece_count) == costs.total


@given(st.integers(0, 40), st.integers(1, 60), st.integers(1, 3), st.integers(0), st.floats(0, 1))
def test_costs_are_consistent(small: int, size: int, files: int, bits: int, where: float) -> None:
    manifest = model(size_bytes=size * MIB, files=files, small_files=small)
    costs = CostMap(manifest)
    positions = [costs.at(p) for p in range(manifest.piece_count + 1)]
    assert positions == sorted(positions)
    assert positions[-1] == costs.total
    piece = costs.round_up(where * costs.total)
    assert costs.at(piece) >= where * costs.total * (1 - 1e-9)
    exact = sum(costs.run(p, p + 1) for p in range(manifest.piece_count) if bits >> p & 1)
    assert costs.of(bits & mask(0, manifest.piece_count)) <= 2 * exact + BLOB_OVERHEAD_BYTES * files


@given(st.integers(1, (1 << 60) - 1), st.floats(1, 1e9))
def test_a_run_is_free_and_not_empty_and_nothing_before_it_is_free(free: int, aim: float) -> None:
    costs = CostMap(model(size_bytes=60 * MIB, files=1))
    first, end = choose_run(free, costs, aim=aim, least=0.0)
    assert first < end
    assert mask(first, end) & ~free == 0
    assert free & mask(0, first) == 0


def test_two_of_the_same_rate_halve_what_is_left() -> None:
    costs = CostMap(model(size_bytes=100 * MIB, files=1))
    cut, saved = choose_split(
        costs, position=costs.at(20), floor=21, end=100, victim_rate=1e6, thief_rate=1e6, start_s=0.0
    )
    assert cut == 60
    assert saved == pytest.approx(40 * MIB / 1e6, rel=0.01)


def test_what_cannot_be_cut_is_left() -> None:
    costs = CostMap(model(size_bytes=100 * MIB, files=1))
    cut, saved = choose_split(
        costs, position=costs.at(99), floor=100, end=100, victim_rate=1e6, thief_rate=1e9, start_s=0.1
    )
    assert (cut, saved) == (100, 0.0)


def test_a_last_piece_is_taken_from_one_that_is_much_slower() -> None:
    """Shares are not rounded so that the slow one keeps the piece for which it takes longest."""
    costs = CostMap(model(size_bytes=100 * MIB, files=1))
    cut, saved = choose_split(
        costs, position=costs.at(98), floor=99, end=100, victim_rate=5e5, thief_rate=5e6, start_s=0.1
    )
    assert cut == 99
    assert saved == pytest.approx(MIB / 5e5, rel=0.01)


@pytest.mark.parametrize(("silent_s", "wasted"), [(0.1, 0.06), (1.9, 0.36)], ids=["just told", "about to tell"])
def test_of_a_slow_lease_at_most_the_piece_in_progress_is_left(silent_s: float, wasted: float) -> None:
    """Where that may have been passed by now, so may a part of the next one have been read: for as long as it is."""
    costs = CostMap(model(size_bytes=100 * MIB, files=1))
    lease = Lease(1, "n1", 0, 90, 97, 95, 5e5, 0.0, 10.0)
    split = split_lease(costs, lease, rate=5e5, thief_rate=5e6, now=10.0 + silent_s)
    assert split.end == 96
    assert split.saved_s >= 0.5
    assert split.wasted == pytest.approx(5e5 * wasted)
