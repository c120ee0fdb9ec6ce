"""When a machine of a simulated node wants to be told that time has passed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from exo_dl.sim.clock import Clock
from exo_dl.sim.world import World

__all__ = ["Alarm", "Sleeper"]

_FROZEN_S = 0.5


class Sleeper(Protocol):
    """The node: its alarms are void when it starts again, and wait while it is frozen."""

    cluster: World
    clock: Clock
    alive: bool
    frozen: bool
    life: int


class Alarm:
    """One machine's alarm.

    Args:
        node: whose machine it is.
        ring: tells the machine.
    """

    def __init__(self, node: Sleeper, ring: Callable[[], None]) -> None:
        self._node = node
        self._ring = ring
        self._at = float("inf")

    def clear(self) -> None:
        """The machine is a new one."""
        self._at = float("inf")

    def arm(self, at: float | None) -> None:
        """The machine's deadline on the node's clock, or none."""
        if at is not None and at < self._at - 1e-9:
            self._at = at
            cluster = self._node.cluster
            cluster.call_at(max(self._node.clock.when(at), cluster.now + 1e-4), self._due, at, self._node.life)

    def _due(self, at: float, life: int) -> None:
        if at == self._at and life == self._node.life and self._node.alive:
            if self._node.frozen:
                self._node.cluster.call_in(_FROZEN_S, self._due, at, life)
                return
            self._at = float("inf")
            self._ring()
