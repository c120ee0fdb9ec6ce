"""How often a node tells all others how far it is.

Everyone shows a pull with all of its nodes, so all words about progress go to all. In a large cluster that would be
most of what a node has to do: there they become rarer, so that what a node takes in stays the same. Changes of a
node's state are told at once everywhere, and the neighbours, which by that word share their links, hear as often as in
a small cluster.
"""

from __future__ import annotations

__all__ = ["PROGRESS_S", "Telling"]

PROGRESS_S = 0.5
"""Seconds between two words of a node about its progress, to its neighbours at least."""
_WORDS_PER_S = 100.0  # that a node takes in: each costs it about 0.4 ms


class Telling:
    """When one node's next word is for all."""

    def __init__(self) -> None:
        self.next_at = float("-inf")

    def to_all(self, others: int, now: float, *, at_once: bool) -> bool:
        """Whether the word of now goes to all; to the neighbours alone where not.

        Args:
            others: how many all are.
            now: seconds on a clock that never goes back.
            at_once: it says something that all must know.
        """
        if not at_once and now < self.next_at:
            return False
        apart_s = others / _WORDS_PER_S
        # Words come at steps: to the nearest of them.
        self.next_at = now + apart_s - PROGRESS_S / 2 if apart_s > PROGRESS_S else now
        return True
