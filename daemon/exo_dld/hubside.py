"""A worker's connections to the hub: opened before the first lease is asked for, and tried again when they fail."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from exo_dl.core.lease_types import LeaseResult
from exo_dl.errors import AccessError, ExoDlError, HubBusyError, NotFoundError
from exo_dl.hubs.base import Hub
from exo_dl.hubs.reader import HubReader, RedirectCache

__all__ = ["HubSide"]

_FIRST_WAIT_S = 1.0
_LONGEST_WAIT_S = 30.0


class HubSide:
    """The readers of one worker, one for each hub slot.

    Args:
        hub: where files are read from.
        url: a file of the pull, to find the hub by.
        ready: called on the loop when the hub answers.
        window: gives the most that one request shall ask for; None: all of a lease.
        check: asked once the hub is reached, in a thread; raises where this node may not read there.
        failed: called on the loop with the kind of failure and a text for a person, each time it does not.
    """

    def __init__(
        self,
        hub: Hub,
        *,
        url: str,
        ready: Callable[[], None],
        failed: Callable[[LeaseResult, str], None],
        window: Callable[[], int | None] = lambda: None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._hub = hub
        self._url = url
        self._ready = ready
        self._failed = failed
        self._window = window
        self._check = check
        self._redirects = RedirectCache()
        self._readers: dict[int, HubReader] = {}
        self._task: asyncio.Task[None] | None = None

    def reader(self, slot: int) -> HubReader:
        """The connection of ``slot``."""
        if slot not in self._readers:
            self._readers[slot] = HubReader(self._hub.headers_for, redirects=self._redirects, window=self._window)
        return self._readers[slot]

    def probe(self, *, at_once: bool) -> None:
        """Tries to reach the hub until it answers; nothing where that is under way already."""
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._probe(0.0 if at_once else _FIRST_WAIT_S))

    async def _probe(self, wait_s: float) -> None:
        while True:
            await asyncio.sleep(wait_s)
            wait_s = min(_LONGEST_WAIT_S, max(_FIRST_WAIT_S, wait_s * 2))
            try:
                await asyncio.to_thread(self.reader(0).connect, self._url)
                await asyncio.to_thread(self._check)
            except HubBusyError as error:
                wait_s = error.retry_after_s
            except (ExoDlError, OSError) as error:
                refused = isinstance(error, AccessError | NotFoundError)
                self._failed(LeaseResult.HUB_REFUSED if refused else LeaseResult.HUB_UNREACHABLE, str(error))
            else:
                self._ready()
                return

    async def close(self) -> None:
        """Ends the probe and closes the connections."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for reader in self._readers.values():
            reader.close()
