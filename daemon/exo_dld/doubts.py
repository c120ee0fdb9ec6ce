"""What a node does about a file whose pieces are all there and that does not have the hub's digest."""

from __future__ import annotations

from collections import Counter
from typing import Protocol

from exo_dl.core import swarm as core
from exo_dl.core.manifest import Manifest
from exo_dl.errors import ExoDlError, IntegrityError
from exo_dld.ports import Ports
from exo_dld.readings import ALONE_FROM, MAX_READINGS, Readings
from exo_dld.testimony import Testimony

__all__ = ["Doubts"]


class Doubter(Protocol):
    """A worker, as its doubts know it.

    Attributes:
        readings: which reading of each file it works on.
        testimony: who sent what.
    """

    readings: Readings
    testimony: Testimony

    def feed(self, event: core.SwarmEvent) -> None:
        """Takes an event for the machine."""

    def fail(self, error: ExoDlError) -> None:
        """Ends this node's part."""


class Drop(Protocol):
    """Lets pieces be read again; ``everywhere``: what peers hold of them is not believed any more."""

    def __call__(self, pieces: int, *, everywhere: bool = False) -> None: ...


class Doubts:
    """The doubts of one worker.

    Args:
        manifest: the pull's files.
        worker: whose they are.
        swarm: the machine, to be read only.
        ports: the rest of the daemon.
        drop: lets pieces be read again.
    """

    def __init__(self, manifest: Manifest, worker: Doubter, *, swarm: core.Swarm, ports: Ports, drop: Drop) -> None:
        self._manifest = manifest
        self._worker = worker
        self._swarm = swarm
        self._ports = ports
        self._drop = drop
        self._spoilt: Counter[int] = Counter()

    def corrupt(self, index: int, pieces: int) -> None:
        """The digest of a blob was wrong; ``pieces`` are those that may be."""
        blob, whole = self._manifest.blobs[index], self._worker.readings.pieces(index)
        if whole & ~self._swarm.have:
            # The digest was of a reading that was dropped meanwhile.
            self._drop(pieces)
            return
        if pieces != whole and self._spoilt[index] < MAX_READINGS:
            # The disk has other bytes than those that came, by a late writer: nothing speaks against the reading.
            self._spoilt[index] += 1
            self._drop(pieces)
            return
        reading = self._worker.readings.of(index)
        self._ports.suspect(index, reading)
        self._worker.readings.begin(index, reading + 1)
        self._drop(whole, everywhere=True)
        if reading + 1 >= MAX_READINGS:
            text = f"{blob.paths[0]} was read {MAX_READINGS} times and never had the digest that the hub names for it."
            self._worker.fail(
                IntegrityError(text, hint="The hub's copy may be damaged: try later, or another revision.")
            )
            return
        self._ports.fault(f"{blob.paths[0]} does not have the digest that the hub names for it: it is read again.")
        if reading + 1 >= ALONE_FROM:
            # Wrong twice, with the pieces of others: now this node believes the hub alone.
            for peer, held in self._worker.testimony.mistrust(whole, self._swarm.held_by):
                for event in (core.PeerLost(peer), core.PeerJoined(peer), core.PeerHas(peer, held)):
                    self._worker.feed(event)
            self._worker.feed(core.OnOwn())
