"""How many requests a second one source may make: a token bucket for each, of a bounded number of sources."""

from __future__ import annotations

from collections import OrderedDict

__all__ = ["RequestRate"]

_MAX_SOURCES = 4096


class RequestRate:
    """Buckets that fill by ``per_s`` a second up to ``at_once``. For one thread.

    When there are more sources than are remembered, the one that was quiet longest begins anew.
    """

    def __init__(self, *, per_s: float, at_once: float, max_sources: int = _MAX_SOURCES) -> None:
        self._per_s = per_s
        self._at_once = at_once
        self._max_sources = max_sources
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allow(self, source: str, now: float) -> bool:
        """Takes one request of ``source`` into account; False where it is one too many. ``now``: in seconds."""
        left, since = self._left.pop(source, (self._at_once, now))
        left = min(self._at_once, left + (now - since) * self._per_s)
        allowed = left >= 1
        self._left[source] = (left - 1 if allowed else left, now)
        if len(self._left) > self._max_sources:
            self._left.popitem(last=False)
        return allowed
