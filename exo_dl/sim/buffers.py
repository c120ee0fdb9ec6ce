"""A simulated node's transfer threads: each holds its buffers, and there are as many as the node's memory allows.

As in `exo_dl.net.fetch`: transfers from peers wait in order for one of their threads; where those for the hub are all
at work, one more ends at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from exo_dl.core.budget import HELD_BYTES, transfers_within

__all__ = ["BUDGET_BYTES", "Buffers"]

BUDGET_BYTES = 64 << 20
"""Of a node that has no other: the least that a daemon takes where no setting says it."""

_Begin = Callable[[], None]


class Buffers:
    """Which of a node's transfers hold buffers, by their ids.

    Args:
        budget_bytes: what all of them may take together.

    Attributes:
        peak_bytes: the most that they took so far.
    """

    def __init__(self, budget_bytes: int = BUDGET_BYTES) -> None:
        self.budget_bytes = budget_bytes
        self.peak_bytes = 0
        self._most = transfers_within(budget_bytes)
        self._peers: set[int] = set()
        self._hub: set[int] = set()
        self._waiting: deque[tuple[int, _Begin]] = deque()

    def from_peer(self, fetch_id: int, begin: _Begin) -> None:
        """Begins a transfer from a peer, now or when a thread is free."""
        self._waiting.append((fetch_id, begin))
        self._go_on()

    def from_hub(self, fetch_id: int) -> bool:
        """Takes buffers for a transfer from the hub; False where none are left."""
        if len(self._hub) >= self._most:
            return False
        self._hub.add(fetch_id)
        self._count()
        return True

    def holds(self, fetch_id: int) -> bool:
        """Whether this transfer has begun."""
        return fetch_id in self._peers or fetch_id in self._hub

    def end(self, fetch_id: int) -> None:
        """A transfer is over, or is not to begin any more."""
        self._hub.discard(fetch_id)
        if fetch_id in self._peers:
            self._peers.remove(fetch_id)
            self._go_on()
        elif self._waiting:
            self._waiting = deque(each for each in self._waiting if each[0] != fetch_id)

    def drop(self) -> None:
        """All are gone with their process."""
        self._peers.clear()
        self._hub.clear()
        self._waiting.clear()

    def _go_on(self) -> None:
        while self._waiting and len(self._peers) < self._most:
            fetch_id, begin = self._waiting.popleft()
            self._peers.add(fetch_id)
            self._count()
            begin()

    def _count(self) -> None:
        self.peak_bytes = max(self.peak_bytes, (len(self._peers) + len(self._hub)) * HELD_BYTES)
