"""Which nodes tell each other what they hold: all in a small cluster, a bounded random set in a large one.

In a large cluster the nodes are ordered in a few rings, each by another hash, and everyone's neighbours are those
before and after it in each. That makes a random regular graph: connected whatever the number of nodes (every ring
alone is), a few steps wide, the same seen from both ends, and hardly changed by a node that comes or goes.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, insort
from collections.abc import Collection, Mapping
from functools import lru_cache

__all__ = ["ALL_UP_TO", "MANY", "Neighbourhood"]

ALL_UP_TO = 16
"""Nodes of a cluster in which everyone is everyone's neighbour."""
MANY = 8
"""Peers from which on links between nodes, and not those to the hub, are likely to be what all wait for."""
_RINGS = 6


class Neighbourhood:
    """The neighbours of one node in one pull.

    Args:
        pull_id: the pull: other pulls have other neighbours.
        node: the node.
        alike: all nodes want the same pieces, so each passes on what its neighbours want. Where they do not, only the
            few that want a piece would pass it on, and these need not be neighbours: everyone is told then.

    Attributes:
        places: for each neighbour, which of its neighbours this node is, from 0 on, and their number; another mapping
            whenever these change, empty where everyone is everyone's neighbour.
    """

    def __init__(self, pull_id: str, node: str, *, alike: bool = True) -> None:
        self._pull_id = pull_id
        self._alike = alike
        self._node = node
        self._nodes: frozenset[str] = frozenset()
        self._rings: list[list[tuple[bytes, str]]] = [[] for _ in range(_RINGS)]
        self._neighbours: tuple[str, ...] = ()
        self.places: Mapping[str, tuple[int, int]] = {}

    def among(self, others: Collection[str]) -> tuple[str, ...]:
        """The neighbours among ``others``, which take part and do not include the node itself."""
        if len(others) < ALL_UP_TO or not self._alike:
            if self.places:
                self.places = {}
            return tuple(others)
        nodes = frozenset(others)
        if nodes != self._nodes or not self.places:
            self._move(nodes)
        return self._neighbours

    def _move(self, nodes: frozenset[str]) -> None:
        for number, ring in enumerate(self._rings):
            if not ring:
                ring.append(self._key(number, self._node))
            for node in self._nodes - nodes:
                key = self._key(number, node)
                del ring[bisect_left(ring, key)]
            if len(nodes - self._nodes) > 64:
                ring.extend(self._key(number, node) for node in nodes - self._nodes)
                ring.sort()
            else:
                for node in nodes - self._nodes:
                    insort(ring, self._key(number, node))
        self._nodes = nodes
        self._neighbours = self._beside(self._node)
        theirs = {peer: self._beside(peer) for peer in self._neighbours}
        self.places = {peer: (their.index(self._node), len(their)) for peer, their in theirs.items()}

    def _beside(self, node: str) -> tuple[str, ...]:
        """The neighbours of ``node``, in order."""
        chosen: set[str] = set()
        for number, ring in enumerate(self._rings):
            at = bisect_left(ring, self._key(number, node))
            chosen |= {ring[at - 1][1], ring[(at + 1) % len(ring)][1]}
        return tuple(sorted(chosen - {node}))

    def _key(self, number: int, node: str) -> tuple[bytes, str]:
        return _hash(self._pull_id, number, node), node


@lru_cache(maxsize=1 << 14)
def _hash(pull_id: str, number: int, node: str) -> bytes:
    return hashlib.sha256(f"{pull_id}\0{number}\0{node}".encode()).digest()[:8]
