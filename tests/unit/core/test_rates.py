from __future__ import annotations

import pytest

from exo_dl.core.rates import ConnectionController, RateMeter


def test_a_steady_stream_is_measured() -> None:
    meter = RateMeter()
    meter.begin(0.0)
    for step in range(1, 50):
        meter.add(1000, step * 0.1)
    assert meter.rate(4.9) == pytest.approx(10_000)
    assert meter.total_bytes == 49_000


def test_before_anything_came_the_guess_holds() -> None:
    meter = RateMeter(guess=5.0)
    assert meter.rate(0.0) == 5.0
    assert not meter.measured
    meter.begin(1.0)
    assert meter.rate(2.0) == 5.0


def test_idle_time_does_not_count() -> None:
    meter = RateMeter()
    meter.begin(0.0)
    meter.add(1000, 1.0)
    meter.pause(1.0)
    assert meter.rate(1000.0) == pytest.approx(1000)
    meter.begin(1000.0)
    meter.add(1000, 1001.0)
    assert meter.rate(1001.0) == pytest.approx(1000)


def test_a_link_that_dries_up_is_seen_before_its_next_piece() -> None:
    meter = RateMeter()
    meter.begin(0.0)
    for step in range(1, 40):
        meter.add(1000, step * 0.1)
    assert meter.rate(3.9 + 6.0) < 3000


def test_after_a_tenfold_change_the_rate_follows_in_seconds() -> None:
    meter = RateMeter()
    meter.begin(0.0)
    for step in range(1, 101):
        meter.add(10_000, step * 0.1)
    for step in range(1, 61):
        meter.add(1000, 10.0 + step * 0.1)
    assert meter.rate(16.0) < 25_000


@pytest.mark.parametrize("every_s", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("lump_s", [0.0, 0.02])
def test_bytes_that_come_in_lumps_change_the_rate_by_little(every_s: float, lump_s: float) -> None:
    """As a socket with a low-water mark, or a cache on the way, delivers: a second's pieces in 20 ms, then silence."""
    meter = RateMeter()
    meter.begin(0.0)
    pieces = round(20 * every_s)
    seen = []
    for lump in range(1, 40):
        for piece in range(1, pieces + 1):
            now = lump * every_s + lump_s * piece / pieces
            meter.add(1_000_000, now)
            seen.append((lump, meter.rate(now)))
        seen += [(lump, meter.rate(now + part * (every_s - lump_s))) for part in (0.25, 0.5, 0.75, 0.99)]
    assert all(rate == pytest.approx(20e6, rel=0.1) for lump, rate in seen if lump * every_s >= 3.0)


def test_a_link_that_delivers_in_lumps_and_dries_up_is_seen_in_seconds() -> None:
    meter = RateMeter()
    meter.begin(0.0)
    for second in range(1, 11):
        for piece in range(20):
            meter.add(1_000_000, second + piece * 0.001)
    assert meter.rate(10.0 + 3.0) < 12e6
    assert meter.rate(10.0 + 8.0) < 2e6
    meter.add(1_000_000, 18.0)
    assert meter.rate(18.0) < 3e6, "what came late pays for the silence before it"


def test_what_comes_at_the_moment_of_the_start_hides_no_time() -> None:
    meter = RateMeter()
    meter.begin(0.0)
    for step in range(5):
        meter.add(1000, step * 0.1)
    assert meter.rate(0.4) == pytest.approx(12_500, rel=0.05)


def test_a_pause_in_the_middle_of_a_lump_leaves_no_time_out() -> None:
    """Short transfers, each with a silence before its one piece: what they took is what counts."""
    meter = RateMeter()
    for second in range(30):
        meter.begin(float(second))
        meter.add(1_000_000 if second % 2 else 200_000, second + 0.2)
        meter.pause(second + 0.2)
    assert meter.rate(30.0) == pytest.approx(3e6, rel=0.35)


class Link:
    """A hub whose rate depends on the number of connections, in pieces of 1 MB."""

    def __init__(self, controller: ConnectionController, rates: list[float]) -> None:
        self.controller = controller
        self.rates = rates
        self.total = self.arrivals = 0
        self.now = self.owed = 0.0

    def run(self, seconds: float, *, rest_s: float = 1000.0) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += 0.05
            busy = self.controller.target
            self.owed += self.rates[min(busy, len(self.rates) - 1)] * 0.05
            while self.owed >= 1e6:
                self.owed -= 1e6
                self.total += 1_000_000
                self.arrivals += 1
                self.controller.observe(
                    total_bytes=self.total, arrivals=self.arrivals, busy=busy, rest_s=rest_s, now=self.now
                )


def test_connections_rise_while_they_bring_more() -> None:
    link = Link(ConnectionController(limit=6), [0, 30e6, 60e6, 90e6, 120e6, 121e6, 122e6])
    link.run(20.0)
    assert link.controller.target in (4, 5)  # tried were 3 and 5, and five bring a third more than three


def test_a_hub_that_limits_each_connection_gets_many_within_seconds() -> None:
    link = Link(ConnectionController(limit=64), [10e6 * n for n in range(65)])
    for at_least in (3, 5, 9, 17):
        link.run(2.5)
        assert link.controller.target >= at_least
    link.run(10.0)
    assert link.controller.target == 64


def test_what_more_connections_than_pay_are_dropped_to() -> None:
    """Ten pay: 2, 3, 5 and 9 do, 17 bring a ninth more than 9 and are too many, then ever fewer are tried."""
    link = Link(ConnectionController(limit=64), [min(10e6 * n, 100e6) for n in range(65)])
    link.run(60.0)
    seen = set()
    for _ in range(120):
        link.run(0.5)
        seen.add(link.controller.target)
    assert link.rates[min(seen)] >= 90e6
    assert max(seen) <= 14


def test_a_short_wait_for_a_lease_spoils_no_window_and_a_long_one_does() -> None:
    for waits, target in ((1, 3), (8, 2)):
        controller = ConnectionController(limit=3)
        for tick in range(1, 200):
            busy = controller.target - (tick % 25 < waits)
            controller.observe(total_bytes=tick, arrivals=tick, busy=busy, rest_s=1000.0, now=tick * 0.02)
            if controller.target == 3:
                break
        assert controller.target == target


def test_connections_stay_where_one_more_brings_nothing() -> None:
    link = Link(ConnectionController(limit=6), [0, 50e6, 50e6, 50e6])
    link.run(4.5)
    seen = set()
    for _ in range(40):
        link.run(0.5)
        seen.add(link.controller.target)
    assert link.controller.target == 2
    assert seen <= {2, 3}


def test_no_trial_where_little_is_left() -> None:
    link = Link(ConnectionController(limit=6), [0, 30e6, 60e6, 90e6, 120e6])
    link.run(20.0, rest_s=1.0)
    assert link.controller.target == 2


def test_a_hub_that_says_wait_gets_fewer_connections_and_the_limit_holds() -> None:
    controller = ConnectionController(limit=4)
    controller.refused(0.0)
    assert controller.target == 1
    controller.refused(0.0)
    assert controller.target == 1
    controller.limit = 0
    assert controller.target == 0
