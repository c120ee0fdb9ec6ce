"""How much of a lease one request to the hub asks for.

What a hub was asked for and is not read to its end comes twice: by the time that a lease is cut, or its node is found
too slow, the buffers on the way are full of it. So a lease is asked for in parts, over one connection: most of it at
first, and its end, which is what others may be given, only when that is reached. The coordinator cuts what is left of a
lease about in its middle or later: done in the second half of a lease, that is behind what was asked for.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

__all__ = ["Parts"]

_KEPT_BACK = 0.25
_LEAST_S = 0.3
_DEFAULT_BYTES_PER_S = 16e6


class Parts:
    """The parts of the leases that one connection reads. For the thread that reads."""

    def __init__(self) -> None:
        self._bytes_per_s = 0.0
        self._ranges = True

    def end(self, starts: Sequence[int], index: int, end: int) -> int:
        """Where the request that begins with piece ``index`` should end.

        A quarter of what is left is kept back, worth 0.3 s at least, for each request costs a round trip; nothing
        where that would be more than half.

        Args:
            starts: offset of each piece of the lease, ascending, and last the bytes of all.
            index: the first piece to ask for.
            end: one past the last piece that is wanted, > ``index``.

        Returns:
            One past the last piece to ask for, ``index`` < it <= ``end``.
        """
        left = starts[end] - starts[index]
        back = max(left * _KEPT_BACK, _LEAST_S * (self._bytes_per_s or _DEFAULT_BYTES_PER_S))
        if left < 2 * back or not self._ranges:
            return end
        return max(index + 1, bisect_right(starts, starts[end] - back, index, end) - 1)

    def brought(self, byte_count: int, seconds: float) -> None:
        """What the connection brought lately, from the request on."""
        if byte_count and seconds > 0:
            self._bytes_per_s = byte_count / seconds

    def ranges_ignored(self) -> None:
        """The hub sends whole files whatever it is asked for: each request more would cost a beginning more."""
        self._ranges = False
