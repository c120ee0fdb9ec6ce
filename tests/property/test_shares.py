"""Dividing the cluster's limit: whatever the nodes do, their shares stay within it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exo_dl.core.shares import ShareUse, fair_shares, next_shares

LIMITS = st.floats(min_value=50e3, max_value=1e12)
RATES = st.floats(min_value=0, max_value=1e12)
USES = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=3), st.builds(ShareUse, RATES, st.booleans(), RATES), min_size=1, max_size=40
)


@given(LIMITS, USES)
def test_the_whole_limit_is_divided_and_no_more(limit: float, uses: dict[str, ShareUse]) -> None:
    shares = fair_shares(limit, uses)
    assert shares.keys() == uses.keys()
    assert all(share >= 0 for share in shares.values())
    assert limit * (1 - 1e-9) <= sum(shares.values()) <= limit


@given(LIMITS, USES)
def test_nodes_that_are_held_back_get_the_same_and_no_less_than_an_equal_part(
    limit: float, uses: dict[str, ShareUse]
) -> None:
    shares = fair_shares(limit, uses)
    held_back = [shares[node] for node, use in uses.items() if use.held_back]
    if held_back:
        assert max(held_back) == pytest.approx(min(held_back))
        assert min(held_back) >= limit / len(uses) * (1 - 1e-9)
    # Nobody gets so little that it could not begin.
    assert min(shares.values()) >= limit / len(uses) * 0.05 * (1 - 1e-9)


@given(LIMITS, USES, RATES)
def test_a_step_never_passes_the_limit_in_any_order_of_hearing(
    limit: float, uses: dict[str, ShareUse], reserved: float
) -> None:
    shares = next_shares(limit, uses, reserved=reserved)
    rounding = 1 + 1e-9
    assert sum(shares.values()) <= max(0.0, limit - reserved) * rounding
    now = sum(use.share for use in uses.values())
    # Each node may go by its old share or by its new one.
    assert sum(max(shares[node], use.share) for node, use in uses.items()) <= max(limit, now) * rounding


@settings(max_examples=50)
@given(LIMITS, USES)
def test_two_steps_lead_to_the_fair_shares(limit: float, uses: dict[str, ShareUse]) -> None:
    """With uses that do not lag: all are held back, so that the fair shares do not depend on the present ones."""
    eager = {node: ShareUse(use.bytes_per_s, True, use.share) for node, use in uses.items()}
    for _ in range(2):
        shares = next_shares(limit, eager)
        eager = {node: ShareUse(use.bytes_per_s, True, shares[node]) for node, use in eager.items()}
    assert shares == pytest.approx(fair_shares(limit, eager))


def test_the_one_that_reads_has_nearly_all_after_some_seconds_and_the_others_can_begin() -> None:
    uses = {name: ShareUse(share=25e6) for name in "abcd"}
    for _ in range(8):
        shares = next_shares(100e6, uses)
        uses = {name: ShareUse(shares[name] if name == "a" else 0.0, name == "a", shares[name]) for name in "abcd"}
    assert shares["a"] > 95e6
    # Another one begins: at once it is on its way to half.
    uses["b"] = ShareUse(uses["b"].share, True, uses["b"].share)
    for _ in range(2):
        shares = next_shares(100e6, uses)
        uses = {name: ShareUse(use.bytes_per_s, use.held_back, shares[name]) for name, use in uses.items()}
    assert shares["b"] == pytest.approx(shares["a"]) and shares["b"] > 45e6


def test_a_node_that_appears_gets_what_the_others_gave_up_and_one_that_vanished_frees_its_share() -> None:
    uses = {"a": ShareUse(100e6, True, 100e6), "new": ShareUse()}
    first = next_shares(100e6, uses)
    assert first["new"] == 0
    assert first["a"] < 100e6
    second = next_shares(100e6, {"a": ShareUse(first["a"], True, first["a"]), "new": ShareUse(held_back=True)})
    assert second["new"] > 0
    assert next_shares(100e6, {"a": ShareUse(50e6, True, 50e6)}) == {"a": 100e6}
    assert next_shares(100e6, {"a": ShareUse(50e6, True, 50e6)}, reserved=40e6) == {"a": 60e6}
