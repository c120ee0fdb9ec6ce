"""A limit on bytes per second that many threads share: a token bucket with a fair queue.

Threads pay for bytes that they have moved, and wait until the bucket is out of debt again. Whoever waits is served by
start-time fair queueing (Goyal, Vin, Cheng 1996) between groups, and in order within a group: two pulls get the same,
however many connections each of them has.

The bucket holds what flows in 50 ms, and a transfer moves that much at a time (`RateLimit.chunk_bytes`), so that the
rate holds over any tenth of a second and not only on average.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from typing import Protocol

__all__ = ["Limiter", "LimiterUse", "RateLimit"]

_BURST_S = 0.05
_POLL_S = 0.05
_LEAST_CHUNK_BYTES = 4 << 10
_LEAST_WINDOW_BYTES = 1 << 20
_LARGEST_CHUNK_BYTES = 1 << 20
# What was under way when the rate changed was sized by the old rate, and arrives within this time.
_FORGIVE_S = 0.2
# A transfer that is slower than this lasts so long that it looks like a stalled one.
_WORTHWHILE_BYTES_PER_S = 256e3
_MAX_GROUPS = 256


def _never() -> bool:
    return False


class Limiter(Protocol):
    """What transfers need of a limit."""

    @property
    def chunk_bytes(self) -> int:
        """The most that should be moved before the next `take`."""
        ...

    def take(self, byte_count: int, *, group: Hashable = None, stopped: Callable[[], bool] = _never) -> float:
        """Pays for bytes that were moved; blocks while there were too many. Returns the seconds that it blocked."""
        ...

    @property
    def window_bytes(self) -> int | None:
        """The most that one request should ask for; None: as much as it likes.

        Under a limit the buffers on the way are full, and all of that is lost where a request is cut short.
        """
        ...

    def worthwhile(self, most: int) -> int:
        """How many transfers at once, 1..``most``, still get on at a useful speed."""
        ...


@dataclass(frozen=True, slots=True)
class LimiterUse:
    """Counters since the start.

    Attributes:
        byte_count: bytes paid for.
        held_back_s: seconds in which at least one thread had to wait.
    """

    byte_count: int
    held_back_s: float


class _Waiter:
    """A thread that has to wait. ``start`` is its place in the fair queue."""

    def __init__(self, lock: threading.Lock, start: float, number: int) -> None:
        self.wake = threading.Condition(lock)
        self.start = start
        self.number = number

    def __lt__(self, other: _Waiter) -> bool:
        return (self.start, self.number) < (other.start, other.number)


class RateLimit:
    """At most so many bytes per second over all threads that call `take`. Thread-safe.

    Args:
        bytes_per_s: the rate; 0 for no limit.
    """

    def __init__(self, bytes_per_s: float = 0.0) -> None:
        self._lock = threading.Lock()
        self._rate = max(0.0, bytes_per_s)
        self._level = 0.0
        self._filled_at = time.monotonic()
        self._forgive_until = 0.0
        self._queue: list[_Waiter] = []
        self._numbers = count()
        # Virtual time of the fair queue: the start of what was served last; and where each group stands.
        self._virtual = 0.0
        self._finish: dict[Hashable, float] = {}
        self._byte_count = 0
        self._held_back_s = 0.0
        self._held_back_since: float | None = None

    @property
    def bytes_per_s(self) -> float:
        """The rate now; 0 for no limit."""
        return self._rate

    @property
    def chunk_bytes(self) -> int:
        """See `Limiter`: 50 ms of the rate, 4 KiB to 1 MiB."""
        rate = self._rate
        if not rate:
            return _LARGEST_CHUNK_BYTES
        return int(min(max(rate * _BURST_S, _LEAST_CHUNK_BYTES), _LARGEST_CHUNK_BYTES))

    @property
    def window_bytes(self) -> int | None:
        """See `Limiter`: a second of the rate, 1 MiB at least."""
        rate = self._rate
        return max(_LEAST_WINDOW_BYTES, int(rate)) if rate else None

    def worthwhile(self, most: int) -> int:
        """See `Limiter`."""
        rate = self._rate
        return most if not rate else max(1, min(most, int(rate / _WORTHWHILE_BYTES_PER_S)))

    def set_rate(self, bytes_per_s: float) -> None:
        """Another rate from now on; 0 for no limit. Threads that wait go by it at once."""
        rate = max(0.0, bytes_per_s)
        with self._lock:
            if rate == self._rate:
                return
            now = time.monotonic()
            self._fill(now)
            old, self._rate = self._rate, rate
            if not rate or not old:
                self._level = 0.0
            elif self._level < 0:
                # A debt is repaid at the new rate, but takes no longer than it would have: a short wait stays short.
                self._level = max(self._level, self._level * rate / old)
            self._level = min(self._level, rate * _BURST_S)
            self._forgive_until = now + _FORGIVE_S
            for waiter in self._queue:
                waiter.wake.notify()

    def take(self, byte_count: int, *, group: Hashable = None, stopped: Callable[[], bool] = _never) -> float:
        """Pays for ``byte_count`` bytes that were moved, and blocks while the rate is exceeded.

        Args:
            byte_count: how many, best no more than `chunk_bytes`.
            group: what shares fairly with other groups (a pull).
            stopped: asked every 50 ms; True ends the wait. Must be quick and must not call this limit.

        Returns:
            Seconds that it blocked.
        """
        with self._lock:
            self._byte_count += byte_count
            if not self._rate:
                return 0.0
            now = time.monotonic()
            self._fill(now)
            cost = float(byte_count if now >= self._forgive_until else min(byte_count, self.chunk_bytes))
            start = self._enter(group, cost)
            if not self._queue and self._level >= 0:
                self._serve(start, cost)
                return 0.0
            waiter = _Waiter(self._lock, start, next(self._numbers))
            heappush(self._queue, waiter)
            if self._held_back_since is None:
                self._held_back_since = now
            self._wait(waiter, stopped)
            self._serve(start, cost)
            return time.monotonic() - now

    def use(self) -> LimiterUse:
        """See `LimiterUse`."""
        with self._lock:
            held_back_s = self._held_back_s
            if self._held_back_since is not None:
                held_back_s += time.monotonic() - self._held_back_since
            return LimiterUse(self._byte_count, held_back_s)

    # With the lock

    def _fill(self, now: float) -> None:
        self._level = min(self._level + (now - self._filled_at) * self._rate, self._rate * _BURST_S)
        self._filled_at = now

    def _enter(self, group: Hashable, cost: float) -> float:
        """The place of a group's next bytes in the queue."""
        start = max(self._virtual, self._finish.get(group, 0.0))
        self._finish[group] = start + cost
        if len(self._finish) > _MAX_GROUPS:
            self._finish = {g: end for g, end in self._finish.items() if end > self._virtual}
        return start

    def _serve(self, start: float, cost: float) -> None:
        self._virtual = max(self._virtual, start)
        self._level -= cost

    def _wait(self, waiter: _Waiter, stopped: Callable[[], bool]) -> None:
        """Returns, with the waiter out of the queue, when it is served or was stopped."""
        while self._rate and not stopped():
            pause_s = _POLL_S
            if self._queue[0] is waiter:
                self._fill(time.monotonic())
                if self._level >= 0:
                    break
                pause_s = min(_POLL_S, -self._level / self._rate)
            waiter.wake.wait(pause_s)
        if self._queue[0] is waiter:
            heappop(self._queue)
        else:
            self._queue.remove(waiter)
            self._queue.sort()  # a sorted list is a heap
        if self._queue:
            self._queue[0].wake.notify()
        elif self._held_back_since is not None:
            self._held_back_s += time.monotonic() - self._held_back_since
            self._held_back_since = None
