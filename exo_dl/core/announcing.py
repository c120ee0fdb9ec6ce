"""When a node tells which neighbour that it holds a piece.

A piece that no peer is known to hold is told to all at once: they wait for it. One that peers hold already only adds a
source: it is gathered for a moment and told to those alone that lack it (a message costs more than the piece's entry).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from exo_dl.core.swarm import Swarm

__all__ = ["GATHER_S", "Announcing", "Word"]

GATHER_S = 0.05
"""Pieces that others hold too are told together, after this time, seconds."""


@dataclass(frozen=True, slots=True)
class Word:
    """Tell these nodes that this one holds these pieces."""

    pieces: int
    nodes: tuple[str, ...]


class Announcing:
    """What one node is still to tell in one pull.

    Args:
        swarm: the node's machine: what it and its peers hold.
    """

    def __init__(self, swarm: Swarm) -> None:
        self._swarm = swarm
        self._later = 0

    def gained(self, pieces: int, nodes: Collection[str]) -> Word | None:
        """Newly verified pieces, and what is to be told of them at once. The rest is for `gathered`, `GATHER_S` later.

        Args:
            pieces: what is new.
            nodes: the neighbours.
        """
        fresh = pieces & ~self._swarm.held_by_peers
        self._later |= pieces & ~fresh
        return Word(fresh, tuple(nodes)) if fresh and nodes else None

    @property
    def waiting(self) -> bool:
        """Whether anything is to be told later."""
        return self._later != 0

    def gathered(self, nodes: Collection[str]) -> list[Word]:
        """What was gathered until now, for those of ``nodes`` that lack it."""
        pieces, self._later = self._later & self._swarm.have, 0
        told: dict[int, list[str]] = {}
        for node in nodes:
            if lacking := pieces & ~self._swarm.held_by(node):
                told.setdefault(lacking, []).append(node)
        return [Word(lacking, tuple(listeners)) for lacking, listeners in told.items()]
