from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo_dl.core.pieces import (
    first_set,
    from_bytes,
    iter_bits,
    iter_runs,
    last_set,
    mask,
    run_end,
    run_start,
    to_bytes,
    union,
)
from exo_dl.errors import ProtocolError

sets = st.sets(st.integers(0, 300))


def bits_of(pieces: set[int]) -> int:
    return sum(1 << p for p in pieces)


@given(sets)
def test_bits_and_runs_name_the_same_pieces(pieces: set[int]) -> None:
    bits = bits_of(pieces)
    assert list(iter_bits(bits)) == sorted(pieces)
    runs = list(iter_runs(bits))
    assert sum(mask(a, b) for a, b in runs) == bits
    assert all(b < c for (_, b), (c, _) in itertools.pairwise(runs))
    assert last_set(bits) == max(pieces, default=-1)


@given(sets, st.integers(0, 310))
def test_runs_end_and_start_where_a_piece_is_missing(pieces: set[int], at: int) -> None:
    bits = bits_of(pieces)
    assert first_set(bits, at) == min((p for p in pieces if p >= at), default=-1)
    end, start = run_end(bits, at), run_start(bits, at)
    assert end not in pieces and all(p in pieces for p in range(at, end))
    assert start - 1 not in pieces and all(p in pieces for p in range(start, at))


@given(sets)
def test_a_map_comes_back_as_it_was_sent(pieces: set[int]) -> None:
    bits = bits_of(pieces)
    data = to_bytes(bits)
    assert not data.endswith(b"\0")
    assert from_bytes(data, count=301) == bits
    assert from_bytes(data + b"\0" * (38 - len(data)), count=301) == bits


def test_maps_that_name_too_much_are_refused() -> None:
    with pytest.raises(ProtocolError, match="too long"):
        from_bytes(b"\0" * 3, count=16)
    with pytest.raises(ProtocolError, match="piece 9 of 9"):
        from_bytes(b"\xff\x03", count=9)


def test_union_of_runs() -> None:
    runs = [(0, 1), (3, 7), (9, 10), (15, 16)]
    assert union(runs, 16) == sum(mask(first, end) for first, end in runs)
    assert union([], 0) == 0
