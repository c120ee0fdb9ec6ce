"""One timer that follows a deadline which moves with every event."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["Alarm"]

_EARLY_S = 0.001


class Alarm:
    """Calls back at the deadline that was set last, or up to a millisecond early.

    Args:
        loop: whose clock and timers.
        call: called once for each deadline that is reached.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
        self._loop = loop
        self._call = call
        self._timer: asyncio.TimerHandle | None = None

    def set(self, deadline: float | None) -> None:
        """When to call; None: not at all."""
        if deadline is None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            return
        # A timer that fires a little early does no harm; making one anew for every event costs more than the event.
        if self._timer is not None and self._timer.when() <= deadline + _EARLY_S:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(max(deadline, self._loop.time() + _EARLY_S), self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._call()
