from __future__ import annotations

import math

import pytest

from exo_dl.cli.text import clean, human_bytes, human_rate, human_time, percent, table


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1234567, "1.2 MB"),
        (99_960_000, "100 MB"),
        (999_960_000, "1.0 GB"),
        (5 * 10**17, "500.0 PB"),
    ],
)
def test_bytes(count: int, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (9.97, "10 s"),
        (59.6, "1 m 00 s"),
        (185, "3 m 05 s"),
        (7380, "2 h 03 m"),
        (-1, "?"),
        (math.inf, "?"),
        (math.nan, "?"),
    ],
)
def test_time(seconds: float, text: str) -> None:
    assert human_time(seconds) == text


def test_hundred_percent_is_all_of_it() -> None:
    assert percent(999, 1000) == "99 %"
    assert percent(1000, 1000) == percent(0, 0) == "100 %"


def test_a_rate_that_was_not_measured() -> None:
    assert human_rate(0) == "-"
    assert human_rate(25e6) == "25.0 MB/s"


def test_names_from_other_machines_cannot_steer_the_terminal() -> None:
    assert clean("a\x1b[2Jb\nc\u202ed é") == "a�[2Jb�c�d é"
    assert "\x1b" not in table(("NAME",), [("\x1b]0;x\x07",)])


def test_table_columns_are_aligned() -> None:
    assert table(("A", "LONG"), [("xyz", "1"), ("y", "")]) == "A    LONG\nxyz  1\ny"
