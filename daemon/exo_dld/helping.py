"""What a node does for the others of a placement: it reads what it does not want itself, and hands it over.

Such pieces are *spare*. Each is dropped as soon as all linked nodes that want it hold it. While a node holds more of
them than it may and needs nothing for itself, it asks for no leases.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from operator import or_

from exo_dl.core import swarm as core
from exo_dl.core.manifest import Manifest

__all__ = ["Helping"]


class Helping:
    """One node's spare pieces in one pull.

    Args:
        manifest: what is pulled.
        want: the pieces that this node wants.
        others: the pieces that each other node of the placement wants; empty without a placement.
        limit_bytes: the most that it holds for others; what is on its way comes on top.

    Attributes:
        spare: pieces that others want and this node does not.
        active: the pull runs, and there is something to do for others.
    """

    def __init__(self, manifest: Manifest, *, want: int, others: Mapping[str, int], limit_bytes: int) -> None:
        self._manifest = manifest
        self._want = want
        self._others = others
        self._limit_bytes = limit_bytes
        self._going = 0
        self._parked: dict[int, core.AskLease] = {}
        self.spare = reduce(or_, others.values(), 0) & ~want
        self.active = bool(self.spare)

    def parks(self, ask: core.AskLease, have: int) -> bool:
        """Whether the node shall not ask now: it is kept for `unpark`."""
        held = have & ~self._want
        if not self.active or self._want & ~have or not held:
            return False
        if self._manifest.set_bytes(held) < self._limit_bytes:
            return False
        self._parked[ask.slot] = ask
        return True

    def unpark(self) -> list[core.AskLease]:
        """What was kept from being asked."""
        parked = list(self._parked.values())
        self._parked.clear()
        return parked

    def handed_over(self, have: int, held_by: Callable[[str], int], linked: Callable[[str], object]) -> int:
        """The spare pieces in ``have`` that no linked node lacks, each told once.

        ``linked`` gives something for nodes that are.
        """
        spare = have & ~(self._want | self._going)
        self._going &= have
        if not spare or not self.active:
            return 0
        lacking = 0
        for node, want in self._others.items():
            if linked(node):
                lacking |= want & ~held_by(node)
        self._going |= spare & ~lacking
        return spare & ~lacking
