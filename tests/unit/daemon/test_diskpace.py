"""When transfers become fewer because they wait for the disk, and when they do not."""

from __future__ import annotations

import pytest

from exo_dl.net.fetch import Writing
from exo_dld.diskpace import DiskPace

MOST = 3


class Disk:
    """A pace, and threads whose time goes by: one reading a second, as the governor takes them."""

    def __init__(self) -> None:
        self.pace = DiskPace(MOST)
        self.now = self.busy_s = self.waited_s = self.stalled_s = 0.0
        self.changes = 0
        self.pace.look(Writing(0.0, 0.0), stalled_s=0.0, now=0.0)

    def run(self, seconds: int, *, part: float, stalled: float | None = 0.7, threads: int = 8) -> int:
        """So many seconds in which this part of the threads' time is spent in writes that wait."""
        for _ in range(seconds):
            before = self.pace.halvings
            self.now += 1.0
            self.busy_s += threads
            self.waited_s += part * threads
            self.stalled_s += stalled or 0.0
            stalled_s = self.stalled_s if stalled is not None else None
            self.pace.look(Writing(self.busy_s, self.waited_s), stalled_s=stalled_s, now=self.now)
            assert 0 <= self.pace.halvings <= MOST
            assert abs(self.pace.halvings - before) <= 1, "step by step"
            self.changes += self.pace.halvings != before
        return self.pace.halvings


@pytest.mark.parametrize("stalled", [0.7, None])
def test_a_slow_disk_halves_once_in_three_seconds_and_leaves_one(stalled: float | None) -> None:
    disk = Disk()
    assert [disk.run(3, part=0.9, stalled=stalled) for _ in range(5)] == [1, 2, 3, 3, 3]


def test_a_moment_of_waiting_is_none() -> None:
    disk = Disk()
    disk.run(4, part=0.1)
    disk.run(1, part=0.95)
    assert disk.run(60, part=0.1) == disk.changes == 0


@pytest.mark.parametrize(("part", "stalled"), [(0.01, 0.02), (0.4, 0.5), (0.36, 0.0)])
def test_a_fast_disk_at_full_speed_changes_nothing(part: float, stalled: float) -> None:
    disk = Disk()
    assert disk.run(300, part=part, stalled=stalled) == disk.changes == 0


def test_threads_that_get_no_processor_do_not_wait_for_the_disk() -> None:
    disk = Disk()
    assert disk.run(60, part=0.8, stalled=0.05) == disk.changes == 0


def test_all_come_back_when_it_is_over_and_not_at_the_first_good_second() -> None:
    disk = Disk()
    disk.run(9, part=0.9)
    assert disk.run(60, part=0.35) == 3, "in between nothing changes"
    assert disk.run(3, part=0.0) == 3
    assert disk.run(3, part=0.0) == 2
    assert disk.run(12, part=0.0) == 0


def test_they_come_back_when_nothing_is_transferred_any_more() -> None:
    disk = Disk()
    disk.run(9, part=0.9)
    assert disk.run(18, part=0.9, threads=0) == 0


@pytest.mark.parametrize("disk_rate", [30, 70, 120, 180, 260, 390])
def test_a_disk_that_is_just_too_slow_does_not_make_them_swing(disk_rate: float) -> None:
    """Each transfer could bring 50 MB/s: fewer of them do not fill the disk, more of them wait for it."""
    disk = Disk()

    def half_an_hour() -> int:
        before = disk.changes
        for _ in range(1800):
            transfers = 8 >> disk.pace.halvings
            disk.run(1, part=max(0.0, 1 - disk_rate / (50.0 * transfers)), threads=transfers)
        return disk.changes - before

    half_an_hour()
    assert half_an_hour() <= 2 * (1800 // 99 + 1), "one trial in 99 s, of 3 s"


def test_patience_starts_anew_when_all_transfers_have_run_for_long() -> None:
    disk = Disk()
    for _ in range(4):
        disk.run(3, part=0.9)
        while disk.pace.halvings:
            disk.run(1, part=0.0)
    disk.run(300, part=0.1)
    assert disk.run(3, part=0.9) == 1
    assert disk.run(6, part=0.0) == 0
