"""What this node says of itself: its machine, its rates, what it does."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from exo_dl.rpc.v1.swarm_pb2 import Beat
from exo_dl.store.library import Library
from exo_dld.session import Session

__all__ = ["Status"]

_MACHINE_EVERY_S = 2.0
_KEEP = 0.7  # how much of a remembered rate stays when a newer one is measured
_MOST_BYTES_PER_S = 1e12  # no machine reads as fast: such a value is damaged


class Status:
    """Measures the machine and remembers rates over pulls and restarts.

    Args:
        folder: a path on the disk whose free space counts; it need not exist yet.
        library: where rates are kept.
    """

    def __init__(self, folder: Path, library: Library) -> None:
        self._folder = folder
        self._library = library
        self._sessions: Callable[[], list[Session]] = list
        self._machine_at = float("-inf")
        self._machine = Beat()
        self._rates = {key: _rate(library.get(key)) for key in ("hub_bytes_per_s", "lan_bytes_per_s")}

    def follow(self, sessions: Callable[[], list[Session]]) -> None:
        """Tells where the pulls that run are found."""
        self._sessions = sessions

    @property
    def hub_bytes_per_s(self) -> float:
        """The remembered rate from the hub; 0 when none was measured yet."""
        return self._rates["hub_bytes_per_s"]

    def beat(self) -> Beat:
        """The state now."""
        now = time.monotonic()
        if now - self._machine_at >= _MACHINE_EVERY_S:
            self._machine_at = now
            memory = psutil.virtual_memory()
            self._machine = Beat(
                memory_total_bytes=memory.total,
                memory_available_bytes=memory.available,
                disk_free_bytes=_free_bytes(self._folder),
            )
        beat = Beat()
        beat.CopyFrom(self._machine)
        sessions = self._sessions()
        workers = [s.worker for s in sessions if s.worker is not None]
        beat.hub_bytes_per_s = sum(w.swarm.hub_bytes_per_s for w in workers) or self._rates["hub_bytes_per_s"]
        beat.lan_bytes_per_s = sum(w.swarm.peer_bytes_per_s for w in workers) or self._rates["lan_bytes_per_s"]
        beat.pull_ids.extend(s.spec.pull_id for s in sessions)
        beat.activity = ", ".join(_doing(s) for s in sessions[:3]) or "idle"
        return beat

    def remember(self, session: Session) -> None:
        """Takes over what a pull that has ended measured."""
        if session.worker is None:
            return
        view = session.view.nodes.get(session.me)
        if view is None:
            return
        for key, peak in (
            ("hub_bytes_per_s", view.hub_peak_bytes_per_s),
            ("lan_bytes_per_s", view.peer_peak_bytes_per_s),
        ):
            if peak > 0:
                old = self._rates[key]
                self._rates[key] = peak if old <= 0 else _KEEP * old + (1 - _KEEP) * peak
                self._library.put(key, f"{self._rates[key]:.0f}")


def _doing(session: Session) -> str:
    worker = session.worker
    if worker is None:
        return f"coordinating {session.view.repo}"
    percent = 100 * worker.bytes_done // max(1, worker.bytes_wanted)
    return f"pulling {session.view.repo} {percent} %"


def _rate(text: str) -> float:
    """What was stored, where it can be a rate; 0 otherwise."""
    with contextlib.suppress(ValueError):
        if 0 <= (rate := float(text)) <= _MOST_BYTES_PER_S:
            return rate
    return 0.0


def _free_bytes(path: Path) -> int:
    for folder in (path, *path.parents):
        with contextlib.suppress(OSError):
            stat = os.statvfs(folder)
            return stat.f_bavail * stat.f_frsize
    return 0
