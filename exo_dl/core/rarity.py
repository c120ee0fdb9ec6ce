"""How many peers hold each piece, as bit-sliced counters: bit ``i`` of plane ``k`` is bit ``k`` of piece i's count.

Adding or removing a peer's map, and finding the rarest pieces of a set, are a few big-integer operations for each
binary digit of the number of peers, whatever the number of pieces.
"""

from __future__ import annotations

__all__ = ["RarityMap"]


class RarityMap:
    """Counts of holders for all pieces."""

    def __init__(self) -> None:
        self._planes: list[int] = []

    def add(self, pieces: int) -> None:
        """One more peer holds ``pieces``."""
        carry = pieces
        for k, plane in enumerate(self._planes):
            if not carry:
                return
            self._planes[k], carry = plane ^ carry, plane & carry
        if carry:
            self._planes.append(carry)

    def remove(self, pieces: int) -> None:
        """One peer fewer holds ``pieces``; each must have been added before."""
        borrow = pieces
        for k, plane in enumerate(self._planes):
            if not borrow:
                return
            self._planes[k], borrow = plane ^ borrow, ~plane & borrow

    def rarest(self, among: int) -> int:
        """Those of ``among`` that the fewest peers hold."""
        for plane in reversed(self._planes):
            if fewer := among & ~plane:
                among = fewer
        return among

    @property
    def single(self) -> int:
        """Pieces that exactly one peer holds."""
        bits = self._planes[0] if self._planes else 0
        for plane in self._planes[1:]:
            bits &= ~plane
        return bits

    def count(self, piece: int) -> int:
        """Number of peers that hold ``piece``."""
        return sum((plane >> piece & 1) << k for k, plane in enumerate(self._planes))

    @property
    def available(self) -> int:
        """Pieces that at least one peer holds."""
        bits = 0
        for plane in self._planes:
            bits |= plane
        return bits
