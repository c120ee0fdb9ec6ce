from __future__ import annotations

import pytest

from exo_dl.core.units import check_rate, parse_rate
from exo_dl.errors import UsageError


@pytest.mark.parametrize(
    ("text", "bytes_per_s"),
    [
        ("100Mbit", 12_500_000),
        ("100 Mbit/s", 12_500_000),
        ("100mbps", 12_500_000),
        ("1Gb/s", 125_000_000),
        ("12MB/s", 12_000_000),
        ("12mB", 12_000_000),
        ("1.5MiB/s", 1_572_864),
        ("512KiB", 524_288),
        ("2 Mbytes/s", 2_000_000),
        ("0.4Mbit", 50_000),
        ("none", 0),
        (" NONE ", 0),
        ("off", 0),
        ("0", 0),
        ("0MB/s", 0),
    ],
)
def test_rates_as_people_write_them(text: str, bytes_per_s: int) -> None:
    assert parse_rate(text) == bytes_per_s


@pytest.mark.parametrize(
    "text",
    ["", "fast", "100", "100M", "-1MB/s", "1e6B/s", "1,5MB/s", "10iB", "100MB/h", "1kbit", "9999999TB/s", "12 B/s"],
)
def test_what_is_no_rate_is_told(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_rate(text)
    assert caught.value.hint


def test_a_rate_below_the_least_is_refused_and_none_is_not() -> None:
    assert check_rate(0) == 0
    with pytest.raises(UsageError):
        check_rate(49_999)
    with pytest.raises(UsageError):
        check_rate(-1)
