"""How late the event loop is: what a stall counts for, and that a real one is seen."""

from __future__ import annotations

import asyncio
import time

import pytest

from exo_dld.looplag import LagMeter, LagRecord


def test_quantiles_are_those_of_the_recent_looks() -> None:
    record = LagRecord(every_s=0.1, recent_s=10.0)
    assert (record.quantile(0.99), record.to_pb().count) == (0.0, 0)
    for late_ms in range(1, 101):
        record.add(late_ms / 2000)
    assert record.quantile(0.5) == pytest.approx(0.025)
    assert record.quantile(0.99) == pytest.approx(0.0495)
    assert record.quantile(1.0) == pytest.approx(0.05)
    for _ in range(100):
        record.add(0.001)
    told = record.to_pb()
    assert (told.p99_s, told.max_s, told.worst_s) == (0.001, 0.001, 0.05)
    assert told.count == 200
    assert told.sum_s == pytest.approx(50 * 0.0505 + 100 * 0.001)


def test_a_stall_counts_for_every_look_that_it_kept_from_happening() -> None:
    record = LagRecord(every_s=0.1, recent_s=60.0)
    for _ in range(100):
        record.add(0.0)
    record.add(10.0)
    told = record.to_pb()
    assert told.count == 201
    assert told.p99_s == pytest.approx(9.8)
    assert told.worst_s == 10.0
    counts = {bucket.at_most_s: bucket.count for bucket in told.buckets}
    assert counts[0.001] == 101
    assert counts[1.0] == 111
    assert counts[5.0] == 151
    assert list(counts.values()) == sorted(counts.values())


async def test_the_meter_sees_a_loop_that_stands_still() -> None:
    meter = LagMeter()
    try:
        before = meter.to_pb().count
        time.sleep(0.85)  # noqa: ASYNC251 - this is the stall
        async with asyncio.timeout(5):
            while meter.to_pb().count == before:  # noqa: ASYNC110 - one turn of the loop after the other
                await asyncio.sleep(0)
        told = meter.to_pb()
        assert told.worst_s >= 0.64
        assert told.count >= 4
    finally:
        meter.close()
