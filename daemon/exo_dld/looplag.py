"""How late the event loop is with what is due: heartbeats and progress are as late as that."""

from __future__ import annotations

import asyncio
import logging
import math
from bisect import bisect_left
from collections import deque

from exo_dl.rpc.v1.cluster_pb2 import LagBucket, LoopLag

__all__ = ["LagMeter", "LagRecord"]

_log = logging.getLogger(__name__)
# Each look wakes the loop, which costs a quiet daemon a third of a millisecond.
_EVERY_S = 0.2
_RECENT_S = 60.0
_TOLD_S = 2.0
_BOUNDS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_MOST_MISSED = 1000


class LagRecord:
    """Lags in seconds: a histogram of all of them, and the recent ones as they were.

    Args:
        every_s: how often a look is due. One that comes late by several of these times stands for all the looks that
            the stall kept from happening, each less late than the one before: else a loop that stands still for ten
            seconds out of twenty would have a good 99th percentile.
        recent_s: how far back the percentiles reach.
    """

    def __init__(self, *, every_s: float, recent_s: float) -> None:
        self._every_s = every_s
        self._recent: deque[float] = deque(maxlen=round(recent_s / every_s))
        self._counts = [0] * (len(_BOUNDS_S) + 1)
        self._sum_s = self._worst_s = 0.0

    def add(self, lag_s: float) -> None:
        """One look was late by this."""
        self._worst_s = max(self._worst_s, lag_s)
        for missed in range(min(_MOST_MISSED, int(lag_s / self._every_s)) + 1):
            late_s = lag_s - missed * self._every_s
            self._recent.append(late_s)
            self._counts[bisect_left(_BOUNDS_S, late_s)] += 1
            self._sum_s += late_s

    def quantile(self, share: float) -> float:
        """The least lag that ``share`` (0..1) of the recent looks did not pass (nearest rank); 0 before the first."""
        ordered = sorted(self._recent)
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0

    def to_pb(self) -> LoopLag:
        """As the metrics have it."""
        total = 0
        buckets = []
        for bound_s, count in zip(_BOUNDS_S, self._counts, strict=False):  # what is beyond the last has no bound
            total += count
            buckets.append(LagBucket(at_most_s=bound_s, count=total))
        return LoopLag(
            p50_s=self.quantile(0.5),
            p99_s=self.quantile(0.99),
            max_s=self.quantile(1.0),
            worst_s=self._worst_s,
            sum_s=self._sum_s,
            count=total + self._counts[-1],
            buckets=buckets,
        )


class LagMeter:
    """Measures the running loop by one timer, five times a second. A stall is measured whole, however long it is."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._record = LagRecord(every_s=_EVERY_S, recent_s=_RECENT_S)
        self._due = 0.0
        self._timer = self._next()

    def _next(self) -> asyncio.TimerHandle:
        self._due = self._loop.time() + _EVERY_S
        return self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        lag_s = max(0.0, self._loop.time() - self._due)
        self._record.add(lag_s)
        if lag_s >= _TOLD_S:
            _log.warning("the event loop stood still for %.1f s", lag_s)
        self._timer = self._next()

    def to_pb(self) -> LoopLag:
        """What was measured so far."""
        return self._record.to_pb()

    def close(self) -> None:
        """No more looks."""
        self._timer.cancel()
