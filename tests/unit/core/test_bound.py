from __future__ import annotations

import math

import pytest

from exo_dl.core.bound import NodeRates, least_time, least_time_read_once


def rates(hub: float, lan: float, count: int = 4, disk: float = math.inf) -> dict[str, NodeRates]:
    return {f"n{i}": NodeRates(hub, lan, lan, disk) for i in range(count)}


def test_a_fast_lan_leaves_the_hub_links_as_the_limit() -> None:
    wants = dict.fromkeys(rates(1, 1), 100)
    assert least_time(union_bytes=100, wants=wants, rates=rates(10, 1000)) == pytest.approx(2.5)
    assert least_time_read_once(union_bytes=100, wants=wants, rates=rates(10, 1000)) == pytest.approx(2.5)


def test_a_shared_uplink_counts_once() -> None:
    wants = dict.fromkeys(rates(1, 1), 100)
    assert least_time(union_bytes=100, wants=wants, rates=rates(10, 1000), uplink=20) == pytest.approx(5.0)


def test_a_slow_lan_makes_reading_again_worth_it() -> None:
    wants = dict.fromkeys(rates(1, 1), 100)
    slow = rates(100, 10)
    assert least_time(union_bytes=100, wants=wants, rates=slow) == pytest.approx(100 / 110)
    # Read once, each node gets a quarter itself and 75 at 10 a second.
    assert least_time_read_once(union_bytes=100, wants=wants, rates=slow) == pytest.approx(7.5, rel=1e-3)


def test_disks_and_missing_links_count() -> None:
    wants = dict.fromkeys(rates(1, 1), 100)
    assert least_time(union_bytes=100, wants=wants, rates=rates(1000, 1000, disk=5)) == pytest.approx(20)
    assert least_time(union_bytes=100, wants=wants, rates=rates(0, 1000)) == math.inf
    assert least_time_read_once(union_bytes=100, wants=wants, rates=rates(0, 1000)) == math.inf


def test_nothing_to_do_takes_no_time() -> None:
    assert least_time(union_bytes=0, wants={"n0": 0}, rates=rates(0, 0)) == 0.0
    assert least_time_read_once(union_bytes=0, wants={"n0": 0}, rates=rates(0, 0)) == 0.0


def test_parts_that_one_node_wants_need_no_exchange_and_a_slow_reader_is_helped_by_the_others() -> None:
    alone = rates(10, 0, count=2)
    for bound in (least_time, least_time_read_once):
        assert bound(union_bytes=100, wants={"n0": 50, "n1": 50}, rates=alone) == pytest.approx(5)
        # What only n0 wants may come through n1, where the LAN can carry it.
        assert bound(union_bytes=100, wants={"n0": 90, "n1": 10}, rates=alone) == pytest.approx(9)
        assert bound(union_bytes=100, wants={"n0": 90, "n1": 10}, rates=rates(10, 100, count=2)) == pytest.approx(5)
        # A node that wants nothing helps with its link.
        assert bound(union_bytes=100, wants={"n0": 100, "n1": 0}, rates=rates(10, 100, count=2)) == pytest.approx(5)
