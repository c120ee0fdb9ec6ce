"""Who wants to hear of links and peers, and waiting for the next change."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from exo_dl.errors import ProtocolError
from exo_dl.net.request_rate import RequestRate
from exo_dl.rpc.v1.swarm_pb2 import LinkMessage

__all__ = ["Listeners"]

# Lines of the log about what others do: who announces a thousand nodes must not fill a disk with them.
_LINES_PER_S, _LINES_AT_ONCE = 0.2, 40.0


class Listeners:
    """Lists of callbacks, called on the event loop: `on_up(node_id)`, `on_down(node_id, reason)`,
    `on_message(node_id, message)` and `on_change()`.

    For each peer up and down alternate, and messages come between them only. A message callback may raise
    ProtocolError: the link is then dropped.
    """

    def __init__(self, log: logging.Logger) -> None:
        self.on_up: list[Callable[[str], None]] = []
        self.on_down: list[Callable[[str, str], None]] = []
        self.on_message: list[Callable[[str, LinkMessage], None]] = []
        self.on_change: list[Callable[[], None]] = []
        self._log = log
        self._tasks: set[asyncio.Task[None]] = set()
        self._muted = True
        self._revision = 0
        self._next_change = asyncio.Event()
        self._lines = RequestRate(per_s=_LINES_PER_S, at_once=_LINES_AT_ONCE)
        self._untold = 0

    @property
    def revision(self) -> int:
        """Grows with every change."""
        return self._revision

    async def wait_changed(self, seen: int, *, timeout_s: float) -> int:
        """Waits until `revision` is above `seen`, at most `timeout_s`; returns it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._revision <= seen:
                    await self._next_change.wait()
        return self._revision

    def _changed(self) -> None:
        self._revision += 1
        self._next_change.set()
        self._next_change = asyncio.Event()
        self._call(self.on_change)

    def _call(self, callbacks: Sequence[Callable[..., None]], *arguments: object) -> None:
        if self._muted:
            return
        for callback in list(callbacks):
            try:
                callback(*arguments)
            except ProtocolError:
                raise
            except Exception:  # An error in one listener must not end a link; it is a bug, and shown as one.
                self._log.exception("a listener failed")

    def _tell(self, text: str, *values: object) -> None:
        """A line in the log; of very many only some, and how many were left out."""
        if not self._lines.allow("", time.monotonic()):
            self._untold += 1
            return
        if self._untold:
            text, values, self._untold = f"{text} (%d such lines were left out)", (*values, self._untold), 0
        self._log.info(text, *values)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs something in the background until it ends, or `stop`."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("a task in the background failed", exc_info=error)
