"""When a node tells which neighbour that it holds a piece.

A message costs more than a piece's entry in it, so pieces are gathered for a moment and told together, where nobody
waits for them: while much is left everyone has other things to fetch. The moment is a part of the time that is left,
so it is gone when the end is near, and at the beginning, when nobody has anything yet; a smaller part where the links
between nodes are full, for then they are what all wait for; and it is over when much is gathered. A piece that peers
hold already only adds a source: it is always gathered, told to those alone that lack it, and counts towards much only
where the links are full.

Where nodes are many, links between them stand idle until everyone has something that others lack. There a second
source is told of nearly at once at the very beginning, and the moment grows more slowly where nodes lack much of what
others hold: those links are what all wait for.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from exo_dl.core.neighbours import ALL_UP_TO, MANY
from exo_dl.core.peer_side import FULL
from exo_dl.core.swarm import Swarm

__all__ = ["Announcing", "Word", "progress_s"]

_SOURCE_S, _SOURCE_FIRST_S = 0.05, 0.002
_LONGEST_S = 1.0
_ENOUGH_BYTES, _ENOUGH_PART, _MUCH_BYTES = 16 << 20, 0.01, 28 << 20
_PART_OF_LEFT, _PART_OF_LEFT_FULL = 0.2, 0.1
_PART_OF_GONE, _PART_OF_GONE_BEHIND = 0.25, 0.05
_PROGRESS_S, _PROGRESS_MAX_S = 0.2, 1.0


def progress_s(nodes: int) -> float:
    """Seconds between two words about how much a node lacks, where that many others take part."""
    return min(_PROGRESS_MAX_S, _PROGRESS_S * max(1.0, nodes / ALL_UP_TO))


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
        self._began: float | None = None
        self._waiting = 0
        self._due: float | None = None
        # What nobody was told of is lost to the others when this node dies.
        self._enough = min(_ENOUGH_BYTES, _ENOUGH_PART * swarm.bytes_of(swarm.want))

    def gained(self, pieces: int, nodes: Collection[str], now: float) -> Word | None:
        """Newly verified pieces, and what is to be told of them at once. The rest is for `gathered`, at `due`.

        Args:
            pieces: what is new.
            nodes: the neighbours.
            now: seconds on a clock that never goes back.
        """
        self._began = now if self._began is None else self._began
        gone_s, many = now - self._began, len(nodes) >= MANY
        full = many or self._swarm.peers_load(now) >= FULL
        part = _PART_OF_GONE_BEHIND if many and self._behind() else _PART_OF_GONE
        part_left = _PART_OF_LEFT_FULL if full else _PART_OF_LEFT
        wait_s = min(_LONGEST_S, gone_s * part, self._swarm.seconds_left(now) * part_left)
        source_s = min(_SOURCE_S, _SOURCE_FIRST_S + gone_s * _PART_OF_GONE) if many else _SOURCE_S
        fresh = pieces & ~self._swarm.held_by_peers if wait_s < _SOURCE_S else 0
        if later := pieces & ~fresh:
            self._waiting |= later
            due = now + max(wait_s, source_s)
            if self._much_waits(now):
                due = now
            self._due = due if self._due is None else min(self._due, due)
        return Word(fresh, tuple(nodes)) if fresh and nodes else None

    def _much_waits(self, now: float) -> bool:
        sources_count = self._swarm.peers_load(now) >= FULL
        counted = self._waiting if sources_count else self._waiting & ~self._swarm.held_by_peers
        return self._swarm.bytes_of(counted) >= self._enough

    def _behind(self) -> bool:
        """Much is here or with peers that the other side lacks: links between nodes are what all wait for."""
        return self._swarm.bytes_of(self._swarm.have ^ self._swarm.held_by_peers) >= _MUCH_BYTES

    @property
    def due(self) -> float | None:
        """When `gathered` is to be called, on the clock of ``now``; None while nothing waits."""
        return self._due

    def gathered(self, nodes: Collection[str]) -> list[Word]:
        """What was gathered until now, for those of ``nodes`` that lack it."""
        pieces, self._waiting, self._due = self._waiting & self._swarm.have, 0, None
        told: dict[int, list[str]] = {}
        for node in nodes:
            if lacking := pieces & ~self._swarm.held_by(node):
                told.setdefault(lacking, []).append(node)
        return [Word(lacking, tuple(listeners)) for lacking, listeners in told.items()]
