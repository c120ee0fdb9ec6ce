"""A worker's connections to the hub: opened before the first lease is asked for, and tried again when they fail."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass

from exo_dl.core.lease_types import LeaseResult
from exo_dl.errors import AccessError, ExoDlError, HubBusyError, NotFoundError
from exo_dl.hubs.base import Hub
from exo_dl.hubs.reader import HubReader, RedirectCache
from exo_dl.net.parts import Parts

__all__ = ["HeadStart", "HubSide"]

_FIRST_WAIT_S = 1.0
_LONGEST_WAIT_S = 30.0


@dataclass(frozen=True, slots=True)
class _Ahead:
    reader: HubReader
    redirects: RedirectCache
    opening: threading.Thread


class HeadStart:
    """Connections that are opened while a hub is still asked for a list of files: a pull saves their handshakes.

    For the event loop. One that no pull takes is closed when the next is opened, or by its hub.

    Args:
        window: as for `HubSide`.
    """

    def __init__(self, window: Callable[[], int | None]) -> None:
        self._window = window
        self._ahead: dict[str, _Ahead] = {}

    def begin(self, hub: Hub) -> Hub:
        """Opens a connection to ``hub``, which is returned. What fails here is told where the connection is needed."""
        if (old := self._ahead.pop(hub.endpoint, None)) is not None:
            old.reader.close()
        redirects = RedirectCache()
        reader = HubReader(hub.headers_for, redirects=redirects, window=self._window)

        def connect() -> None:
            with contextlib.suppress(ExoDlError, OSError):
                reader.connect(hub.endpoint)

        opening = threading.Thread(target=connect, name="head-start", daemon=True)
        opening.start()
        self._ahead[hub.endpoint] = _Ahead(reader, redirects, opening)
        return hub

    def take(self, hub: Hub) -> _Ahead | None:
        """The connection to ``hub`` that was begun last and not taken yet."""
        return self._ahead.pop(hub.endpoint, None)

    def close(self) -> None:
        """Closes what nobody took."""
        while self._ahead:
            self._ahead.popitem()[1].reader.close()


class HubSide:
    """The readers of one worker, one for each hub slot.

    Args:
        hub: where files are read from.
        ready: called on the loop when the hub answers.
        window: gives the most that one request shall ask for; None: all of a lease.
        check: asked once the hub is reached, in a thread; raises where this node may not read there.
        failed: called on the loop with the kind of failure and a text for a person, each time it does not.
        ahead: a connection that is there already; see `HeadStart`.
    """

    def __init__(
        self,
        hub: Hub,
        *,
        ready: Callable[[], None],
        failed: Callable[[LeaseResult, str], None],
        window: Callable[[], int | None] = lambda: None,
        check: Callable[[], None] = lambda: None,
        ahead: _Ahead | None = None,
    ) -> None:
        self._hub = hub
        self._ready = ready
        self._failed = failed
        self._window = window
        self._check = check
        self._ahead = ahead
        self._redirects = ahead.redirects if ahead is not None else RedirectCache()
        self._readers: dict[int, HubReader] = {0: ahead.reader} if ahead is not None else {}
        self._parts: dict[int, Parts] = {}
        self._task: asyncio.Task[None] | None = None

    def reader(self, slot: int) -> HubReader:
        """The connection of ``slot``."""
        if slot not in self._readers:
            self._readers[slot] = HubReader(self._hub.headers_for, redirects=self._redirects, window=self._window)
        return self._readers[slot]

    def parts(self, slot: int) -> Parts:
        """In how many requests the connection of ``slot`` reads a lease."""
        return self._parts.setdefault(slot, Parts())

    def probe(self, *, at_once: bool) -> None:
        """Tries to reach the hub until it answers; nothing where that is under way already."""
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._probe(0.0 if at_once else _FIRST_WAIT_S))

    def _connect(self) -> None:
        if self._ahead is not None:
            self._ahead.opening.join()  # no longer than the timeout of a connection; closing the reader ends it too
        self.reader(0).connect(self._hub.endpoint)

    async def _probe(self, wait_s: float) -> None:
        while True:
            await asyncio.sleep(wait_s)
            wait_s = min(_LONGEST_WAIT_S, max(_FIRST_WAIT_S, wait_s * 2))
            try:
                await asyncio.to_thread(self._connect)
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
