"""Which node asks first for which of the pieces that one peer alone holds: these are dealt out by their number.

Everyone who may ask the holder for such pieces has a share of them, in blocks of neighbouring pieces. Where all nodes
are each other's neighbours these are all but the holder itself. In a large cluster they are the holder's neighbours,
which are others for each holder: there a node is told its place among them (`SharesDealt`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from exo_dl.core.manifest import Manifest
from exo_dl.core.pieces import mask

__all__ = ["Dealing"]

_SHARE_BYTES = 4 << 20
_SHARES = 16
_KEPT = 64


class Dealing:
    """The shares of one node.

    Args:
        manifest: what is pulled.
        node: whose shares these are.
    """

    def __init__(self, manifest: Manifest, node: str) -> None:
        self._manifest = manifest
        self._node = node
        self._places: Mapping[str, tuple[int, int]] = {}
        self._others: Collection[str] = ()
        self._rank: int | None = None
        self._masks: dict[tuple[int, int, bool], int] = {}

    @property
    def among_neighbours(self) -> bool:
        """Not all nodes are each other's neighbours."""
        return bool(self._places)

    def dealt(self, places: Mapping[str, tuple[int, int]]) -> None:
        """For each peer, which of its neighbours this node is, from 0 on, and their number; empty: all are."""
        self._places = places

    def peers(self, names: Collection[str]) -> None:
        """These are all peers from now on, until the next call."""
        self._others, self._rank = names, None

    def share(self, holder: str, *, fine: bool) -> int:
        """This node's share of all that ``holder`` may hold alone; all of it where its neighbours are not known.

        Args:
            holder: the peer.
            fine: blocks are of one piece.
        """
        if self._places:
            place, nodes = self._places.get(holder, (0, 1))
        else:
            if self._rank is None:
                self._rank = sum(name < self._node for name in self._others)
            # The holder takes no share: nodes after it move up by one.
            place, nodes = self._rank - (holder < self._node), max(1, len(self._others))
        key = (place, nodes, fine)
        if key not in self._masks:
            if len(self._masks) >= _KEPT:
                self._masks.clear()
            self._masks[key] = self._blocks(*key)
        return self._masks[key]

    def _blocks(self, place: int, nodes: int, fine: bool) -> int:
        """Every block of one remainder."""
        count = self._manifest.piece_count
        piece = max(1, self._manifest.total_bytes // max(1, count))
        block = 1 if fine else max(1, min(_SHARE_BYTES // piece, count // (nodes * _SHARES)))
        step = nodes * block
        starts = ((1 << step * (count // step + 1)) - 1) // ((1 << step) - 1)
        return (starts * mask(0, block) << block * max(0, place)) & mask(0, count)
