"""Parts of a lease: what is asked for at once, and what a cut finds still unasked."""

from __future__ import annotations

from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from exo_dl.core.lease_policy import CostMap, choose_split
from exo_dl.net.parts import Parts
from exo_dl.sim.scenarios import model

MIB = 1 << 20
EVEN = [0, *accumulate([MIB] * 64)]


def parts_at(bytes_per_s: float) -> Parts:
    parts = Parts()
    parts.brought(int(bytes_per_s), 1.0)
    return parts


def ends(parts: Parts, starts: list[int], end: int) -> list[int]:
    found = [0]
    while found[-1] < end:
        found.append(parts.end(starts, found[-1], end))
    return found[1:]


def test_most_of_a_lease_comes_in_one_request_and_its_end_when_it_is_reached() -> None:
    assert ends(parts_at(10 * MIB), EVEN, 64) == [48, 60, 64]


def test_what_takes_less_than_a_moment_is_one_request() -> None:
    assert ends(parts_at(40 * MIB), EVEN, 20) == [20]
    assert ends(Parts(), EVEN, 8) == [8]


def test_each_request_brings_a_piece_at_least() -> None:
    assert ends(parts_at(1000), EVEN, 3) == [2, 3]
    assert ends(parts_at(1000), EVEN, 1) == [1]


def test_a_hub_that_sends_whole_files_is_asked_once() -> None:
    parts = parts_at(10 * MIB)
    parts.ranges_ignored()
    assert ends(parts, EVEN, 64) == [64]


@given(
    sizes=st.lists(st.integers(1, 16 * MIB), min_size=1, max_size=50),
    bytes_per_s=st.floats(0, 1e10),
    data=st.data(),
)
def test_parts_cover_a_lease_from_wherever_it_is(sizes: list[int], bytes_per_s: float, data: st.DataObject) -> None:
    starts = [0, *accumulate(sizes)]
    end = data.draw(st.integers(1, len(sizes)))
    index = data.draw(st.integers(0, end - 1))
    found = parts_at(bytes_per_s).end(starts, index, end)
    assert index < found <= end


@given(mib=st.integers(2, 200), mib_per_s=st.floats(1, 100), place=st.floats(0.0, 1.0), thief=st.floats(0.05, 1.0))
def test_a_cut_in_the_second_half_of_a_lease_wastes_nothing(
    mib: int, mib_per_s: float, place: float, thief: float
) -> None:
    """Where the taker is no faster than the holder, and the cut saves what the coordinator cuts for."""
    manifest = model(size_bytes=mib * MIB, files=1)
    costs, starts = CostMap(manifest), [manifest.position(p) for p in range(manifest.piece_count + 1)]
    end = manifest.piece_count
    part = parts_at(mib_per_s * MIB).end(starts, 0, end)
    half = costs.at(end) / 2
    position = half + max(0.0, costs.at(part) - half) * place
    cut, saved_s = choose_split(
        costs,
        position=position,
        floor=0,
        end=end,
        victim_rate=mib_per_s * MIB,
        thief_rate=thief * mib_per_s * MIB,
        start_s=0.1,
    )
    assert saved_s < 0.2 or cut >= part
