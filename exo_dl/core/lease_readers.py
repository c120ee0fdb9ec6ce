"""How many connections read from the hub at a time, in a cluster of many nodes.

Nodes can pass on a piece when they have all of it. Where hundreds of connections share one way to the hub, each with a
piece of its own, all these pieces come at once and late, and what the LAN could have carried meanwhile waits behind
them. So only some of many nodes read, one connection each, and twice as many are tried while that brings more: where
each node has a link of its own it does, behind a shared one it does not. None of them has a second connection, for the
same reason: it would halve the rate of the first.
"""

from __future__ import annotations

__all__ = ["Readers"]

_ALL_UP_TO = 32  # nodes of which all may read
_PIECES_EACH = 32  # a reader's first piece is there when about this part of all is read
_FEWEST, _FIRST_MOST = 32, 128
_GAIN = 1.25  # what twice as many must bring
_TRIAL_PAYS = 6
_HOLD_S, _HOLD_MAX_S = 15.0, 120.0


class Readers:
    """The number of leases that stand at a time.

    Args:
        piece_count: of the pull.

    Attributes:
        most: leases at a time, in a cluster of many nodes.
        trying: more are tried than it is known that they bring anything: leases are to be short.
    """

    def __init__(self, piece_count: int) -> None:
        self.most = max(_FEWEST, min(_FIRST_MOST, piece_count // _PIECES_EACH))
        self.trying = False
        self._before = self.most
        self._base = 0.0
        self._hold_until = float("-inf")
        self._hold_s = _HOLD_S
        self._bytes = 0.0
        self._pieces = 0
        self._since: tuple[float, float, int] | None = None

    def counts(self, nodes: int) -> bool:
        """Whether there are so many nodes that it matters."""
        return nodes > _ALL_UP_TO

    def part(self, nodes: int) -> float:
        """Which part of the nodes reads at a time."""
        return min(1.0, self.most / nodes) if self.counts(nodes) else 1.0

    def full(self, leases: int, nodes: int, *, reads: bool) -> bool:
        """Whether a connection shall wait, where ``leases`` stand.

        Args:
            leases: number of leases.
            nodes: number of nodes.
            reads: another connection of its node reads.
        """
        return self.counts(nodes) and (reads or (self.part(nodes) < 1.0 and leases >= self.most))

    def stand(self, leases: int, now: float) -> None:
        """So many leases stand now."""
        if leases < self.most:
            self._since = None
        elif self._since is None:
            self._since = now, self._bytes, self._pieces

    def read(self, cost: float, pieces: int, *, free: int, nodes: int, now: float) -> None:
        """Pieces came from the hub: looks whether more connections would bring more.

        A window begins when there are as many as may be, and ends when each of them has brought a piece, in the mean.
        So does that of a trial: connections that only share what there was bring theirs later, all of them.

        Args:
            cost: of these pieces.
            pieces: their number.
            free: number of pieces that are not given away.
            nodes: number of nodes: a trial with all of them is the last.
            now: seconds.
        """
        self._bytes += cost
        self._pieces += pieces
        if self._since is None:
            return
        began, bytes_then, pieces_then = self._since
        if self._pieces - pieces_then < self.most or now <= began:
            return
        rate = (self._bytes - bytes_then) / (now - began)
        self._since = now, self._bytes, self._pieces
        if self.trying and rate < _GAIN * self._base:
            self.trying = False
            self.most = self._before
            self._hold_until = now + self._hold_s
            self._hold_s = min(_HOLD_MAX_S, 2 * self._hold_s)
            return
        self.trying = self.most < nodes and now >= self._hold_until and free >= _TRIAL_PAYS * self.most
        if self.trying:
            self._base, self._before = rate, self.most
            self.most = min(2 * self.most, nodes)
            self._since = None
