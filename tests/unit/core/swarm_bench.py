"""A node's machine with a clock, for tests."""

from __future__ import annotations

import random
from typing import TypeVar

from exo_dl.core.pieces import mask
from exo_dl.core.swarm import (
    CoordinatorReady,
    FetchFromHub,
    FetchFromPeer,
    HubReady,
    PiecesArrived,
    Swarm,
    SwarmAction,
    SwarmEvent,
)
from exo_dl.sim.scenarios import model

__all__ = ["MIB", "Bench", "every", "only"]

MIB = 1 << 20
T = TypeVar("T")


class Bench:
    """One node with a clock."""

    def __init__(self, *, size_mib: int = 32, files: int = 1, small_files: int = 0, **options: object) -> None:
        self.manifest = model(size_bytes=size_mib * MIB, files=files, small_files=small_files)
        self.every = mask(0, self.manifest.piece_count)
        self.swarm = Swarm(self.manifest, node="me", want=self.every, rng=random.Random(1), **options)  # type: ignore[arg-type]
        self.now = 0.0

    def send(self, event: SwarmEvent, *, at: float | None = None) -> list[SwarmAction]:
        self.now = self.now if at is None else at
        return self.swarm.handle(event, self.now)

    def hub(self) -> list[SwarmAction]:
        self.send(HubReady(True))
        return self.send(CoordinatorReady())

    def arrive(self, fetch: FetchFromPeer | FetchFromHub, first: int, end: int, *, at: float) -> list[SwarmAction]:
        bits = mask(first, end)
        return self.send(PiecesArrived(fetch.fetch_id, bits, self.manifest.set_bytes(bits)), at=at)


def only(kind: type[T], actions: list[SwarmAction]) -> T:
    (found,) = [a for a in actions if isinstance(a, kind)]
    return found


def every(kind: type[T], actions: list[SwarmAction]) -> list[T]:
    return [a for a in actions if isinstance(a, kind)]
