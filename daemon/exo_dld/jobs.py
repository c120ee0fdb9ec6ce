"""From the threads of the fetch pool to the workers on the loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from exo_dl.net.fetch import FetchEvent

__all__ = ["Jobs"]


class Jobs:
    """Routes the events of the one fetch pool to the workers whose jobs they are about.

    A job's id is the worker's number times 2**32 plus the fetch's id.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._routes: dict[int, Callable[[list[FetchEvent]], None]] = {}
        self._next = 1

    def register(self, sink: Callable[[list[FetchEvent]], None]) -> int:
        """A number for a new worker, whose events go to ``sink`` on the loop."""
        number = self._next
        self._next += 1
        self._routes[number] = sink
        return number

    def unregister(self, number: int) -> None:
        """Events of this worker are dropped from now on."""
        self._routes.pop(number, None)

    def deliver(self, events: list[FetchEvent]) -> None:
        """Called by the fetch pool, from any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: the daemon is stopping
            self._loop.call_soon_threadsafe(self._dispatch, events)

    def _dispatch(self, events: list[FetchEvent]) -> None:
        by_worker: dict[int, list[FetchEvent]] = {}
        for event in events:
            by_worker.setdefault(event.job_id >> 32, []).append(event)
        for number, batch in by_worker.items():
            if (sink := self._routes.get(number)) is not None:
                sink(batch)
