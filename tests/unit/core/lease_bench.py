"""A lease table with a clock, for tests."""

from __future__ import annotations

import random

from exo_dl.core.leases import Grant, LeaseAction, LeaseAsked, LeaseEvent, LeaseTable, NodeJoined
from exo_dl.core.manifest import Manifest
from exo_dl.core.pieces import mask
from exo_dl.sim.scenarios import model

__all__ = ["Bench"]

MIB = 1 << 20


class Bench:
    """A table with a clock."""

    def __init__(
        self, *, size_mib: int = 256, epoch: int = 1, manifest: Manifest | None = None, **options: object
    ) -> None:
        self.manifest = manifest or model(size_bytes=size_mib * MIB, files=1)
        self.every = mask(0, self.manifest.piece_count)
        self.table = LeaseTable(self.manifest, rng=random.Random(1), epoch=epoch, **options)  # type: ignore[arg-type]
        self.now = 0.0

    def send(self, event: LeaseEvent, *, at: float | None = None) -> list[LeaseAction]:
        self.now = self.now if at is None else at
        return self.table.handle(event, self.now)

    def join(self, node: str, *, rate: float = 0.0, have: int = 0, checking: int = 0) -> list[LeaseAction]:
        return self.send(NodeJoined(node, have, checking, self.every, (), rate))

    def ask(self, node: str, slot: int = 0, rate: float = 0.0) -> Grant:
        (grant,) = [a for a in self.send(LeaseAsked(node, slot, rate)) if isinstance(a, Grant)]
        return grant
