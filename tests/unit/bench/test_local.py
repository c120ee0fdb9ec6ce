"""What a histogram of lags says of a percentile."""

from __future__ import annotations

import math

from bench.local import lag_at


def test_a_percentile_is_the_bound_of_its_bucket() -> None:
    buckets = [(0.001, 50), (0.01, 48), (0.1, 1), (math.inf, 1)]
    assert lag_at(buckets, 0.5) == 0.001
    assert lag_at(buckets, 0.98) == 0.01
    assert lag_at(buckets, 0.99) == 0.1
    assert lag_at(buckets, 1.0) == math.inf


def test_where_nobody_looked_there_is_no_lag() -> None:
    assert lag_at([(0.001, 0), (math.inf, 0)], 0.99) == 0.0
    assert lag_at([(0.001, 0), (0.01, 3), (math.inf, 0)], 0.0) == 0.01
