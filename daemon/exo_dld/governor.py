"""Fewer transfers while memory is short or the disk does not keep up, and all of them again when that is over.

Transfers hold their buffers, and as much again in the kernel; what they read fills the page cache, which the system
gives up by itself. So what counts is *available* memory, of the machine or of the container that the daemon runs in.
Of the disk what counts is how long transfers wait for it: `exo_dld.diskpace`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from exo_dl.core import swarm as core
from exo_dl.net.fetch import Writing
from exo_dld.diskpace import DiskPace
from exo_dld.memory import available_bytes
from exo_dld.session import Session

__all__ = ["Governor", "io_stalled_s"]

_log = logging.getLogger(__name__)
_EVERY_S = 1.0
# Above the reserve times this there is room for more again: in between nothing changes.
_ROOM_TIMES = 1.5


_PRESSURE = Path("/proc/pressure/io")


def io_stalled_s(path: Path = _PRESSURE) -> float | None:
    """Seconds, since the machine began, in which a task of any program waited for a disk; None: it does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        some = path.read_text(encoding="ascii").splitlines()[0]  # some avg10=0.00 avg60=0.00 avg300=0.00 total=123
        return int(some.rpartition("total=")[2]) / 1e6
    return None


class Governor:
    """Looks once a second: halves the transfers of all pulls while memory or disk is short, then doubles them again.

    Args:
        running: the pulls that have not ended.
        max_hub: most hub connections of one pull when there is room.
        max_peers: most transfers from peers of one pull when there is room.
        reserve: bytes that are to stay available.
        available: bytes that are available now.
        writing: what the transfer threads have spent in writes.
        stalled_s: how long anything has waited for a disk; None where nobody knows.
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
        writing: Callable[[], Writing],
        stalled_s: Callable[[], float | None] = io_stalled_s,
        hush: Callable[[bool], object],
        idle: Callable[[], bool],
    ) -> None:
        self._running = running
        self._max_hub = max_hub
        self._max_peers = max_peers
        self._reserve = reserve
        self._available = available
        self._writing = writing
        self._stalled_s = stalled_s
        self._most = max(max_hub, max_peers).bit_length() - 1
        self._disk = DiskPace(self._most)
        self._memory_halvings = 0
        self._hush = hush
        self._idle = idle
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(_EVERY_S, self._tick)

    def close(self) -> None:
        """Looks no more."""
        self._timer.cancel()

    @property
    def halvings(self) -> int:
        """How often the transfers are halved now; 0: there is room."""
        return max(self._memory_halvings, self._disk.halvings)

    @property
    def limits(self) -> tuple[int, int]:
        """Hub connections and transfers from peers that one pull may have now; each at least 1."""
        return max(1, self._max_hub >> self.halvings), max(1, self._max_peers >> self.halvings)

    def _tick(self) -> None:
        self._timer = self._loop.call_later(_EVERY_S, self._tick)
        if not self._idle():
            self.look(self._loop.time())

    def look(self, now: float) -> None:
        """Takes one reading of each, and acts on them. ``now``: in seconds."""
        before = self.halvings
        self._look_at_memory()
        self._look_at_disk(now)
        if self.halvings or before:
            # Also to pulls that began meanwhile.
            hub, peers = self.limits
            for session in self._running():
                if session.worker is not None:
                    session.worker.feed(core.SlotLimit(hub))
                    session.worker.feed(core.PeerLimit(peers))

    def _look_at_memory(self) -> None:
        available, before = self._available(), self._memory_halvings
        if available < self._reserve:
            self._memory_halvings = min(self._most, before + 1)
        elif available > _ROOM_TIMES * self._reserve:
            self._memory_halvings = max(0, before - 1)
        if self._memory_halvings and not before:
            self._hush(True)
            _log.warning("memory is short (%d MiB available): fewer transfers at once", available >> 20)
        elif before and not self._memory_halvings:
            self._hush(False)
            _log.info("memory is no longer short (%d MiB available)", available >> 20)

    def _look_at_disk(self, now: float) -> None:
        before = self._disk.halvings
        self._disk.look(self._writing(), stalled_s=self._stalled_s(), now=now)
        if self._disk.halvings and not before:
            _log.warning("the disk does not keep up with what arrives: fewer transfers at once")
        elif before and not self._disk.halvings:
            _log.info("the disk keeps up again")
