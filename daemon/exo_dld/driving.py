"""Driving a machine of the core so that an error in it ends no more than it must, and is told with its story."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from exo_dl.core.story import IllegalTransitionError
from exo_dl.errors import ExoDlError

__all__ = ["Driver"]

_log = logging.getLogger(__name__)

# Where the same goes wrong with each transfer, the log shall not grow without end.
_MOST_TOLD = 20

E = TypeVar("E", contravariant=True)
A = TypeVar("A")


class _Machine(Protocol[E, A]):
    """`exo_dl.core.swarm.Swarm` or `exo_dl.core.leases.LeaseTable`."""

    def handle(self, event: E, now: float, /) -> list[A]: ...


class Driver(Generic[E, A]):
    """Hands events to one machine.

    Args:
        machine: the machine.
        pull_id: its pull, for the log.
        broken: told once, when the machine is not whole any more, so that nothing can be asked of it.
    """

    def __init__(self, machine: _Machine[E, A], *, pull_id: str, broken: Callable[[ExoDlError], None]) -> None:
        self._machine = machine
        self._pull_id = pull_id
        self._broken: Callable[[ExoDlError], None] | None = broken
        self._errors = 0

    def handle(self, event: E, now: float, *, by: Callable[[E, float], list[A]] | None = None) -> list[A]:
        """Takes one event and says what is to be done: nothing where the event cannot be, which the log tells.

        Args:
            event: what happened.
            now: seconds on the machine's clock.
            by: the machine's method that takes it; None: `handle`.
        """
        if self._broken is None:
            return []
        try:
            return (by or self._machine.handle)(event, now)
        except IllegalTransitionError as error:
            self._tell(error)
            if not error.whole:
                broken, self._broken = self._broken, None
                broken(ExoDlError(f"An error of exo-dl itself: {error.what}", hint="The log of the daemon tells more."))
            return []

    def _tell(self, error: IllegalTransitionError) -> None:
        self._errors += 1
        if self._errors <= _MOST_TOLD:
            last = " (the last of this pull that is told)" if self._errors == _MOST_TOLD else ""
            text = "pull %s: an error of exo-dl itself, please report it%s: %s Story: %s"
            _log.error(text, self._pull_id, last, error.what, " | ".join(error.story))
