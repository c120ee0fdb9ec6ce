"""Fewer transfers while the machine is short of memory, and all of them again when it is not.

Transfers hold their buffers, and as much again in the kernel; what they read fills the page cache, which the system
gives up by itself. So what counts is *available* memory, of the machine or of the container that the daemon runs in.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from exo_dl.core import swarm as core
from exo_dld.memory import available_bytes
from exo_dld.session import Session

__all__ = ["Governor"]

_log = logging.getLogger(__name__)
_EVERY_S = 1.0
# Above the reserve times this there is room for more again: in between nothing changes.
_ROOM_TIMES = 1.5


class Governor:
    """Looks at the memory once a second: halves the transfers of all pulls while it is short, then doubles them again.

    Args:
        running: the pulls that have not ended.
        max_hub: most hub connections of one pull when there is room.
        max_peers: most transfers from peers of one pull when there is room.
        reserve: bytes that are to stay available.
        available: bytes that are available now.
        hush: called with True when idle transfer threads shall give up their buffers at once, with False when they may
            keep them a while again.
        idle: True while nothing may be changed: the node leaves.
    """

    def __init__(
        self,
        *,
        running: Callable[[], Iterable[Session]],
        max_hub: int,
        max_peers: int,
        reserve: int,
        available: Callable[[], int] = available_bytes,
        hush: Callable[[bool], object],
        idle: Callable[[], bool],
    ) -> None:
        self._running = running
        self._max_hub = max_hub
        self._max_peers = max_peers
        self._reserve = reserve
        self._available = available
        self._hush = hush
        self._idle = idle
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(_EVERY_S, self._tick)
        self.halvings = 0
        """How often the transfers were halved; 0: there is room."""

    def close(self) -> None:
        """Looks no more."""
        self._timer.cancel()

    @property
    def limits(self) -> tuple[int, int]:
        """Hub connections and transfers from peers that one pull may have now; each at least 1."""
        return max(1, self._max_hub >> self.halvings), max(1, self._max_peers >> self.halvings)

    def _tick(self) -> None:
        self._timer = self._loop.call_later(_EVERY_S, self._tick)
        if not self._idle():
            self.look()

    def look(self) -> None:
        """Takes one reading, and acts on it."""
        available = self._available()
        before, most = self.halvings, max(self._max_hub, self._max_peers).bit_length()
        if available < self._reserve:
            self.halvings = min(most, before + 1)
        elif available > _ROOM_TIMES * self._reserve:
            self.halvings = max(0, before - 1)
        if self.halvings and not before:
            self._hush(True)
            _log.warning("memory is short (%d MiB available): fewer transfers at once", available >> 20)
        elif before and not self.halvings:
            self._hush(False)
            _log.info("memory is no longer short (%d MiB available)", available >> 20)
        if self.halvings or before:
            # Also to pulls that began meanwhile.
            hub, peers = self.limits
            for session in self._running():
                if session.worker is not None:
                    session.worker.feed(core.SlotLimit(hub))
                    session.worker.feed(core.PeerLimit(peers))
