"""The states of a pull and of a node in it, with the values of pull.proto."""

from __future__ import annotations

import enum

__all__ = ["NodeState", "State"]


class NodeState(enum.IntEnum):
    """What one node does in one pull."""

    WAITING = 1
    CHECKING = 2
    PULLING = 3
    PUBLISHING = 4
    DONE = 5
    FAILED = 6
    CANCELLED = 7
    LOST = 8

    @property
    def ended(self) -> bool:
        """Whether the node works on the pull no more. A lost node may come back."""
        return self in (NodeState.DONE, NodeState.FAILED, NodeState.CANCELLED)


class State(enum.IntEnum):
    """A pull as a whole."""

    RUNNING = 1
    DONE = 2
    FAILED = 3
    CANCELLED = 4
